"""Confidence intervals: of a share, of the difference of two paired shares, of any metric.

All are two-sided: each end alone errs with half of what the interval leaves out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np
from scipy import optimize, special

from fleet.core import performance

from .predictions import Array, FloatArray

MAX_GROUPS: Final = 200
"""Of rows that the jackknife leaves out together, where there are more rows."""
MAX_CELLS: Final = 1_000_000
"""Weights at once, so that any number of rows takes a few times 8 MB."""
MIN_DEFINED_RATIO: Final = 0.95
"""Share of the resamples that must have a value."""

Interval = tuple[float, float]


def normal_quantile(confidence: float) -> float:
    """Return how many standard deviations a two-sided interval reaches."""
    return float(special.ndtri((1 + confidence) / 2))


def for_all(confidence: float, count: int) -> float:
    """Return the confidence of each of `count` intervals that makes it that of all at once
    (Bonferroni).
    """
    return 1 - (1 - confidence) / max(1, count)


def wilson(successes: float, trials: float, confidence: float) -> Interval:
    """Return the score interval of a share (Wilson, 1927), which also holds at 0 and 1.

    Args:
        successes: At most `trials`.
        trials: Above 0.
        confidence: Two-sided.
    """
    found = performance.wilson(successes, trials, normal_quantile(confidence))
    return found.low, found.high


def tango(first_only: int, second_only: int, pairs: int, confidence: float) -> Interval:
    """Return the score interval of the difference of two paired shares, first less second.

    T. Tango, Equivalence test and confidence interval for the difference in proportions for the
    paired-sample design, Statistics in Medicine 17, 1998. It holds where no pair differs, when it is
    z² / (n + z²) to both sides, and agrees with the test of non-inferiority by any margin.

    Args:
        first_only: Pairs of which only the first is a success.
        second_only: Pairs of which only the second is.
        pairs: All pairs, above 0.
        confidence: Two-sided.
    """
    z = normal_quantile(confidence)
    found = (first_only - second_only) / pairs

    def excess(difference: float, side: float) -> float:
        return _paired_score(first_only, second_only, pairs, difference) - side * z

    # At the ends of the range the score is infinite, so that it crosses each side once within.
    low = -1.0 if found == -1 else optimize.brentq(excess, -1 + 1e-12, found, args=(1.0,))
    high = 1.0 if found == 1 else optimize.brentq(excess, found, 1 - 1e-12, args=(-1.0,))
    return float(low), float(high)


def _paired_score(first_only: int, second_only: int, pairs: int, difference: float) -> float:
    """Return how many standard errors the pairs are from `difference`, the spread being the one
    most likely under it.
    """
    a = 2.0 * pairs
    b = -first_only - second_only + (2 * pairs - first_only + second_only) * difference
    c = -second_only * difference * (1 - difference)
    share = (np.sqrt(max(0.0, b * b - 4 * a * c)) - b) / (2 * a)
    spread = pairs * (2 * share + difference * (1 - difference))
    distance = first_only - second_only - pairs * difference
    if spread <= 0:
        return float(np.sign(distance)) * np.inf if distance else 0.0
    return float(distance / np.sqrt(spread))


def resampled_weights(
    row_count: int, resamples: int, generator: np.random.Generator
) -> Iterator[FloatArray]:
    """Yield how often each row is drawn, with replacement; each shape (n_draws, n_rows)."""
    at_once = max(1, MAX_CELLS // row_count)
    for begin in range(0, resamples, at_once):
        draws = min(at_once, resamples - begin)
        picked = generator.integers(0, row_count, (draws, row_count))
        picked += np.arange(draws)[:, None] * row_count
        counts = np.bincount(picked.ravel(), minlength=draws * row_count)
        yield counts.reshape(draws, row_count).astype(np.float64)


def jackknife_weights(row_count: int) -> Iterator[FloatArray]:
    """Yield ones with a row left out, or a group of them; each shape (n_groups, n_rows)."""
    groups = min(row_count, MAX_GROUPS)
    group = np.arange(row_count) % groups
    at_once = max(1, MAX_CELLS // row_count)
    for begin in range(0, groups, at_once):
        left_out = np.arange(begin, min(groups, begin + at_once))
        yield (group[None, :] != left_out[:, None]).astype(np.float64)


def gather(
    statistic: Callable[[FloatArray], FloatArray], weights: Iterator[FloatArray]
) -> FloatArray:
    """Return a statistic's values at all weights."""
    return np.concatenate([statistic(part) for part in weights])


def bootstrap(
    value: float, draws: FloatArray, left_out: FloatArray, confidence: float
) -> tuple[Interval, str] | None:
    """Return the bias-corrected and accelerated interval and its name, or None where there is none.

    Efron and Tibshirani, An Introduction to the Bootstrap, 1993, 14.3; the acceleration by a
    jackknife of groups (11.5). Where that has no answer, the percentiles of the draws (13.3).

    Args:
        value: Of all rows.
        draws: Of resamples, NaN where there is none, shape (n_draws,).
        left_out: Of the jackknife, shape (n_groups,).
        confidence: Two-sided.
    """
    defined = draws[np.isfinite(draws)]
    if len(defined) < MIN_DEFINED_RATIO * len(draws) or not np.isfinite(value):
        return None
    if np.ptp(defined) <= 1e-12 * max(1.0, abs(value)):
        return None
    levels = np.array([(1 - confidence) / 2, (1 + confidence) / 2])
    corrected = _accelerated(value, defined, left_out[np.isfinite(left_out)], levels)
    method = "bca" if corrected is not None else "percentile"
    low, high = np.quantile(defined, levels if corrected is None else corrected)
    return (float(low), float(high)), method


def widened(value: float, interval: Interval, confidence: float, wanted: float) -> Interval:
    """Return an interval at a confidence above its own.

    Both arms grow as the normal's do. A few thousand resamples have no quantile at 1e-4, and a share
    of them at 1e-2 is enough to know each arm.
    """
    factor = normal_quantile(wanted) / normal_quantile(confidence)
    low, high = interval
    return min(low, value - (value - low) * factor), max(high, value + (high - value) * factor)


def _accelerated(
    value: float, draws: FloatArray, left_out: FloatArray, levels: FloatArray
) -> Array | None:
    below = ((draws < value).sum() + (draws <= value).sum()) / (2 * len(draws))
    bias = float(special.ndtri(below))
    away = left_out.mean() - left_out if len(left_out) else np.zeros(1)
    spread = float((away**2).sum())
    if not np.isfinite(bias) or spread <= 0:
        return None
    acceleration = float((away**3).sum()) / (6 * spread**1.5)
    z: Any = bias + special.ndtri(levels)
    under = 1 - acceleration * z
    if (under <= 0).any():
        return None
    return np.asarray(special.ndtr(bias + z / under))
