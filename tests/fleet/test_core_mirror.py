"""What a registry is to have of the fleet's releases, decided without one."""

from hypothesis import given
from hypothesis import strategies as st

from fleet.core.mirror import (
    MANIFEST,
    Origin,
    Registered,
    Released,
    changed_tags,
    find_version,
    plan_aliases,
    stale_tags,
)

RELEASE = Released(
    "1.0.0", "a" * 64, {"modelfleet.release": "digits:1.0.0"}, Origin("digits", 2, "f00d")
)
NAMES = st.sampled_from(["champion", "challenger", "lab"])
ALIASES = st.dictionaries(NAMES, st.integers(1, 4))


def test_a_version_is_known_by_its_manifest_else_by_what_the_bundle_was_made_of():
    other = Registered(1, "f00d")
    logged = Registered(2, "f00d")
    made = Registered(3, tags={MANIFEST: "a" * 64})
    assert find_version(RELEASE, "digits", [other, logged, made]) is made
    assert find_version(RELEASE, "digits", [other, logged]) is logged
    assert find_version(RELEASE, "digits", [other]) is None
    assert find_version(RELEASE, "figures", [other, logged]) is None
    # Another registry has a version of this number too; only the run tells them apart.
    assert find_version(RELEASE, "digits", [Registered(2, "beef")]) is None
    nameless = Released("1.0.0", "a" * 64, {}, Origin("digits", 2, ""))
    assert find_version(nameless, "digits", [Registered(2)]) is None
    # One version is one release: what is made of it again gets a version of its own.
    taken = Registered(2, "f00d", {MANIFEST: "b" * 64})
    assert find_version(RELEASE, "digits", [taken]) is None


def test_tags_of_others_are_left_and_ours_are_made_true():
    tags = {"owner": "lab", "modelfleet.release": "digits:0.9.0", "modelfleet.verdict": "bless"}
    assert changed_tags(RELEASE, tags) == {
        "modelfleet.release": "digits:1.0.0", MANIFEST: "a" * 64,
    }  # fmt: skip
    assert stale_tags(RELEASE, tags) == ["modelfleet.verdict"]
    assert changed_tags(RELEASE, RELEASE.all_tags) == {}


def after(there, plan):
    return {k: v for k, v in {**there, **plan.moved}.items() if k not in plan.dropped}


@given(ALIASES, ALIASES, st.sets(NAMES), st.booleans())
def test_aliases_become_the_fleets_but_those_of_others_stay_and_again_nothing_moves(
    wanted, there, own, is_taking
):
    own &= there.keys()
    plan = plan_aliases(wanted, there, own, is_taking=is_taking)
    found = after(there, plan)
    for alias, number in wanted.items():
        assert (found[alias] == number) != (alias in plan.left)
    for alias in there.keys() - own:
        if not is_taking or alias not in wanted:
            assert found[alias] == there[alias]
    if is_taking:
        assert not plan.left
    again = plan_aliases(wanted, found, plan.own, is_taking=is_taking)
    assert (again.moved, again.dropped, again.own) == ({}, (), plan.own)
