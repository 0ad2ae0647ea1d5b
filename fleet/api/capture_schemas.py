"""What the API says of captured rows."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from wire.capture import MAX_CAPTURE_LIMIT
from wire.ids import CaptureId, DeviceId, ModelName

from .schemas import Schema, Tags

Span = Annotated[float, Field(gt=0, le=3650 * 86_400)]


class CaptureRequestIn(Schema):
    """Rows that are wanted of devices: of one, or of all that match."""

    model: ModelName
    device: DeviceId | None = None
    match: Tags = Field(default_factory=dict)
    limit: Annotated[int, Field(ge=1, le=MAX_CAPTURE_LIMIT)] = 1000
    """Rows of each device at most."""
    uncertain_first: bool = False
    for_s: Span = 7 * 86_400
    """How long devices may take that are away."""


class CaptureRequestDevice(Schema):
    """Whether a device is asked; where it is not, `reason` says why."""

    device: DeviceId
    is_asked: bool
    reason: str = ""


class CaptureRequestResult(Schema):
    """All devices that were meant."""

    id: CaptureId
    model: ModelName
    devices: list[CaptureRequestDevice]


class CaptureAsked(Schema):
    """What one device was asked for last."""

    id: CaptureId
    device: DeviceId
    model: ModelName
    limit: int
    row_count: int
    """Rows that it has given for it."""
    is_open: bool
    until_unix_ms: int
    created_unix_ms: int
    created_by: str


class CaptureHeld(Schema):
    """Captured rows of one model from one device that are here."""

    model: ModelName
    device: DeviceId
    row_count: int
    size_bytes: int
    first_unix_ms: int
    """When the first of them was answered, by the device's clock."""
    last_unix_ms: int
    received_unix_ms: int
    """When the newest of them came."""


class CaptureExportIn(Schema):
    """Captured rows to hand out."""

    model: ModelName
    device: DeviceId | None = None
    match: Tags = Field(default_factory=dict)
    since_s: Span | None = None
    """Only what came so long ago at most."""


class CaptureDeletionIn(Schema):
    """Captured rows to delete for good."""

    model: ModelName
    device: DeviceId | None = None
    match: Tags = Field(default_factory=dict)
    older_than_s: Span | None = None
    """Only what came longer ago."""


class CaptureDeletionResult(Schema):
    """How many rows are gone."""

    row_count: int
