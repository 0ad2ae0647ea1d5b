"""The update machine of a device: `step(state, event) -> (state, effects)`, pure and total.

The order around it is the loop's: step, put the new state on disk, run the effects, turn their
results into events. So a crash at any point repeats effects and never skips one; effects may be
repeated. An event without a meaning in a state changes nothing and yields `Ignored`.

One update runs at a time. The pointer (`ModelRecord.active`) moves in the step that enters
probation and in the step that begins a rollback, always before the runtime follows it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from wire.latency import merged
from wire.lifecycle import Code, Outcome

from . import shadowing
from .endings import (
    BUNDLE_FAULTS,
    Result,
    advance,
    announce,
    confirm,
    is_settled,
    lift,
    move_back,
    plan,
    refuse,
    roll_back,
    serve,
    try_out,
)
from .events import (
    Announce,
    BundleStaged,
    CancelFetch,
    CandidatePassed,
    CandidateRefused,
    CheckGolden,
    DesiredReceived,
    DirectorGone,
    DiscardCandidate,
    Event,
    Evidence,
    Fetch,
    FetchFailed,
    GoldenRowsChecked,
    Ignored,
    Promote,
    RuntimeAccepts,
    RuntimeEnded,
    ShadowEnded,
    Started,
    Stopping,
    TryDue,
    TryStaged,
)
from .guards import observe_memory
from .probation import Breach, Verdict, judge
from .serving import (
    could_not_serve,
    ended,
    may_be_read_yet,
    serve_again,
    with_left_out,
    without_try,
)
from .states import (
    NO_MEMORY,
    Assignment,
    DeviceState,
    Fetching,
    Idle,
    OnProbation,
    Removing,
    RollingBack,
    SelfTesting,
    Staged,
    update_state,
)

MAX_PROBATION_STARTS: Final = 3
"""Starts of the agent during one probation, bad ends only, before the model is blamed."""

GOLDEN_AGAIN_S: Final = 60.0
"""Seconds of service after which the golden rows are asked for again: a few rows take far less."""


def step(state: DeviceState, event: Event) -> Result:
    """Return the state after `event`, and what shall be done once that state is on disk."""
    if isinstance(event, Stopping):
        state, effects = _stopping(state)
        return shadowing.parked(state), effects
    if (own := shadowing.answer(state, event)) is not None:
        return shadowing.beside(*own)
    return shadowing.beside(*_step(state, event))


def _step(state: DeviceState, event: Event) -> Result:
    match event:
        case Started():
            return _started(shadowing.restarted(state))
        case Stopping() | ShadowEnded():
            return state, ()
        case DirectorGone() | DesiredReceived():
            return _desired(state, event)
        case BundleStaged():
            return _staged(state, event)
        case FetchFailed():
            return _fetch_failed(state, event)
        case CandidatePassed():
            return _candidate_passed(state, event)
        case CandidateRefused():
            return _candidate_refused(state, event)
        case RuntimeAccepts():
            return _accepts(state)
        case TryDue():
            return _try_due(state)
        case RuntimeEnded():
            return ended(state, event)
        case Evidence():
            return _evidence(state, event)
        case GoldenRowsChecked():
            return _golden_checked(state, event)


def _started(state: DeviceState) -> Result:
    state = with_left_out(
        replace(state, is_serving=False, serve_failure_count=0, short_life_count=0)
    )
    match state.update:
        case OnProbation(assignment=target) as trial:
            trial = replace(
                trial, start_count=trial.start_count + 1, is_golden_due=False, memory=NO_MEMORY
            )
            if trial.start_count > MAX_PROBATION_STARTS:
                detail = f"the agent ended {MAX_PROBATION_STARTS} times while this model served"
                return roll_back(state, target, Code.CRASH_LOOP, detail)
            return replace(state, update=trial), (serve(state),)
        case (
            Staged(assignment=target, try_count=count)
            | SelfTesting(assignment=target, try_count=count)
        ):
            # The content is checked again on the way; it is on disk, so that costs no transfer.
            state = replace(state, update=Fetching(target, count))
            return state, (serve(state), Fetch(target))
        case Fetching(assignment=target) as fetching:
            state = replace(state, update=replace(fetching, failure_count=0))
            return state, (serve(state), Fetch(target))
        case RollingBack() | Removing():
            return state, (serve(state),)
        case Idle():
            return plan(state, (serve(state),))


def _stopping(state: DeviceState) -> Result:
    match state.update:
        case OnProbation(start_count=count) as trial:
            # An orderly stop is no evidence against the model: the try is given back.
            trial = replace(trial, start_count=max(0, count - 1))
            return replace(state, update=trial), ()
        case SelfTesting() as test:
            return replace(state, update=without_try(test)), ()
        case _:
            return state, ()


def _renumbered(state: DeviceState) -> DeviceState:
    """Return the state in which any generation is newer; what is desired stays so until then."""
    return replace(
        state,
        generation=0,
        models=tuple(replace(record, generation=0) for record in state.models),
        # They end by a word of a later generation.
        quarantined=tuple(replace(known, generation=0) for known in state.quarantined),
    )


def _desired(state: DeviceState, event: DesiredReceived | DirectorGone) -> Result:
    if isinstance(event, DirectorGone):
        return _renumbered(state), ()
    if event.generation <= state.generation:
        return state, (Ignored("generation is not newer"),)
    state = replace(state, generation=event.generation, desired=event.assignments)
    state, notes = lift(state, event.lifted)
    state, stops = shadowing.wanted(state, event.shadow)
    state, effects = _follow(state, event)
    return state, (*notes, *stops, *effects)


def _follow(state: DeviceState, event: DesiredReceived) -> Result:
    """Go on, turn back or begin, as the new desired state wants."""
    wanted = {a.name: a for a in event.assignments}
    match state.update:
        case Idle():
            return plan(state)
        case RollingBack() | Removing():
            return state, ()
        case Fetching(assignment=old) | Staged(assignment=old) | SelfTesting(assignment=old):
            new = wanted.get(old.name)
            if new is not None and new.ref.manifest == old.ref.manifest:
                return replace(state, update=replace(state.update, assignment=new)), ()
            stop = DiscardCandidate() if isinstance(state.update, SelfTesting) else CancelFetch()
            note = announce(state, Idle(), old, Code.SUPERSEDED)
            return plan(replace(state, update=Idle(), step_count=0), (stop, note))
        case OnProbation(assignment=old) as trial:
            new = wanted.get(old.name)
            if new is not None and new.ref.manifest == old.ref.manifest:
                return replace(state, update=replace(trial, assignment=new)), ()
            record = state.record(old.name)
            fallback = record.fallback
            if new is not None and fallback is not None and new.ref.manifest == fallback.manifest:
                return _return_to_fallback(state, old, new)
            note = announce(state, Idle(), old, Code.SUPERSEDED)
            return plan(replace(state, update=Idle(), step_count=0), (note,))


def _return_to_fallback(state: DeviceState, old: Assignment, new: Assignment) -> Result:
    """Go back from an unconfirmed release to the one before it, because the controller says so."""
    record = replace(state.record(old.name), target=new.ref, outcome=None, code=None, detail="")
    state, effects = move_back(
        state.with_record(record), old, Code.SUPERSEDED, "withdrawn", is_commanded=True
    )
    return state, effects


def _staged(state: DeviceState, event: BundleStaged) -> Result:
    match state.update:
        case Fetching(assignment=target, try_count=count) if target.ref.manifest == event.manifest:
            if state.is_serving:
                return try_out(state, target, event.facts, count, Code.FETCHED)
            after = Staged(target, event.facts, count)
            note = announce(state, after, target, Code.FETCHED)
            state, effects = advance(state, after, target)
            return state, (note, *effects)
        case _:
            return state, (Ignored("no fetch of this bundle is under way"),)


def _fetch_failed(state: DeviceState, event: FetchFailed) -> Result:
    match state.update:
        case Fetching(assignment=target) as fetching if target.ref.manifest == event.manifest:
            if fetching.is_repair and event.outcome is Outcome.FAILED:
                count = fetching.failure_count + 1
                state = replace(state, update=replace(fetching, failure_count=count))
                return state, (Fetch(target, count),)
            return refuse(state, target, event.outcome, event.code, event.detail)
        case _:
            return state, (Ignored("no fetch of this bundle is under way"),)


def _candidate_passed(state: DeviceState, event: CandidatePassed) -> Result:
    match state.update:
        case SelfTesting(assignment=target, facts=facts):
            record = state.record(target.name)
            is_same = record.active is not None and record.active.manifest == target.ref.manifest
            fallback = record.active if record.is_confirmed and not is_same else record.fallback
            recent_ms = event.served_p99_ms if record.is_confirmed and not is_same else None
            if fallback is not None and fallback.manifest == target.ref.manifest:
                fallback = None
            record = replace(
                record, active=target.ref, fallback=fallback, is_confirmed=False, served=0
            )
            after = OnProbation(target, facts, recent_ms or record.p99_ms)
            note = announce(state, after, target, Code.ACTIVATED)
            advanced, effects = advance(state, after, target)
            if not isinstance(advanced.update, OnProbation):
                return advanced, (DiscardCandidate(), *effects)
            advanced = replace(advanced, is_serving=False, short_life_count=0)
            return advanced.with_record(record), (note, Promote())
        case _:
            return state, (Ignored("no candidate is under test"),)


def _candidate_refused(state: DeviceState, event: CandidateRefused) -> Result:
    match state.update:
        case SelfTesting(assignment=target):
            if event.model in (target.name, None):
                is_its_fault = event.code in BUNDLE_FAULTS
                outcome = Outcome.REJECTED if is_its_fault else Outcome.FAILED
                return refuse(state, target, outcome, event.code, event.detail)
            detail = f"{event.model}: {event.detail}"
            return refuse(state, target, Outcome.FAILED, event.code, detail)
        case OnProbation(assignment=target) if event.model in (target.name, None):
            if may_be_read_yet(state, event):
                return serve_again(state)
            return roll_back(state, target, event.code, event.detail)
        case _:
            return could_not_serve(state, event)


def _accepts(state: DeviceState) -> Result:
    state = replace(state, is_serving=True, serve_failure_count=0)
    match state.update:
        case Staged():
            return state, (TryStaged(),)
        case RollingBack() as back:
            return _rolled_back(state, back)
        case Removing(name=name):
            state = replace(state.without_record(name), update=Idle(), step_count=0)
            return plan(state)
        case Idle():
            # A model that lost its content at the start is fetched again now.
            return plan(state)
        case _:
            return state, ()


def _try_due(state: DeviceState) -> Result:
    match state.update:
        case Staged(assignment=target, facts=facts, try_count=count) if state.is_serving:
            return try_out(state, target, facts, count, Code.TRYING)
        case _:
            return state, (Ignored("nothing is staged, or nothing serves"),)


def _rolled_back(state: DeviceState, back: RollingBack) -> Result:
    """End a rollback: the fallback serves, or nothing could take the place of the bad release."""
    record = state.record(back.name)
    outcome, code, detail = record.outcome, record.code, record.detail
    if is_settled(record, back.bad) and record.active is not None:
        pass  # how the release that is wanted ended is told already
    elif record.active is not None:
        outcome = Outcome.CONFIRMED if back.is_commanded else Outcome.ROLLED_BACK
        code, detail = back.code, back.detail
    elif not back.is_commanded:
        why = f"the fallback ended in {record.code}" if record.code else "there was no fallback"
        outcome, code = Outcome.ROLLBACK_FAILED, back.code
        detail = f"nothing serves in its place: {why}; {back.detail}"
    elif outcome is not None:
        outcome, detail = Outcome.ROLLBACK_FAILED, f"nothing serves in its place: {detail}"
    record = replace(record, outcome=outcome, code=code, detail=detail, generation=state.generation)
    note = Announce(
        back.name,
        back.bad.manifest,
        update_state(back),
        update_state(Idle()),
        back.code,
        detail,
    )
    state = replace(state.with_record(record), update=Idle(), step_count=0)
    return plan(state, (note,))


def _evidence(state: DeviceState, event: Evidence) -> Result:
    match state.update:
        case OnProbation(assignment=target) as trial if state.is_serving:
            trial = _with_evidence(trial, event)
            served = trial.request_count - trial.failure_count
            record = replace(state.record(target.name), served=served)
            return _judge(replace(state.with_record(record), update=trial), trial)
        case _:
            return state, (Ignored("no model is on probation"),)


def _with_evidence(trial: OnProbation, event: Evidence) -> OnProbation:
    memory = trial.memory
    if event.request_count and event.rss_bytes:  # an idle runtime says nothing of its memory
        memory = observe_memory(memory, event.rss_bytes)
    return replace(
        trial,
        served_s=trial.served_s + event.elapsed_s,
        request_count=trial.request_count + event.request_count,
        failure_count=trial.failure_count + event.failure_count,
        non_finite_count=trial.non_finite_count + event.non_finite_count,
        latency=merged(trial.latency, event.latency),
        memory=memory,
        shift=event.shift or trial.shift,
    )


def _judge(state: DeviceState, trial: OnProbation) -> Result:
    target = trial.assignment
    match judge(trial):
        case Breach(code=code, detail=detail):
            return roll_back(state, target, code, detail)
        case Verdict.CONFIRM:
            return confirm(state, target, Outcome.CONFIRMED)
        case Verdict.CHECK_GOLDEN if _may_ask_golden(trial):
            trial = replace(trial, is_golden_due=True, golden_asked_s=trial.served_s)
            return replace(state, update=trial), (CheckGolden(target.name),)
        case _:
            return state, ()


def _may_ask_golden(trial: OnProbation) -> bool:
    """Whether the golden rows are not asked for yet, or so long ago that the answer was lost."""
    return not trial.is_golden_due or trial.served_s - trial.golden_asked_s >= GOLDEN_AGAIN_S


def _golden_checked(state: DeviceState, event: GoldenRowsChecked) -> Result:
    match state.update:
        case OnProbation(assignment=target, is_golden_due=True):
            if event.is_passed:
                return confirm(state, target, Outcome.CONFIRMED_WITHOUT_TRAFFIC)
            return roll_back(state, target, Code.SELF_TEST_FAILED, event.detail)
        case _:
            return state, (Ignored("no golden rows are due"),)
