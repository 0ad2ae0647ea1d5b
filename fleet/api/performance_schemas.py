"""What the API takes of labels, and says of how right answers are."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StrictBool, StrictFloat, StrictInt

from wire.ids import Digest, ModelName, Version
from wire.performance import MAX_LABEL_CHARS, MAX_REQUEST_ROWS, REQUEST_ID_PATTERN

from .schemas import Schema

MAX_LABELS_AT_ONCE = 1000


class LabelIn(Schema):
    """What turned out to be right for one row of one request."""

    id: Annotated[str, Field(pattern=REQUEST_ID_PATTERN)]
    label: StrictBool | StrictInt | StrictFloat | Annotated[str, Field(max_length=MAX_LABEL_CHARS)]
    row: Annotated[int, Field(ge=0, le=MAX_REQUEST_ROWS)] | None = None
    """From 0; may be absent where the request had one row."""
    version: Version | None = None
    """The release that is meant; one that does not serve is refused."""


class FeedbackIn(Schema):
    """Labels for what one device answered."""

    labels: Annotated[list[LabelIn], Field(min_length=1, max_length=MAX_LABELS_AT_ONCE)]


class FeedbackResult(Schema):
    """Labels that were sent; what the device refuses of them is in the performance of the model."""

    sent_count: int


class Estimated(Schema):
    """A value, and between what it is with 95 % confidence."""

    value: float
    low: float
    high: float


class Errors(Schema):
    """Errors of a regression: the answer less the label."""

    mean: Estimated
    mean_absolute: Estimated
    root_mean_square: float


class Refusals(Schema):
    """Labels that devices could do nothing with, by cause."""

    unknown_id: int
    already_labelled: int
    wrong_type: int
    other_version: int


class ReleasePerformance(Schema):
    """How right one release was, on all devices that were asked about or on those of one group."""

    version: Version
    manifest: Digest
    group: str
    """KEY=VALUE, or empty for all."""
    device_count: int
    row_count: int
    """Rows answered."""
    labelled_count: int
    """Rows whose label came, of whatever time they were answered."""
    basis: Literal["measured", "estimate", "none"]
    """What there is: labels, or an estimate without them."""
    accuracy: Estimated | None
    """Measured on labelled rows; null of a regression."""
    errors: Errors | None
    """Of a regression."""
    calibration_error: float | None
    """How far, in a row's score bin, what is right is from the score, on average over labelled rows."""
    classes: list[str]
    """Of `confusion`; the last is any other."""
    confusion: list[list[int]]
    """Labelled rows by answer, and by label within it."""
    refused: Refusals
    estimate: Estimated | None
    """The accuracy to expect by the scores; null where labels have taken its place. See `caveat`."""
    estimate_verdict: Literal[
        "estimated", "replaced", "no_scores", "not_calibrated", "too_few_rows"
    ]


class PerformanceReport(Schema):
    """How right the releases of a model were over a span."""

    model: ModelName
    since_unix_ms: int
    until_unix_ms: int
    caveat: str
    """What every estimate here depends on."""
    releases: list[ReleasePerformance]
    """Newest first; of each, all devices first."""
