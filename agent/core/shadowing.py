"""A shadow beside the active release: when it is fetched, runs, gives way and has failed. Pure.

The update machine knows nothing of it: an update always goes first, so that a runtime's misbehaviour
has one suspect, and a shadow that gave way begins again when nothing else is to be done. What it
compares is counted elsewhere, and adds up over such pauses.
"""

from __future__ import annotations

from dataclasses import replace

from wire.lifecycle import Code, UpdateState

from .endings import MAX_TRIES, Result
from .events import (
    Announce,
    BundleStaged,
    CancelFetch,
    Collect,
    Effect,
    Event,
    Fetch,
    FetchFailed,
    Ignored,
    ShadowEnded,
    StartShadow,
    StopShadow,
)
from .states import DeviceState, Idle, Ref, Shadow, ShadowWish


def wanted(state: DeviceState, wish: ShadowWish | None) -> Result:
    """Take up what a new desired state says of a shadow; the same wish changes nothing."""
    old = state.shadow
    if old is not None and wish is not None and old.wish == wish:
        return state, ()
    new = None if wish is None else Shadow(wish)
    if old is None:
        return replace(state, shadow=new), ()
    is_told = old.stage == "running"
    notes = (_announce(old.wish, Code.SHADOW_ENDED),) if is_told else ()
    return replace(state, shadow=new), (*_stop(old), *notes)


def restarted(state: DeviceState) -> DeviceState:
    """Return the state after a start: no process is left, and tries whose end was not seen count."""
    shadow = state.shadow
    if shadow is None or shadow.stage == "failed":
        return state
    return replace(state, shadow=replace(shadow, stage="waiting", against=None))


def parked(state: DeviceState) -> DeviceState:
    """Return the state at an orderly stop, which is no evidence against the shadow."""
    shadow = state.shadow
    if shadow is None or shadow.stage == "failed":
        return state
    return replace(state, shadow=_given_way(shadow))


def answer(state: DeviceState, event: Event) -> Result | None:
    """Return what an event that is about the shadow leads to; None of any other."""
    shadow = state.shadow
    match event:
        case BundleStaged(manifest=manifest) if _is_fetched_for(state, manifest):
            return _begin(state, event)
        case FetchFailed(manifest=manifest) if _is_fetched_for(state, manifest):
            return _fail(state, event.code, event.detail)
        case ShadowEnded(manifest=manifest):
            is_running = shadow is not None and shadow.stage == "running"
            if shadow is None or not is_running or shadow.wish.manifest != manifest:
                return state, (Ignored("no such shadow runs"),)
            return _fail(state, event.code, event.detail)
        case _:
            return None


def beside(state: DeviceState, effects: tuple[Effect, ...]) -> Result:
    """Let the shadow give way to what a step has begun, or begin when there is nothing else."""
    shadow = state.shadow
    if shadow is None or shadow.stage == "failed":
        return state, effects
    active = _comparable(state, shadow.wish)
    if shadow.stage == "waiting":
        if active is None or not state.is_serving:
            return state, effects
        state = replace(state, shadow=replace(shadow, stage="fetching"))
        return state, (*effects, Fetch(shadow.wish.assignment))
    is_same = shadow.stage == "fetching" or (active and active.manifest == shadow.against)
    if active is not None and is_same:
        return state, _sparing_a_fetch(effects) if shadow.stage == "fetching" else effects
    # First of all: what takes its place may be fetched, or need its memory.
    return replace(state, shadow=_given_way(shadow)), (*_stop(shadow), *effects)


def _sparing_a_fetch(effects: tuple[Effect, ...]) -> tuple[Effect, ...]:
    """Leave a collection out: it would delete what is being fetched, and comes after the fetch."""
    return tuple(effect for effect in effects if not isinstance(effect, Collect))


def _comparable(state: DeviceState, wish: ShadowWish) -> Ref | None:
    """Return the release that a shadow can be compared with now, or None."""
    record = state.record(wish.assignment.name)
    is_other = record.active is not None and record.active.manifest != wish.manifest
    is_free = isinstance(state.update, Idle) and record.is_confirmed and is_other
    return record.active if is_free else None


def _is_fetched_for(state: DeviceState, manifest: str) -> bool:
    shadow = state.shadow
    is_fetching = shadow is not None and shadow.stage == "fetching"
    return shadow is not None and is_fetching and shadow.wish.manifest == manifest


def _begin(state: DeviceState, event: BundleStaged) -> Result:
    """Start the shadow; the try is counted in the state that is on disk before it starts."""
    shadow = state.shadow
    active = None if shadow is None else _comparable(state, shadow.wish)
    if shadow is None or active is None:
        return state, (Ignored("nothing to compare a shadow with"),)
    known = state.quarantine_of_model(event.facts.model)
    code = state.quarantine_code(event.manifest) or (known.code if known else None)
    if code is not None:
        return _fail(state, Code.QUARANTINED, f"quarantined on this device: {code}")
    if shadow.start_count >= MAX_TRIES:
        detail = f"the agent ended {MAX_TRIES} times while this shadow ran"
        return _fail(state, Code.CRASH_LOOP, detail)
    shadow = replace(
        shadow, stage="running", start_count=shadow.start_count + 1, against=active.manifest
    )
    note = _announce(shadow.wish, Code.SHADOW_STARTED, f"beside {active.version}")
    return replace(state, shadow=shadow), (note, StartShadow(shadow.wish, active), Collect())


def _fail(state: DeviceState, code: str, detail: str) -> Result:
    shadow = state.shadow
    if shadow is None:
        return state, ()
    failed = replace(shadow, stage="failed", code=code, against=None)
    note = _announce(shadow.wish, code, detail)
    left = (Collect(),) if shadow.stage == "fetching" else ()
    return replace(state, shadow=failed), (*_stop(shadow), note, *left)


def _given_way(shadow: Shadow) -> Shadow:
    """Return a shadow that ended in good order: its try does not count."""
    count = shadow.start_count - (shadow.stage == "running")
    return replace(shadow, stage="waiting", start_count=max(0, count), against=None)


def _stop(shadow: Shadow) -> tuple[Effect, ...]:
    match shadow.stage:
        case "fetching":
            return (CancelFetch(),)
        case "running":
            return (StopShadow(),)
        case _:
            return ()


def _announce(wish: ShadowWish, code: str, detail: str = "") -> Announce:
    name, idle = wish.assignment.name, UpdateState.IDLE
    return Announce(name, wish.manifest, idle, idle, code, detail)
