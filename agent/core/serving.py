"""What is served next when a runtime could not begin, or has ended: rows of the update machine."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from wire.lifecycle import Code, Outcome

from .endings import DISK_FAULTS, Result, advance, on_fallback, roll_back, serve
from .events import Announce, CandidateRefused, DiscardCandidate, Ignored, RuntimeEnded, Serve
from .states import (
    DeviceState,
    OnProbation,
    Removing,
    RollingBack,
    SelfTesting,
    Staged,
    update_state,
)

MAX_ROLLBACK_STARTS: Final = 3
"""Runtimes with the fallback that end before they accept, for a cause that names no model, before
the fallback is given up so that the other models serve."""

MAX_READ_TRIES: Final = 3
"""Starts that could not read a model's files, which may be sound, before the model is left out."""


SHORT_LIFE_S: Final = 60.0
"""A runtime that has served for less has a part in a row: the next one starts the later, the longer the
row is. What kills it may be a request that a client repeats, and a load at each half second would take
the processor from everything else."""


def without_try(test: SelfTesting) -> SelfTesting:
    """Give a try back that ended for a reason that is not the candidate's."""
    return replace(test, try_count=max(0, test.try_count - 1))


def with_left_out(state: DeviceState) -> DeviceState:
    """Return the state in which models whose files could not be read are served again."""
    for record in state.models:
        if record.active is None and record.fallback is not None:
            state = state.with_record(on_fallback(record))
    return state


def may_be_read_yet(state: DeviceState, event: CandidateRefused) -> bool:
    """Whether to try again what a disk failed to give: its bytes may be sound."""
    is_unread = event.code == Code.STORAGE_ERROR
    return is_unread and state.serve_failure_count + 1 < MAX_READ_TRIES


def serve_again(state: DeviceState) -> Result:
    """Start a runtime with the same models, the later the oftener that failed."""
    count = state.serve_failure_count + 1
    state = replace(state, is_serving=False, serve_failure_count=count)
    if isinstance(state.update, OnProbation):
        # The runtime before answers nothing any more that it was asked.
        state = replace(state, update=replace(state.update, is_golden_due=False))
    return state, (serve(state),)


def could_not_serve(state: DeviceState, event: CandidateRefused) -> Result:
    """Answer a failed `Serve`: drop what is at fault to its fallback, and try again.

    A model that cannot be read is left out only if others then serve: it has not lost a byte for sure.
    """
    name = _culprit(state, event)
    again, effects = serve_again(state)
    if name is None or state.record(name).active is None or may_be_read_yet(state, event):
        return again, effects
    record = state.record(name)
    is_unread = event.code == Code.STORAGE_ERROR
    where = update_state(state.update)
    if is_unread and record.fallback is None and len(state.served_set()) == 1:
        if again.serve_failure_count > MAX_READ_TRIES:
            return again, effects
        kept = record.active.manifest if record.active else None
        return again, (Announce(name, kept, where, where, event.code, event.detail), *effects)
    record = replace(
        record,
        active=record.fallback,
        # What may be sound is kept, and tried again at the next start.
        fallback=record.active if is_unread and record.fallback is None else None,
        is_confirmed=record.fallback is not None,
        # Lost content is fetched again; what does not load is not tried before a new generation.
        outcome=None if event.code in DISK_FAULTS else Outcome.FAILED,
        code=event.code,
        detail=event.detail,
        generation=state.generation,
    )
    state = again.with_record(record)
    manifest = record.active.manifest if record.active else None
    note = Announce(name, manifest, where, where, event.code, event.detail)
    return state, (note, serve(state))


def _culprit(state: DeviceState, event: CandidateRefused) -> str | None:
    """Return the model that keeps a runtime from serving; None while that is not known.

    A cause that names none is held against what was changed last, and is then tried on one model
    after the other that has something to return to: nothing serves as it is.
    """
    if event.model is not None or state.serve_failure_count + 1 < MAX_ROLLBACK_STARTS:
        return event.model
    if isinstance(state.update, RollingBack):
        return state.update.name  # all that has changed since a runtime served
    able = [r for r in state.models if r.active is not None and r.fallback is not None]
    return min(able, key=lambda r: r.is_confirmed).name if able else None


def ended(state: DeviceState, event: RuntimeEnded) -> Result:
    """Answer the end of what served: start another, without what its end is held against."""
    was_serving = state.is_serving
    in_a_row = state.short_life_count + 1 if event.served_s < SHORT_LIFE_S else 0
    state = replace(state, is_serving=False, short_life_count=in_a_row)
    match state.update:
        case OnProbation() if not was_serving:
            # It ended what it served before; the candidate has been told to accept.
            return state, (Ignored("the runtime that ended is not the one on probation"),)
        case OnProbation(assignment=target):
            return roll_back(state, target, event.code, event.detail)
        case SelfTesting(assignment=target) as test:
            # Serving comes first; the self-test waits for it and starts over.
            test = without_try(test)
            after = Staged(target, test.facts, test.try_count)
            state, effects = advance(state, after, target)
            again = Serve(state.served_set(), max(state.serve_failure_count, in_a_row - 1))
            return state, (*effects, DiscardCandidate(), again)
        case RollingBack() | Removing():
            return state, (Ignored("a runtime without this model is already starting"),)
        case _:
            state, notes = _without_unproven(state, event)
            count = state.serve_failure_count + 1
            state = replace(state, serve_failure_count=count)
            return state, (*notes, Serve(state.served_set(), max(count, in_a_row)))


def _without_unproven(state: DeviceState, event: RuntimeEnded) -> Result:
    """Put what was superseded on probation back to its fallback: a runtime with it has ended."""
    notes = []
    for record in state.models:
        if record.active is None or record.fallback is None or record.is_confirmed:
            continue
        where = update_state(state.update)
        note = Announce(record.name, record.active.manifest, where, where, event.code, event.detail)
        notes.append(note)
        state = state.with_record(on_fallback(record))
    return state, tuple(notes)
