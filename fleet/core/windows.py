"""Windows of counts, added up: by slot of time, so that late and early ones find their place.

A slot is a span of the clock, the same for all devices. What a device counted in a window goes to the
slot in which the window ended; the sums of two windows are the window of both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from fleet.core.clock import EARLIEST_UNIX_MS
from wire.windows import MAX_BLOCKS, WindowTelemetry

from .counts import MAX_COUNTED, added, added_each

MAX_AHEAD_MS: Final = 60_000
"""A window that ended later than this from now was dated by a wrong clock."""
MAX_BEHIND_MS: Final = 730 * 24 * 3_600_000
"""So was one that ended longer ago than windows are kept: a device may have been away for months."""


Blocks = tuple[float, float, float, float, float]
"""What says how the rows of a column depend on each other: sum of squares of the bin positions
between blocks of rows, what it would be on average if they did not, degrees of freedom of both,
squared rows, rows. All 0 where the device does not tell."""
NO_BLOCKS: Final[Blocks] = (0.0, 0.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class ColumnSums:
    """One column over a window or several.

    Attributes:
        counts: As in `WindowTelemetry.columns`, zeros at the end left out.
        blocks: See `Blocks`.
    """

    counts: tuple[int, ...]
    blocks: Blocks = NO_BLOCKS


@dataclass(frozen=True, slots=True)
class WindowSums:
    """What a model answered over a window or several.

    Attributes:
        row_count: Rows answered.
        columns: By their position among the columns of the baseline.
        scores: Rows by their highest class probability, zeros at the end left out.
    """

    row_count: int = 0
    columns: Mapping[int, ColumnSums] = field(default_factory=dict)
    scores: tuple[int, ...] = ()


def of_record(record: WindowTelemetry, cells: Sequence[int]) -> WindowSums:
    """Return the sums of one record.

    What its baseline does not have is left out, and so is a column with more than the record's rows: a
    device may say anything. Of rows beyond `MAX_COUNTED` there are so many.

    Args:
        record: One part of a window; only the first has its rows and scores.
        cells: For each column of the baseline, how many counts divide its rows: bins and missing,
            or categories and other.
    """
    rows = min(record.row_count, MAX_COUNTED)
    columns = {
        position: _column(counts, cells[position], between)
        for position, (counts, between) in enumerate(
            zip(record.columns, _padded(record.between, len(record.columns)), strict=True),
            record.first,
        )
        if position < len(cells) and _is_possible(counts, cells[position], rows)
    }
    if record.first != 0:
        return WindowSums(0, columns)
    return WindowSums(rows, columns, record.scores if sum(record.scores) <= rows else ())


def merged(one: WindowSums, other: WindowSums) -> WindowSums:
    """Return the sums of both, see `counts.added`."""
    blank = ColumnSums(())
    positions = sorted(one.columns.keys() | other.columns.keys())
    return WindowSums(
        added(one.row_count, other.row_count),
        {p: _added(one.columns.get(p, blank), other.columns.get(p, blank)) for p in positions},
        added_each(one.scores, other.scores),
    )


def slot_start(ended_unix_ms: int, received_unix_ms: int, slot_ms: int) -> int:
    """Return when the slot began in which a window ended.

    One with an impossible date ended when it arrived.
    """
    age_ms = received_unix_ms - ended_unix_ms
    is_possible = -MAX_AHEAD_MS <= age_ms <= MAX_BEHIND_MS and not (
        ended_unix_ms < EARLIEST_UNIX_MS <= received_unix_ms
    )
    return (ended_unix_ms if is_possible else received_unix_ms) // slot_ms * slot_ms


def block_rows(row_count: int) -> int:
    """Return the rows of a block: the smallest power of two with at most `MAX_BLOCKS` blocks."""
    return 1 << (-(-max(row_count, 1) // MAX_BLOCKS) - 1).bit_length()


def blocks_of(counts: Sequence[int], between: float) -> Blocks:
    """Return the sums of one window of one device; none where nothing varied.

    Args:
        counts: Of all cells, one for each position.
        between: As the device sent it: a one-way analysis of variance of the position, over blocks
            of the smallest power of two of rows that makes at most `MAX_BLOCKS` of them.
    """
    rows = sum(counts)
    if rows < 2:
        return NO_BLOCKS
    mean = sum(place * count for place, count in enumerate(counts)) / rows
    squares = sum((place - mean) ** 2 * count for place, count in enumerate(counts))
    degrees = -(-rows // block_rows(rows)) - 1
    expected = degrees * squares / (rows - 1)
    if expected <= 0:
        return NO_BLOCKS
    return (between, expected, float(degrees), float(rows) * rows, float(rows))


def _is_possible(counts: Sequence[int], cells: int, rows: int) -> bool:
    """Whether a column has its own counts alone, and those of at most `rows` rows."""
    beside = counts[cells:]
    return len(beside) <= 2 and sum(counts[:cells]) <= rows and max(beside, default=0) <= rows


def _column(counts: Sequence[int], cells: int, between: float | None) -> ColumnSums:
    blocks = NO_BLOCKS if between is None else blocks_of(counts[:cells], between)
    return ColumnSums(tuple(counts), blocks)


def _added(one: ColumnSums, other: ColumnSums) -> ColumnSums:
    a, b = one.blocks, other.blocks
    blocks = (a[0] + b[0], a[1] + b[1], a[2] + b[2], a[3] + b[3], a[4] + b[4])
    return ColumnSums(added_each(one.counts, other.counts), blocks)


def _padded(between: Sequence[float], size: int) -> list[float | None]:
    return [*between, *([None] * size)][:size]
