"""The control messages between supervisor and runtime: one datagram each, some with a socket.

The channel is a SOCK_SEQPACKET pair. The supervisor tells (`Start` … `Drain`), the runtime answers
(`Ready` … `Drained`). A runtime whose channel ends is without a supervisor and ends too.
"""

from __future__ import annotations

import socket
from typing import Final

import msgspec

from wire.errors import PeerError

MAX_DATAGRAM_BYTES: Final = 128 * 1024
"""Below Linux's default socket buffer of 208 kB; eight models with five files each take 10 kB."""


class Model(msgspec.Struct, frozen=True):
    """A model to load; `files` maps the path within the bundle to the path on disk."""

    name: str
    version: str
    manifest: str
    files: dict[str, str]
    memory_mb: int | None


class Start(msgspec.Struct, frozen=True, tag="start"):
    """Load these models and run their golden rows; answer `Ready` or `Failed`."""

    models: tuple[Model, ...]
    request_deadline_s: float


class Serve(msgspec.Struct, frozen=True, tag="serve"):
    """Accept on the listening sockets; answer `Accepting`."""


class StopAccepting(msgspec.Struct, frozen=True, tag="stop_accepting"):
    """Close the listening sockets and serve the connections there are; answer `Stopped`."""


class Drain(msgspec.Struct, frozen=True, tag="drain"):
    """Hand every idle connection over, end when none is left or after `drain_s`."""

    drain_s: float


class Adopt(msgspec.Struct, frozen=True, tag="adopt"):
    """Serve the connection that comes with this datagram."""


class CloseWindow(msgspec.Struct, frozen=True, tag="close_window"):
    """Close the telemetry window; answer `Windows`."""


class CheckGolden(msgspec.Struct, frozen=True, tag="check_golden"):
    """Run a model's golden rows again; answer `Golden`."""

    model: str


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """All models are loaded and their golden rows pass."""

    runtime: str
    max_opset: int
    protections: tuple[str, ...]


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """A model did not load or its golden rows fail; the runtime ends."""

    model: str | None
    code: str
    detail: str


class Accepting(msgspec.Struct, frozen=True, tag="accepting"):
    """Connections are accepted from now on."""


class Stopped(msgspec.Struct, frozen=True, tag="stopped"):
    """No connection is accepted any more."""


class HandOver(msgspec.Struct, frozen=True, tag="hand_over"):
    """The idle connection that comes with this datagram is for the next runtime."""


class Tally(msgspec.Struct, frozen=True):
    """Counts of one model; see `agent.ports.Counters`."""

    request_count: int = 0
    row_count: int = 0
    runtime: int = 0
    deadline: int = 0
    client: int = 0
    non_finite: int = 0
    latency: tuple[int, ...] = ()


class Beat(msgspec.Struct, frozen=True, tag="beat"):
    """Proof of life, once a second, with the counts since the runtime began to serve."""

    models: dict[str, Tally]
    oldest_request_s: float
    rss_bytes: int


class Window(msgspec.Struct, frozen=True):
    """What one model did in one telemetry window."""

    model: str
    version: str
    manifest: str
    start_unix_ms: int
    duration_s: float
    tally: Tally
    p50_ms: float | None
    p99_ms: float | None


class Windows(msgspec.Struct, frozen=True, tag="windows"):
    """The windows of all models, closed at one moment."""

    windows: tuple[Window, ...]


class Golden(msgspec.Struct, frozen=True, tag="golden"):
    """How a model's golden rows went."""

    model: str
    is_passed: bool
    detail: str


class Drained(msgspec.Struct, frozen=True, tag="drained"):
    """The runtime ends; `handed_over` connections moved, `cut` did not become idle in time."""

    handed_over: int
    cut: int


Command = Start | Serve | StopAccepting | Drain | Adopt | CloseWindow | CheckGolden
Report = Ready | Failed | Accepting | Stopped | HandOver | Beat | Windows | Golden | Drained

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
    received = _receive(channel)
    if received is None:
        return None
    payload, descriptor = received
    try:
        return _commands.decode(payload), descriptor
    except msgspec.DecodeError as exc:
        raise PeerError(f"control command: {exc}", code="control_invalid") from exc


def receive_report(channel: socket.socket) -> tuple[Report, int | None] | None:
    """Return the next report and the socket that came with it; None when the channel ended.

    Raises:
        OSError: BlockingIOError when there is none yet.
        PeerError: `control_invalid`; a runtime may have been taken over by a hostile model.
    """
    received = _receive(channel)
    if received is None:
        return None
    payload, descriptor = received
    try:
        return _reports.decode(payload), descriptor
    except msgspec.DecodeError as exc:
        raise PeerError(f"control report: {exc}", code="control_invalid") from exc


def _receive(channel: socket.socket) -> tuple[bytes, int | None] | None:
    payload, descriptors, _flags, _address = socket.recv_fds(channel, MAX_DATAGRAM_BYTES, 1)
    if not payload:
        return None
    return payload, descriptors[0] if descriptors else None
