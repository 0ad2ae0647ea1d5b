"""How updates end badly: what serves then, what is said of it, and what is not tried again."""

from dataclasses import replace

import pytest

from agent.core import events as ev
from agent.core.endings import MAX_STEPS, MAX_TRIES
from agent.core.serving import MAX_ROLLBACK_STARTS
from agent.core.states import (
    BundleFacts,
    DeviceState,
    Fetching,
    Idle,
    OnProbation,
    QuarantineLift,
    RollingBack,
    SelfTesting,
)
from tests.agent.core.journeys import V1, V2, V3, on_probation, ref, run, serving, want
from wire.lifecycle import Code, Outcome

MODEL = BundleFacts(model="a" * 64)
DIED = ev.RuntimeEnded(Code.RUNTIME_DIED, "signal 11")


def codes(effects):
    return [(e.code, e.after) for e in effects if isinstance(e, ev.Announce)]


# -- reverted, or not


def test_a_first_release_that_fails_leaves_nothing_and_says_so():
    state = on_probation(V1, DeviceState(is_serving=True))
    state, effects = run(state, DIED)
    assert effects[-1] == ev.Serve((), 0)
    state, effects = run(state, ev.RuntimeAccepts())
    record = state.record("digits")
    assert (record.active, record.outcome, record.code) == (
        None, Outcome.ROLLBACK_FAILED, Code.RUNTIME_DIED,
    )  # fmt: skip
    assert record.detail == "nothing serves in its place: there was no fallback; signal 11"
    assert isinstance(state.update, Idle)
    assert codes(effects) == [(Code.RUNTIME_DIED, "idle")]
    state, effects = run(state, ev.DesiredReceived(3, (V2,)))
    assert ev.Fetch(V2) in effects, "the next release is tried as ever"


@pytest.mark.parametrize("code", [Code.LOAD_FAILED, Code.CONTENT_CORRUPT])
def test_a_fallback_that_does_not_come_up_is_a_rollback_that_failed(code):
    state, _ = run(on_probation(), DIED)
    assert isinstance(state.update, RollingBack)
    state, effects = run(state, ev.CandidateRefused("digits", code, "gone"))
    assert effects[-1] == ev.Serve((), 1)
    state, effects = run(state, ev.RuntimeAccepts())
    record = state.record("digits")
    assert (record.active, record.outcome) == (None, Outcome.ROLLBACK_FAILED)
    assert (record.target, record.code) == (V2.ref, Code.RUNTIME_DIED)
    assert f"the fallback ended in {code}" in record.detail
    assert not any(isinstance(e, ev.Fetch) for e in effects), "V2 is quarantined, V1 not wanted"
    state, effects = run(state, ev.DesiredReceived(3, (V1,)))
    assert ev.Fetch(V1) in effects, "the controller sets it back, and it is tried in full"


def test_a_fallback_that_kills_its_runtime_is_given_up_so_that_the_others_serve():
    other = want(7, "other")
    base = serving(V1, other)
    state, _ = run(
        base,
        ev.DesiredReceived(2, (V2, other)),
        ev.BundleStaged(V2.ref.manifest),
        ev.CandidatePassed(),
        ev.RuntimeAccepts(),
        DIED,
    )
    crash = ev.CandidateRefused(None, Code.RUNTIME_DIED, "signal 9")
    for _ in range(MAX_ROLLBACK_STARTS - 1):
        state, effects = run(state, crash)
        assert isinstance(effects[-1], ev.Serve)
        assert ("digits", V1.ref) in effects[-1].models
    state, effects = run(state, crash)
    assert effects[-1] == ev.Serve((("other", ref(7)),), MAX_ROLLBACK_STARTS)
    state, _ = run(state, ev.RuntimeAccepts())
    assert state.record("digits").outcome is Outcome.ROLLBACK_FAILED
    assert state.record("other").active == ref(7)


def test_a_commanded_return_whose_release_does_not_load_is_not_called_confirmed():
    state, _ = run(
        on_probation(),
        ev.DesiredReceived(3, (V1,)),
        ev.CandidateRefused("digits", Code.LOAD_FAILED, "unsupported"),
        ev.RuntimeAccepts(),
    )
    record = state.record("digits")
    assert (record.active, record.outcome, record.code) == (
        None, Outcome.ROLLBACK_FAILED, Code.LOAD_FAILED,
    )  # fmt: skip


def test_a_commanded_return_whose_content_is_lost_fetches_it_again():
    state, effects = run(
        on_probation(),
        ev.DesiredReceived(3, (V1,)),
        ev.CandidateRefused("digits", Code.CONTENT_CORRUPT, "changed on disk"),
        ev.RuntimeAccepts(),
    )
    assert ev.Fetch(V1) in effects
    assert state.update == Fetching(V1, is_repair=True)


# -- tries


def test_a_candidate_that_takes_the_machine_down_is_tried_three_times():
    state, _ = run(serving(V1), ev.DesiredReceived(2, (V2,)))
    staged = ev.BundleStaged(V2.ref.manifest, MODEL)
    for count in range(1, MAX_TRIES + 1):
        state, effects = run(state, staged)
        assert any(isinstance(e, ev.StartCandidate) for e in effects)
        assert state.update == SelfTesting(V2, MODEL, count), "on disk before it is loaded"
        # Power comes back: nothing is known of how the candidate ended.
        state, effects = run(state, ev.Started(), ev.RuntimeAccepts())
        assert ev.Fetch(V2) in effects
    state, effects = run(state, staged)
    assert not any(isinstance(e, ev.StartCandidate) for e in effects)
    record = state.record("digits")
    assert (record.outcome, record.code) == (Outcome.REJECTED, Code.CRASH_LOOP)
    assert (record.active, state.quarantine_code(V2.ref.manifest)) == (V1.ref, Code.CRASH_LOOP)


def test_a_try_that_an_orderly_stop_ended_is_given_back():
    state, _ = run(serving(V1), ev.DesiredReceived(2, (V2,)))
    for _ in range(10):
        state, _ = run(state, ev.BundleStaged(V2.ref.manifest), ev.Stopping(), ev.Started())
        state, _ = run(state, ev.RuntimeAccepts())
    state, _ = run(state, ev.BundleStaged(V2.ref.manifest))
    assert state.update == SelfTesting(V2, try_count=1)


def test_a_staged_bundle_is_tried_three_times_too_when_nothing_serves_at_the_start():
    state, _ = run(serving(V1), ev.DesiredReceived(2, (V2,)))
    for _ in range(MAX_TRIES):
        state, _ = run(state, ev.Started(), ev.BundleStaged(V2.ref.manifest), ev.RuntimeAccepts())
        assert isinstance(state.update, SelfTesting)
    state, _ = run(state, ev.Started(), ev.BundleStaged(V2.ref.manifest), ev.RuntimeAccepts())
    assert state.record("digits").code == Code.CRASH_LOOP


def test_the_serving_runtime_s_own_death_is_no_try():
    state, _ = run(serving(V1), ev.DesiredReceived(2, (V2,)), ev.BundleStaged(V2.ref.manifest))
    for _ in range(MAX_TRIES + 1):
        state, _ = run(state, DIED, ev.RuntimeAccepts())
        assert state.update == SelfTesting(V2, try_count=1)


def test_tries_survive_a_new_generation_of_the_same_assignment():
    state, _ = run(serving(V1), ev.DesiredReceived(2, (V2,)), ev.BundleStaged(V2.ref.manifest))
    state, _ = run(state, ev.Started(), ev.DesiredReceived(3, (V2,)))
    assert state.update == Fetching(V2, 1)


def test_a_candidate_that_passes_after_too_many_steps_does_not_serve():
    state, _ = run(serving(V1), ev.DesiredReceived(2, (V2,)), ev.BundleStaged(V2.ref.manifest))
    state, effects = run(replace(state, step_count=MAX_STEPS), ev.CandidatePassed())
    assert ev.DiscardCandidate() in effects
    assert ev.Promote() not in effects
    record = state.record("digits")
    assert (record.active, record.outcome, record.code) == (
        V1.ref, Outcome.FAILED, Code.STEP_LIMIT,
    )  # fmt: skip


# -- quarantine


def quarantining(model: BundleFacts = MODEL) -> DeviceState:
    """A device that rolled V2 back at generation 2."""
    state, _ = run(
        serving(V1),
        ev.DesiredReceived(2, (V2,)),
        ev.BundleStaged(V2.ref.manifest, model),
        ev.CandidatePassed(),
        ev.RuntimeAccepts(),
        ev.Evidence(1, 30, 20),
        ev.RuntimeAccepts(),
    )
    assert state.record("digits").outcome is Outcome.ROLLED_BACK
    return state


def test_the_same_model_under_a_new_version_is_refused_before_it_is_tried():
    state, effects = run(
        quarantining(), ev.DesiredReceived(3, (V3,)), ev.BundleStaged(V3.ref.manifest, MODEL)
    )
    assert not any(isinstance(e, ev.StartCandidate) for e in effects)
    record = state.record("digits")
    assert (record.outcome, record.code) == (Outcome.REJECTED, Code.QUARANTINED)
    assert V2.ref.manifest[:12] in record.detail
    assert record.active == V1.ref
    assert state.quarantine_code(V3.ref.manifest) is None, "one entry to release, not two"


def test_another_model_under_a_new_version_is_tried():
    other = BundleFacts(model="b" * 64)
    state, _ = run(
        quarantining(), ev.DesiredReceived(3, (V3,)), ev.BundleStaged(V3.ref.manifest, other)
    )
    assert isinstance(state.update, SelfTesting)


def test_a_quarantine_whose_model_is_not_known_stops_no_other_bundle():
    unknown = BundleFacts()
    state, _ = run(
        quarantining(unknown), ev.DesiredReceived(3, (V3,)), ev.BundleStaged(V3.ref.manifest)
    )
    assert isinstance(state.update, SelfTesting)


@pytest.mark.parametrize("manifest", [None, V2.ref.manifest])
def test_a_release_ends_the_quarantine_of_all_that_has_this_model(manifest):
    word = QuarantineLift(manifest, 3)
    state, effects = run(quarantining(), ev.DesiredReceived(3, (V1,), (word,)))
    assert state.quarantined == ()
    assert (Code.QUARANTINE_LIFTED, "idle") in codes(effects)
    again, effects = run(state, ev.DesiredReceived(4, (V3,), (word,)))
    assert ev.Fetch(V3) in effects
    again, _ = run(again, ev.BundleStaged(V3.ref.manifest, MODEL))
    assert isinstance(again.update, SelfTesting)


def test_a_release_that_is_heard_again_does_not_end_a_newer_quarantine():
    word = QuarantineLift(None, 3)
    state, _ = run(
        quarantining(),
        ev.DesiredReceived(3, (V2,), (word,)),
        ev.BundleStaged(V2.ref.manifest, MODEL),
        ev.CandidatePassed(),
        ev.RuntimeAccepts(),
    )
    assert isinstance(state.update, OnProbation), "lifted and wanted: it is tried at once"
    state, _ = run(state, DIED, ev.RuntimeAccepts(), ev.DesiredReceived(4, (V2,), (word,)))
    assert state.record("digits").code == Code.QUARANTINED
    assert len(state.quarantined) == 1


def test_a_release_of_another_bundle_changes_nothing():
    word = QuarantineLift(V3.ref.manifest, 3)
    state, effects = run(quarantining(), ev.DesiredReceived(3, (V1,), (word,)))
    assert state.quarantine_code(V2.ref.manifest) == Code.ERROR_RATIO
    assert (Code.QUARANTINE_LIFTED, "idle") not in codes(effects)
