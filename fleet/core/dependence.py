"""How many independent rows a window is worth: the design effect of rows in time.

Rows of a sensor resemble the rows before them. The variance of a window's shares is then larger by
a factor, the *design effect* (Kish, Survey Sampling, 1965), and m rows count as m / effect.

Two estimates, both blind to a lasting shift. *Within* windows: the device cuts its rows into at
most 16 blocks and sends the sum of squares between them, of the position of each row's bin (a
one-way analysis of variance); what correlation longer than a block adds is extrapolated as of a
first-order autoregression. *Between* windows: how far successive windows lie apart, against what
their rows explain. The first has many degrees of freedom from the first hour on but a model; the
second needs a day, and none.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy import special

from wire.windows import MAX_BLOCKS

from .windows import block_rows

FloatArray = npt.NDArray[np.float64]

UNKNOWN_EFFECT: Final = 20.0
"""Where nothing varied or nothing was sent: an autoregression of 0.9, about one row in twenty."""

CONTRADICTION: Final = 0.01
"""Chance at which a larger scatter between windows refutes the model within them."""

_GRID: Final = np.geomspace(1.0, 1e5, 121)
_LAG_ONE: Final = (_GRID - 1) / (_GRID + 1)
"""Effects, and the autoregressions that have them: (1 + rho) / (1 - rho)."""


@dataclass(frozen=True, slots=True)
class Effect:
    """A design effect, at least 1, and the degrees of freedom it was estimated with."""

    factor: float
    degrees: float


UNKNOWN: Final = Effect(UNKNOWN_EFFECT, np.inf)


def position_variance(counts: npt.NDArray[Any]) -> FloatArray:
    """Return the variance of the position of a row's cell, by counts of shape (…, n_cells).

    With the rows less one below; 0 for fewer than two rows.
    """
    positions = np.arange(counts.shape[-1], dtype=np.float64)  # of integers, squares would overflow
    rows = counts.sum(axis=-1)
    safe = np.maximum(rows, 1)
    mean = (counts * positions).sum(axis=-1) / safe
    squares = (counts * positions**2).sum(axis=-1) / safe - mean**2
    variance: FloatArray = np.where(rows > 1, squares * safe / np.maximum(rows - 1, 1), 0.0)
    return np.maximum(variance, 0.0)


def mean_variance(lag_one: FloatArray, rows: float) -> FloatArray:
    """Return the variance of the mean of `rows` rows of an autoregression with variance 1.

    (1 + 2 sum over h of (1 - h/L) rho^h) / L, in closed form.
    """
    rest = 1 - lag_one
    inner = lag_one / rest - lag_one * (1 - lag_one**rows) / (rows * rest**2)
    return np.asarray((1 + 2 * inner) / rows)


def within(between: float, expected: float, degrees: float, rows: float) -> Effect | None:
    """Return the effect by the sums of squares between blocks, or None where nothing varied.

    Args:
        between: What the devices sent, summed over windows.
        expected: (blocks - 1) * variance of the position, summed likewise.
        degrees: Blocks less one, summed.
        rows: Of one window of one device, on average.
    """
    if expected <= 0 or degrees < 1 or rows < 2 * MAX_BLOCKS:
        return None
    length = block_rows(int(rows))
    blocks = rows / length
    whole, parts = mean_variance(_LAG_ONE, rows), mean_variance(_LAG_ONE, float(length))
    # Both sums of squares are about the window's own mean, which takes its variance away.
    ratios = blocks / (blocks - 1) * length * (parts - whole) / (1 - whole) * (rows - 1) / rows
    return _inverted(between / expected, ratios, degrees)


def _inverted(ratio: float, ratios: FloatArray, degrees: float) -> Effect:
    """Return the effect at which `ratio` is to be expected.

    An error of 1 % in the ratio is one of `slope` % in the factor: the longer the correlation
    beside what was measured, the larger, and the fewer degrees are left.

    Args:
        ratio: Measured variance over that of independent rows.
        ratios: What is to be expected of it, one for each of `_GRID`.
        degrees: It was measured with.
    """
    rising = np.maximum.accumulate(ratios)
    if ratio <= rising[0]:
        return Effect(1.0, degrees)
    factor = float(np.exp(np.interp(np.log(ratio), np.log(rising), np.log(_GRID))))
    at = min(int(np.searchsorted(rising, ratio)), _GRID.size - 1)
    rise = float(np.log(rising[at] / rising[at - 1]))
    slope = max(1.0, float(np.log(_GRID[at] / _GRID[at - 1])) / max(rise, 1e-6))
    return Effect(factor, degrees / slope**2)


def scatters(
    counts: npt.NDArray[Any], shares: FloatArray, ends: Iterable[int]
) -> dict[int, Effect | None]:
    """Return the effect by successive differences (von Neumann, 1941) of the first `end` windows.

    The larger of two: of the mean position, along which what is measured moves, and over all
    cells. Successive differences, so that a slow change does not count as scatter; what two
    neighbours share is added as of a first-order autoregression.

    Args:
        counts: Shape (n_windows, n_cells), in order of time; windows without rows are left out.
        shares: The reference's, shape (n_cells,).
        ends: Each at most n_windows.

    Returns:
        For each end the effect, or None where fewer than two windows have rows or nothing varies.
    """
    has_rows = counts.sum(axis=1) > 0
    used = counts[has_rows]
    before = np.cumsum(np.append(0, has_rows))
    if len(used) < 2:
        return dict.fromkeys(ends)
    rows = used.sum(axis=1)
    steps = np.diff(used / rows[:, None], axis=0)
    sizes = 1 / (1 / rows[1:] + 1 / rows[:-1])
    along = sizes * (steps @ np.arange(used.shape[1])) ** 2
    usual = (shares + used.sum(axis=0) / rows.sum()) / 2
    is_used = usual > 0
    over = sizes * (steps[:, is_used] ** 2 / usual[is_used]).sum(axis=1)
    over /= max(int(is_used.sum()) - 1, 1)
    return {
        end: _scatter(used[: before[end]], along, over, float(rows.mean())) if end > 0 else None
        for end in ends
    }


def _scatter(
    used: npt.NDArray[Any], along: FloatArray, over: FloatArray, usual_rows: float
) -> Effect | None:
    steps = len(used) - 1
    variance = float(position_variance(used.sum(axis=0))) if steps > 0 else 0.0
    if variance <= 0:
        return None
    # Successive differences share windows: 2/3 of the degrees (von Neumann).
    degrees = steps * 2 / 3
    singles, pairs = (mean_variance(_LAG_ONE, times * usual_rows) for times in (1, 2))
    moved = _inverted(
        float(along[:steps].mean()) / variance, 2 * usual_rows * (singles - pairs), degrees
    )
    return Effect(max(moved.factor, float(over[:steps].mean())), moved.degrees)


def combined(inside: Effect | None, outside: Effect | None) -> Effect:
    """Return the effect to use; the model within windows holds until the scatter refutes it."""
    if inside is None:
        return UNKNOWN if outside is None else outside
    if outside is None:
        return inside
    if inside.degrees < outside.degrees:
        return outside
    if outside.factor > inside.factor:
        ratio = outside.factor / inside.factor
        chance = special.fdtrc(outside.degrees, inside.degrees, ratio)
        if chance < CONTRADICTION:
            return outside
    return Effect(max(inside.factor, outside.factor), inside.degrees)
