"""How much the rows of one time are alike: sums over a window's rows in at most sixteen blocks."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from wire.histogram import FloatArray, IntArray
from wire.windows import MAX_BLOCKS


class Blocks:
    """Sums over consecutive blocks of one tensor's rows, as large as rows make necessary.

    A block has the least power of two of rows by which sixteen are enough, so that neither the number
    of rows need be known before, nor how they come in pieces matters.
    """

    def __init__(self, width: int) -> None:
        """Begin without rows; `width` is the number of columns."""
        self._sums: IntArray = np.zeros((MAX_BLOCKS, width), dtype=np.int64)
        self._block_rows = 1
        self._row_count = 0

    def take(self, n_rows: int) -> Iterator[tuple[int, int, int]]:
        """Yield block, begin and end of each part of the next rows that falls into one block."""
        while MAX_BLOCKS * self._block_rows < self._row_count + n_rows:
            self._sums[: MAX_BLOCKS // 2] = self._sums[0::2] + self._sums[1::2]
            self._sums[MAX_BLOCKS // 2 :] = 0
            self._block_rows *= 2
        at = 0
        while at < n_rows:
            block, used = divmod(self._row_count, self._block_rows)
            end = min(n_rows, at + self._block_rows - used)
            self._row_count += end - at
            yield block, at, end
            at = end

    def add(self, block: int, sums: IntArray) -> None:
        """Add the sums of a part, shape (width,)."""
        self._sums[block] += sums

    def between(self) -> FloatArray:
        """Return the sum of squares between the blocks of each column, shape (width,).

        Sum over blocks of S² / n, less that of all rows as one block; S is the sum of a block's
        values, n the number of its rows (one-way analysis of variance; Fisher, 1925). Of rows that do
        not depend on one another it is the number of blocks less one, times the variance, on average.
        """
        if self._row_count == 0:
            return np.zeros(self._sums.shape[1])
        n_blocks = -(-self._row_count // self._block_rows)
        sizes = np.full(n_blocks, self._block_rows, dtype=np.float64)
        sizes[-1] = self._row_count - self._block_rows * (n_blocks - 1)
        sums = self._sums[:n_blocks].astype(np.float64)
        within = (sums**2 / sizes[:, np.newaxis]).sum(axis=0)
        found: FloatArray = np.maximum(within - sums.sum(axis=0) ** 2 / self._row_count, 0.0)
        return found
