"""How updates begin and end: shared by the rows of the update machine."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from wire.lifecycle import Code, Outcome

from .events import (
    Announce,
    Collect,
    Effect,
    Fetch,
    Serve,
    StartCandidate,
)
from .guards import reference_p99_ms
from .states import (
    Assignment,
    BundleFacts,
    DeviceState,
    Fetching,
    Idle,
    ModelRecord,
    OnProbation,
    Quarantine,
    QuarantineLift,
    Ref,
    Removing,
    RollingBack,
    SelfTesting,
    Staged,
    Update,
    update_state,
)

MAX_STEPS: Final = 28
"""Transitions of one update before it is given up: Mender's cap, four times the longest path."""

MAX_QUARANTINED: Final = 64
"""Digests remembered; the oldest goes first."""

MAX_TRIES: Final = 3
"""Candidates with one target whose end was not seen, before the target is blamed."""

DISK_FAULTS: Final = frozenset({Code.CONTENT_CORRUPT, Code.STORAGE_ERROR})
"""Codes of a runtime that could not begin for want of sound files: not the bundle's fault."""

Result = tuple[DeviceState, tuple[Effect, ...]]

BUNDLE_FAULTS: Final = frozenset(
    {
        Code.MANIFEST_INVALID,
        Code.MODEL_REFUSED,
        Code.LOAD_FAILED,
        Code.SELF_TEST_FAILED,
        Code.START_TIMEOUT,
        Code.ERROR_RATIO,
        Code.NON_FINITE,
        Code.LATENCY_BUDGET,
        Code.LATENCY_RATIO,
        Code.MEMORY_GROWTH,
        Code.OUTPUT_DRIFT,
        Code.REQUEST_STUCK,
        Code.RUNTIME_DIED,
        Code.CRASH_LOOP,
        Code.INCOMPATIBLE,
    }
)
"""Codes that quarantine the manifest: trying it again on this device would end the same."""


def plan(state: DeviceState, before: tuple[Effect, ...] = ()) -> Result:
    """Settle what needs no work and begin the first update that does; `state` is idle."""
    desired = state.desired
    if desired is None:
        return state, before
    for assignment in desired:
        record = state.record(assignment.name)
        if _is_ended(state, record, assignment):
            continue
        settled = _settle_at_once(state, record, assignment)
        if settled is not None:
            state = state.with_record(settled)
            continue
        is_repair = record.outcome is None and record.code in DISK_FAULTS
        record = replace(
            record, target=assignment.ref, outcome=None, code=None, detail="", served=0
        )
        after = Fetching(assignment, is_repair=is_repair)
        note = announce(state, after, assignment, Code.ASSIGNED)
        state = replace(state.with_record(record), update=after, step_count=0)
        return state, (*before, note, Fetch(assignment))
    wanted = {a.name for a in desired}
    for record in state.models:
        if record.name in wanted:
            continue
        if record.active is None:
            state = state.without_record(record.name)
            continue
        bare = replace(record, active=None, fallback=None, is_confirmed=False, target=None)
        state = replace(state.with_record(bare), update=Removing(record.name), step_count=0)
        note = Announce(
            record.name,
            record.active.manifest,
            update_state(Idle()),
            update_state(state.update),
            Code.REMOVED,
        )
        return state, (*before, note, serve(state))
    for record in state.models:
        if record.active is not None and record.fallback is not None and not record.is_confirmed:
            # Superseded on probation, and what came after it has not taken its place.
            unproven = Assignment(record.name, record.active)
            detail = "it was superseded on probation"
            state = replace(state, step_count=0)
            state, effects = move_back(state, unproven, Code.SUPERSEDED, detail, is_commanded=False)
            return state, (*before, *effects)
    return state, (*before, Collect())


def _is_ended(state: DeviceState, record: ModelRecord, assignment: Assignment) -> bool:
    """Whether this assignment has already come to an end at this generation."""
    return (
        record.outcome is not None
        and record.generation == state.generation
        and record.target is not None
        and record.target.manifest == assignment.ref.manifest
    )


def _settle_at_once(
    state: DeviceState, record: ModelRecord, assignment: Assignment
) -> ModelRecord | None:
    """Return the settled record of an assignment that needs no work, else None."""
    ref = assignment.ref
    if record.active is not None and record.active.manifest == ref.manifest:
        if not record.is_confirmed:
            return None  # superseded on probation before, wanted again: try it in full
        return replace(
            record,
            active=ref,
            target=ref,
            outcome=Outcome.CONFIRMED,
            code=Code.ALREADY_ACTIVE,
            detail="",
            generation=state.generation,
        )
    if (code := state.quarantine_code(ref.manifest)) is not None:
        return replace(
            record,
            target=ref,
            outcome=Outcome.REJECTED,
            code=Code.QUARANTINED,
            detail=f"quarantined on this device: {code}",
            generation=state.generation,
        )
    return None


def confirm(state: DeviceState, target: Assignment, outcome: Outcome) -> Result:
    """End a probation as good; the former active release is the fallback now."""
    trial = state.update
    latency = trial.latency if isinstance(trial, OnProbation) else ()
    record = replace(
        state.record(target.name),
        is_confirmed=True,
        p99_ms=reference_p99_ms(latency),
        target=target.ref,
        outcome=outcome,
        code=Code.CONFIRMED,
        detail="",
        generation=state.generation,
    )
    note = announce(state, Idle(), target, Code.CONFIRMED, outcome.value)
    state = replace(state.with_record(record), update=Idle(), step_count=0)
    return plan(state, (note,))


def refuse(
    state: DeviceState, target: Assignment, outcome: Outcome, code: str, detail: str
) -> Result:
    """End an update that never served; what served before serves on."""
    record = replace(
        state.record(target.name),
        target=target.ref,
        outcome=outcome,
        code=code,
        detail=detail,
        generation=state.generation,
    )
    note = announce(state, Idle(), target, code, detail)
    if outcome is Outcome.REJECTED:
        state = _quarantine(state, target, code)
    state = replace(state.with_record(record), update=Idle(), step_count=0)
    return plan(state, (note,))


def roll_back(state: DeviceState, target: Assignment, code: str, detail: str) -> Result:
    """End a probation as bad: quarantine the release and return to the fallback."""
    record = replace(state.record(target.name), target=target.ref, outcome=None)
    state = _quarantine(state.with_record(record), target, code)
    return move_back(state, target, code, detail, is_commanded=False)


def on_fallback(record: ModelRecord) -> ModelRecord:
    """Return the record with the pointer on its fallback, which was confirmed, or on nothing."""
    is_confirmed = record.fallback is not None
    return replace(record, active=record.fallback, fallback=None, is_confirmed=is_confirmed)


def is_settled(record: ModelRecord, bad: Ref) -> bool:
    """Whether a record tells how another release ended than the one that is taken back."""
    target = record.target
    return record.outcome is not None and target is not None and target.manifest != bad.manifest


def move_back(
    state: DeviceState, target: Assignment, code: str, detail: str, *, is_commanded: bool
) -> Result:
    """Put the pointer back on the fallback and start a runtime with it."""
    record = state.record(target.name)
    if not is_settled(record, target.ref):
        record = replace(record, code=None, detail="")
    record = on_fallback(record)
    after = RollingBack(target.name, target.ref, code, detail, is_commanded)
    note = announce(state, after, target, code, detail)
    state = replace(state.with_record(record), update=after, is_serving=False)
    return state, (note, serve(state))


def try_out(
    state: DeviceState, target: Assignment, facts: BundleFacts, try_count: int, code: Code
) -> Result:
    """Start a candidate with the target, if it may be tried once more.

    The try is counted in the state that is on disk before the candidate starts.
    """
    if (known := state.quarantine_of_model(facts.model)) is not None:
        detail = f"its model.onnx is that of {known.manifest[:12]}, quarantined: {known.code}"
        return refuse(state, target, Outcome.REJECTED, Code.QUARANTINED, detail)
    if try_count >= MAX_TRIES:
        detail = f"the agent ended {MAX_TRIES} times while a candidate loaded it"
        return refuse(state, target, Outcome.REJECTED, Code.CRASH_LOOP, detail)
    after = SelfTesting(target, facts, try_count + 1)
    note = announce(state, after, target, code)
    state, effects = advance(state, after, target)
    if isinstance(state.update, SelfTesting):
        return state, (note, StartCandidate(set_with(state, target)))
    return state, effects


def advance(state: DeviceState, after: Update, target: Assignment) -> Result:
    """Enter the next phase of an update, or give the update up when it goes in circles."""
    count = state.step_count + 1
    if count > MAX_STEPS:
        detail = f"gave up after {MAX_STEPS} steps"
        return refuse(state, target, Outcome.FAILED, Code.STEP_LIMIT, detail)
    return replace(state, update=after, step_count=count), ()


def _quarantine(state: DeviceState, target: Assignment, code: str) -> DeviceState:
    manifest = target.ref.manifest
    if code not in BUNDLE_FAULTS or state.quarantine_code(manifest) is not None:
        return state
    match state.update:
        case Staged(facts=facts) | SelfTesting(facts=facts) | OnProbation(facts=facts):
            model = facts.model
        case _:
            model = None
    new = Quarantine(manifest, code, model, state.generation, target.name)
    return replace(state, quarantined=(*state.quarantined, new)[-MAX_QUARANTINED:])


def lift(state: DeviceState, lifted: tuple[QuarantineLift, ...]) -> Result:
    """End the quarantines that an operator lifted."""
    ended = [q for q in state.quarantined if any(word.ends(q) for word in lifted)]
    kept = tuple(q for q in state.quarantined if q not in ended)
    where = update_state(state.update)
    notes = tuple(
        Announce(
            q.name, q.manifest, where, where, Code.QUARANTINE_LIFTED, f"was quarantined: {q.code}"
        )
        for q in ended
        if q.name
    )
    return replace(state, quarantined=kept), notes


def set_with(state: DeviceState, target: Assignment) -> tuple[tuple[str, Ref], ...]:
    """Return what the candidate shall serve: everything active, with `target` in its place."""
    others = [(name, ref) for name, ref in state.served_set() if name != target.name]
    return tuple(sorted([*others, (target.name, target.ref)]))


def serve(state: DeviceState) -> Serve:
    """Return the effect that starts a runtime with everything active."""
    return Serve(state.served_set(), state.serve_failure_count)


def announce(
    state: DeviceState, after: Update, target: Assignment, code: str, detail: str = ""
) -> Announce:
    """Return the effect that records the transition from the present update to `after`."""
    return Announce(
        target.name,
        target.ref.manifest,
        update_state(state.update),
        update_state(after),
        code,
        detail,
    )
