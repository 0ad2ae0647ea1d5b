"""Streams of windows to judge: what a device would send, drawn from a known source."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import optimize, signal, stats

from fleet.core import drift
from fleet.core.windows import block_rows
from wire.histogram import count, reference_edges

Array = npt.NDArray[Any]
BINS = 10


def between(positions: Array) -> float:
    """Return the sum of squares between blocks, of one column, as a device computes it."""
    starts = np.arange(0, len(positions), block_rows(len(positions)))
    sums = np.add.reduceat(positions, starts).astype(float)
    sizes = np.diff(np.append(starts, len(positions)))
    return max(0.0, float((sums**2 / sizes).sum() - positions.sum() ** 2 / len(positions)))


def move_of(share: float) -> float:
    """Return by how many standard deviations a normal law moves until its PSI is `share`.

    Over the deciles of the law that it came from.
    """
    inner = stats.norm.ppf(np.arange(1, BINS) / BINS)

    def gap(move: float) -> float:
        now = np.diff(np.concatenate([[0.0], stats.norm.cdf(inner - move), [1.0]]))
        return float(((now - 1 / BINS) * np.log(now * BINS)).sum()) - share

    return float(optimize.brentq(gap, 1e-9, 4.0)) if share > 0 else 0.0


class Stream:
    """A sensor whose values are normal, its rows autoregressive of first order, and its reference.

    The reference is a sample of independent rows; its bins hold a tenth of them each.
    """

    def __init__(
        self, generator: np.random.Generator, *, lag_one: float, reference_rows: int
    ) -> None:
        self._generator = generator
        self._lag_one = lag_one
        self._last = float(generator.standard_normal())
        self.reference_values = generator.standard_normal(reference_rows)
        self._edges = reference_edges(self.reference_values)
        counts, missing = count(self.reference_values, self._edges)
        self.reference = drift.Reference((*counts.tolist(), missing), is_ordered=True)

    def values(self, rows: int, move: float = 0.0) -> Array:
        """Return the next rows."""
        noise = self._generator.standard_normal(rows)
        if self._lag_one:
            scale = np.sqrt(1 - self._lag_one**2)
            start = [self._lag_one * self._last]
            noise, _ = signal.lfilter([1.0], [1.0, -self._lag_one], scale * noise, zi=start)
            self._last = float(noise[-1])
        return noise + move

    def window_of(self, values: Array) -> drift.Window:
        """Return what a device sends of them."""
        positions = np.searchsorted(self._edges, values, side="right")
        counts = np.append(np.bincount(positions, minlength=BINS), 0).tolist()
        return drift.window_of(0, counts, between(positions))

    def windows(self, number: int, rows: int, move: float = 0.0) -> Iterator[drift.Window]:
        """Yield the next windows."""
        for _ in range(number):
            yield self.window_of(self.values(rows, move))
