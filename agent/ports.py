"""What the supervisor's loop needs of the world, and the events the world answers with."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from wire.errors import StorageError
from wire.messages import Inventory
from wire.performance import ErrorSums, GivenLabel, RefusedLabels
from wire.windows import CheckCounts

from .core.captured import CapturedRow, CaptureRules
from .core.ring import Ring
from .core.states import DeviceState, OutputShift


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model as the runtime gets it: verified files on this device's disk.

    Attributes:
        name: The model's name in `/v2/models/<name>`.
        version: For people, and for `model_version` in answers.
        manifest: The digest that identifies the bundle.
        files: Path within the bundle to the absolute path on disk, `manifest.json` included.
        memory_mb: The declared memory budget, or None.
    """

    name: str
    version: str
    manifest: str
    files: Mapping[str, Path]
    memory_mb: int | None = None


@dataclass(frozen=True, slots=True)
class Counters:
    """What one model answered in one incarnation, counted since the incarnation began to serve.

    `runtime`, `deadline` and `non_finite` are the model's fault, `client` never is. A request with
    several faults counts once, in the first of runtime, deadline, non_finite. `latency` has the
    bins of `wire.latency`, `client` errors left out; `shift` is that of
    the output column that is furthest from its reference, None without a limit table or rows.
    """

    request_count: int = 0
    row_count: int = 0
    runtime: int = 0
    deadline: int = 0
    client: int = 0
    non_finite: int = 0
    latency: tuple[int, ...] = ()
    shift: OutputShift | None = None


@dataclass(frozen=True, slots=True)
class WindowStats:
    """Counters of one model over one window of telemetry; of its latency too."""

    model: str
    version: str
    manifest: str
    start_unix_ms: int
    duration_s: float
    counters: Counters


@dataclass(frozen=True, slots=True)
class ColumnStats:
    """Counts of some of one model's columns in one window; see `wire.windows.WindowTelemetry`."""

    model: str
    version: str
    manifest: str
    start_unix_ms: int
    duration_s: float
    row_count: int
    first: int
    columns: tuple[tuple[int, ...], ...]
    between: tuple[float, ...]
    scores: tuple[int, ...]
    flagged: CheckCounts | None = None
    rejected: CheckCounts | None = None


@dataclass(frozen=True, slots=True)
class LabelStats:
    """Counts of one model's labelled answers in one window; see `wire.performance`."""

    model: str
    version: str
    manifest: str
    start_unix_ms: int
    duration_s: float
    labelled_count: int
    correct_count: int
    confusion: tuple[int, ...]
    scores: tuple[int, ...]
    score_correct: tuple[int, ...]
    score_sums: tuple[float, ...]
    errors: ErrorSums | None
    refused: RefusedLabels | None


@dataclass(frozen=True, slots=True)
class CandidateReady:
    """The candidate loaded its models and its golden rows passed; it does not accept yet."""

    incarnation: int
    runtime: str
    max_opset: int
    protections: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CandidateFailed:
    """The candidate ended before it was ready. `model` names the culprit where it is known."""

    incarnation: int
    model: str | None
    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class Promoted:
    """The candidate accepts connections; the incarnation before it drains."""

    incarnation: int


@dataclass(frozen=True, slots=True)
class RuntimeDied:
    """The serving incarnation ended by itself, or was killed for a stuck request."""

    incarnation: int
    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class TapStats:
    """Requests chosen for a shadow since the tap was opened, and those of them that were dropped."""

    sampled_count: int = 0
    dropped_count: int = 0


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The serving incarnation's proof of life, once a second."""

    incarnation: int
    models: Mapping[str, Counters]
    oldest_request_s: float
    rss_bytes: int
    tap: TapStats | None = None


@dataclass(frozen=True, slots=True)
class WindowClosed:
    """Answer to `close_window`, and sent once by a draining incarnation before it ends."""

    incarnation: int
    windows: tuple[WindowStats, ...]


@dataclass(frozen=True, slots=True)
class ColumnsClosed:
    """Answer to `close_columns`, some for each model; and sent by a draining incarnation."""

    incarnation: int
    stats: ColumnStats


@dataclass(frozen=True, slots=True)
class LabelsClosed:
    """Comes with `ColumnsClosed`, for each model that labels came for."""

    incarnation: int
    stats: LabelStats


@dataclass(frozen=True, slots=True)
class GoldenChecked:
    """Answer to `check_golden`."""

    incarnation: int
    model: str
    is_passed: bool
    detail: str


@dataclass(frozen=True, slots=True)
class RowsCaptured:
    """Rows that an incarnation answered and was told to keep; `dropped_count` more did not fit."""

    incarnation: int
    rows: tuple[CapturedRow, ...]
    dropped_count: int


@dataclass(frozen=True, slots=True)
class ShadowStats:
    """What a shadow compared in one window; see `wire.shadow.ShadowTelemetry`.

    `classes` are label, rows and rows that disagree; memory is proportional (PSS), 0 where unknown.
    """

    start_unix_ms: int
    duration_s: float
    row_count: int
    agree_count: int
    refused_count: int
    failed_count: int
    classes: tuple[tuple[str, int, int], ...]
    active_latency: tuple[int, ...]
    shadow_latency: tuple[int, ...]
    active_pss_bytes: int
    shadow_pss_bytes: int


@dataclass(frozen=True, slots=True)
class ShadowClosed:
    """Answer to `close_shadow`."""

    incarnation: int
    stats: ShadowStats


@dataclass(frozen=True, slots=True)
class ShadowGone:
    """The shadow ended: it did not get ready, ended by itself, or was killed for being stuck."""

    incarnation: int
    code: str
    detail: str


RuntimeEvent = (
    CandidateReady
    | CandidateFailed
    | Promoted
    | RuntimeDied
    | Heartbeat
    | WindowClosed
    | ColumnsClosed
    | LabelsClosed
    | GoldenChecked
    | RowsCaptured
    | ShadowClosed
    | ShadowGone
)


@dataclass(frozen=True, slots=True)
class ShadowOrder:
    """Which share of the requests a shadow gets, and when numbers agree; see `wire.messages`."""

    sample_ratio: float
    rtol: float
    atol: float


@dataclass(frozen=True, slots=True)
class RuntimeSettings:
    """How runtimes are started and ended; all times in seconds.

    `program` is what runs as a runtime; its control channel, listening sockets and readable
    directories follow as options. `ring` bounds the answers that labels may still come for;
    `capture` says which rows runtimes tell of: None is none, ever.
    """

    listen: tuple[str, int] | None = ("127.0.0.1", 8600)
    socket: Path | None = None
    swap: str = "overlap"
    start_timeout_s: float = 60.0
    drain_s: float = 10.0
    request_deadline_s: float = 30.0
    heartbeat_timeout_s: float = 15.0
    ring: Ring = field(default_factory=Ring)
    shadow_timeout_s: float = 60.0
    """Of a shadow's sign of life; longer, since it runs only while nothing else wants the CPU."""
    inherited: Mapping[str, int] = field(default_factory=dict)
    capture: CaptureRules | None = None
    # -P: nothing is imported from the working directory.
    program: tuple[str, ...] = (sys.executable, "-P", "-m", "agent.runtime")


class RuntimeHost(Protocol):
    """Starts, promotes and ends incarnations. All methods return at once; results are events."""

    def open(self) -> None:
        """Bind the listening sockets (or take those that systemd passed).

        Raises:
            ConfigError: `port_taken` or `socket_path`.
        """

    def start_candidate(self, models: tuple[ServedModel, ...], *, auto_promote: bool) -> int:
        """Start an incarnation with exactly `models`; return its number.

        An earlier candidate is discarded without an event. Ends in `CandidateReady` or
        `CandidateFailed`; with `auto_promote` the former is followed by `Promoted`. With
        `swap = "replace"` the serving incarnation ends first: nothing serves until `Promoted`.
        """

    def promote(self) -> None:
        """Let the ready candidate accept, then drain the incarnation before it."""

    def discard_candidate(self) -> None:
        """End the candidate, if there is one; no event follows."""

    def close_window(self) -> None:
        """Ask the serving incarnation to close its telemetry window: `WindowClosed`."""

    def close_columns(self) -> None:
        """Ask the serving incarnation for the counts of its columns: `ColumnsClosed`."""

    def give_labels(self, model: str, labels: tuple[GivenLabel, ...]) -> None:
        """Have the serving incarnation count labels of its answers; no event follows."""

    def check_golden(self, model: str) -> None:
        """Ask the serving incarnation to run a model's golden rows again: `GoldenChecked`."""

    def start_shadow(self, model: ServedModel, order: ShadowOrder) -> int:
        """Start a process aside with `model` and give it a sample of what the active one answers.

        An earlier shadow is ended without an event. The number is that of an incarnation, which never
        accepts; its end by itself is a `ShadowGone`. It outlives the serving incarnation: the next one
        gives it its sample.
        """

    def stop_shadow(self) -> None:
        """End the shadow, if there is one; no event follows."""

    def close_shadow(self) -> None:
        """Ask the shadow for what it compared: `ShadowClosed`, once it is ready."""

    def tick(self) -> None:
        """Enforce the deadlines: start, heartbeat, oldest request, drain. Called each second."""

    def is_alive(self) -> bool:
        """Return whether what the children say is still heard."""

    def stop(self) -> None:
        """Drain and end everything; returns when the children are gone. Idempotent."""


RuntimeSink = Callable[[RuntimeEvent], None]


class StateStore(Protocol):
    """Keeps the agent's state across power cuts."""

    @property
    def fault(self) -> StorageError | None:
        """Why what is on disk could not be opened yet; None once it was."""

    def load(self) -> DeviceState:
        """Return the saved state, or a blank one; raises StorageError."""

    def save(self, state: DeviceState) -> None:
        """Put `state` on disk before returning; raises StorageError."""

    def save_inventory(self, inventory: Inventory) -> None:
        """Keep what a runtime told of itself; raises StorageError."""
