from dataclasses import replace

import pytest

from agent.core import events as ev
from agent.core.probation import Breach, Verdict, judge
from agent.core.states import BundleFacts, OnProbation, OutputShift, RollingBack
from tests.agent.core.journeys import GUARDS, V1, V2, V3, on_probation, run, serving
from tests.agent.core.test_guards import LEAK, STEADY, latency, trace
from wire.lifecycle import Code

TRIAL = OnProbation(V2)


def verdict_of(trial):
    found = judge(trial)
    return found.code if isinstance(found, Breach) else found


@pytest.mark.parametrize(
    ("served_s", "requests", "failures", "verdict"),
    [
        (0, 0, 0, Verdict.KEEP_WATCHING),
        (9, 1000, 0, Verdict.KEEP_WATCHING),
        (10, 5, 0, Verdict.CONFIRM),
        (10, 4, 0, Verdict.KEEP_WATCHING),
        (1, 20, 1, Verdict.KEEP_WATCHING),
        (1, 20, 2, Code.ERROR_RATIO),
        (1, 19, 19, Verdict.KEEP_WATCHING),
        (10, 8, 3, Verdict.KEEP_WATCHING),
        (60, 8, 3, Code.ERROR_RATIO),
        (60, 4, 0, Verdict.CHECK_GOLDEN),
        (60, 0, 0, Verdict.CHECK_GOLDEN),
        (10, 200, 10, Verdict.CONFIRM),
    ],
)
def test_verdicts_on_failures(served_s, requests, failures, verdict):
    trial = replace(TRIAL, served_s=served_s, request_count=requests, failure_count=failures)
    assert verdict_of(trial) is verdict


@pytest.mark.parametrize(
    ("requests", "non_finite", "failures", "verdict"),
    [
        (20, 2, 0, Code.NON_FINITE),
        (19, 19, 0, Verdict.KEEP_WATCHING),
        (200, 10, 0, Verdict.CONFIRM),
        (200, 11, 0, Code.NON_FINITE),
        (200, 10, 10, Verdict.CONFIRM),  # each share has its own limit
        (6, 0, 0, Verdict.CONFIRM),
    ],
)
def test_verdicts_on_answers_that_are_not_finite(requests, non_finite, failures, verdict):
    trial = replace(
        TRIAL,
        served_s=10,
        request_count=requests,
        non_finite_count=non_finite,
        failure_count=failures,
    )
    assert verdict_of(trial) is verdict


FAST, SLOWER, SLOW = latency((1000, 5)), latency((950, 5), (50, 90)), latency((1000, 90))


@pytest.mark.parametrize(
    # Declared, given by the operator, of the release before (ms); served (s).
    ("case", "counts", "verdict"),
    [
        ((None, None, None, 10), SLOW, Verdict.CONFIRM),  # nothing to hold it to
        ((50, None, None, 10), FAST, Verdict.CONFIRM),
        ((50, None, None, 10), SLOW, Code.LATENCY_BUDGET),
        ((50, None, None, 9), SLOW, Verdict.KEEP_WATCHING),  # the first requests are slow
        ((50, None, None, 10), SLOWER, Verdict.KEEP_WATCHING),  # the machine may be busy
        ((50, None, None, 60), SLOWER, Code.LATENCY_BUDGET),
        ((50, 200, None, 60), SLOW, Verdict.CONFIRM),  # the operator has the last word
        ((None, 50, None, 60), SLOW, Code.LATENCY_BUDGET),
        ((None, None, 20, 10), SLOW, Code.LATENCY_RATIO),
        ((None, None, 40, 10), SLOW, Verdict.CONFIRM),  # 3 x 40
        ((None, None, 0.05, 10), FAST, Verdict.CONFIRM),  # a hundred times, and 5 ms
        ((None, None, 0.05, 10), SLOW, Code.LATENCY_RATIO),
        ((50, None, 20, 10), SLOW, Code.LATENCY_BUDGET),
        ((50, None, None, 10), latency((19, 90)), Verdict.KEEP_WATCHING),  # few to judge it by,
        ((50, None, None, 60), latency((19, 90)), Code.LATENCY_BUDGET),  # since it is so slow
        ((50, None, None, 60), latency((3, 90)), Code.LATENCY_BUDGET),
        ((50, None, None, 60), latency((3, 5), (2, 90)), Verdict.CONFIRM),  # two are bad luck
    ],
)
def test_verdicts_on_latency(case, counts, verdict):
    declared_ms, guard_ms, reference_ms, served_s = case
    trial = OnProbation(
        replace(V2, guards=GUARDS.model_copy(update={"p99_ms": guard_ms})),
        BundleFacts(p99_ms=declared_ms),
        reference_ms,
        served_s=served_s,
        request_count=sum(counts),
        latency=counts,
    )
    assert verdict_of(trial) is verdict


@pytest.mark.parametrize(
    ("samples", "budget_mb", "verdict"),
    [
        (STEADY, None, Verdict.CONFIRM),
        (LEAK, None, Code.MEMORY_GROWTH),
        ([85 + second for second in range(60)], None, Verdict.CONFIRM),
        ([85 + second for second in range(60)], 16, Code.MEMORY_GROWTH),
    ],
)
def test_verdicts_on_memory(samples, budget_mb, verdict):
    trial = replace(
        TRIAL,
        facts=BundleFacts(memory_mb=budget_mb),
        served_s=10,
        request_count=100,
        memory=trace(samples),
    )
    assert verdict_of(trial) is verdict


@pytest.mark.parametrize(
    ("allowed", "excess", "verdict"),
    [
        (None, 9.0, Verdict.CONFIRM),  # nobody asked
        (0.25, 0.25, Verdict.CONFIRM),
        (0.25, 0.26, Code.OUTPUT_DRIFT),
        (0.0, -0.01, Verdict.CONFIRM),
        (0.25, None, Verdict.CONFIRM),  # no table, or too few rows
    ],
)
def test_verdicts_on_the_answers_distribution(allowed, excess, verdict):
    trial = OnProbation(
        replace(V2, guards=GUARDS.model_copy(update={"output_psi": allowed})),
        served_s=10,
        request_count=100,
        shift=None if excess is None else OutputShift("Y", 500, 0.5, excess),
    )
    assert verdict_of(trial) is verdict


# -- how the evidence gets there


def beat(*, elapsed_s=1.0, rss_mib=85.0, ms=1.0, **more):
    return ev.Evidence(
        elapsed_s, 20, 0, latency=latency((20, ms)), rss_bytes=int(rss_mib * 2**20), **more
    )


def test_every_guard_quarantines_under_its_own_code():
    for events, code in (
        ([beat(non_finite_count=15)], Code.NON_FINITE),
        ([beat(elapsed_s=0.5, rss_mib=80 + 20 * n) for n in range(19)], Code.MEMORY_GROWTH),
    ):
        state = on_probation()
        for event in events:
            state, _ = run(state, event)
            if isinstance(state.update, RollingBack):
                break
        assert state.quarantine_code(V2.ref.manifest) == code


def confirmed(*, ms):
    state, _ = run(on_probation(), *[beat(ms=ms) for _ in range(11)])
    assert state.record("digits").is_confirmed
    return state


def test_the_next_release_is_held_to_what_this_one_did_on_probation():
    state, _ = run(confirmed(ms=40), ev.Started(), ev.RuntimeAccepts())
    state = on_probation(V3, replace(state, generation=1))
    assert state.update.reference_p99_ms == pytest.approx(40, rel=0.13)
    state, _ = run(state, *[beat(ms=200) for _ in range(11)])
    assert state.quarantine_code(V3.ref.manifest) == Code.LATENCY_RATIO
    assert state.record("digits").p99_ms == pytest.approx(40, rel=0.13), "of what is confirmed"


def test_what_it_did_of_late_is_better_to_know():
    state, _ = run(
        confirmed(ms=40),
        ev.DesiredReceived(9, (V3,)),
        ev.BundleStaged(V3.ref.manifest),
        ev.CandidatePassed(served_p99_ms=80.0),
    )
    assert state.update.reference_p99_ms == 80.0


def test_what_was_never_confirmed_is_no_measure():
    state, _ = run(
        on_probation(V2, serving(V1)),
        ev.DesiredReceived(3, (V3,)),
        ev.BundleStaged(V3.ref.manifest),
        ev.CandidatePassed(served_p99_ms=5000.0),
    )
    assert state.update.reference_p99_ms is None


def test_a_restart_keeps_the_counts_and_begins_a_new_trace_of_memory():
    state, _ = run(on_probation(), beat(non_finite_count=1), ev.Started(), ev.RuntimeAccepts())
    trial = state.update
    assert (trial.request_count, trial.non_finite_count, sum(trial.latency)) == (20, 1, 20)
    assert trial.memory.lows == ()


def test_an_idle_second_says_nothing_of_memory():
    state, _ = run(on_probation(), ev.Evidence(1, 0, 0, rss_bytes=85 << 20))
    assert state.update.memory.lows == ()
