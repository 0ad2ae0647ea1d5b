"""When a model is trained again: a table, and what holds of any past."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.core import retraining
from fleet.core.retraining import (
    REFUSALS,
    AccuracySeen,
    DriftSeen,
    PastRun,
    Policy,
    Seen,
    Start,
    Stopped,
    Wait,
    decide,
)

HOUR, DAY = 3_600_000, 86_400_000
NOW = 1000 * DAY
POLICY = Policy(
    frozenset({"drift", "accuracy", "schedule"}),
    every_ms=7 * DAY,
    cooldown_ms=DAY,
    budget_count=4,
    budget_ms=30 * DAY,
    min_accuracy=0.9,
)
QUIET = Seen(watched_unix_ms=NOW)
DRIFT = DriftSeen(3, "cam drifted", {"id": 3})
LOW = AccuracySeen("a" * 64, 0.8, 0.85, 500, {"accuracy": 0.8})


def run(days_ago, verdict="bless", *, kind="drift", causes=(), name=""):
    start = NOW - int(days_ago * DAY)
    end = None if verdict is None else start + HOUR
    return PastRun(kind, start, end, verdict, frozenset(causes), name)


@pytest.mark.parametrize(
    ("seen", "kind", "part"),
    [
        (replace(QUIET, findings=[DRIFT]), "drift", "cam drifted"),
        (replace(QUIET, accuracies=[LOW]), "accuracy", "below 0.9"),
        (replace(QUIET, watched_unix_ms=NOW - 7 * DAY), "schedule", "first run is due"),
        (replace(QUIET, runs=[run(7)]), "schedule", "long enough ago"),
        (replace(QUIET, findings=[DRIFT], accuracies=[LOW]), "drift", "cam drifted"),
        (replace(QUIET, findings=[DRIFT], runs=[run(2, causes={"finding:2"})]), "drift", "cam"),
    ],
)
def test_what_starts_a_run(seen, kind, part):
    found = decide(POLICY, seen, NOW)
    assert isinstance(found, Start)
    assert found.kind == kind
    assert part in found.why


@pytest.mark.parametrize(
    ("seen", "part", "until"),
    [
        (QUIET, "nothing calls", NOW + 7 * DAY),
        (replace(QUIET, findings=[DRIFT], runs=[run(3, causes={"finding:3"})]), "nothing calls", 4),
        (replace(QUIET, accuracies=[replace(LOW, upper=0.9)]), "nothing calls", 7),
        (
            replace(QUIET, accuracies=[LOW], runs=[run(2, causes={f"accuracy:{'a' * 64}"})]),
            "nothing calls",
            5,
        ),
        (replace(QUIET, runs=[run(99, None)], findings=[DRIFT]), "under way", None),
        (
            replace(QUIET, findings=[DRIFT], runs=[run(0.5)]),
            "just ended",
            NOW - DAY // 2 + HOUR + DAY,
        ),
        (
            replace(QUIET, findings=[DRIFT], runs=[run(d) for d in (2, 9, 16, 23)]),
            "4 runs in this span are the budget",
            7,
        ),
    ],
)
def test_what_holds_a_run_back_and_until_when(seen, part, until):
    found = decide(POLICY, seen, NOW)
    assert isinstance(found, Wait)
    assert part in found.why
    expected = NOW + until * DAY if until is not None and until < 100 else until
    assert found.until_unix_ms == expected


def test_a_trigger_that_is_not_asked_for_starts_nothing():
    everything = Seen([DRIFT], [LOW], (), 0)
    assert decide(replace(POLICY, on=frozenset()), everything, NOW) == Wait(
        "nothing calls for a run", None
    )


def test_two_refusals_in_a_row_stop_every_trigger_until_somebody_resumes():
    twice = [run(5, "refuse", name="first"), run(3, "halted", name="second")]
    seen = replace(QUIET, findings=[DRIFT], runs=twice)
    found = decide(POLICY, seen, NOW)
    assert found == Stopped(
        "refused 2 times in a row: first (refuse) and second (halted)", tuple(twice)
    )
    assert isinstance(decide(POLICY, replace(seen, resumed_unix_ms=NOW - DAY), NOW), Start)
    assert isinstance(retraining.by_hand(seen, "I looked"), Start)


@pytest.mark.parametrize(
    "runs",
    [
        [run(5, "refuse")],
        [run(5, "refuse"), run(4, "bless"), run(3, "refuse")],
        [run(5, "refuse"), run(4, "refuse"), run(3, "bless", kind="hand")],
        [run(5, "refuse"), run(4, "refuse", kind="hand")],
    ],
)
def test_what_is_no_row_of_refusals_stops_nothing(runs):
    assert not isinstance(decide(POLICY, replace(QUIET, runs=runs), NOW), Stopped)


def test_too_little_evidence_neither_ends_nor_lengthens_a_row():
    between = [run(5, "refuse"), run(4, "inconclusive"), run(3, "failed")]
    assert isinstance(decide(POLICY, replace(QUIET, runs=between), NOW), Stopped)
    assert retraining.refusals(replace(QUIET, runs=between[:2])) == (between[0],)


def test_a_run_by_hand_waits_for_one_under_way_alone():
    assert isinstance(retraining.by_hand(replace(QUIET, runs=[run(0, None)]), "now"), Wait)
    assert retraining.by_hand(replace(QUIET, runs=[run(0)]), "now") == Start(
        "hand", "now", frozenset(), {}
    )


def test_a_clock_that_was_ahead_costs_one_cool_down_at_most():
    ahead = [replace(run(-400), ended_unix_ms=NOW + 401 * DAY)]
    seen = replace(QUIET, findings=[DRIFT], runs=retraining.settled(ahead, NOW))
    found = decide(POLICY, seen, NOW)
    assert isinstance(found, Wait)
    assert found.until_unix_ms == NOW + DAY
    assert isinstance(decide(POLICY, seen, NOW + DAY), Start)


RUNS = st.lists(
    st.builds(
        PastRun,
        st.sampled_from(["hand", "drift", "accuracy", "schedule"]),
        st.integers(0, NOW),
        st.integers(0, NOW),
        st.sampled_from(["bless", "inconclusive", "refuse", "failed", "halted"]),
        st.frozensets(st.sampled_from(["finding:1", "finding:2", f"accuracy:{'a' * 64}"])),
    ),
    max_size=8,
)
POLICIES = st.builds(
    Policy,
    st.frozensets(st.sampled_from(["drift", "accuracy", "schedule"])),
    st.none() | st.integers(1, 40 * DAY),
    st.integers(0, 3 * DAY),
    st.integers(0, 5),
    st.integers(1, 40 * DAY),
    st.none() | st.floats(0, 1),
)
SEEN = st.builds(
    Seen,
    st.lists(st.builds(DriftSeen, st.integers(1, 3), st.just("drifted")), max_size=3),
    st.lists(st.just(LOW), max_size=1),
    RUNS,
    st.integers(0, NOW),
    st.integers(0, NOW),
)


def test_a_schedule_that_the_budget_holds_back_is_looked_at_when_it_is_free_again():
    hourly = replace(POLICY, every_ms=3_600_000, budget_count=1, budget_ms=2 * DAY)
    seen = replace(QUIET, runs=[PastRun("schedule", NOW, NOW, "bless")])
    found = decide(hourly, seen, NOW)
    assert found == Wait("nothing calls for a run", NOW + 2 * DAY)


@given(POLICIES, SEEN)
def test_no_decision_breaks_the_rules(policy, seen):
    seen = replace(seen, runs=[r for r in seen.runs if r.started_unix_ms <= (r.ended_unix_ms or 0)])
    found = decide(policy, seen, NOW)
    if isinstance(found, Start):
        assert found.kind in policy.on
        assert all(NOW - r.ended_unix_ms >= policy.cooldown_ms for r in seen.runs)
        recent = [r for r in seen.runs if NOW - r.started_unix_ms < policy.budget_ms]
        assert len(recent) < policy.budget_count
        assert not found.causes & frozenset().union(*(r.causes for r in seen.runs))
        assert len(retraining.refusals(seen)) < 2
    if isinstance(found, Stopped):
        assert len(found.runs) >= 2
        assert {r.verdict for r in found.runs} <= REFUSALS
        assert all(r.started_unix_ms >= seen.resumed_unix_ms for r in found.runs)
    if isinstance(found, Wait) and found.until_unix_ms is not None:
        assert found.until_unix_ms > NOW
        if policy.budget_count:  # what it said it waits for is over then
            assert isinstance(decide(policy, seen, found.until_unix_ms), Start)


@given(POLICIES, SEEN, st.lists(st.integers(1, 5 * DAY), max_size=20))
def test_over_time_no_span_has_more_runs_than_the_budget_and_no_finding_two(policy, seen, steps):
    runs, now = [], NOW
    for step in steps:
        now += step
        found = decide(policy, replace(seen, runs=runs), now)
        if isinstance(found, Start):
            past = PastRun(found.kind, now, now, "bless", found.causes)
            runs.append(past)
            assert isinstance(
                decide(
                    policy, replace(seen, runs=[*runs[:-1], replace(past, ended_unix_ms=None)]), now
                ),
                Wait,
            )
    starts = [r.started_unix_ms for r in runs]
    for start in starts:
        within = [s for s in starts if start <= s < start + policy.budget_ms]
        assert len(within) <= max(policy.budget_count, 0)
    causes = [cause for r in runs for cause in r.causes]
    assert len(causes) == len(set(causes))
