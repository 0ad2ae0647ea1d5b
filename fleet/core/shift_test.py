"""Is a distribution further from its reference than a tolerance? A test on two sets of counts.

The null hypothesis is not "no shift", which a large enough window always refutes, but "a shift of
at most the tolerance": the Population Resemblance Statistic (arXiv 2307.11878) with a statistic
that stays true in far tails and for rare cells.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy import special

FloatArray = npt.NDArray[np.float64]

TOLERANCE: Final = 0.02
"""In PSI (nats): a fifth of what the field calls a small shift, and 20 times the error of a
reference of 10,000 rows in 10 bins, (10 - 1) / 10,000."""

MIN_EXPECTED: Final = 5.0
"""Rows that a cell must expect in window and reference together; rarer cells are one. With many
cells below it the tail was up to 4 times its claim (see decision 0009)."""


def pooled(reference: npt.NDArray[Any], observed: npt.NDArray[Any], rows: float) -> FloatArray:
    """Return both counts with all rare cells as one, the last; the reference's come first.

    Which cells are rare follows from the reference alone, so that the test is not bent by what it
    judges.

    Args:
        reference: Shape (n_cells,), sum above 0.
        observed: Shape (n_cells,).
        rows: Effective rows of both together.

    Returns:
        Shape (2, n_pooled).
    """
    both = np.stack([reference, observed]).astype(np.float64)
    is_rare = both[0] * (rows / both[0].sum()) < MIN_EXPECTED
    if not is_rare.any():
        return both
    rare = both[:, is_rare].sum(axis=1, keepdims=True)
    return np.concatenate([both[:, ~is_rare], rare], axis=1)


def statistic(
    reference: FloatArray, observed: FloatArray, reference_rows: float, rows: float
) -> FloatArray:
    """Return the distance of two samples, about chi-square with n_cells - 1 degrees if both are of
    one source, and non-central by shift * `harmonic_rows` if they are not.

    Each cell adds the smaller of two distances that agree for small shifts. The likelihood ratio's
    (Wilks; twice the log) has the right tail at zero shift for a cell of any rarity, since its
    exponent is that of the large deviations (Sanov); but its spread grows with the shift. Of the
    square roots' (Freeman and Tukey, 1950; Hellinger) the spread does not, but it takes an empty
    cell for rarer than it is. The smaller one was never found above its claim by simulation.

    Args:
        reference: Counts, shape (…, n_cells).
        observed: Counts, of a shape that broadcasts.
        reference_rows: Effective rows of the reference, above 0; scales its counts.
        rows: Effective rows observed, above 0.
    """
    r = reference_rows * reference / reference.sum(axis=-1, keepdims=True)
    o = rows * observed / observed.sum(axis=-1, keepdims=True)
    share = rows / (rows + reference_rows)
    both = r + o
    ratio = special.rel_entr(o, both * share) + special.rel_entr(r, both * (1 - share))
    roots = np.sqrt(o / rows) - np.sqrt(r / reference_rows)
    weight = 4 * harmonic_rows(reference_rows, rows)
    cells: FloatArray = np.minimum(2 * np.maximum(ratio, 0.0), weight * roots * roots)
    return np.asarray(cells.sum(axis=-1))


def harmonic_rows(reference_rows: float, rows: float) -> float:
    """Return 1 / (1/n + 1/m): what a shift is multiplied by, since both are samples."""
    return reference_rows * rows / (reference_rows + rows)


def tail(value: float, degrees: int, shift: float, spread_degrees: float = np.inf) -> float:
    """Return the chance of a statistic of `value` or more.

    The non-central chi-square's, or the non-central F's where the spread itself was estimated with
    `spread_degrees` degrees of freedom. Both are Poisson mixtures of central ones (Johnson, Kotz
    and Balakrishnan, Continuous Univariate Distributions 2, 29.3 and 30.3); all terms are
    positive, so that the relative error stays small at 1e-12, where 1 - cdf has none left.

    Args:
        value: At least 0.
        degrees: Cells less one; with 0 the chance is 1.
        shift: The non-centrality, at least 0.
        spread_degrees: Above 0.
    """
    if degrees <= 0 or value <= 0:
        return 1.0
    mean = shift / 2
    # The terms that count lie between the Poisson's mean and half the geometric mean of both.
    top = max(mean, np.sqrt(shift * value) / 2)
    first = max(0, int(mean - 8 * np.sqrt(mean) - 10))
    numbers = np.arange(first, int(top + 10 * np.sqrt(top) + 30))
    weights = np.exp(special.xlogy(numbers, mean) - mean - special.gammaln(numbers + 1))
    chances = _central(value, np.asarray(degrees / 2 + numbers, np.float64), spread_degrees / 2)
    return float(min(1.0, (weights * chances).sum()))


def _central(value: float, shapes: FloatArray, spread: float) -> FloatArray:
    """Return the tails of central laws with `2 * shapes` degrees, shapes rising by 1.

    The first by SciPy, the next by the recurrences of the incomplete gamma and beta functions
    (DLMF 8.8.6 and 8.17.20), whose steps are all positive.
    """
    if np.isinf(spread):
        first = special.gammaincc(shapes[0], value / 2)
        steps = special.xlogy(shapes, value / 2) - value / 2 - special.gammaln(shapes + 1)
    else:
        odds = 2 * spread / (2 * spread + value)
        # P(beta(a, b) > 1 - odds) = P(beta(b, a) < odds), exact where odds is small.
        first = special.betainc(spread, shapes[0], odds)
        steps = spread * np.log(odds) + special.xlog1py(shapes, -odds)
        steps -= special.betaln(spread, shapes) + np.log(shapes)
    return np.asarray(first + np.append(0.0, np.cumsum(np.exp(steps[:-1]))))
