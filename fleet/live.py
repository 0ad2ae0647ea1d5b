"""What was live where and when, from what devices report, in the ingest's transaction."""

from __future__ import annotations

from fleet.core import live as core
from fleet.core.live import Said
from fleet.core.states import ReleaseKey
from fleet.store.devices import Selection
from fleet.store.store import Tx
from wire import messages as m


def take_in(
    tx: Tx, device: str, report: m.Reported, now_unix_ms: int, *, is_retained: bool
) -> None:
    """Note what a report changes; one that was kept by the broker may have become true before."""
    heard = tx.live.settle(device, is_over=not is_retained)
    said = {
        model.name: Said(
            ReleaseKey(model.active.version, model.active.manifest) if model.active else None,
            model.state,
            model.target.manifest if model.target else None,
            model.outcome,
            model.code or "",
        )
        for model in report.models
    }
    ended, begun = core.changes(
        device, tx.live.newest(device), said, heard_unix_ms=heard, now_unix_ms=now_unix_ms
    )
    tx.live.save(ended, begun)


def end(tx: Tx, device: str, now_unix_ms: int) -> None:
    """End what lasts on a device that is about to be removed; its history stays."""
    heard = tx.devices.last_seen(Selection(device=device)).get(device) or now_unix_ms
    ended = [
        core.end(span, "device_removed", heard_unix_ms=heard, now_unix_ms=now_unix_ms)
        for span in tx.live.newest(device).values()
        if span.until_unix_ms is None
    ]
    tx.live.save(ended, ())
