"""The tail of the drift test against its claim, down to where no plain simulation comes.

Importance sampling: windows are drawn from Dirichlet-multinomial laws, which scatter far more than
the null hypothesis, and weighted by the ratio of both probabilities, which is known in closed form.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import optimize, special, stats

from fleet.core.shift_test import TOLERANCE, harmonic_rows, pooled, statistic

Array = npt.NDArray[Any]
SPREADS = (1.0, 1.5, 2.5, 4.0, 7.0, 12.0)
"""Variances of the proposals, over that of the multinomial."""


@dataclass(frozen=True, slots=True)
class Tail:
    """How often the test is beyond its limit, over how often it may be."""

    claim: float
    ratio: float
    error: float

    @property
    def upper(self) -> float:
        """The upper 95 % bound of the ratio, one-sided."""
        return self.ratio + 1.645 * self.error


def tails(
    generator: np.random.Generator,
    truth: Array,
    *,
    reference_rows: int,
    rows: int,
    claims: tuple[float, ...],
    draws: int,
    toward: Array | None = None,
    tolerance: float = TOLERANCE,
) -> list[Tail]:
    """Return the tail of independent rows at each claimed level.

    Args:
        generator: Of chance.
        truth: Shares that the reference is drawn from, shape (n_cells,).
        reference_rows: Its rows.
        rows: Of the window.
        claims: Levels.
        draws: Windows.
        toward: Shares that the window's source is mixed with until the shift is just the
            tolerance; without them it is the truth.
        tolerance: Of the test; 0 tests for any shift.
    """
    sources = [truth]
    if toward is not None:
        at = [
            _toward(truth, toward, reference_rows, rows, tolerance * times)
            for times in (1, 2, 4, 8)
        ]
        sources = [source for source in at if source is not None]
    observed, weights = _drawn(generator, sources, rows, draws)
    reference, also = _drawn(generator, [truth], reference_rows, draws)
    order = generator.permutation(len(reference))
    reference, weights = reference[order], weights * also[order]
    values = _values(truth, reference, observed, reference_rows, rows)
    degrees = pooled(truth, truth, reference_rows + rows).shape[1] - 1
    shift = tolerance * harmonic_rows(reference_rows, rows)
    found = []
    for claim in claims:
        limit = stats.ncx2.isf(claim, degrees, shift) if shift else stats.chi2.isf(claim, degrees)
        beyond = weights * (values >= limit) / claim
        found.append(Tail(claim, float(beyond.mean()), float(beyond.std() / len(beyond) ** 0.5)))
    return found


def _values(truth: Array, reference: Array, observed: Array, n: int, m: int) -> Array:
    """Return the statistics, cells pooled by the true shares, as by those of a typical reference."""
    is_rare = truth * (n + m) < 5
    if is_rare.any():
        reference, observed = (
            np.column_stack([counts[:, ~is_rare], counts[:, is_rare].sum(axis=1)])
            for counts in (reference, observed)
        )
    return statistic(reference.astype(float), observed.astype(float), float(n), float(m))


def _toward(truth: Array, other: Array, n: int, m: int, shift: float) -> Array | None:
    def gap(part: float) -> float:
        mixed = (1 - part) * truth + part * other
        both = n * truth + m * mixed
        ratio = special.rel_entr(m * mixed, both * m / (n + m)).sum()
        ratio += special.rel_entr(n * truth, both * n / (n + m)).sum()
        return float(2 * ratio) / harmonic_rows(n, m) - shift

    if gap(1 - 1e-9) < 0:
        return None
    part = optimize.brentq(gap, 0.0, 1 - 1e-9)
    return np.asarray((1 - part) * truth + part * other)


def _drawn(
    generator: np.random.Generator, sources: list[Array], rows: int, draws: int
) -> tuple[Array, Array]:
    """Return counts, shape (draws, n_cells), with their weights for the first source."""
    laws = [(source, spread) for source in sources for spread in SPREADS]
    each = np.full(len(laws), draws // len(laws))
    each[: draws - each.sum()] += 1
    counts = np.concatenate(
        [
            generator.multinomial(rows, _shares(generator, source, spread, rows, number))
            for (source, spread), number in zip(laws, each, strict=True)
        ]
    )
    proposed = special.logsumexp(
        [
            np.log(number / draws) + _log_chance(counts, *law, rows)
            for law, number in zip(laws, each, strict=True)
        ],
        axis=0,
    )
    return counts, np.exp(_log_chance(counts, sources[0], 1.0, rows) - proposed)


def _shares(
    generator: np.random.Generator, source: Array, spread: float, rows: int, number: int
) -> Array:
    if spread == 1.0:
        return np.broadcast_to(source, (number, len(source)))
    drawn = generator.standard_gamma(
        np.broadcast_to(_concentration(source, spread, rows), (number, len(source)))
    )
    drawn = np.maximum(drawn, 1e-300)
    return np.asarray(drawn / drawn.sum(axis=1, keepdims=True))


def _concentration(source: Array, spread: float, rows: int) -> Array:
    return source * max((rows - spread) / (spread - 1), 0.5)


def _log_chance(counts: Array, source: Array, spread: float, rows: int) -> Array:
    whole = special.gammaln(rows + 1) - special.gammaln(counts + 1).sum(axis=1)
    if spread == 1.0:
        return np.asarray(whole + special.xlogy(counts, source).sum(axis=1))
    parts = _concentration(source, spread, rows)
    total = parts.sum()
    grown = (special.gammaln(counts + parts) - special.gammaln(parts)).sum(axis=1)
    return np.asarray(whole + special.gammaln(total) - special.gammaln(total + rows) + grown)
