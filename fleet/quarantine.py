"""Quarantines of devices, lifted by a person.

It is carried by the desired state, in a new generation, and repeated until the device has reported
that one: so it reaches a device that is away, and does nothing twice.
"""

from __future__ import annotations

from fleet import acts
from fleet.api.schemas import QuarantineLiftDevice, QuarantineLiftIn, QuarantineLiftResult
from fleet.core.rights import WHOLE_FLEET, Scope, is_within
from fleet.store.devices import Selection
from fleet.store.journal import EventRow
from fleet.store.states import ReportedRow
from fleet.store.store import Tx
from wire import messages as m
from wire.errors import PeerError

from . import desired, registry
from .tokens import out_of_scope


def lift(
    tx: Tx, request: QuarantineLiftIn, now_unix_ms: int, *, scope: Scope = WHOLE_FLEET
) -> QuarantineLiftResult:
    """Have the devices meant forget a quarantine, or all of them.

    A device that by its last report has nothing to forget is left alone. What is desired of it
    and was quarantined is tried again at once.

    Raises:
        PeerError: `unknown_device`, `out_of_scope`, `no_device_matches` or `too_many_lifts`.
    """
    acts.about(f"{request.manifest or 'all'} on {request.device or request.match or 'all devices'}")
    if request.device is not None:
        registry.require_device(tx, request.device, scope)
    elif not is_within(request.match, scope):
        raise out_of_scope(scope, "the devices of a lift must match these tags")
    selection = Selection(device=request.device, match=request.match)
    devices = registry.matched(tx, selection)
    reports = tx.states.reports(selection)
    generations = tx.states.generations(selection)
    results = []
    for device in devices:
        reason = _why_not(request.manifest, reports.get(device), generations.get(device, 0))
        if not reason:
            _lift_on(tx, device, request.manifest)
        results.append(QuarantineLiftDevice(device=device, is_lifted=not reason, reason=reason))
    lifted = sum(1 for result in results if result.is_lifted)
    what = request.manifest[:12] if request.manifest else "every bundle"
    subject = request.device or f"{len(results)} devices"
    text = f"quarantine of {what} lifted on {lifted} of {len(results)}"
    detail: dict[str, object] = {"match": request.match}
    tx.journal.note([EventRow("device", subject, text, detail)], now_unix_ms)
    return QuarantineLiftResult(manifest=request.manifest, devices=results)


def _why_not(manifest: str | None, report: ReportedRow | None, generation: int) -> str:
    if report is None:
        return "it has never reported"
    if generation == 0:
        # A first desired state from here would take its models away.
        return "it was never given anything by this controller; start a rollout to it first"
    if manifest is None:
        return "" if report.quarantined else "it has nothing quarantined"
    is_named = any(q.manifest == manifest for q in report.quarantined)
    # A report has the newest few only.
    if is_named or len(report.quarantined) >= m.MAX_QUARANTINED:
        return ""
    return "it has not quarantined this bundle"


def _lift_on(tx: Tx, device: str, manifest: str | None) -> None:
    generation = desired.generation_after(tx, device)
    tx.states.add_lifted(device, manifest, generation)
    if len(tx.states.lifted(Selection(device=device))[device]) > m.MAX_LIFTED:
        raise PeerError(
            f"{device} has {m.MAX_LIFTED} lifts waiting for it",
            code="too_many_lifts",
            hint="lift all at once with --all, or wait until it is back",
        )
    desired.renumber(tx, device, generation)
