"""How far a model's answers are from those of its reference rows: counted into the same bins."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from agent.control import MAX_PSI, Shift
from wire.histogram import (
    MAX_LIMITED,
    Baseline,
    CategoryColumn,
    Column,
    IntArray,
    count,
    psi,
    reference_counts,
    split_columns,
)
from wire.manifest import TensorSpec

Array = npt.NDArray[Any]

MAX_BASELINE_BYTES: Final = 4 * 1024 * 1024
"""Of thousands of columns; a larger one is not read, and its model has no such guard."""
MAX_SHOWN_CHARS: Final = 64
"""Of a column's name in a report."""
MAX_WAITING: Final = 65_536
"""Values of answers that are kept until they are counted, at the next beat or beyond so many."""


class OutputCounts:
    """Counts of one model's answers since it began to serve; touched by the event loop only."""

    def __init__(self, baseline: Baseline | None) -> None:
        """Begin with nothing; without a limit table nothing is ever counted."""
        self._limits = baseline.limit_row_counts if baseline is not None else ()
        columns = baseline.outputs if baseline is not None else ()
        named = Counter(column.name for column in columns)
        self._columns = {
            column.name: column
            for column in columns
            if len(column.psi_limits) == len(self._limits) > 0
            and named[column.name] == 1
            and _is_whole(column)
        }
        self._counts: dict[str, IntArray] = {
            name: np.zeros_like(reference_counts(column)) for name, column in self._columns.items()
        }
        self._waiting: list[tuple[TensorSpec, Array]] = []
        self._waiting_count = 0

    def add(self, specs: Sequence[TensorSpec], answers: Sequence[Array]) -> None:
        """Take the outputs of one request."""
        if not self._columns:
            return
        self._waiting += [pair for pair in zip(specs, answers, strict=True) if pair[1].ndim]
        self._waiting_count += sum(answer.size for answer in answers)
        if self._waiting_count >= MAX_WAITING:
            self._settle()

    def shift(self) -> Shift | None:
        """Return the shift of the column that is furthest beyond chance; None of too few rows."""
        self._settle()
        shifts = [self._shift_of(column) for column in self._columns.values()]
        return max(filter(None, shifts), key=lambda shift: shift.excess, default=None)

    def _shift_of(self, column: Column | CategoryColumn) -> Shift | None:
        counts = self._counts[column.name]
        rows = int(counts.sum())
        place = bisect_right(self._limits, rows)
        reference = reference_counts(column)
        if place == 0 or not reference.sum():
            return None
        index = max(0.0, float(psi(reference, counts)))
        excess = max(-MAX_PSI, index - column.psi_limits[place - 1])
        return Shift(column.name[:MAX_SHOWN_CHARS], rows, round(index, 4), round(excess, 4))

    def _settle(self) -> None:
        waiting, self._waiting, self._waiting_count = self._waiting, [], 0
        groups: dict[tuple[str, tuple[int, ...]], tuple[TensorSpec, list[Array]]] = {}
        for spec, answer in waiting:
            groups.setdefault((spec.name, answer.shape[1:]), (spec, []))[1].append(answer)
        for spec, answers in groups.values():
            for name, values, _ in islice(
                split_columns(spec, np.concatenate(answers)), MAX_LIMITED
            ):
                column = self._columns.get(name)
                if isinstance(column, CategoryColumn) or values.dtype.kind in "fiub":
                    self._count(column, values)

    def _count(self, column: Column | CategoryColumn | None, values: Array) -> None:
        if column is not None:
            self._counts[column.name] += _counted(column, values)


def read_baseline(path: Path) -> Baseline | None:
    """Return what a baseline says of the outputs; None where it says nothing that can be used."""
    try:
        if path.stat().st_size > MAX_BASELINE_BYTES:
            return None
        raw = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
        return Baseline.model_validate({**raw, "inputs": ()})
    # Beside its own errors msgspec lets through those of invalid UTF-8 and of deep nesting.
    except (OSError, msgspec.DecodeError, ValueError, RecursionError):
        return None  # the manifest's digest covers it: an author's choice, not damage


def _is_whole(column: Column | CategoryColumn) -> bool:
    if isinstance(column, Column):
        return len(column.counts) == len(column.edges) + 1
    return len(column.counts) == len(column.categories)


def _counted(column: Column | CategoryColumn, values: Array) -> IntArray:
    if isinstance(column, CategoryColumn):
        found = Counter(str(value) for value in values.tolist())
        known = [found[label] for label in column.categories]
        return np.array([*known, values.size - sum(known)], dtype=np.int64)
    edges = np.array(column.edges, dtype=np.float64)
    counts, missing = count(values.astype(np.float64), edges)
    return np.array([*counts, missing], dtype=np.int64)
