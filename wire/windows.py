"""What a device counts of a model's features and answers, as it crosses the wire.

The texts below fields are their meaning in `docs/topics.md`; run `make docs` after changing one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Final

from pydantic import (
    AfterValidator,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
)

from .ids import Digest, ModelName, Version
from .messages import Count, Part, Record, Seconds, UnixMs

MAX_COLUMNS: Final = 512
"""Columns of one model that a device counts."""
MAX_COLUMN_COUNTS: Final = 260
"""Of one column: 256 categories or bins and what stands beside them."""
MAX_PART_COLUMNS: Final = 96
MAX_PART_BYTES: Final = 4608
"""Of one record's columns as JSON, so that a record stays below 8 kB; one column always fits."""
MAX_BLOCKS: Final = 16
"""Of the rows of a window, for `between`. With fewer, longer blocks little would be left to
extrapolate, and few degrees of freedom."""
MAX_BETWEEN: Final = 1e20
"""Of 2^48 rows in the last of 260 places."""
MAX_POSITION: Final = 2**22
"""Among the columns of a baseline: 64 tensors of 65,536 columns each."""
SCORE_BINS: Final = 20
"""A device that sends these lets expected accuracy be estimated to 0.003."""


class CheckCounts(Part):
    """Counts by what the bundle's schema, or its `nan_policy`, has against a value."""

    range: Count = 0
    """Below or above what the feature may be."""
    category: Count = 0
    """A category that the feature does not know."""
    missing: Count = 0
    """NaN."""
    infinite: Count = 0


def _refuse_long(columns: tuple[tuple[int, ...], ...]) -> tuple[tuple[int, ...], ...]:
    if sum(map(column_bytes, columns)) > MAX_PART_BYTES:
        raise ValueError(f"Columns should take at most {MAX_PART_BYTES} bytes")
    return columns


def column_bytes(column: Sequence[int]) -> int:
    """Return how much the counts of a column take as JSON, brackets and commas included."""
    return 3 + sum(len(str(count)) + 1 for count in column)


ColumnCounts = Annotated[tuple[Count, ...], Field(max_length=MAX_COLUMN_COUNTS, fail_fast=True)]


class WindowTelemetry(Record):
    """How the rows that one model answered in one window fell into its baseline's bins.

    Windows of one manifest add up, over time and over devices. One that is too long for a record
    comes in several, all with the same `start_unix_ms`; the one whose `first` is 0 has `row_count`.
    """

    start_unix_ms: UnixMs
    """When the window began."""
    duration_s: Seconds
    """Length of the window."""
    model: ModelName
    version: Version
    manifest: Digest
    row_count: Count
    """Rows answered in the window; the same in each of its records, so add it once."""
    first: Annotated[int, Field(ge=0, le=MAX_POSITION)] = 0
    """Position of the first of `columns` among the baseline's `inputs` and, after these, `outputs`."""
    columns: Annotated[
        tuple[ColumnCounts, ...],
        Field(
            max_length=MAX_PART_COLUMNS,
            fail_fast=True,
            json_schema_extra={"maxBytes": MAX_PART_BYTES},
        ),
        AfterValidator(_refuse_long),
    ] = ()
    """Counts of each column. Numbers: those of its bins, then NaN, below `low`, above `high`; the
    last two stand in the first or last bin as well. Labels: those of its categories, then of all
    others. Zeros at the end are left out. A column that was not counted, or was in no answer that was
    asked for, has fewer than `row_count`."""
    between: Annotated[
        tuple[Annotated[float, Field(ge=0, le=MAX_BETWEEN)], ...],
        Field(max_length=MAX_PART_COLUMNS, fail_fast=True),
    ] = ()
    """How far rows of one time are alike, for each of `columns`; or nothing. A row's value is its place
    among the column's counts, `below` and `above` aside. The rows in their order are cut into blocks of
    the least power of two with which 16 suffice. This is the sum of S² / n over blocks, less that of all rows
    as one block, S being the sum of a block's values and n its rows."""
    scores: Annotated[tuple[Count, ...], Field(max_length=SCORE_BINS, fail_fast=True)] = ()
    """Rows by their highest class probability, in 20 equal bins of 0 to 1; where `first` is 0 and the
    baseline names its `probabilities`."""
    flagged: CheckCounts | None = None
    """Values that were odd and answered all the same; where `first` is 0, null without any."""
    rejected: CheckCounts | None = None
    """Requests that were refused, each by its first fault; the same."""

    @model_serializer(mode="wrap")
    def _without_what_is_not_there(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what says nothing: there are many windows, and each byte of one counts."""
        fields: dict[str, Any] = write(self)
        return {name: value for name, value in fields.items() if value not in (None, (), [])}
