"""The trial of a release as a shadow: the engine's steps before the first phase, and what rows prove."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fleet.core import rollout as engine
from fleet.core import shadow
from fleet.core.shadow import Counts, ShadowSums
from fleet.core.states import (
    Assign,
    DeviceEvidence,
    ReleaseKey,
    Shade,
    ShadowRule,
    ShadowSeen,
    Unshade,
)
from wire.latency import LATENCY_BINS
from wire.lifecycle import Code
from wire.messages import MAX_INTEGER

NEW = ReleaseKey("1.1.0", "a" * 64)
OLD = ReleaseKey("1.0.0", "b" * 64)
RULE = ShadowRule(duration_s=3600, sample_ratio=0.1, min_agreement=0.98, min_rows=500)
HOUR = 3_600_000
GOOD = Counts(1000, 1000)


def plan(count=3, *, rule=RULE, shares=("1", "100%"), tolerance=0, already=()):
    return engine.plan(
        rollout="r-1",
        model="digits",
        release=NEW,
        devices={f"cam-{n}": f"cam-{n}" in already for n in range(count)},
        shares=shares,
        soak_s=0,
        tolerance=tolerance,
        now_unix_ms=0,
        shadow_rule=rule,
    )


def seen(**changes):
    fields = {
        "is_online": True,
        "next_generation": 2,
        "active": OLD.manifest,
        "last_seen_unix_ms": 0,
    }
    return DeviceEvidence(**{**fields, **changes})


def evidence(rollout, **changes):
    return {member.device: seen(**changes) for member in rollout.members}


def failing(code, manifest=NEW.manifest, generation=2):
    return seen(
        reported_generation=generation,
        next_generation=generation + 1,
        shadow=ShadowSeen(manifest, "failed", code),
    )


def opened(**options):
    rollout = plan(**options)
    rollout, commands = engine.step(rollout, evidence(rollout), 0)
    assert rollout.shadow.state == "open"
    return rollout, commands


def step(rollout, now, counts, known=None):
    return engine.step(rollout, known or evidence(rollout), now, compared=counts)


def test_only_the_first_phase_is_shaded_and_nothing_is_assigned():
    rollout, commands = opened()
    (first,) = [m.device for m in rollout.members if m.phase == 0]
    assert commands == (Shade(first, 2),)
    assert {m.state for m in rollout.members} == {"waiting"}
    assert rollout.state == "running"
    again, commands = step(rollout, 1000, Counts())
    assert (again, commands) == (rollout, ()), "a tick without news writes nothing"


def test_it_passes_only_at_the_end_and_then_the_first_phase_opens():
    rollout, _ = opened()
    rollout, commands = step(rollout, HOUR - 1, GOOD)
    assert commands == ()
    rollout, commands = step(rollout, HOUR, GOOD)
    (first,) = [m.device for m in rollout.members if m.phase == 0]
    assert commands == (Assign(first, 2),)
    assert (rollout.shadow.state, rollout.phases[0].state) == ("passed", "open")


@pytest.mark.parametrize(
    ("counts", "state", "words"),
    [
        (Counts(1000, 900), "halted", "900 of 1000 rows agree"),
        (Counts(499, 499), "inconclusive", "too few rows, 499 of 500"),
        (Counts(0, 0), "inconclusive", "too few rows, 0 of 500"),
        (Counts(1000, 981), "inconclusive", "undecided"),
        (Counts(1000, 970), "halted", "at most"),
    ],
)
def test_what_the_end_of_the_trial_says(counts, state, words):
    rollout, _ = opened()
    rollout, commands = step(rollout, HOUR, counts)
    assert (rollout.state, rollout.shadow.state) == (state, "stopped")
    assert words in rollout.reason
    (first,) = [m.device for m in rollout.members if m.phase == 0]
    assert commands == (Unshade(first),)


def test_proof_against_it_halts_at_once_and_doubt_does_not():
    rollout, _ = opened()
    waiting, commands = step(rollout, 60_000, Counts(1000, 970))
    assert (waiting.state, commands) == ("running", ())
    halted, _ = step(rollout, 60_000, Counts(10, 0))
    assert halted.state == "halted"


def test_a_limit_that_few_rows_cannot_prove_needs_more_of_them():
    rule = replace(RULE, min_agreement=0.999)
    assert shadow.rows_needed(RULE) == 500
    assert shadow.rows_needed(replace(RULE, min_rows=1)) == 149
    assert shadow.rows_needed(rule) == 2995
    rollout, _ = opened(rule=rule)
    rollout, _ = step(rollout, HOUR, Counts(2000, 2000))
    assert (rollout.state, "2000 of 2995" in rollout.reason) == ("inconclusive", True)


def test_a_shadow_that_failed_halts_with_its_code():
    rollout, _ = opened()
    (first,) = [m.device for m in rollout.members if m.phase == 0]
    known = {**evidence(rollout), first: failing(Code.SHADOW_DIED)}
    halted, commands = step(rollout, 5, GOOD, known)
    assert (halted.state, commands) == ("halted", (Unshade(first),))
    assert halted.reason.startswith(f"shadow: failed on {first} (shadow_died)")


@pytest.mark.parametrize(
    "stale", [failing(Code.SHADOW_DIED, manifest="c" * 64), failing(Code.SHADOW_DIED, generation=1)]
)
def test_a_failure_of_another_release_or_before_says_nothing(stale):
    rollout, _ = opened()
    known = dict.fromkeys(evidence(rollout), stale)
    assert step(rollout, 5, GOOD, known)[0].state == "running"


def test_failures_within_the_tolerance_go_on_and_beyond_it_halt():
    rollout, _ = opened(count=4, shares=("3", "100%"), tolerance=1)
    devices = [m.device for m in rollout.members if m.phase == 0]
    known = evidence(rollout)
    known[devices[0]] = failing(Code.SHADOW_STUCK)
    assert step(rollout, 5, GOOD, known)[0].state == "running"
    known[devices[1]] = failing(Code.SHADOW_DIED)
    assert step(rollout, 5, GOOD, known)[0].state == "halted"


def test_what_only_the_devices_are_to_blame_for_is_inconclusive_at_once():
    rollout, _ = opened()
    known = {device: failing(Code.SHADOW_NO_ROOM) for device in evidence(rollout)}
    ended, _ = step(rollout, 5, Counts(), known)
    assert ended.state == "inconclusive"
    assert "(shadow_no_room)" in ended.reason


def test_an_agent_that_knows_no_shadows_is_named():
    rollout, _ = opened()
    known = {device: seen(reported_generation=2) for device in evidence(rollout)}
    ended, _ = step(rollout, HOUR, Counts(), known)
    assert (ended.state, "runs an agent that knows no shadows" in ended.reason) == (
        "inconclusive", True,
    )  # fmt: skip


def test_without_anything_to_compare_with_it_says_so():
    rollout = plan()
    ended, commands = engine.step(rollout, evidence(rollout, active=None), 0)
    assert (ended.state, commands) == ("inconclusive", ())
    assert "to compare with" in ended.reason


def test_devices_that_run_it_already_need_no_trial():
    rollout = plan(count=2, already=("cam-0", "cam-1"))
    ended, commands = engine.step(rollout, evidence(rollout, active=NEW.manifest), 0)
    assert (ended.state, commands) == ("finished", ())


def test_an_abort_ends_the_shadow_and_a_pause_does_not_judge():
    rollout, _ = opened()
    paused, commands = step(engine.pause(rollout), HOUR, GOOD)
    assert (paused.state, commands) == ("paused", ())
    aborted, commands = engine.abort(rollout, evidence(rollout), 5)
    assert aborted.shadow.state == "stopped"
    assert [type(c) for c in commands] == [Unshade]


def test_a_device_that_another_rollout_took_keeps_its_shadow():
    rollout, _ = opened()
    (first,) = [m.device for m in rollout.members if m.phase == 0]
    rollout = engine.supersede(rollout, frozenset({first}), "taken over by r-2")
    _, commands = engine.abort(rollout, evidence(rollout), 5)
    assert commands == ()


def test_a_clock_that_was_set_back_does_not_make_the_trial_last_for_years():
    rollout, _ = opened()
    rollout = replace(rollout, shadow=replace(rollout.shadow, opened_unix_ms=10 * HOUR))
    rollout, _ = step(rollout, 0, Counts())
    assert rollout.shadow.opened_unix_ms == 0


COUNTS = st.integers(0, 5000).flatmap(
    lambda rows: st.builds(Counts, st.just(rows), st.integers(0, rows))
)


@settings(max_examples=200, deadline=None)
@given(COUNTS, st.sampled_from([0.05, 1e-4]))
def test_the_bounds_are_the_exact_ones(counts, alpha):
    low, high = shadow.bounds(counts, alpha)
    assert 0 <= low <= high <= 1
    rows, agreed = counts
    # What defines them: at the bound, what was seen or worse has just the chance alpha.
    if agreed:
        assert stats.binom.sf(agreed - 1, rows, low) == pytest.approx(alpha, rel=1e-6)
    if agreed < rows:
        assert stats.binom.cdf(agreed, rows, high) == pytest.approx(alpha, rel=1e-6)


@settings(max_examples=200, deadline=None)
@given(COUNTS, st.integers(0, 2 * HOUR), st.floats(0.5, 0.999), st.integers(1, 3000))
def test_it_never_opens_a_phase_without_proof_and_always_ends(counts, now, limit, min_rows):
    rule = replace(RULE, min_agreement=limit, min_rows=min_rows)
    rollout, _ = opened(rule=rule)
    after, commands = step(rollout, now, counts)
    is_opened = any(isinstance(c, Assign) for c in commands)
    low, _ = shadow.bounds(counts, shadow.ALPHA)
    if is_opened:
        assert now >= HOUR
        assert low >= limit
        assert counts.row_count >= min_rows
    if now >= HOUR:
        assert is_opened or after.state in ("halted", "inconclusive")
    if after.state == "halted":
        assert shadow.bounds(counts, shadow.ALPHA)[1] < limit


SUMS = st.builds(
    ShadowSums,
    row_count=st.integers(0, 10**6),
    agree_count=st.integers(0, 10**6),
    dropped_count=st.integers(0, MAX_INTEGER),
    classes=st.dictionaries(
        st.sampled_from(["", "a", "b", "c"]),
        st.tuples(st.integers(5, 100), st.integers(0, 5)),
    ),
    active_latency=st.sampled_from([(), (1,) * LATENCY_BINS]),
    shadow_pss_bytes=st.integers(0, 10**9),
)


@given(SUMS, SUMS, SUMS)
def test_sums_add_up_in_any_order(a, b, c):
    assert shadow.merged(a, b) == shadow.merged(b, a)
    assert shadow.merged(shadow.merged(a, b), c) == shadow.merged(a, shadow.merged(b, c))
    assert shadow.merged(a, ShadowSums()) == a
