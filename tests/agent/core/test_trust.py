"""What signatures allow, as tables: installs, desired states, and a clock that never goes back."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.trust import (
    ISSUED,
    MAX_LEAD_MS,
    Allowed,
    Fault,
    Mark,
    ModelFacts,
    Refused,
    RoleFacts,
    SignedRelease,
    TrustView,
    Waits,
    after_desired,
    authorise,
    floor_clock,
    judge_desired,
)
from wire.messages import Desired

NOW = 1_000_000
LATER = NOW + 1
DEVICE = "cam-01"
GOOD, OTHER = "a" * 64, "b" * 64
KEY, NEW_KEY = "c" * 64, "d" * 64
ROLES = {name: RoleFacts(5, LATER) for name in ("root", "timestamp", "snapshot", "targets")}
DIGITS = ModelFacts(
    RoleFacts(3, LATER),
    floor=2,
    releases={
        "1.0.0": SignedRelease(GOOD, 100, 1),
        "2.0.0": SignedRelease(GOOD, 100, 2),
        "3.0.0": SignedRelease(OTHER, 100, 3),
    },
)
VIEW = TrustView(ROLES, {"digits": DIGITS}, directors={KEY: "e" * 64})


def view(**changes):
    return replace(VIEW, **changes)


def roles(**changes):
    return {**ROLES, **{name: RoleFacts(5, ms) for name, ms in changes.items()}}


INSTALLS = {
    "a signed release at the floor": (VIEW, "2.0.0", GOOD, None),
    "no metadata yet": (None, "2.0.0", GOOD, (Waits, "trust_unavailable")),
    "an expired timestamp": (view(roles=roles(timestamp=NOW)), "2.0.0", GOOD, (Waits, "trust_expired")),
    "an expired snapshot": (view(roles=roles(snapshot=NOW)), "2.0.0", GOOD, (Waits, "trust_expired")),
    "expired targets": (view(roles=roles(targets=NOW)), "2.0.0", GOOD, (Waits, "trust_expired")),
    "an expired root": (view(roles=roles(root=NOW)), "2.0.0", GOOD, (Waits, "trust_expired")),
    "expired, and not listed": (view(roles=roles(root=NOW)), "9", GOOD, (Waits, "trust_expired")),
    "an expired model": (
        view(models={"digits": replace(DIGITS, role=RoleFacts(3, NOW))}), "2.0.0", GOOD,
        (Waits, "trust_expired"),
    ),
    "no document of the model": (view(models={}), "2.0.0", GOOD, (Waits, "trust_unavailable")),
    "a document of the model that is not sound": (
        view(models={}, faults={"digits": Fault("trust_signature", "…")}), "2.0.0", GOOD,
        (Waits, "trust_signature"),
    ),
    "a model that nobody may sign": (
        view(models={}, faults={"digits": Fault("not_signed", "…")}), "2.0.0", GOOD,
        (Refused, "not_signed"),
    ),
    "a release that is not listed": (VIEW, "9.0.0", GOOD, (Refused, "not_signed")),
    "another manifest": (VIEW, "3.0.0", GOOD, (Refused, "trust_mismatch")),
    "a release below the floor": (VIEW, "1.0.0", GOOD, (Refused, "below_floor")),
}  # fmt: skip


@pytest.mark.parametrize("case", INSTALLS)
def test_what_may_be_installed(case):
    seen, version, manifest, expected = INSTALLS[case]
    verdict = authorise(seen, model="digits", version=version, manifest=manifest, now_unix_ms=NOW)
    check(verdict, expected)


def check(verdict, expected):
    if expected is None:
        assert verdict == Allowed()
    else:
        kind, code = expected
        assert isinstance(verdict, kind)
        assert verdict.fault.code == code
        assert verdict.fault.detail


def desired(**changes):
    return Desired(**{"device": DEVICE, "generation": 8, "snapshot": 5, **changes})


DESIRED = {
    "news": ({}, None),
    "the one that is acted on, again": ({"generation": 7}, None),
    "again, and expired meanwhile": ({"generation": 7, "expires_unix_ms": 1}, None),
    "an older one": ({"generation": 6}, (Refused, "desired_replayed")),
    "an older one that has expired": (
        {"generation": 6, "expires_unix_ms": 1}, (Refused, "desired_replayed"),
    ),
    "another device's": ({"device": "cam-02"}, (Refused, "wrong_device")),
    "another device's, older": ({"device": "cam-02", "generation": 1}, (Refused, "wrong_device")),
    "an expired one": ({"expires_unix_ms": NOW}, (Refused, "desired_expired")),
    "one that expires later": ({"expires_unix_ms": LATER}, None),
    "of a director who knew less": ({"snapshot": 0}, None),
    "of a director who knew more": ({"snapshot": 6}, (Waits, "trust_unavailable")),
    "expired, of one who knew more": (
        {"snapshot": 6, "expires_unix_ms": NOW}, (Refused, "desired_expired"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", DESIRED)
def test_which_desired_states_are_acted_on(case):
    changes, expected = DESIRED[case]
    verdict = judge_desired(VIEW, desired(**changes), device=DEVICE, generation=7, now_unix_ms=NOW)
    check(verdict, expected)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=50))
def test_no_generation_is_acted_on_twice_in_any_order_of_replay(generations):
    acted_on = [0]
    for generation in generations:
        state = desired(generation=generation)
        verdict = judge_desired(
            VIEW, state, device=DEVICE, generation=acted_on[-1], now_unix_ms=NOW
        )
        if verdict == Allowed() and generation != acted_on[-1]:
            acted_on.append(generation)
    assert acted_on == sorted(set(acted_on))


times = st.integers(0, 2**53 - 1)


@given(st.lists(st.tuples(times, times), min_size=1, max_size=20), times)
def test_the_clock_never_goes_back_while_its_director_is_trusted(steps, build):
    """Steps of the machine's clock, each with a verified desired state."""
    marks, newest = {}, 0
    for clock, issued in steps:
        now = floor_clock(clock, build, VIEW, marks)
        assert now >= max(clock, build, newest)
        marks = after_desired(marks, VIEW, desired(issued_unix_ms=issued), KEY)
        assert floor_clock(0, 0, VIEW, marks) >= newest
        newest = floor_clock(0, 0, VIEW, marks)


def test_a_time_far_ahead_of_a_clock_that_was_set_is_not_believed():
    """A controller that lived in another decade for a minute must not end all updates."""
    far = Mark(NOW + MAX_LEAD_MS + 1, frozenset({KEY}))
    assert floor_clock(NOW, NOW, VIEW, {ISSUED: far}) == NOW
    assert floor_clock(NOW + 1, NOW, VIEW, {ISSUED: far}) == far.version
    assert floor_clock(5, NOW, VIEW, {ISSUED: far}) == far.version  # it never was set


def test_a_verified_time_is_believed_no_further_than_the_timestamp_lasts():
    """A director's clock that is wrong by years blocks installs until the next timestamp, not for ever."""
    marks = after_desired({}, VIEW, desired(issued_unix_ms=2**52), KEY)
    now = floor_clock(0, 0, VIEW, marks)
    assert VIEW.expired(now) == "timestamp"
    assert view(roles=roles(timestamp=LATER + 1)).expired(now) in ("snapshot", "targets", "root")
    fresh = dict.fromkeys(ROLES, RoleFacts(6, LATER + 1))
    assert view(roles=fresh).expired(floor_clock(0, 0, view(roles=fresh), marks)) is None


def test_a_time_is_forgotten_with_the_key_that_signed_it():
    marks = after_desired({}, VIEW, desired(issued_unix_ms=NOW), KEY)
    rotated = view(directors={NEW_KEY: "f" * 64})
    assert floor_clock(5, 0, VIEW, marks) == NOW
    assert floor_clock(5, 0, rotated, marks) == 5
    assert floor_clock(5, 0, None, marks) == NOW  # nothing speaks against it yet
    marks = after_desired(marks, rotated, desired(issued_unix_ms=7), NEW_KEY)
    assert marks[ISSUED] == Mark(7, frozenset({NEW_KEY}))


@pytest.mark.parametrize(
    ("keyids", "threshold", "holds"),
    [({"a", "b"}, 2, True), ({"a", "c"}, 2, False), ({"a"}, 1, True), (set(), 1, False), ({"b"}, 1, True)],
)  # fmt: skip
def test_a_mark_holds_while_what_it_is_of_would_still_verify(keyids, threshold, holds):
    assert Mark(9, frozenset({"a", "b"})).holds(keyids, threshold) is holds
