"""Reported state and assignments: the machine's data against the wire's messages."""

from __future__ import annotations

from dataclasses import replace

from wire.lifecycle import UpdateState
from wire.messages import (
    MAX_MODELS_PER_DEVICE,
    MAX_QUARANTINED,
    Desired,
    DesiredShadow,
    Inventory,
    QuarantinedBundle,
    Release,
    Reported,
    ReportedModel,
    ReportedShadow,
)

from .events import DesiredReceived
from .states import (
    Assignment,
    DeviceState,
    ModelRecord,
    QuarantineLift,
    Ref,
    Shadow,
    ShadowWish,
    subject,
    update_state,
)


def received(desired: Desired) -> DesiredReceived:
    """Return the event that a desired state is."""
    lifted = tuple(QuarantineLift(r.manifest, r.generation) for r in desired.lifted)
    return DesiredReceived(desired.generation, _assignments(desired), lifted, _wish(desired.shadow))


def _wish(shadow: DesiredShadow | None) -> ShadowWish | None:
    if shadow is None:
        return None
    return ShadowWish(
        assignment=Assignment(shadow.model, Ref(shadow.version, shadow.manifest, shadow.index)),
        rollout=shadow.rollout,
        sample_ratio=shadow.sample_ratio,
        rtol=shadow.rtol,
        atol=shadow.atol,
    )


def _assignments(desired: Desired) -> tuple[Assignment, ...]:
    return tuple(
        Assignment(
            name=model.name,
            ref=Ref(model.version, model.manifest, model.index),
            probation=model.probation,
            guards=model.guards,
        )
        for model in desired.models
    )


def reported(state: DeviceState, inventory: Inventory, *, boot: str, seq: int) -> Reported:
    """Return the whole reported state."""
    return Reported(
        boot=boot,
        seq=seq,
        generation=state.generation,
        models=tuple(_model(state, r) for r in state.models[:MAX_MODELS_PER_DEVICE]),
        quarantined=tuple(
            QuarantinedBundle(manifest=q.manifest, code=q.code)
            for q in state.quarantined[-MAX_QUARANTINED:]
        ),
        inventory=inventory,
        shadow=_shadow(state.shadow),
    )


def _shadow(shadow: Shadow | None) -> ReportedShadow | None:
    if shadow is None:
        return None
    return ReportedShadow(manifest=shadow.wish.manifest, state=shadow.stage, code=shadow.code)


def is_news(before: DeviceState, after: DeviceState) -> bool:
    """Return whether the reported state must be published again.

    The count of served requests alone is no news: it changes every second of a probation.
    """
    return _essence(before) != _essence(after)


def _essence(state: DeviceState) -> Reported:
    still = replace(state, models=tuple(replace(r, served=0) for r in state.models))
    return reported(still, Inventory(), boot="0" * 16, seq=0)


def _model(state: DeviceState, record: ModelRecord) -> ReportedModel:
    is_subject = subject(state.update) == record.name
    return ReportedModel(
        name=record.name,
        state=update_state(state.update) if is_subject else UpdateState.IDLE,
        active=_release(record.active),
        fallback=_release(record.fallback),
        target=_release(record.target),
        outcome=record.outcome,
        code=record.code,
        detail=record.detail,
        served=record.served,
    )


def _release(ref: Ref | None) -> Release | None:
    return None if ref is None else Release(version=ref.version, manifest=ref.manifest)
