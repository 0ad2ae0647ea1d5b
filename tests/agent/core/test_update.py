"""The update machine: one journey a test, then any sequence of events with crashes between."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from agent.core import events as ev
from agent.core.endings import MAX_STEPS, MAX_TRIES
from agent.core.states import (
    BundleFacts,
    DeviceState,
    Fetching,
    Idle,
    OnProbation,
    QuarantineLift,
    RollingBack,
    SelfTesting,
    Staged,
    update_state,
)
from agent.core.update import MAX_PROBATION_STARTS, step
from tests.agent.core.journeys import V1, V2, V3, on_probation, ref, run, serving, want
from wire.latency import LATENCY_BINS
from wire.lifecycle import Code, Outcome, UpdateState
from wire.messages import MAX_INTEGER, Probation


def test_first_install_is_confirmed_after_time_and_traffic():
    state, effects = run(DeviceState(), ev.Started(), ev.RuntimeAccepts())
    assert effects[0] == ev.Serve(())
    state, effects = run(state, ev.DesiredReceived(1, (V1,)))
    assert ev.Fetch(V1) in effects
    state, effects = run(state, ev.BundleStaged(V1.ref.manifest))
    assert ev.StartCandidate((("digits", V1.ref),)) in effects
    assert state.record("digits").active is None, "the pointer waits for the self-test"
    state, effects = run(state, ev.CandidatePassed())
    assert state.record("digits").active == V1.ref
    assert ev.Promote() in effects
    state, _ = run(state, ev.RuntimeAccepts(), ev.Evidence(9, 100, 0))
    assert isinstance(state.update, OnProbation)
    state, effects = run(state, ev.Evidence(2, 0, 0))
    record = state.record("digits")
    assert (record.outcome, record.is_confirmed) == (Outcome.CONFIRMED, True)
    assert ev.Collect() in effects


def test_breach_returns_to_the_fallback_and_quarantines():
    state, effects = run(on_probation(), ev.Evidence(1, 30, 2))
    assert state.update == RollingBack(
        "digits", V2.ref, Code.ERROR_RATIO, "2 of 30 requests failed"
    )
    assert state.record("digits").active == V1.ref
    assert ev.Serve((("digits", V1.ref),), 0) in effects
    state, _ = run(state, ev.RuntimeAccepts())
    record = state.record("digits")
    assert (record.outcome, record.code) == (Outcome.ROLLED_BACK, Code.ERROR_RATIO)
    assert record.target == V2.ref
    assert state.quarantine_code(V2.ref.manifest) == Code.ERROR_RATIO
    assert isinstance(state.update, Idle), "the same generation does not try it again"


def test_a_quarantined_release_is_rejected_under_a_newer_generation():
    state, _ = run(on_probation(), ev.Evidence(1, 30, 20), ev.RuntimeAccepts())
    state, effects = run(state, ev.DesiredReceived(3, (V2,)))
    record = state.record("digits")
    assert (record.outcome, record.code) == (Outcome.REJECTED, Code.QUARANTINED)
    assert not any(isinstance(e, ev.Fetch) for e in effects)
    assert record.active == V1.ref


@pytest.mark.parametrize(
    ("event", "code"),
    [
        (ev.RuntimeEnded(Code.RUNTIME_DIED, "signal 11"), Code.RUNTIME_DIED),
        (ev.RuntimeEnded(Code.REQUEST_STUCK, "30 s"), Code.REQUEST_STUCK),
        (ev.CandidateRefused("digits", Code.LOAD_FAILED, "after a restart"), Code.LOAD_FAILED),
    ],
)
def test_whatever_ends_the_runtime_on_probation_blames_the_target(event, code):
    state, _ = run(on_probation(), event, ev.RuntimeAccepts())
    record = state.record("digits")
    assert (record.active, record.outcome, record.code) == (V1.ref, Outcome.ROLLED_BACK, code)


def test_a_candidate_that_fails_never_serves():
    state, effects = run(
        serving(V1),
        ev.DesiredReceived(2, (V2,)),
        ev.BundleStaged(V2.ref.manifest),
        ev.CandidateRefused("digits", Code.SELF_TEST_FAILED, "worst error 3.1"),
    )
    record = state.record("digits")
    assert (record.active, record.outcome) == (V1.ref, Outcome.REJECTED)
    assert state.quarantine_code(V2.ref.manifest) == Code.SELF_TEST_FAILED
    assert not any(isinstance(e, ev.Serve) for e in effects), "the old runtime serves on"


def test_a_candidate_that_fails_for_another_model_is_not_blamed():
    state, _ = run(
        serving(V1, want(7, "other")),
        ev.DesiredReceived(2, (V2, want(7, "other"))),
        ev.BundleStaged(V2.ref.manifest),
        ev.CandidateRefused("other", Code.LOAD_FAILED, "its file is gone"),
    )
    assert state.record("digits").outcome is Outcome.FAILED
    assert state.quarantine_code(V2.ref.manifest) is None


def test_fetch_failures_end_as_they_say():
    for outcome, code in ((Outcome.FAILED, Code.DISK_FULL), (Outcome.REJECTED, Code.INDEX_INVALID)):
        state, _ = run(
            serving(V1),
            ev.DesiredReceived(2, (V2,)),
            ev.FetchFailed(V2.ref.manifest, outcome, code, ""),
        )
        record = state.record("digits")
        assert (record.outcome, record.code, record.active) == (outcome, code, V1.ref)
        assert state.quarantine_code(V2.ref.manifest) is None
        state, effects = run(state, ev.DesiredReceived(3, (V2,)))
        assert ev.Fetch(V2) in effects, "a newer generation tries again"


@pytest.mark.parametrize("code", [Code.START_FAILED, Code.CONTENT_CORRUPT])
def test_a_candidate_that_this_device_could_not_start_is_not_the_models_fault(code):
    state, _ = run(
        serving(V1),
        ev.DesiredReceived(2, (V2,)),
        ev.BundleStaged(V2.ref.manifest),
        ev.CandidateRefused(None, code, "no memory for another process"),
    )
    assert state.record("digits").outcome is Outcome.FAILED
    assert state.quarantine_code(V2.ref.manifest) is None


def test_silence_at_the_end_of_probation_runs_the_golden_rows():
    state, effects = run(on_probation(), ev.Evidence(61, 0, 0))
    assert ev.CheckGolden("digits") in effects
    state, effects = run(state, ev.Evidence(1, 0, 0))
    assert ev.CheckGolden("digits") not in effects, "asked once"
    state, _ = run(state, ev.GoldenRowsChecked(is_passed=True, detail=""))
    assert state.record("digits").outcome is Outcome.CONFIRMED_WITHOUT_TRAFFIC


def test_golden_rows_whose_answer_is_lost_are_asked_for_again():
    state, _ = run(on_probation(), ev.Evidence(61, 0, 0))
    state, effects = run(state, *[ev.Evidence(1, 0, 0)] * 59)
    assert effects == []
    state, effects = run(state, *[ev.Evidence(1, 0, 0)] * 60)
    assert effects == [ev.CheckGolden("digits")]
    state, _ = run(state, ev.GoldenRowsChecked(is_passed=True, detail=""))
    assert state.record("digits").outcome is Outcome.CONFIRMED_WITHOUT_TRAFFIC


def test_a_runtime_that_is_started_again_is_asked_for_the_golden_rows_at_once():
    state, _ = run(on_probation(), ev.Evidence(61, 0, 0))
    unread = ev.CandidateRefused("digits", Code.STORAGE_ERROR, "Input/output error")
    state, _ = run(state, unread, ev.RuntimeAccepts())
    late = ev.GoldenRowsChecked(is_passed=False, detail="of the runtime before")
    state, effects = run(state, late, ev.Evidence(1, 0, 0))
    assert ev.CheckGolden("digits") in effects


def test_golden_rows_that_fail_at_the_end_roll_back():
    state, _ = run(
        on_probation(),
        ev.Evidence(61, 0, 0),
        ev.GoldenRowsChecked(is_passed=False, detail="worst error 2"),
        ev.RuntimeAccepts(),
    )
    assert state.record("digits").code == Code.SELF_TEST_FAILED


@pytest.mark.parametrize("phase", ["fetching", "self_testing"])
def test_newer_desired_state_preempts_before_probation(phase):
    state, _ = run(serving(V1), ev.DesiredReceived(2, (V2,)))
    if phase == "self_testing":
        state, _ = run(state, ev.BundleStaged(V2.ref.manifest))
        assert isinstance(state.update, SelfTesting)
    state, effects = run(state, ev.DesiredReceived(3, (V3,)))
    assert isinstance(state.update, Fetching)
    assert state.update.assignment == V3
    stop = ev.CancelFetch() if phase == "fetching" else ev.DiscardCandidate()
    assert effects.index(stop) < effects.index(ev.Fetch(V3))


def test_the_same_target_under_a_newer_generation_goes_on():
    state, _ = run(serving(V1), ev.DesiredReceived(2, (V2,)))
    gentler = replace(V2, probation=Probation(min_s=1))
    state, effects = run(state, ev.DesiredReceived(3, (gentler,)))
    assert state.update == Fetching(gentler)
    assert effects == []


def test_withdrawal_on_probation_returns_to_the_confirmed_release_at_once():
    state, effects = run(on_probation(), ev.DesiredReceived(3, (V1,)))
    assert ev.Serve((("digits", V1.ref),), 0) in effects
    state, _ = run(state, ev.RuntimeAccepts())
    record = state.record("digits")
    assert (record.active, record.is_confirmed) == (V1.ref, True)
    assert (record.target, record.outcome) == (V1.ref, Outcome.CONFIRMED)
    assert state.quarantine_code(V2.ref.manifest) is None


def test_a_stale_generation_is_ignored():
    state = serving(V1, generation=5)
    for generation in (4, 5):
        after, effects = step(state, ev.DesiredReceived(generation, (V2,)))
        assert after == state
        assert isinstance(effects[0], ev.Ignored)


def test_models_that_are_not_wanted_are_removed():
    state, effects = run(serving(V1, want(7, "other")), ev.DesiredReceived(2, (V1,)))
    assert ev.Serve((("digits", V1.ref),), 0) in effects
    state, _ = run(state, ev.RuntimeAccepts())
    assert [r.name for r in state.models] == ["digits"]


def test_two_models_are_updated_one_after_the_other():
    other = want(7, "other")
    state, effects = run(
        serving(), ev.DesiredReceived(2, (V1, other)), ev.BundleStaged(V1.ref.manifest)
    )
    assert ev.Fetch(other) not in effects
    state, effects = run(state, ev.CandidatePassed(), ev.RuntimeAccepts(), ev.Evidence(11, 50, 0))
    assert ev.Fetch(other) in effects
    state, effects = run(state, ev.BundleStaged(other.ref.manifest))
    assert ev.StartCandidate((("digits", V1.ref), ("other", other.ref))) in effects


def test_a_staged_bundle_waits_for_a_runtime():
    state, effects = run(
        DeviceState(), ev.Started(), ev.DesiredReceived(1, (V1,)), ev.BundleStaged(V1.ref.manifest)
    )
    assert isinstance(state.update, Staged)
    assert not any(isinstance(e, ev.StartCandidate) for e in effects)
    after, effects = step(state, ev.TryDue())
    assert (after, effects) == (state, (ev.Ignored("nothing is staged, or nothing serves"),))
    # To serve may outrun the disk; a try may not, so that it is a step of its own.
    state, effects = step(state, ev.RuntimeAccepts())
    assert (isinstance(state.update, Staged), state.is_serving) == (True, True)
    assert effects == (ev.TryStaged(),)
    state, effects = step(state, ev.TryDue())
    assert isinstance(state.update, SelfTesting)
    assert any(isinstance(e, ev.StartCandidate) for e in effects)


def test_the_serving_runtime_comes_before_the_self_test():
    state, _ = run(serving(V1), ev.DesiredReceived(2, (V2,)), ev.BundleStaged(V2.ref.manifest))
    state, effects = run(state, ev.RuntimeEnded(Code.RUNTIME_DIED, ""))
    assert effects[-2:] == [ev.DiscardCandidate(), ev.Serve((("digits", V1.ref),), 0)]
    state, _ = run(state, ev.RuntimeAccepts())
    assert isinstance(state.update, SelfTesting)


def test_going_in_circles_ends():
    state, _ = run(serving(V1), ev.DesiredReceived(2, (V2,)), ev.BundleStaged(V2.ref.manifest))
    for _ in range(MAX_STEPS):
        state, _ = run(state, ev.RuntimeEnded(Code.RUNTIME_DIED, ""), ev.RuntimeAccepts())
    assert isinstance(state.update, Idle)
    assert state.record("digits").code == Code.STEP_LIMIT
    assert state.record("digits").active == V1.ref


def test_restarts_on_probation_count_unless_they_were_orderly():
    state = on_probation()
    for _ in range(10):
        state, _ = run(state, ev.Stopping(), ev.Started(), ev.RuntimeAccepts())
    assert isinstance(state.update, OnProbation)
    for _ in range(MAX_PROBATION_STARTS + 1):
        state, _ = run(state, ev.Started(), ev.RuntimeAccepts())
    assert state.record("digits").code == Code.CRASH_LOOP
    assert state.record("digits").active == V1.ref


def test_lost_content_falls_back_and_is_fetched_again():
    state = replace(serving(V2), models=(replace(serving(V2).models[0], fallback=V1.ref),))
    state, effects = run(
        state, ev.Started(), ev.CandidateRefused("digits", Code.CONTENT_CORRUPT, "changed on disk")
    )
    assert effects[-1] == ev.Serve((("digits", V1.ref),), 1)
    state, effects = run(state, ev.RuntimeAccepts())
    assert ev.Fetch(V2) in effects


def test_a_model_that_cannot_be_served_at_all_leaves_the_others():
    state = serving(V1, want(7, "other"))
    state, effects = run(
        state, ev.Started(), ev.CandidateRefused("digits", Code.LOAD_FAILED, "unsupported")
    )
    assert effects[-1] == ev.Serve((("other", ref(7)),), 1)


ADAPTER = TypeAdapter(DeviceState)
ANY_EVENT = st.one_of(
    st.just(ev.Started()),
    st.just(ev.Stopping()),
    st.builds(
        ev.DesiredReceived,
        st.integers(1, 6),
        st.lists(
            st.builds(want, st.integers(1, 3), st.sampled_from(["digits", "other"])),
            max_size=2,
            unique_by=lambda a: a.name,
        ).map(tuple),
        st.lists(
            st.builds(
                QuarantineLift,
                st.sampled_from([None, ref(1).manifest, ref(2).manifest]),
                st.integers(1, 6),
            ),
            max_size=1,
        ).map(tuple),
    ),
    st.builds(
        ev.BundleStaged,
        st.integers(1, 3).map(lambda n: ref(n).manifest),
        st.builds(BundleFacts, st.sampled_from([None, "a" * 64, "b" * 64])),
    ),
    st.builds(
        ev.FetchFailed,
        st.integers(1, 3).map(lambda n: ref(n).manifest),
        st.sampled_from([Outcome.FAILED, Outcome.REJECTED]),
        st.sampled_from([Code.DISK_FULL, Code.MANIFEST_INVALID]),
        st.just(""),
    ),
    st.builds(ev.CandidatePassed, st.none() | st.floats(0.01, 100)),
    st.builds(
        ev.CandidateRefused,
        st.sampled_from([None, "digits", "other"]),
        st.sampled_from([Code.LOAD_FAILED, Code.CONTENT_CORRUPT]),
        st.just(""),
    ),
    st.just(ev.RuntimeAccepts()),
    st.builds(ev.RuntimeEnded, st.just(Code.RUNTIME_DIED), st.just("")),
    st.builds(
        ev.Evidence,
        st.floats(0, 100),
        st.integers(0, 50),
        st.integers(0, 50),
        st.integers(0, 50),
        st.sampled_from([(), (0,) * LATENCY_BINS, (9,) * LATENCY_BINS]),
        st.integers(0, 2**33),
    ),
    st.builds(ev.GoldenRowsChecked, st.booleans(), st.just("")),
)


@settings(max_examples=300)
@given(st.lists(ANY_EVENT, max_size=40))
def test_laws_hold_after_any_events(sequence):
    state = DeviceState()
    for event in sequence:
        before = state
        state, effects = step(before, event)

        assert ADAPTER.validate_json(ADAPTER.dump_json(state)) == state, "it survives the disk"
        for record in state.models:
            if record.active is not None and record.is_confirmed:
                assert state.quarantine_code(record.active.manifest) is None or (
                    before.record(record.name).active == record.active
                ), "a quarantined release never becomes good"
            if record.active is not None:
                assert record.active != record.fallback
        if isinstance(state.update, OnProbation):
            trial = state.update.assignment
            assert state.record(trial.name).active == trial.ref, "what is judged is what serves"
        for effect in effects:
            if isinstance(effect, ev.Serve):
                assert effect.models == state.served_set(), "the runtime follows the pointer"
            if isinstance(effect, ev.StartCandidate):
                assert isinstance(state.update, SelfTesting)
                assert 1 <= state.update.try_count <= MAX_TRIES, "counted before it is loaded"
                assert state.quarantine_of_model(state.update.facts.model) is None
                changed = set(effect.models) - set(state.served_set())
                assert len(changed) <= 1, "one swap changes one model"
            if isinstance(effect, ev.Fetch):
                assert state.quarantine_code(effect.assignment.ref.manifest) is None
        assert state.generation >= before.generation
        if isinstance(event, ev.CandidatePassed) and isinstance(before.update, SelfTesting):
            old = before.record(before.update.assignment.name)
            new = state.record(old.name)
            if old.is_confirmed and old.active is not None:
                assert old.active in (new.active, new.fallback), "last known good is kept"


def test_states_are_named_on_the_wire():
    names = [
        update_state(update)
        for update in (
            Idle(),
            Fetching(V1),
            Staged(V1),
            SelfTesting(V1),
            OnProbation(V1),
            RollingBack("digits", V1.ref, Code.ERROR_RATIO, ""),
        )
    ]
    assert names == list(UpdateState)


def test_when_the_director_is_gone_the_generation_counts_from_the_beginning():
    """A thief of its key can have driven it up to the last number that there is."""
    state, _ = run(serving(V1), ev.DesiredReceived(MAX_INTEGER, (V1,)))
    ours = ev.DesiredReceived(7, (V2,))
    assert run(state, ours)[0] == state
    state, _ = run(state, ev.DirectorGone())
    assert state.desired == (V1,), "it goes on as it was until somebody is heard"
    state, effects = run(state, ours)
    assert state.generation == 7
    assert ev.Fetch(V2) in effects


def test_a_quarantine_of_before_a_theft_can_be_lifted_after_it():
    state, _ = run(on_probation(), ev.RuntimeEnded(Code.RUNTIME_DIED, "signal 11"))
    driven_up = tuple(replace(known, generation=MAX_INTEGER) for known in state.quarantined)
    state, _ = run(replace(state, quarantined=driven_up), ev.DirectorGone())
    lifted = (QuarantineLift(V2.ref.manifest, 9),)
    state, _ = run(state, ev.DesiredReceived(9, (V1,), lifted))
    assert state.quarantined == ()
