"""Whether a column of a stream of windows has drifted from its reference.

A *stream* is the windows of one device, of a group, or of the fleet. Its newest 1, 2, 4, … 64
windows are merged and each stretch is tested (`shift_test`) at a level that a budget of false
alarms allows; rows that depend on each other count as fewer (`dependence`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

import numpy as np
import numpy.typing as npt

from wire.histogram import CategoryColumn, Column, psi, reference_counts

from . import dependence
from .dependence import Effect
from .distances import jensen_shannon_bits, wasserstein_bins
from .shift_test import TOLERANCE, harmonic_rows, pooled, statistic, tail

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

SCALES: Final = (1, 2, 4, 8, 16, 32, 64)
"""Windows that are tested together: from a quarter of an hour to 16 hours."""

HISTORY: Final = 96
"""Windows kept, a day: the longest stretch, and a third of a day before it to see the scatter."""

LARGE_SHIFT: Final = 0.25
"""In PSI; what "stable" rules out. Siddiqi's limit of a shift that asks for action."""

CLEAR_LEVEL: Final = 1e-3
"""An alarm lasts while its stretch is less likely than this: far from the level that raised it."""

MIN_QUIET: Final = 4
"""Windows that an alarm needs to be quiet for at least before it ends."""

SETTLING: Final = 8
"""Newest windows that never tell the scatter: the step of a drift among them would be taken for it."""

MIN_MERGED_DEGREES: Final = 8.0
"""Of the scatter, some twelve windows before the newest, until a merged stream is judged: that its
devices move together by chance shows in no single one of them."""


class Level(StrEnum):
    """What a stream is merged over."""

    FLEET = "fleet"
    GROUP = "group"
    DEVICE = "device"


SHARES: Final = {Level.FLEET: 0.25, Level.GROUP: 0.25, Level.DEVICE: 0.5}
"""Of the budget. A level's test hardly depends on its share: half of it costs 0.7 nats of 20."""


class Kind(StrEnum):
    """What can be said of a column."""

    NO_BASELINE = "no_baseline"
    REFERENCE_TOO_SMALL = "reference_too_small"
    TOO_FEW_ROWS = "too_few_rows"
    STABLE = "stable"
    DRIFTED = "drifted"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the newest windows say.

    Attributes:
        kind: `STABLE` says that a shift of `LARGE_SHIFT` would probably have been found.
        p_value: Chance of such a distance while the shift is within the tolerance; the lowest
            over the stretches. 1 where nothing was tested, or no further than the tolerance.
        p_values: That of each of `SCALES`; 1 where there are not so many windows.
        windows: Of the stretch with the lowest; all below is about it.
        since_unix_ms: Its start.
        rows: In it.
        effective_rows: As many independent ones would be worth as much.
        psi: Its shift, nats, as everybody computes it.
        js_bits: Jensen-Shannon divergence, as TFDV computes it.
        wasserstein_bins: Over how many bins a row moved on average; None for categories.
    """

    kind: Kind
    p_value: float = 1.0
    p_values: tuple[float, ...] = (1.0,) * len(SCALES)
    windows: int = 0
    since_unix_ms: int = 0
    rows: int = 0
    effective_rows: float = 0.0
    psi: float = 0.0
    js_bits: float = 0.0
    wasserstein_bins: float | None = None


@dataclass(frozen=True, slots=True)
class Reference:
    """A baseline's column.

    Attributes:
        counts: Of all cells, what is missing or of no category last.
        is_ordered: Whether the cells but the last are bins of numbers.
        effect: Design effect of the reference's rows. The converter does not tell, so they count
            as independent, which a sample of a longer recording is.
    """

    counts: tuple[int, ...]
    is_ordered: bool
    effect: float = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class History:
    """The newest windows of one column of a stream, oldest first; about 10 kB when full.

    Attributes:
        starts: Unix milliseconds, shape (n_windows,).
        counts: Shape (n_windows, n_cells).
        blocks: Shape (n_windows, 5).
    """

    starts: IntArray
    counts: IntArray
    blocks: FloatArray


@dataclass(frozen=True, slots=True)
class Alarm:
    """A drift that lasts.

    Attributes:
        since_unix_ms: Start of the stretch that it was found in.
        windows: Of that stretch.
        quiet: Windows in a row in which a stretch as long was no longer unlikely.
    """

    since_unix_ms: int
    windows: int
    quiet: int = 0


def reference_of(column: Column | CategoryColumn) -> Reference:
    """Return what a baseline says of a column."""
    counts = tuple(int(count) for count in reference_counts(column))
    return Reference(counts, is_ordered=isinstance(column, Column))


def chance_per_test(
    level: Level,
    stream_count: int,
    column_count: int,
    *,
    alarms_per_30_days: float = 1.0,
    window_s: float = 900.0,
) -> float:
    """Return the chance that one test of a stretch may have to be a false alarm.

    The budget times the level's share, divided by all tests of 30 days: streams, columns, windows
    and stretches. The sum of the chances bounds the expected number of alarms however the tests
    depend on each other (Boole's inequality).

    Args:
        level: Which share.
        stream_count: Groups or devices; 1 for the fleet.
        column_count: Of each of them.
        alarms_per_30_days: The budget, for everything together.
        window_s: Length of a window.
    """
    windows = 30 * 86_400 / window_s
    tests = max(stream_count, 1) * max(column_count, 1) * windows * len(SCALES)
    return min(1.0, alarms_per_30_days * SHARES[level] / tests)


def judge(
    reference: Reference | None,
    history: History,
    level: float,
    *,
    is_merged: bool = False,
    tolerance: float = TOLERANCE,
) -> Verdict:
    """Return what the newest windows say; total, whatever the counts.

    Args:
        reference: None where the bundle has no baseline of the column.
        history: Of the stream.
        level: Of one test, see `chance_per_test`.
        is_merged: Whether the stream is of several devices.
        tolerance: In PSI: a smaller shift is none.
    """
    if reference is None or sum(reference.counts) <= 0:
        return Verdict(Kind.NO_BASELINE)
    if history.counts.shape[1] != len(reference.counts) or not history.counts.any():
        return Verdict(Kind.TOO_FEW_ROWS)
    cells = np.asarray(reference.counts, dtype=np.float64)
    scales = [scale for scale in SCALES if scale <= len(history.starts)]
    effects = _effects(cells, history, scales, is_merged=is_merged)
    looks = [
        _look(cells, reference.effect, history, scale, effects[scale], tolerance=tolerance)
        for scale in scales
    ]
    p_values = tuple(look.p_value for look in looks) + (1.0,) * (len(SCALES) - len(looks))
    best = min(looks, key=lambda look: look.p_value)
    verdict = _described(reference, history, best)
    kind = (
        Kind.DRIFTED
        if best.p_value <= level
        else _undecided(cells, reference, looks, level, tolerance)
    )
    return replace(verdict, kind=kind, p_values=p_values)


def follow(alarm: Alarm | None, verdict: Verdict) -> Alarm | None:
    """Return the alarm after one more window: one drift is one alarm, however long it lasts.

    It ends when a stretch as long as that which raised it, all of it later than the drift, is no
    longer unlikely. While nothing is known of what its rows are worth, as after a pause, those that are
    shifted are no such stretch.
    """
    if verdict.kind is Kind.DRIFTED:
        if alarm is None:
            return Alarm(verdict.since_unix_ms, verdict.windows)
        return replace(alarm, quiet=0)
    if alarm is None or (verdict.effective_rows <= 0 and verdict.psi > TOLERANCE):
        return alarm
    if verdict.p_values[SCALES.index(alarm.windows)] <= CLEAR_LEVEL:
        return replace(alarm, quiet=0)
    quiet = alarm.quiet + 1
    return None if quiet >= max(MIN_QUIET, alarm.windows) else replace(alarm, quiet=quiet)


@dataclass(frozen=True, slots=True)
class _Look:
    """One stretch, tested."""

    windows: int
    p_value: float
    rows: int
    effective_rows: float
    spread_degrees: float
    degrees: int


def _effects(
    cells: FloatArray, history: History, scales: list[int], *, is_merged: bool
) -> dict[int, Effect | None]:
    """Return the design effect for each stretch, by what lies before it; None is not known yet."""
    between, expected, degrees, squares, rows = history.blocks.sum(axis=0)
    inside = dependence.within(between, expected, degrees, squares / rows) if rows > 0 else None
    ends = {scale: max(len(history.starts) - max(scale, SETTLING), 0) for scale in scales}
    outside = dependence.scatters(history.counts, cells / cells.sum(), set(ends.values()))
    return {scale: _effect(inside, outside[ends[scale]], is_merged=is_merged) for scale in scales}


def _effect(inside: Effect | None, outside: Effect | None, *, is_merged: bool) -> Effect | None:
    if not is_merged:
        return dependence.combined(inside, outside)
    if outside is None or outside.degrees < MIN_MERGED_DEGREES:
        return None
    factor = outside.factor if inside is None else max(inside.factor, outside.factor)
    return Effect(factor, outside.degrees)


def _look(
    cells: FloatArray,
    reference_effect: float,
    history: History,
    windows: int,
    effect: Effect | None,
    *,
    tolerance: float,
) -> _Look:
    counts = history.counts[-windows:].sum(axis=0)
    rows = int(counts.sum())
    if rows == 0 or effect is None:
        return _Look(windows, 1.0, rows, 0.0, np.inf, 0)
    n, m = cells.sum() / reference_effect, rows / effect.factor
    both = pooled(cells, counts, n + m)
    degrees = both.shape[1] - 1
    value = float(statistic(both[0], both[1], n, m))
    shift = tolerance * harmonic_rows(n, m)
    # Below the mean nothing has drifted, and the chance, about a half, need not be worked out.
    is_far = value > degrees + shift
    chance = tail(value, degrees, shift, effect.degrees) if is_far else 1.0
    return _Look(windows, chance, rows, m, effect.degrees, degrees)


def _undecided(
    cells: FloatArray, reference: Reference, looks: list[_Look], level: float, tolerance: float
) -> Kind:
    """Return whether a large shift would have been found, in the median, by the longest stretch."""
    n = float(cells.sum()) / reference.effect
    look = looks[-1]

    def would_miss(rows: float, spread_degrees: float) -> bool:
        typical = look.degrees + LARGE_SHIFT * rows
        return tail(typical, look.degrees, tolerance * rows, spread_degrees) > level

    if len(cells) > 1 and look.degrees > 0 and would_miss(n, np.inf):
        return Kind.REFERENCE_TOO_SMALL
    if look.effective_rows <= 0:
        return Kind.TOO_FEW_ROWS
    if look.degrees > 0 and would_miss(harmonic_rows(n, look.effective_rows), look.spread_degrees):
        return Kind.TOO_FEW_ROWS
    return Kind.STABLE


def _described(reference: Reference, history: History, look: _Look) -> Verdict:
    counts = history.counts[-look.windows :].sum(axis=0)
    cells = np.asarray(reference.counts, dtype=np.int64)
    is_seen = look.rows > 0
    return Verdict(
        Kind.STABLE,
        p_value=look.p_value,
        windows=look.windows,
        since_unix_ms=int(history.starts[-look.windows]),
        rows=look.rows,
        effective_rows=look.effective_rows,
        psi=float(psi(cells, counts)) if is_seen else 0.0,
        js_bits=jensen_shannon_bits(cells, counts),
        wasserstein_bins=wasserstein_bins(cells[:-1], counts[:-1])
        if reference.is_ordered
        else None,
    )
