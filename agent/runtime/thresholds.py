"""Numbers into bins, all columns of a tensor at once: how many are at least each threshold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from wire.histogram import Column, FloatArray, IntArray, counted_type

Array = npt.NDArray[Any]

BLOCK_BYTES: Final = 1024 * 1024
"""Of values that are compared at once, so that they stay in the processor's cache."""
MAX_ADDED: Final = 255
"""Rows whose marks, 0 or 1, are added up in one byte."""
ROW_BYTES: Final = 256
"""Marks that are added side by side, so that narrow tensors do not take a step for each row."""


class Thresholds:
    """The bins of a tensor's columns, and where their counts go.

    The number of values at or above a threshold is one comparison over the whole tensor; the count of
    a bin is the difference of two such numbers. That takes an eighth of the time of a search in each
    column, and is as exact: a threshold that the tensor's type cannot hold is rounded up to one that
    the same values reach.
    """

    def __init__(
        self,
        columns: Mapping[int, tuple[Column, int]],
        width: int,
        dtype: np.dtype[Any],
        *,
        rest: int,
    ) -> None:
        """Lay the thresholds out.

        Args:
            columns: By its number in the tensor, a column and where its counts begin: those of its
                bins, then what is missing, below and above.
            width: Columns of the tensor.
            dtype: Of its values.
            rest: Where counts go that belong to no column.
        """
        self._dtype = np.dtype(counted_type(dtype))
        most = max((len(column.edges) for column, _ in columns.values()), default=0)
        edges = np.full((most, width), np.nan)
        low, high = np.full(width, -np.inf), np.full(width, np.nan)
        # Bins, then what is missing, below and above.
        self._targets = np.full((most + 4, width), rest, dtype=np.intp)
        self._places = np.arange(most + 1)
        self._missing_place = np.zeros(width, dtype=np.int64)
        for number, (column, start) in columns.items():
            count = len(column.edges)
            self._missing_place[number] = count + 1
            edges[:count, number] = column.edges
            self._targets[: count + 1, number] = start + np.arange(count + 1)
            self._targets[-3:, number] = start + count + np.arange(1, 4)
            if column.low is not None and column.high is not None:
                low[number], high[number] = column.low, column.high
        with np.errstate(over="ignore"):
            self._low = _rounded_up(low, self._dtype)
            self._edges = [_rounded_up(row, self._dtype) for row in edges]
            self._above = _next_above(high, self._dtype)
        self._is_any = bool(columns)

    def count(self, rows: Array, counts: IntArray) -> IntArray:
        """Add the values of shape (n_rows, width) to `counts`; return the sums of their places.

        The place of a value is the number of its bin, that of NaN the number of bins.
        """
        sums: IntArray = np.zeros(rows.shape[1], dtype=np.int64)
        if not self._is_any:
            return sums
        step = max(1, BLOCK_BYTES // max(1, rows[:1].nbytes))
        for begin in range(0, len(rows), step):
            # A value counts once for each column, and no two columns share a target but the rest.
            counted = self._counted(rows[begin : begin + step].astype(self._dtype, copy=False))
            np.add.at(counts, self._targets, counted)
            bins, missing = counted[:-3], counted[-3]
            sums += self._places @ bins + self._missing_place * missing
        return sums

    def _counted(self, rows: Array) -> IntArray:
        missing, below, above = self._apart(rows)
        present = len(rows) - missing
        at_least = [present, *(_column_sums(rows >= edge) for edge in self._edges)]
        bins = -np.diff(at_least, axis=0, append=np.zeros_like(present)[np.newaxis])
        counted: IntArray = np.vstack([bins, missing, below, above])
        return counted

    def _apart(self, rows: Array) -> tuple[IntArray, IntArray, IntArray]:
        """Return how many of each column are NaN, below and above; mostly none is."""
        with np.errstate(invalid="ignore"):
            # NaN is the least and the greatest where there is one, and is in no order.
            is_within = (rows.min(axis=0) >= self._low) & ~(rows.max(axis=0) >= self._above)
        if is_within.all():
            none: IntArray = np.zeros(rows.shape[1], dtype=np.int64)
            return none, none, none
        missing = _column_sums(rows != rows)  # noqa: PLR0124 - true of NaN alone
        below = len(rows) - missing - _column_sums(rows >= self._low)
        return missing, below, _column_sums(rows >= self._above)


def _column_sums(marks: npt.NDArray[np.bool_]) -> IntArray:
    """Return how many of each column are true; `marks` has the shape (n_rows, width).

    Rows are laid side by side until few enough are left to be added up in bytes.
    """
    n_rows, width = marks.shape
    beside = max(-(-n_rows // MAX_ADDED), ROW_BYTES // width, 1)
    whole = n_rows - n_rows % beside
    folded = np.ascontiguousarray(marks[:whole]).view(np.uint8).reshape(-1, beside * width)
    sums: IntArray = (
        folded.sum(axis=0, dtype=np.uint8).reshape(beside, width).sum(axis=0, dtype=np.int64)
    )
    sums += marks[whole:].sum(axis=0, dtype=np.int64)
    return sums


def _rounded_up(values: FloatArray, dtype: np.dtype[Any]) -> Array:
    """Return for each value the least one of `dtype` that is not below it."""
    near = values.astype(dtype)
    up: Array = np.where(near < values, np.nextafter(near, dtype.type(np.inf)), near)
    return up


def _next_above(values: FloatArray, dtype: np.dtype[Any]) -> Array:
    """Return for each value the least one of `dtype` that is above it."""
    near = values.astype(dtype)
    up: Array = np.where(near <= values, np.nextafter(near, dtype.type(np.inf)), near)
    return up
