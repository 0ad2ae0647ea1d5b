"""How the columns of a release lie beside their baseline, over a span: what the API shows."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt

from fleet.api.drift_schemas import DriftBin, DriftColumn, DriftReport
from fleet.core.distances import jensen_shannon_bits, wasserstein_bins
from fleet.core.drift import Level, Reference, Verdict, judge
from fleet.core.streams import Budget, Evidence, history_of, together_of
from fleet.core.windows import ColumnSums, WindowSums, merged
from wire.histogram import (
    REFERENCE_BINS,
    Baseline,
    CategoryColumn,
    Column,
    psi,
    reference_counts,
)

from .baselines import cells_of

MAX_BINS: Final = 2 * REFERENCE_BINS + 2
"""Bins or labels of a column that are shown, all bins as a rule; further labels are one."""


def report_of(
    baseline: Baseline, evidence: Evidence, head: DriftReport, *, budget: Budget
) -> DriftReport:
    """Return `head` with its columns, and the devices and rows they come from.

    Args:
        baseline: Of the release.
        evidence: What the devices that are meant answered in the span.
        head: All else.
        budget: Of the whole fleet; what a finding would take.
    """
    whole = WindowSums()
    for slots in evidence.slots.values():
        for slot in slots:
            whole = merged(whole, slot.sums)
    n_inputs = len(baseline.inputs)
    columns = []
    for position, (column, cells) in enumerate(
        zip((*baseline.inputs, *baseline.outputs), cells_of(baseline), strict=True)
    ):
        sums = whole.columns.get(position, ColumnSums(()))
        columns.append(
            _column(
                column,
                _padded(sums.counts, cells + 2),
                _verdict(evidence, position, budget),
                is_output=position >= n_inputs,
            )
        )
    return head.model_copy(
        update={
            "columns": columns,
            "device_count": len(evidence.slots),
            "row_count": whole.row_count,
        }
    )


def budget_of(
    evidence: Evidence, device_count: int, alarms_per_30_days: float, slot_ms: int
) -> Budget:
    """Return the budget by which a finding of this release would be raised.

    Args:
        evidence: Of the devices that are shown, who may be few.
        device_count: All that serve the release; other releases are not counted here.
        alarms_per_30_days: For the whole fleet.
        slot_ms: How long a slot is.
    """
    column_count = sum(reference is not None for reference in evidence.references)
    streams = {Level.FLEET: column_count, Level.DEVICE: column_count * max(1, device_count)}
    return Budget(alarms_per_30_days, slot_ms / 1000, streams)


def _verdict(evidence: Evidence, position: int, budget: Budget) -> Verdict:
    reference: Reference | None = evidence.references[position]
    cells = len(reference.counts) if reference is not None else 0
    histories = [history_of(slots, position, cells) for slots in evidence.slots.values()]
    is_merged = len(histories) > 1
    history = together_of(histories) if histories else history_of((), position, cells)
    level = Level.FLEET if is_merged else Level.DEVICE
    return judge(reference, history, budget.chance(level), is_merged=is_merged)


def _column(
    column: Column | CategoryColumn,
    counts: npt.NDArray[np.int64],
    verdict: Verdict,
    *,
    is_output: bool,
) -> DriftColumn:
    reference = reference_counts(column)
    observed = counts[: reference.size]
    rows = int(observed.sum())
    is_known = rows > 0 and reference.sum() > 0
    is_number = isinstance(column, Column)
    below, above = counts[reference.size :] if is_number else (0, 0)
    moved = wasserstein_bins(reference[:-1], observed[:-1]) if is_number and is_known else None
    return DriftColumn(
        name=column.name,
        is_output=is_output,
        kind="number" if is_number else "label",
        verdict=verdict.kind.value,
        p_value=verdict.p_value,
        row_count=rows,
        effective_rows=round(verdict.effective_rows, 1),
        psi=round(max(0.0, float(psi(reference, observed))), 4) if is_known else 0.0,
        js_bits=round(jensen_shannon_bits(reference, observed), 4),
        wasserstein_bins=round(moved, 3) if moved is not None else None,
        missing_ratio=_ratio(observed[-1] if is_number else 0, rows),
        below_ratio=_ratio(below, rows),
        above_ratio=_ratio(above, rows),
        bins=_bins(column, reference, observed),
    )


def _bins(
    column: Column | CategoryColumn,
    reference: npt.NDArray[np.int64],
    observed: npt.NDArray[np.int64],
) -> list[DriftBin]:
    if isinstance(column, Column):
        labels = [*_bin_labels(column.edges), "missing"]
    else:
        labels = [*column.categories, "other"]
    if len(labels) > MAX_BINS:
        kept = MAX_BINS - 1
        labels = [*labels[:kept], f"{len(labels) - kept} more"]
        reference, observed = _shortened(reference, kept), _shortened(observed, kept)
    return [
        DriftBin(
            label=label,
            reference_ratio=_ratio(before, reference.sum()),
            observed_ratio=_ratio(now, observed.sum()),
        )
        for label, before, now in zip(labels, reference, observed, strict=True)
    ]


def _bin_labels(edges: Sequence[float]) -> list[str]:
    """Return what the bins are called; one that rounds to a single value, as that of a heavy one."""
    if not edges:
        return ["all"]
    shown = [f"{edge:.4g}" for edge in edges]
    inner = [low if low == high else f"{low} to {high}" for low, high in pairwise(shown)]
    is_beyond = shown[-1:] == shown[-2:-1]
    return [f"below {shown[0]}", *inner, f"{'above' if is_beyond else 'from'} {shown[-1]}"]


def _shortened(counts: npt.NDArray[np.int64], kept: int) -> npt.NDArray[np.int64]:
    return np.append(counts[:kept], counts[kept:].sum())


def _padded(counts: Sequence[int], size: int) -> npt.NDArray[np.int64]:
    padded = np.zeros(size, np.int64)
    padded[: len(counts)] = counts
    return padded


def _ratio(part: float, whole: float) -> float:
    return round(float(part) / float(whole), 5) if whole else 0.0
