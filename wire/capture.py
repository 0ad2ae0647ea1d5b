"""What is asked and told of captured rows; the rows themselves travel as `wire.packs`.

The texts below fields are their meaning in `docs/topics.md`; run `make docs` after changing one.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from .ids import CaptureId, ModelName

MAX_CAPTURE_LIMIT: Final = 1_000_000
"""Rows that one request may ask of one device."""


_MAX_INTEGER: Final = 2**53 - 1
"""As of all messages, which are made of these."""
_Count = Annotated[int, Field(ge=0, le=_MAX_INTEGER)]
_Millionths = Annotated[int, Field(ge=0, le=1_000_000)]
"""Short, since a reported state is full."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


CaptureOrder = Literal["oldest", "uncertain"]


class CaptureRequest(_Part):
    """An operator's wish for rows that a device has captured.

    Nothing here switches capture on: that is for the device's own configuration alone.
    """

    id: CaptureId
    model: ModelName
    """Rows that this model answered."""
    limit: Annotated[int, Field(ge=1, le=MAX_CAPTURE_LIMIT)]
    """How many rows at most."""
    first: CaptureOrder = "oldest"
    """Which rows come first: the oldest, or those whose highest class probability is lowest."""
    until_unix_ms: _Count
    """When it is over, done or not."""


class CaptureFacts(_Part):
    """What a device keeps of the rows that it answers, by its own configuration."""

    sample_ppm: _Millionths
    """Share of all rows that is kept, in millionths."""
    uncertain_below_ppm: _Millionths
    """Rows whose highest class probability is below are kept as well; the same."""
    row_count: Annotated[int, Field(ge=0, le=MAX_CAPTURE_LIMIT)]
    """Rows that are kept now; told with some delay."""
    since_unix_ms: _Count | None = None
    """When the oldest of them was answered; null without any."""
    uploaded_count: _Count = 0
    """Rows that the controller was given, ever."""
