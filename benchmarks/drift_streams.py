"""Streams of windows to judge: what a device would send, drawn from a known source."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import optimize, signal, stats

from fleet.core import drift
from fleet.core.dependence import block_rows

Array = npt.NDArray[Any]
BINS = 10
WINDOW_MS = 900_000


def between(positions: Array) -> float:
    """Return the sum of squares between blocks, of one column, as a device computes it."""
    starts = np.arange(0, len(positions), block_rows(len(positions)))
    sums = np.add.reduceat(positions, starts).astype(float)
    sizes = np.diff(np.append(starts, len(positions)))
    return max(0.0, float((sums**2 / sizes).sum() - positions.sum() ** 2 / len(positions)))


def shifted(share: float) -> Array:
    """Return the shares of the deciles of a normal law whose mean moved until PSI is `share`."""
    inner = stats.norm.ppf(np.arange(1, BINS) / BINS)

    def shares(move: float) -> Array:
        return np.diff(np.concatenate([[0.0], stats.norm.cdf(inner - move), [1.0]]))

    return shares(_move(shares, share)) if share > 0 else np.full(BINS, 1 / BINS)


def move_of(share: float) -> float:
    """Return by how many standard deviations the mean moves for it."""
    inner = stats.norm.ppf(np.arange(1, BINS) / BINS)
    return _move(
        lambda d: np.diff(np.concatenate([[0.0], stats.norm.cdf(inner - d), [1.0]])), share
    )


def _move(shares: Callable[[float], Array], share: float) -> float:
    def gap(move: float) -> float:
        now = shares(move)
        return float(((now - 1 / BINS) * np.log(now * BINS)).sum()) - share

    return float(optimize.brentq(gap, 1e-9, 4.0)) if share > 0 else 0.0


class Stream:
    """A sensor whose values are normal, its rows autoregressive of first order, and its reference.

    The reference is a sample: its bins hold a tenth of its rows each, and shares of the truth that
    are drawn anew (those of order statistics are Dirichlet).
    """

    def __init__(
        self, generator: np.random.Generator, *, lag_one: float, reference_rows: int
    ) -> None:
        self._generator = generator
        self._lag_one = lag_one
        per_bin = reference_rows // BINS
        truth = generator.dirichlet(np.full(BINS, float(per_bin)))
        self._edges = stats.norm.ppf(np.cumsum(truth)[:-1])
        self._last = float(generator.standard_normal())
        self.reference = drift.Reference((per_bin,) * BINS + (0,), is_ordered=True)

    def positions(self, rows: int, move: float = 0.0) -> Array:
        """Return the bins of the next rows."""
        noise = self._generator.standard_normal(rows)
        if self._lag_one:
            scale = np.sqrt(1 - self._lag_one**2)
            start = [self._lag_one * self._last]
            noise, _ = signal.lfilter([1.0], [1.0, -self._lag_one], scale * noise, zi=start)
            self._last = float(noise[-1])
        return np.searchsorted(self._edges, noise + move, side="right")

    def windows(self, number: int, rows: int, move: float = 0.0) -> Iterator[drift.Window]:
        """Yield the next windows."""
        for _ in range(number):
            positions = self.positions(rows, move)
            counts = np.append(np.bincount(positions, minlength=BINS), 0).tolist()
            yield drift.window_of(0, counts, between(positions))
