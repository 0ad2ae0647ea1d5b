"""The histograms of TensorFlow Data Validation: of quantiles, and of equal widths made from these."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
Buckets = tuple[FloatArray, FloatArray, FloatArray]
"""Low ends, high ends and rows of buckets, of one shape (n_buckets,)."""


def quantiles_of(values: FloatArray, bins: int) -> tuple[FloatArray, FloatArray]:
    """Return the ends of bins of as many values each, and how many values are up to each end.

    Shape (bins + 1,) both. The end of rank r is the first value that more than r of n rows are up
    to (tfx_bsl, weighted_quantiles_summary.h, as long as that summary holds every value).

    Args:
        values: Ascending, without NaN, shape (n_rows,), one or more.
        bins: How many.
    """
    different, counts = np.unique(values, return_counts=True)
    counted = np.cumsum(counts).astype(np.float64)
    ranks = np.arange(bins + 1) * len(values) / bins
    places = np.minimum(np.searchsorted(counted, ranks, side="right"), len(different) - 1)
    return different[places], counted[places]


def quantile_buckets(cuts: FloatArray, counted: FloatArray) -> Buckets:
    """Return a bucket between each two ends; what several buckets end with is shared among them.

    As TFDV's quantiles_util.generate_quantiles_histogram.

    Args:
        cuts: Ends, ascending, shape (n_buckets + 1,).
        counted: Rows up to each of them.
    """
    low, high, rows = cuts[:-1], cuts[1:], np.diff(counted)
    if not rows.size:
        return low, high, rows
    starts = np.flatnonzero(np.append(True, high[1:] != high[:-1]))
    sizes = np.diff(np.append(starts, len(rows)))
    rows = np.repeat(np.add.reduceat(rows, starts) / sizes, sizes)
    # The rows of the least value are in no difference: the buckets that begin there share them.
    is_first = (low == low[0]) & (high == high[0])
    first = len(rows) if is_first.all() else int(np.argmin(is_first))
    rows[:first] += counted[0] / first
    return low, high, rows


def equal_width(values: FloatArray, cuts: FloatArray, counted: FloatArray, bins: int) -> Buckets:
    """Return buckets of equal width over the finite values, infinities in one of their own.

    The rows are those of the quantiles' buckets, spread evenly inside each; a bucket holds its high
    end, the first one its low end too (TFDV's quantiles_util.generate_equi_width_histogram).

    Args:
        values: Ascending, without NaN, shape (n_rows,), one or more.
        cuts: As `quantiles_of` returns them, fine.
        counted: The same.
        bins: How many; a single one where all finite values are equal.
    """
    finite = values[np.isfinite(values)]
    if not finite.size:  # TFDV's ends before any finite value was seen
        return np.array([np.inf]), np.array([-np.inf]), counted[-1:]
    low_count = float((values == -np.inf).sum())
    high_count = float((values == np.inf).sum())
    cuts, counted, lost = _finite(cuts, counted, float(finite[-1]), high_count)
    with np.errstate(over="ignore", invalid="ignore"):
        edges = np.linspace(finite[0], finite[-1], bins + 1)
    if finite[0] == finite[-1]:
        edges = finite[[0, -1]]
    if not np.isfinite(edges).all():
        return np.empty(0), np.empty(0), np.empty(0)
    rows = np.diff(_rows_up_to(edges[1:], quantile_buckets(cuts, counted)), prepend=0.0)
    ends = [(-np.inf, lost)] if low_count and lost else []
    tops = [(np.inf, high_count)] if high_count else []
    return (
        np.array([*(e for e, _ in ends), *edges[:-1], *(e for e, _ in tops)]),
        np.array([*(e for e, _ in ends), *edges[1:], *(e for e, _ in tops)]),
        np.array([*(n for _, n in ends), *rows, *(n for _, n in tops)]),
    )


def add_buckets(histogram: Any, low: FloatArray, high: FloatArray, rows: FloatArray) -> None:
    """Write buckets into a histogram's message."""
    for ends in zip(low.tolist(), high.tolist(), rows.tolist(), strict=True):
        histogram.buckets.add(low_value=ends[0], high_value=ends[1], sample_count=ends[2])


def _finite(
    cuts: FloatArray, counted: FloatArray, top: float, high_count: float
) -> tuple[FloatArray, FloatArray, float]:
    """Return the ends that are finite, their rows, and the rows below all of them."""
    start = int(np.searchsorted(cuts, -np.inf, side="right"))
    lost = float(counted[start - 1]) if start else 0.0
    cuts, counted = cuts[start:], counted[start:] - lost
    if high_count:
        stop = int(np.searchsorted(cuts, np.inf, side="left"))
        # The first end that is infinite may be of a bucket with finite values as well.
        finite_count = counted[-1] - high_count
        cuts, counted = np.append(cuts[:stop], top), np.append(counted[:stop], finite_count)
    return cuts, counted, lost


def _rows_up_to(points: FloatArray, buckets: Buckets) -> FloatArray:
    """Return how many rows are up to each point, shape (n_points,)."""
    low, high, rows = buckets
    with np.errstate(all="ignore"):
        shares = np.clip((points[:, None] - low) / (high - low), 0.0, 1.0)
    shares = np.where(high == low, points[:, None] >= low, shares)
    found: FloatArray = shares @ rows
    return found
