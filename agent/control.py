"""The control messages between supervisor and runtime: one datagram each, some with a socket.

The channel is a SOCK_SEQPACKET pair. The supervisor tells (`Start` … `Drain`), the runtime answers
(`Confined` … `Drained`). A runtime whose channel ends is without a supervisor and ends too.

A hostile model may have taken the runtime over, so every field of a report has its bounds here, and
what a report may say when is checked by the supervisor's `Child`.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Sequence
from typing import Annotated, Final, TypeVar

import msgspec

from agent.core.captured import CaptureRules
from agent.core.ring import Ring
from wire.errors import PeerError
from wire.latency import LATENCY_BINS
from wire.messages import CODE_PATTERN, MAX_DETAIL_BYTES, MAX_PROTECTIONS
from wire.windows import (
    MAX_BETWEEN,
    MAX_COLUMN_COUNTS,
    MAX_COLUMNS,
    MAX_POSITION,
    SCORE_BINS,
    column_bytes,
)

from .measured import YEAR_S, Captured, Compared, Count, Labelled, Name, Seconds, Sum

MAX_DATAGRAM_BYTES: Final = 128 * 1024
"""Below Linux's default socket buffer of 208 kB; eight models with five files each take 10 kB."""
MAX_REPORTED_MODELS: Final = 64
"""Eight are desired and eight more may wait for their removal; above, a report is no report."""
MAX_PSI: Final = 1e4
"""Twice ln(10,000) is the most that shares of 0.0001 and more can make; limits are a bundle's."""
MAX_COUNTS: Final = 16_384
"""Of one model's columns in one window: 512 of 32 bins each. At 16 digits a count that is 280 kB."""
MAX_PARTS: Final = 256
"""Reports of one window's columns: four for each of as many models as may be told of."""

_Between = Annotated[float, msgspec.Meta(ge=0, le=MAX_BETWEEN)]
_ColumnCounts = Annotated[tuple[Sum, ...], msgspec.Meta(max_length=MAX_COLUMN_COUNTS)]
_Ms = Annotated[float, msgspec.Meta(ge=0, le=YEAR_S * 1000)]
_Psi = Annotated[float, msgspec.Meta(ge=0, le=MAX_PSI)]
_Label = Annotated[str, msgspec.Meta(pattern=r"^[ -~]{0,32}$")]
_CodeText = Annotated[str, msgspec.Meta(pattern=CODE_PATTERN)]
_Detail = Annotated[str, msgspec.Meta(max_length=MAX_DETAIL_BYTES)]


class Model(msgspec.Struct, frozen=True):
    """A model to load; `files` maps the path within the bundle to the path on disk."""

    name: str
    version: str
    manifest: str
    files: dict[str, str]
    memory_mb: int | None


class Start(msgspec.Struct, frozen=True, tag="start"):
    """Load these models and run their golden rows; answer `Ready` or `Failed`.

    Without `capture` no row is ever told of.
    """

    models: tuple[Model, ...]
    request_deadline_s: float
    ring: Ring = Ring()
    capture: CaptureRules | None = None


class Serve(msgspec.Struct, frozen=True, tag="serve"):
    """Accept on the listening sockets; answer `Accepting`."""


class StopAccepting(msgspec.Struct, frozen=True, tag="stop_accepting"):
    """Close the listening sockets and serve the connections there are; answer `Stopped`."""


class Drain(msgspec.Struct, frozen=True, tag="drain"):
    """Hand every idle connection over, end when none is left or after `drain_s`.

    Without an heir, connections are kept and closed after their next answer, or when they stay idle.
    """

    drain_s: float
    has_heir: bool = True


class Adopt(msgspec.Struct, frozen=True, tag="adopt"):
    """Serve the connection that comes with this datagram."""


class CloseWindow(msgspec.Struct, frozen=True, tag="close_window"):
    """Close the telemetry window; answer `Windows`."""


class CloseColumns(msgspec.Struct, frozen=True, tag="close_columns"):
    """Close the window over which columns are counted; answer `Columns`, some for each model."""


class GivenLabel(msgspec.Struct, frozen=True):
    """See `wire.performance.GivenLabel`."""

    id: str
    label: str
    row: int | None
    version: str | None


class GiveLabels(msgspec.Struct, frozen=True, tag="give_labels"):
    """Count these labels of a model's answers; there is no answer to it."""

    model: str
    labels: tuple[GivenLabel, ...]


class CheckGolden(msgspec.Struct, frozen=True, tag="check_golden"):
    """Run a model's golden rows again; answer `Golden`."""

    model: str


class Tap(msgspec.Struct, frozen=True, tag="tap"):
    """Give a share of a model's answered requests to the socket that comes with this datagram."""

    model: str
    sample_ratio: float


class Untap(msgspec.Struct, frozen=True, tag="untap"):
    """Give none any more."""


class Feed(msgspec.Struct, frozen=True, tag="feed"):
    """Answer what comes from the socket that comes with this datagram, and compare; to a shadow only."""

    model: str
    rtol: float
    atol: float


class CloseShadow(msgspec.Struct, frozen=True, tag="close_shadow"):
    """Close the window over which answers are compared; answer `Compared`."""


class Confined(msgspec.Struct, frozen=True, tag="confined"):
    """The walls stand and the libraries are there; no model has been touched yet.

    Said first and once, so that no model can have a say in it.
    """

    runtime: _Label
    max_opset: Annotated[int, msgspec.Meta(ge=0, le=1000)]
    protections: Annotated[tuple[_CodeText, ...], msgspec.Meta(max_length=MAX_PROTECTIONS)]


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """All models are loaded and their golden rows pass."""


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """A model did not load or its golden rows fail; the runtime ends."""

    model: Name | None
    code: _CodeText
    detail: _Detail


class Accepting(msgspec.Struct, frozen=True, tag="accepting"):
    """Connections are accepted from now on."""


class Stopped(msgspec.Struct, frozen=True, tag="stopped"):
    """No connection is accepted any more."""


class HandOver(msgspec.Struct, frozen=True, tag="hand_over"):
    """The idle connection that comes with this datagram is for the next runtime."""


class Shift(msgspec.Struct, frozen=True):
    """How far one output column is from its reference; see `agent.core.states.OutputShift`."""

    column: Name
    row_count: Sum
    psi: _Psi
    excess: Annotated[float, msgspec.Meta(ge=-MAX_PSI, le=MAX_PSI)]


class Tally(msgspec.Struct, frozen=True):
    """Counts of one model; see `agent.ports.Counters`."""

    request_count: Sum = 0
    row_count: Sum = 0
    runtime: Sum = 0
    deadline: Sum = 0
    client: Sum = 0
    non_finite: Sum = 0
    latency: Annotated[tuple[Sum, ...], msgspec.Meta(max_length=LATENCY_BINS)] = ()
    shift: Shift | None = None


class TapCounts(msgspec.Struct, frozen=True):
    """Requests chosen for a shadow since its tap was opened, and those of them that were dropped."""

    sampled_count: Sum
    dropped_count: Sum


class Beat(msgspec.Struct, frozen=True, tag="beat"):
    """Proof of life, once a second, with the counts since the runtime began to serve."""

    models: Annotated[dict[Name, Tally], msgspec.Meta(max_length=MAX_REPORTED_MODELS)]
    oldest_request_s: Seconds
    rss_bytes: Count
    tap: TapCounts | None = None


class Window(msgspec.Struct, frozen=True):
    """What one model did in one telemetry window; the supervisor knows which release it is."""

    model: Name
    start_unix_ms: Count
    duration_s: Seconds
    tally: Tally


class Windows(msgspec.Struct, frozen=True, tag="windows"):
    """The windows of all models, closed at one moment."""

    windows: Annotated[tuple[Window, ...], msgspec.Meta(max_length=MAX_REPORTED_MODELS)]


class Checks(msgspec.Struct, frozen=True):
    """Counts by reason; see `wire.windows.CheckCounts`."""

    range: Sum = 0
    category: Sum = 0
    missing: Sum = 0
    infinite: Sum = 0


class Columns(msgspec.Struct, frozen=True, tag="columns"):
    """Counts of some columns of one model in one window; see `wire.windows.WindowTelemetry`."""

    model: Name
    start_unix_ms: Count
    duration_s: Seconds
    row_count: Sum
    first: Annotated[int, msgspec.Meta(ge=0, le=MAX_POSITION)]
    columns: Annotated[tuple[_ColumnCounts, ...], msgspec.Meta(max_length=MAX_COLUMNS)]
    between: Annotated[tuple[_Between, ...], msgspec.Meta(max_length=MAX_COLUMNS)] = ()
    scores: Annotated[tuple[Sum, ...], msgspec.Meta(max_length=SCORE_BINS)] = ()
    flagged: Checks | None = None
    rejected: Checks | None = None


class Golden(msgspec.Struct, frozen=True, tag="golden"):
    """How a model's golden rows went."""

    model: Name
    is_passed: bool
    detail: _Detail


class Drained(msgspec.Struct, frozen=True, tag="drained"):
    """The runtime ends; `handed_over` connections moved, `cut` did not become idle in time."""

    handed_over: Count
    cut: Count


Command = (
    Start
    | Serve
    | StopAccepting
    | Drain
    | Adopt
    | CloseWindow
    | CloseColumns
    | GiveLabels
    | CheckGolden
    | Tap
    | Untap
    | Feed
    | CloseShadow
)
Report = (
    Confined
    | Ready
    | Failed
    | Accepting
    | Stopped
    | HandOver
    | Beat
    | Windows
    | Columns
    | Labelled
    | Captured
    | Golden
    | Drained
    | Compared
)

MessageT = TypeVar("MessageT")

_encoder = msgspec.json.Encoder()
_commands: msgspec.json.Decoder[Command] = msgspec.json.Decoder(Command)
_reports: msgspec.json.Decoder[Report] = msgspec.json.Decoder(Report)


def send(channel: socket.socket, message: Command | Report, descriptor: int | None = None) -> None:
    """Send one message, with a socket if given.

    Raises:
        OSError: The other side is gone, or does not read (BlockingIOError).
    """
    payload = _encoder.encode(message)
    if descriptor is None:
        channel.send(payload)
    else:
        socket.send_fds(channel, [payload], [descriptor])


def receive_command(channel: socket.socket) -> tuple[Command, int | None] | None:
    """Return the next command and the socket that came with it; None when the channel ended.

    Raises:
        OSError: BlockingIOError when there is none yet.
        PeerError: `control_invalid`.
    """
    return _receive(channel, _commands)


def receive_report(channel: socket.socket) -> tuple[Report, int | None] | None:
    """Return the next report and the socket that came with it; None when the channel ended.

    Raises:
        OSError: BlockingIOError when there is none yet.
        PeerError: `control_invalid`; a runtime may have been taken over by a hostile model.
    """
    return _receive(channel, _reports)


def in_parts(
    columns: Sequence[Sequence[int]], *, max_columns: int, max_bytes: int
) -> Iterator[tuple[int, int]]:
    """Yield begin and end of each part of the columns; of none, one part without any.

    Args:
        columns: Counts of each.
        max_columns: Of a part.
        max_bytes: Of a part's counts as JSON; a column that is longer by itself is a part alone.
    """
    begin, used_bytes = 0, 0
    for number, column in enumerate(columns):
        size_bytes = column_bytes(column)
        is_full = number - begin == max_columns or used_bytes + size_bytes > max_bytes
        if is_full and number > begin:
            yield begin, number
            begin, used_bytes = number, 0
        used_bytes += size_bytes
    yield begin, len(columns)


def printable(text: str) -> str:
    """Return a text with a blank for all that would act on a terminal or begin a line in a log."""
    return "".join(c if c.isprintable() else " " for c in text)


def _receive(
    channel: socket.socket, decoder: msgspec.json.Decoder[MessageT]
) -> tuple[MessageT, int | None] | None:
    payload, descriptors, _flags, _address = socket.recv_fds(channel, MAX_DATAGRAM_BYTES, 1)
    descriptor = descriptors[0] if descriptors else None
    if payload:
        try:
            return decoder.decode(payload), descriptor
        # Beside its own errors msgspec lets through those of invalid UTF-8 and of deep nesting.
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
            fault: PeerError | None = PeerError(f"control channel: {exc}", code="control_invalid")
    else:
        fault = None
    if descriptor is not None:
        os.close(descriptor)
    if fault is not None:
        raise fault
    return None
