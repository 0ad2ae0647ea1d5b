"""Labels that come late, and what a device counts of the answers that they belong to.

The texts below fields are their meaning in `docs/topics.md`; run `make docs` after changing one.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from .ids import Digest, ModelName, Version
from .messages import Count, Message, Part, Record, Seconds, UnixMs
from .windows import SCORE_BINS

MAX_REQUEST_ID_CHARS: Final = 256
"""Of the id of an inference request."""
REQUEST_ID_PATTERN: Final = r"^[A-Za-z0-9._:/+=@-]{1,128}$"
"""What an id must be to be labelled from afar: with it the length of a message is known."""
MAX_LABEL_CHARS: Final = 128
MAX_RELAYED_LABELS: Final = 16
"""In one message; their text may be of any alphabet, so the sender looks at the bytes too."""
MAX_REQUEST_ROWS: Final = 2**24
"""More than the body of a request can hold."""
MAX_CLASSES: Final = 20
"""Sides of a confusion, any other class included."""
MAX_CELL: Final = 10**14 - 1
"""Of a confusion: so that a record of 20 by 20 of them still is below 8 kB."""
MAX_ERROR: Final = 1e100
"""Of a label of a regression: its square, times all rows there may be, is a number still."""
MAX_SQUARES: Final = 1e220


class GivenLabel(Part):
    """What turned out to be right for one row of one request."""

    id: Annotated[str, Field(pattern=REQUEST_ID_PATTERN)]
    """Of the request, as the application chose it."""
    label: Annotated[str, Field(max_length=MAX_LABEL_CHARS)]
    """The class, or the number, as text: `7`, `true`, `cat`, `0.25`."""
    row: Annotated[int, Field(ge=0, le=MAX_REQUEST_ROWS)] | None = None
    """Which row of the request, from 0; may be absent where it had one row."""
    version: Version | None = None
    """The release that is meant; one that does not serve is refused. Null is whatever serves."""


class Feedback(Message):
    """Labels for a device's answers, from the controller; what the device refuses it counts."""

    model: ModelName
    labels: Annotated[
        tuple[GivenLabel, ...],
        Field(min_length=1, max_length=MAX_RELAYED_LABELS, fail_fast=True),
    ]


class RefusedLabels(Part):
    """Labels that a device could do nothing with, by cause."""

    unknown_id: Count = 0
    """No answer with this id is remembered, or it has no such row."""
    already_labelled: Count = 0
    """The row has its label."""
    wrong_type: Count = 0
    """The model answers nothing of this kind."""
    other_version: Count = 0
    """Another release serves than the one that was meant."""


class ErrorSums(Part):
    """Sums over labelled rows of a regression; an error is the answer less the label."""

    error: Annotated[float, Field(ge=-MAX_SQUARES, le=MAX_SQUARES)] = 0.0
    absolute: Annotated[float, Field(ge=0, le=MAX_SQUARES)] = 0.0
    squared: Annotated[float, Field(ge=0, le=MAX_SQUARES)] = 0.0


class PerformanceTelemetry(Record):
    """How right one model's answers were, of those whose label came in one window.

    Windows of one manifest add up, over time and over devices.
    """

    start_unix_ms: UnixMs
    """When the window began. It is the labels' time; the answers are older."""
    duration_s: Seconds
    """Length of the window."""
    model: ModelName
    version: Version
    manifest: Digest
    labelled_count: Count
    """Rows whose label came."""
    correct_count: Count = 0
    """Of these, the rows whose answer was that label; 0 for a regression."""
    confusion: Annotated[
        tuple[Annotated[int, Field(ge=0, le=MAX_CELL)], ...],
        Field(max_length=MAX_CLASSES**2, fail_fast=True),
    ] = ()
    """Labelled rows by answer and, within it, by label: a square, row after row. Its classes are the first 19
    categories of the label output in the baseline, in that order, and last any other. Zeros at the end are
    left out."""
    scores: Annotated[tuple[Count, ...], Field(max_length=SCORE_BINS, fail_fast=True)] = ()
    """Labelled rows by their highest class probability, in 20 equal bins of 0 to 1."""
    score_correct: Annotated[tuple[Count, ...], Field(max_length=SCORE_BINS, fail_fast=True)] = ()
    """Of each of these, the rows that were right."""
    score_sums: Annotated[
        tuple[Annotated[float, Field(ge=0, le=2**53)], ...],
        Field(max_length=SCORE_BINS, fail_fast=True),
    ] = ()
    """Of each of these, the sum of the probabilities."""
    errors: ErrorSums | None = None
    """Of a regression; null for classes."""
    refused: RefusedLabels | None = None
    """Labels that were refused in the window; null without any."""

    @model_serializer(mode="wrap")
    def _without_what_is_not_there(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = write(self)
        return {name: value for name, value in fields.items() if value not in (None, (), [])}


def confusion_side(category_count: int) -> int:
    """Return the side of the square of a confusion over so many categories; 0 without any."""
    return min(category_count, MAX_CLASSES - 1) + 1 if category_count else 0
