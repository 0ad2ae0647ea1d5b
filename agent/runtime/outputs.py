"""How far a model's answers are from those of its reference rows: counted into the same bins."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from typing import Final

from agent.control import MAX_PSI, Shift
from wire.histogram import Baseline, CategoryColumn, Column, IntArray, psi, reference_counts

from .columns import ColumnCounts

MAX_SHOWN_CHARS: Final = 64
"""Of a column's name in a report."""


class OutputShift:
    """Compares what was counted of a model's outputs with its baseline's limit table."""

    def __init__(self, baseline: Baseline | None) -> None:
        """Take the limits; without a table there never is a shift."""
        self._limits = baseline.limit_row_counts if baseline is not None else ()
        named = Counter(column.name for column in baseline.outputs) if baseline is not None else {}
        self._once = {name for name, number in named.items() if number == 1}

    def furthest(self, counts: ColumnCounts) -> Shift | None:
        """Return the shift of the column that is furthest beyond chance; None of too few rows."""
        if not self._limits:
            return None
        shifts = [
            self._shift_of(column, observed)
            for column, observed in counts.outputs()
            if len(column.psi_limits) == len(self._limits) and column.name in self._once
        ]
        return max(filter(None, shifts), key=lambda shift: shift.excess, default=None)

    def _shift_of(self, column: Column | CategoryColumn, counts: IntArray) -> Shift | None:
        rows = int(counts.sum())
        place = bisect_right(self._limits, rows)
        reference = reference_counts(column)
        if place == 0 or not reference.sum():
            return None
        index = max(0.0, float(psi(reference, counts)))
        excess = max(-MAX_PSI, index - column.psi_limits[place - 1])
        return Shift(column.name[:MAX_SHOWN_CHARS], rows, round(index, 4), round(excess, 4))
