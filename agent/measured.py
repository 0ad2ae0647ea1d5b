"""What a runtime tells of labels, of rows that it captured, and of a shadow, on the control channel."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from wire.latency import LATENCY_BINS
from wire.manifest import Datatype
from wire.messages import MAX_INTEGER
from wire.packs import (
    MAX_DIMENSIONS,
    MAX_ID_CHARS,
    MAX_LEFT_OUT,
    MAX_PACK_ROWS,
    MAX_TENSORS,
    MAX_TEXT_CHARS,
)
from wire.performance import MAX_CELL, MAX_CLASSES, MAX_SQUARES
from wire.shadow import MAX_BIN_COUNT, MAX_WINDOW_COUNT
from wire.shadow import MAX_CLASSES as MAX_SHADOW_CLASSES
from wire.windows import SCORE_BINS

MAX_TALLY: Final = 2**48
"""Centuries at any rate; what a few incarnations add up to still is an exact number in JSON."""
YEAR_S: Final = 86_400 * 365

Count = Annotated[int, msgspec.Meta(ge=0, le=MAX_INTEGER)]
Sum = Annotated[int, msgspec.Meta(ge=0, le=MAX_TALLY)]
Name = Annotated[str, msgspec.Meta(max_length=64)]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=YEAR_S)]
_WindowCount = Annotated[int, msgspec.Meta(ge=0, le=MAX_WINDOW_COUNT)]
_LatencyCounts = Annotated[
    tuple[Annotated[int, msgspec.Meta(ge=0, le=MAX_BIN_COUNT)], ...],
    msgspec.Meta(max_length=LATENCY_BINS),
]
_Cell = Annotated[int, msgspec.Meta(ge=0, le=MAX_CELL)]
_Scores = Annotated[tuple[Sum, ...], msgspec.Meta(max_length=SCORE_BINS)]
_ScoreSum = Annotated[float, msgspec.Meta(ge=0, le=MAX_INTEGER)]
_Error = Annotated[float, msgspec.Meta(ge=-MAX_SQUARES, le=MAX_SQUARES)]
_Squares = Annotated[float, msgspec.Meta(ge=0, le=MAX_SQUARES)]


class RefusedLabels(msgspec.Struct, frozen=True):
    """Counts by cause; see `wire.performance.RefusedLabels`."""

    unknown_id: Sum = 0
    already_labelled: Sum = 0
    wrong_type: Sum = 0
    other_version: Sum = 0


class Labelled(msgspec.Struct, frozen=True, tag="labelled"):
    """Counts of labelled answers of one model; see `wire.performance.PerformanceTelemetry`."""

    model: Name
    start_unix_ms: Count
    duration_s: Seconds
    labelled: Sum
    correct: Sum
    confusion: Annotated[tuple[_Cell, ...], msgspec.Meta(max_length=MAX_CLASSES**2)] = ()
    scores: _Scores = ()
    score_correct: _Scores = ()
    score_sums: Annotated[tuple[_ScoreSum, ...], msgspec.Meta(max_length=SCORE_BINS)] = ()
    errors: tuple[_Error, _Squares, _Squares] | None = None
    refused: RefusedLabels | None = None


class CapturedTensor(msgspec.Struct, frozen=True):
    """Some rows of one tensor; see `agent.core.captured.RowTensor`.

    `data` has the elements of row after row, little-endian; texts are UTF-32 of `width` characters.
    """

    name: Annotated[str, msgspec.Meta(max_length=128)]
    is_output: bool
    datatype: Datatype
    width: Annotated[int, msgspec.Meta(ge=1, le=MAX_TEXT_CHARS)]
    shape: Annotated[
        tuple[Annotated[int, msgspec.Meta(ge=0, le=2**31)], ...],
        msgspec.Meta(max_length=MAX_DIMENSIONS),
    ]
    data: bytes


class CapturedRequest(msgspec.Struct, frozen=True):
    """Rows of one request, which one model answered; the supervisor knows which release it is."""

    model: Name
    at_unix_ms: Count
    id: Annotated[str, msgspec.Meta(max_length=MAX_ID_CHARS)]
    scores: Annotated[
        tuple[Annotated[float, msgspec.Meta(ge=0, le=1)] | None, ...],
        msgspec.Meta(min_length=1, max_length=MAX_PACK_ROWS),
    ]
    """One for each row: its highest class probability."""
    tensors: Annotated[
        tuple[CapturedTensor, ...], msgspec.Meta(min_length=1, max_length=2 * MAX_TENSORS)
    ]
    left_out: Annotated[
        tuple[Annotated[str, msgspec.Meta(max_length=128)], ...],
        msgspec.Meta(max_length=MAX_LEFT_OUT),
    ] = ()


class Captured(msgspec.Struct, frozen=True, tag="captured"):
    """Rows that were captured since the last of these; only a runtime that has rules tells of any."""

    requests: tuple[CapturedRequest, ...]
    dropped_count: Count
    """Rows that were chosen and did not fit."""


class ClassCount(msgspec.Struct, frozen=True):
    """Rows that the active release gave one label; see `wire.shadow.ShadowClass`."""

    label: Name
    row_count: _WindowCount
    disagree_count: _WindowCount


class Compared(msgspec.Struct, frozen=True, tag="compared"):
    """What a shadow compared in one window; see `wire.shadow.ShadowTelemetry`."""

    model: Name
    start_unix_ms: Count
    duration_s: Seconds
    row_count: _WindowCount
    agree_count: _WindowCount
    refused_count: _WindowCount
    failed_count: _WindowCount
    classes: Annotated[tuple[ClassCount, ...], msgspec.Meta(max_length=MAX_SHADOW_CLASSES + 1)]
    active_latency: _LatencyCounts
    shadow_latency: _LatencyCounts
