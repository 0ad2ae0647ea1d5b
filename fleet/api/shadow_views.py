"""The trial of a rollout as the API shows it."""

from __future__ import annotations

from dataclasses import asdict
from functools import reduce

from fleet.core import shadow
from fleet.core.states import Rollout
from fleet.store.devices import Selection
from fleet.store.store import Tx
from wire.latency import latency_quantile

from .shadow_schemas import RolloutShadow, ShadowClass, ShadowDevice


def rollout_shadow(tx: Tx, row: Rollout, *, has_devices: bool) -> RolloutShadow | None:
    """Return where the trial of a rollout stands, None of one without."""
    trial = row.shadow
    if trial is None:
        return None
    by_device = tx.shadows.sums(row.id)
    sums = reduce(shadow.merged, by_device.values(), shadow.ShadowSums())
    counts = shadow.Counts(sums.row_count, sums.agree_count)
    low, high = shadow.bounds(counts, shadow.ALPHA) if counts.row_count else (None, None)
    said = tx.states.shadows(Selection(rollout=row.id)) if has_devices else {}
    devices = []
    for device, _ in trial.devices if has_devices else ():
        seen = said.get(device)
        mine = seen if seen is not None and seen.manifest == row.release.manifest else None
        counted = by_device.get(device, shadow.ShadowSums())
        devices.append(
            ShadowDevice(
                device=device,
                state=mine.state if mine else None,
                code=mine.code if mine else None,
                row_count=counted.row_count,
                agree_count=counted.agree_count,
            )
        )
    return RolloutShadow(
        state=trial.state,
        **asdict(trial.rule),
        needed_rows=shadow.rows_needed(trial.rule),
        opened_unix_ms=trial.opened_unix_ms,
        closed_unix_ms=trial.closed_unix_ms,
        row_count=sums.row_count,
        agree_count=sums.agree_count,
        refused_count=sums.refused_count,
        failed_count=sums.failed_count,
        sampled_count=sums.sampled_count,
        dropped_count=sums.dropped_count,
        agreement=sums.agree_count / sums.row_count if sums.row_count else None,
        agreement_low=low,
        agreement_high=high,
        active_p50_ms=latency_quantile(sums.active_latency, 0.5),
        active_p99_ms=latency_quantile(sums.active_latency, 0.99),
        shadow_p50_ms=latency_quantile(sums.shadow_latency, 0.5),
        shadow_p99_ms=latency_quantile(sums.shadow_latency, 0.99),
        active_pss_bytes=sums.active_pss_bytes,
        shadow_pss_bytes=sums.shadow_pss_bytes,
        classes=[
            ShadowClass(label=label, row_count=rows, disagree_count=disagreed)
            for label, (rows, disagreed) in sorted(sums.classes.items())
        ],
        devices=devices,
    )
