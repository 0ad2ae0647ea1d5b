"""Shadows against the store: who runs one, and what was compared, in the caller's transaction."""

from __future__ import annotations

from collections.abc import Iterable

from fleet.core.shadow import of_record
from fleet.core.states import Rollout
from fleet.store.store import Tx
from wire import messages as m
from wire.errors import PeerError
from wire.messages import Record
from wire.shadow import ShadowTelemetry

from . import desired


def shade(tx: Tx, rollout: Rollout, index: str, device: str, generation: int) -> None:
    """Have a device run the release of a rollout as a shadow."""
    if rollout.shadow is None:
        return
    rule = rollout.shadow.rule
    shadow = m.DesiredShadow(
        model=rollout.model,
        version=rollout.release.version,
        manifest=rollout.release.manifest,
        index=index,
        rollout=rollout.id,
        sample_ratio=rule.sample_ratio,
        rtol=rule.rtol,
        atol=rule.atol,
    )
    tx.shadows.set_desired(device, shadow)
    desired.renumber(tx, device, generation)


def unshade(tx: Tx, model: str, devices: Iterable[str]) -> None:
    """End the shadows of a model on these devices, where they run one."""
    for device, of_model in tx.shadows.models(devices).items():
        if of_model == model and tx.shadows.drop_desired(device, model):
            desired.renumber(tx, device, desired.generation_after(tx, device))


def take_in(tx: Tx, fresh: Iterable[tuple[str, Record]]) -> None:
    """Add what devices compared, among records that were not stored before, to their open trials."""
    for device, record in fresh:
        if not isinstance(record, ShadowTelemetry):
            continue
        trial = tx.shadows.trial(record.rollout)
        if trial is None or trial.state != "open" or device not in dict(trial.devices):
            continue
        rollout = tx.rollouts.get(record.rollout, has_members=False)
        if rollout is not None and rollout.release.manifest == record.manifest:
            tx.shadows.add_sums(record.rollout, device, of_record(record))


def refuse_second(tx: Tx, rollout: Rollout) -> None:
    """See that no device of a trial runs a shadow of another model: there is room for one.

    Raises:
        PeerError: `shadow_running`.
    """
    if rollout.shadow is None:
        return
    first = [member.device for member in rollout.members if member.phase == 0]
    busy = {d: name for d, name in tx.shadows.models(first).items() if name != rollout.model}
    for device, name in sorted(busy.items())[:1]:
        raise PeerError(
            f"{device} runs a shadow of {name} already, and a device runs one at a time",
            code="shadow_running",
            hint="wait for that rollout, or choose other devices for the first phase",
        )
