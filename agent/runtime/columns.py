"""Counts of every input feature and output column of one model, over the bins of its baseline."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from agent.control import MAX_COUNTS
from wire.histogram import (
    MAX_LIMITED,
    Baseline,
    CategoryColumn,
    Column,
    IntArray,
    score_counts,
)
from wire.manifest import TensorSpec, column_names
from wire.schema import Reason
from wire.windows import MAX_COLUMNS, SCORE_BINS

from .blocks import Blocks
from .checks import InputChecks
from .thresholds import Thresholds

Array = npt.NDArray[Any]
Side = Literal["input", "output"]

MAX_BASELINE_BYTES: Final = 4 * 1024 * 1024
"""Of thousands of columns; a larger one is not read, and nothing is counted of its model."""
MAX_BINS: Final = 257
"""Of a column that is counted: what `wire.windows.MAX_COLUMN_COUNTS` leaves beside three others."""
MAX_WAITING_BYTES: Final = 512 * 1024
"""Of rows that are kept until they are counted: 2,000 rows of 64 features. The request that goes
beyond may be as large as its body's cap allows."""
ARRAY_BYTES: Final = 256
"""What an array takes beside its elements."""
TEXT_BYTES: Final = 64
"""What a string takes beside its characters."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the counts of a column stand among all counts of its model.

    `size` is 0 for one that is not counted; `labels` has the places of categories from there.
    """

    column: Column | CategoryColumn
    start: int
    size: int
    labels: Mapping[str, int]

    @property
    def is_of_labels(self) -> bool:
        """Whether it is counted by category."""
        return isinstance(self.column, CategoryColumn) and self.size > 0

    @property
    def bins(self) -> int:
        """Those of the baseline, what is missing or of no category included."""
        return len(self.column.counts) + 1


@dataclass(frozen=True, slots=True)
class Run:
    """Columns side by side, from position `first` on: the counts of each, and `Blocks.between`."""

    first: int
    columns: tuple[tuple[int, ...], ...] = ()
    between: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Window:
    """What was counted in one window."""

    row_count: int
    runs: tuple[Run, ...]
    scores: tuple[int, ...]
    flagged: dict[Reason, int]
    rejected: dict[Reason, int]


class ColumnCounts:
    """Counts of one model since it began to serve, and in the window; for the event loop only."""

    def __init__(
        self,
        baseline: Baseline | None,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        checks: InputChecks | None = None,
    ) -> None:
        """Begin with nothing; without a baseline no column is ever counted.

        Args:
            baseline: Of the model.
            inputs: As in its manifest.
            outputs: The same.
            checks: Says which values are odd.
        """
        self._checks = checks
        self._flagged: Counter[Reason] = Counter()
        self._rejected: Counter[Reason] = Counter()
        baseline = baseline or Baseline(row_count=0, inputs=(), outputs=())
        self._baseline = baseline
        self._places = _places(baseline)
        size = sum(place.size for place in self._places.values())
        # The last one takes what belongs nowhere, such as bins that a column does not have.
        self._counts: IntArray = np.zeros(size + 1, dtype=np.int64)
        self._earlier: IntArray = np.zeros_like(self._counts)
        self._scores: IntArray = np.zeros(SCORE_BINS, dtype=np.int64)
        self._row_count = 0
        self._inputs = {spec.name: spec for spec in inputs}
        self._positions: dict[Side, _Positions] = {
            "input": _Positions([column.name for column in baseline.inputs], 0),
            "output": _Positions([c.name for c in baseline.outputs], len(baseline.inputs)),
        }
        self._blocks: dict[int, Blocks] = {}
        self._tables: dict[tuple[int, int, str], Thresholds] = {}
        self._waiting: list[tuple[Side, TensorSpec, Array]] = []
        self._waiting_bytes = 0

    def add(
        self,
        n_rows: int,
        feeds: Mapping[str, Array],
        outputs: Sequence[TensorSpec],
        answers: Sequence[Array],
    ) -> None:
        """Take the rows of a request that was answered, to be counted later.

        Args:
            n_rows: Their number; a tensor of any other first dimension has no rows.
            feeds: Inputs by name, each of shape (n_rows, …).
            outputs: What was asked for.
            answers: One for each of these, shape (n_rows, …).
        """
        self._row_count += n_rows
        tensors: list[tuple[Side, TensorSpec, Array]] = [
            *(("input", self._inputs[name], rows) for name, rows in feeds.items()),
            *(("output", spec, rows) for spec, rows in zip(outputs, answers, strict=True)),
        ]
        for side, spec, rows in tensors:
            if rows.ndim and len(rows) == n_rows and rows.size:
                self._waiting.append((side, spec, rows))
                self._waiting_bytes += _size_bytes(rows)
        if self._waiting_bytes >= MAX_WAITING_BYTES:
            self._settle()

    def refused(self, reason: Reason) -> None:
        """Take note of a request that was refused."""
        self._rejected[reason] += 1

    def outputs(self) -> Iterable[tuple[Column | CategoryColumn, IntArray]]:
        """Yield each output column that is counted with its counts since the start.

        What is missing or of no category is last; what is below or above is left out.
        """
        self._settle()
        total = self._earlier + self._counts
        for position, place in self._places.items():
            if position >= len(self._baseline.inputs) and place.size:
                yield place.column, total[place.start : place.start + place.bins]

    def close_window(self) -> Window:
        """Return the window and begin the next one."""
        self._settle()
        window = Window(
            self._row_count,
            tuple(self._runs()) if self._row_count else (),
            _trimmed(self._scores),
            {reason: count for reason, count in self._flagged.items() if count},
            dict(self._rejected),
        )
        self._flagged.clear()
        self._rejected.clear()
        self._earlier += self._counts
        self._counts[:] = 0
        self._scores[:] = 0
        self._blocks.clear()
        self._row_count = 0
        return window

    def _runs(self) -> Iterable[Run]:
        between = {
            start + number: float(f"{value:.4g}")
            for start, blocks in self._blocks.items()
            for number, value in enumerate(blocks.between().tolist())
        }
        positions = sorted(self._places)
        begins = [p for p in positions if p == 0 or p - 1 not in self._places]
        for begin in begins:
            run: list[tuple[int, ...]] = []
            while (place := self._places.get(begin + len(run))) is not None:
                run.append(_trimmed(self._counts[place.start : place.start + place.size]))
            places = range(begin, begin + len(run))
            yield Run(begin, tuple(run), tuple(between.get(place, 0.0) for place in places))

    def _settle(self) -> None:
        waiting, self._waiting, self._waiting_bytes = self._waiting, [], 0
        groups: dict[tuple[Side, str, tuple[int, ...], str], tuple[TensorSpec, list[Array]]] = {}
        for side, spec, rows in waiting:
            key = (side, spec.name, rows.shape[1:], rows.dtype.str)
            groups.setdefault(key, (spec, []))[1].append(rows)
        for (side, *_), (spec, parts) in groups.items():
            self._count(side, spec, parts[0] if len(parts) == 1 else np.concatenate(parts))

    def _count(self, side: Side, spec: TensorSpec, rows: Array) -> None:
        flat = rows.reshape(len(rows), -1)
        width = flat.shape[1]
        if side == "input" and self._checks is not None:
            self._flagged.update(self._checks.flag(spec.name, flat))
        start = self._positions[side].start_of(spec, width)
        if start is None:
            return
        if start not in self._blocks:
            self._blocks[start] = Blocks(width)
        blocks = self._blocks[start]
        for block, begin, end in blocks.take(len(flat)):
            blocks.add(block, self._count_part(start, flat[begin:end]))
        if side == "output" and self._is_table(spec, flat):
            self._scores += score_counts(flat)

    def _count_part(self, start: int, rows: Array) -> IntArray:
        """Count rows of shape (n_rows, width); return the sums of their places in each column."""
        width = rows.shape[1]
        sums: IntArray = np.zeros(width, dtype=np.int64)
        if rows.dtype.kind in "fiub":
            sums += self._thresholds(start, width, rows.dtype).count(rows, self._counts)
        for number in range(width):
            place = self._places.get(start + number)
            if place is not None and place.is_of_labels:
                sums[number] = self._count_labels(place, rows[:, number])
        return sums

    def _is_table(self, spec: TensorSpec, flat: Array) -> bool:
        is_named = spec.name == self._baseline.probabilities
        return is_named and flat.dtype.kind == "f" and flat.shape[1] > 1

    def _thresholds(self, start: int, width: int, dtype: np.dtype[Any]) -> Thresholds:
        key = (start, width, dtype.str)
        if key not in self._tables:
            columns = {
                number: (place.column, place.start)
                for number in range(width)
                if (place := self._places.get(start + number)) is not None
                and place.size
                and isinstance(place.column, Column)
            }
            self._tables[key] = Thresholds(columns, width, dtype, rest=self._counts.size - 1)
        return self._tables[key]

    def _count_labels(self, place: Place, values: Array) -> int:
        rest, total = place.size - 1, 0
        for value, number in Counter(values.tolist()).items():
            category = place.labels.get(str(value), rest)
            self._counts[place.start + category] += number
            total += category * number
        return total


class _Positions:
    """Finds the columns of a tensor among those of a baseline's inputs, or outputs."""

    def __init__(self, names: list[str], offset: int) -> None:
        self._names = names
        self._offset = offset
        self._known: dict[tuple[str, int], int | None] = {}

    def start_of(self, spec: TensorSpec, width: int) -> int | None:
        """Return the position of its first column; None where they are not there, or twice.

        Args:
            spec: The tensor.
            width: Its columns, which a client may choose where the manifest leaves them free.
        """
        if width > len(self._names):
            return None
        key = (spec.name, width)
        if key not in self._known:
            wanted, names = column_names(spec, width), self._names
            found = [
                start
                for start, name in enumerate(names)
                if name == wanted[0] and names[start : start + width] == wanted
            ]
            self._known[key] = found[0] + self._offset if len(found) == 1 else None
        return self._known[key]


def read_baseline(path: Path) -> Baseline | None:
    """Return the baseline in `path`; None where it says nothing that can be used."""
    try:
        if path.stat().st_size > MAX_BASELINE_BYTES:
            return None
        return Baseline.model_validate(msgspec.json.decode(path.read_bytes(), type=dict[str, Any]))
    # Beside its own errors msgspec lets through those of invalid UTF-8 and of deep nesting.
    except (OSError, msgspec.DecodeError, ValueError, RecursionError):
        return None  # the manifest's digest covers it: an author's choice, not damage


def _places(baseline: Baseline) -> dict[int, Place]:
    """Return the columns that are counted, by position: the first ones that there is room for.

    The outputs with limits come first, since a guard needs them.
    """
    first = len(baseline.inputs)
    outputs = [(first + number, column) for number, column in enumerate(baseline.outputs)]
    chosen = [*outputs[:MAX_LIMITED], *enumerate(baseline.inputs), *outputs[MAX_LIMITED:]]
    places: dict[int, Place] = {}
    start = 0
    for position, column in chosen[:MAX_COLUMNS]:
        size = _size(column)
        if start + size > MAX_COUNTS:
            break
        categories = column.categories if isinstance(column, CategoryColumn) and size else ()
        labels = {label: number for number, label in enumerate(categories)}
        places[position] = Place(column, start, size, labels)
        start += size
    return places


def _size(column: Column | CategoryColumn) -> int:
    """Return how many counts a column takes; 0 for one that cannot be counted."""
    if isinstance(column, CategoryColumn):
        is_whole = len(column.counts) == len(column.categories)
        return len(column.counts) + 1 if is_whole else 0
    is_whole = len(column.counts) == len(column.edges) + 1 <= MAX_BINS
    is_whole = is_whole and list(column.edges) == sorted(set(column.edges))
    return len(column.counts) + 3 if is_whole else 0


def _size_bytes(rows: Array) -> int:
    size = ARRAY_BYTES + rows.nbytes
    if rows.dtype.kind == "O":
        size += sum(TEXT_BYTES + len(text) for text in rows.reshape(-1).tolist())
    return size


def _trimmed(counts: IntArray) -> tuple[int, ...]:
    """Return the counts without the zeros at their end."""
    found = counts.nonzero()[0]
    return tuple(counts[: found[-1] + 1].tolist()) if found.size else ()
