"""How far two distributions lie apart, in the measures that people know.

None of them decides: at any fixed threshold each is too strict for few rows and too lax for many.
The population stability index is in `wire.histogram`, since devices measure it too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special, stats

Array = npt.NDArray[Any]
FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Tested:
    """A classical test's statistic and p-value, true for independent rows only."""

    statistic: float
    p_value: float


@dataclass(frozen=True, slots=True)
class Histogram:
    """Rows over a range of values.

    Attributes:
        edges: Ascending, shape (n_bins + 1,), finite; two equal ones bound a single value.
        counts: Shape (n_bins,).
        missing: Rows without a value.
    """

    edges: tuple[float, ...]
    counts: tuple[float, ...]
    missing: float = 0.0


def jensen_shannon_bits(reference: Array, observed: Array) -> float:
    """Return the divergence of counts over the same cells, in bits, 0 to 1.

    (KL(p | m) + KL(q | m)) / 2 with m = (p + q) / 2 and base 2 (Lin, 1991); TFDV's value. Its
    root is what NannyML calls the distance, and the root of it times ln 2 Evidently's. Without
    rows on either side 0.

    Args:
        reference: Shape (n_cells,).
        observed: The same shape.
    """
    if reference.sum() <= 0 or observed.sum() <= 0:
        return 0.0
    p, q = reference / reference.sum(), observed / observed.sum()
    middle = (p + q) / 2
    nats = (special.rel_entr(p, middle) + special.rel_entr(q, middle)).sum() / 2
    return float(np.clip(nats / np.log(2), 0.0, 1.0))


def jensen_shannon_bits_of(a: Histogram, b: Histogram) -> float:
    """Return the divergence of histograms with edges of their own, in bits, as TFDV defines it.

    Both are cut at the edges of either, mass uniform inside a bin; single values match only
    themselves; missing rows match nothing, not even missing ones (TensorFlow Data Validation,
    anomalies/metrics.cc).
    """
    cuts = np.unique([edge for h in (a, b) for edge in h.edges])
    points = np.unique(
        [p for h in (a, b) for p, q in zip(h.edges, h.edges[1:], strict=False) if p == q]
    )
    left, right = (np.concatenate([_cut(h, cuts), _at(h, points)]) for h in (a, b))
    return jensen_shannon_bits(
        np.append(left, [a.missing, 0.0]), np.append(right, [0.0, b.missing])
    )


def wasserstein(a: Histogram, b: Histogram) -> float:
    """Return how far values moved on average, in their own unit, mass uniform inside a bin.

    The integral of the difference of the distribution functions, which is linear between edges.
    A bin that holds a single value is a step. Missing rows do not count; 0 without rows.
    """
    if sum(a.counts) <= 0 or sum(b.counts) <= 0:
        return 0.0
    cuts = np.unique([edge for h in (a, b) for edge in h.edges])
    gaps = np.diff(cuts)
    # Just after a cut a step is in, just before the next one nothing further is.
    after = _distribution(a, cuts[:-1]) - _distribution(b, cuts[:-1])
    before = after + (_cut(a, cuts) / sum(a.counts) - _cut(b, cuts) / sum(b.counts))
    ends = np.abs(after) + np.abs(before)
    crossed = after * before < 0
    squares = after**2 + before**2
    areas = np.where(crossed, squares / np.where(ends > 0, ends, 1.0), ends) / 2
    return float((areas * gaps).sum())


def wasserstein_bins(reference: Array, observed: Array) -> float:
    """Return over how many bins a row moved on average, at least: Wasserstein's distance of order
    1 where neighbouring bins lie 1 apart.

    Args:
        reference: Counts of bins in their order, without those of missing rows, shape (n_bins,).
        observed: The same shape.
    """
    if reference.sum() <= 0 or observed.sum() <= 0:
        return 0.0
    gap = np.cumsum(reference) / reference.sum() - np.cumsum(observed) / observed.sum()
    return float(np.abs(gap).sum())


def kolmogorov_smirnov(reference: Array, observed: Array) -> Tested:
    """Return the two-sample statistic over the bins, and its asymptotic p-value.

    SciPy's `ks_2samp(…, method="asymp")` of the bins' positions. On counts it is a lower bound of
    that of the values, and the p-value an upper one.
    """
    n, m = float(reference.sum()), float(observed.sum())
    if n <= 0 or m <= 0:
        return Tested(0.0, 1.0)
    value = float(np.abs(np.cumsum(reference) / n - np.cumsum(observed) / m).max())
    return Tested(value, float(np.clip(stats.kstwo.sf(value, np.round(n * m / (n + m))), 0.0, 1.0)))


def chi_square(reference: Array, observed: Array) -> Tested:
    """Return Pearson's test of two rows of counts, cells empty in both left out.

    SciPy's `chi2_contingency(…, correction=False)`.
    """
    table = np.stack([reference, observed]).astype(np.float64)
    table = table[:, table.sum(axis=0) > 0]
    if table.shape[1] < 2 or not (table.sum(axis=1) > 0).all():
        return Tested(0.0, 1.0)
    expected = table.sum(axis=1, keepdims=True) * table.sum(axis=0) / table.sum()
    value = float(((table - expected) ** 2 / expected).sum())
    return Tested(value, float(special.chdtrc(table.shape[1] - 1, value)))


def _cut(histogram: Histogram, cuts: FloatArray) -> FloatArray:
    """Return the rows between each two cuts; a single value's are in none."""
    parts = np.zeros(max(len(cuts) - 1, 0))
    edges = histogram.edges
    for low, high, rows in zip(edges, edges[1:], histogram.counts, strict=False):
        if high > low:
            first, last = np.searchsorted(cuts, [low, high])
            parts[first:last] += rows * np.diff(cuts[first : last + 1]) / (high - low)
    return parts


def _at(histogram: Histogram, points: FloatArray) -> FloatArray:
    rows = np.zeros(len(points))
    edges = histogram.edges
    for low, high, count in zip(edges, edges[1:], histogram.counts, strict=False):
        if high == low:
            rows[np.searchsorted(points, low)] += count
    return rows


def _distribution(histogram: Histogram, points: FloatArray) -> FloatArray:
    """Return the share of values at or below each point."""
    below = np.zeros(len(points))
    edges = histogram.edges
    for low, high, rows in zip(edges, edges[1:], histogram.counts, strict=False):
        if high > low:
            below += rows * np.clip((points - low) / (high - low), 0.0, 1.0)
        else:
            below += rows * (points >= low)
    return below / sum(histogram.counts)
