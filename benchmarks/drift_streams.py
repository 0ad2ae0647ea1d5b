"""Streams of windows to judge: what a device would send, drawn from a known source."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import optimize, signal, stats

from fleet.core import drift
from fleet.core.windows import NO_BLOCKS, block_rows, blocks_of
from wire.histogram import count, reference_edges

Array = npt.NDArray[Any]
BINS = 10


@dataclass(frozen=True, slots=True)
class Window:
    """Counts of one window of a stream, and what says how its rows depend on each other.

    All but the start add up over devices and time.

    Attributes:
        start_unix_ms: Of its time.
        counts: One per cell of the reference.
        blocks: Sums for `dependence.within`: between blocks as sent, expected, degrees of
            freedom, squared rows, rows. All 0 where the device sent none.
    """

    start_unix_ms: int
    counts: tuple[int, ...]
    blocks: tuple[float, ...] = NO_BLOCKS


def window_of(start_unix_ms: int, counts: Iterable[int], between: float | None = None) -> Window:
    """Return a window as a device sent it.

    Args:
        start_unix_ms: Of its time.
        counts: Of all cells, none negative.
        between: Sum of squares between its blocks of rows; None where it sent none.
    """
    cells = tuple(counts)
    blocks = NO_BLOCKS if between is None else blocks_of(cells, between)
    return Window(start_unix_ms, cells, blocks)


def merged(windows: Iterable[Window]) -> Window:
    """Return the sum of windows of one time, of several devices; at least one."""
    every = list(windows)
    return Window(
        min(window.start_unix_ms for window in every),
        tuple(sum(cell) for cell in zip(*(window.counts for window in every), strict=True)),
        # fsum: exact, so that the order of the devices does not matter.
        tuple(math.fsum(part) for part in zip(*(window.blocks for window in every), strict=True)),
    )


def no_history(cell_count: int) -> drift.History:
    """Return the history of a stream before its first window."""
    return drift.History(
        np.empty(0, np.int64), np.empty((0, cell_count), np.int64), np.empty((0, 5), np.float64)
    )


def lengthened(history: drift.History, window: Window) -> drift.History:
    """Return `history` with a newer window, without those that are too old."""
    kept = slice(-(drift.HISTORY - 1), None)
    return drift.History(
        np.append(history.starts[kept], window.start_unix_ms),
        np.append(history.counts[kept], [np.asarray(window.counts, np.int64)], axis=0),
        np.append(history.blocks[kept], [window.blocks], axis=0),
    )


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

    def window_of(self, values: Array) -> Window:
        """Return what a device sends of them."""
        positions = np.searchsorted(self._edges, values, side="right")
        counts = np.append(np.bincount(positions, minlength=BINS), 0).tolist()
        return window_of(0, counts, between(positions))

    def windows(self, number: int, rows: int, move: float = 0.0) -> Iterator[Window]:
        """Yield the next windows."""
        for _ in range(number):
            yield self.window_of(self.values(rows, move))
