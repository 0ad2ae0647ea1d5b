"""One runtime process and its control channel."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from typing import Final

from agent import control, measured
from agent.core.captured import CapturedRow, RowTensor
from agent.core.states import OutputShift
from agent.ports import (
    ColumnStats,
    Counters,
    Heartbeat,
    LabelStats,
    RuntimeSettings,
    ServedModel,
    TapStats,
    WindowStats,
)
from wire.errors import PeerError
from wire.latency import LATENCY_BINS
from wire.lifecycle import Code
from wire.packs import MAX_ROW_BYTES
from wire.performance import ErrorSums, RefusedLabels
from wire.windows import CheckCounts

from .conduct import Conduct

log = logging.getLogger(__name__)

REAP_S: Final = 2.0
ACCEPT_S: Final = 10.0
"""From the order to serve to the first `accept`: an honest runtime takes some milliseconds."""


class Child:
    """What the supervisor knows of one incarnation.

    Attributes:
        number: Of the incarnation.
        models: What it serves.
        auto_promote: Whether it accepts as soon as it is ready.
        timeout_s: How long it may take to get ready.
        is_ready: Whether its golden rows have passed.
        facts: What it said of itself before it touched a model.
        verdict: Code and words of why it ends, where that is known before the end; see `condemn`.
        culprit: The model at fault, where it is known.
        oldest_request_s, last_beat_s: From its heartbeats; the latter monotonic.
        leave_by_s: When it is killed, once it has been told to go; monotonic.
    """

    def __init__(
        self,
        number: int,
        models: tuple[ServedModel, ...],
        *,
        auto_promote: bool,
        timeout_s: float,
    ) -> None:
        self.number = number
        self.models = models
        self.auto_promote = auto_promote
        self.timeout_s = timeout_s
        self.is_ready = False
        self.facts = control.Confined("", 0, ())
        self.verdict: tuple[str, str] | None = None
        self.culprit: str | None = None
        self.oldest_request_s = 0.0
        self.last_beat_s = 0.0
        self.leave_by_s = 0.0
        self._started_at_s = 0.0
        self._accept_by_s: float | None = None
        self._conduct = Conduct()
        self._process: subprocess.Popen[bytes] | None = None

    def spawn(self, settings: RuntimeSettings, listeners: Sequence[socket.socket]) -> None:
        """Start the process, never by fork alone, and tell it what to load.

        Raises:
            OSError: The machine has no room for another process.
        """
        self.channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.channel.setblocking(False)
        self._started_at_s = time.monotonic()
        directories = {path.parent for model in self.models for path in model.files.values()}
        argv = [*settings.program, "--control", str(theirs.fileno())]
        argv += ["--parent", str(os.getpid())]
        argv += [arg for sock in listeners for arg in ("--listen", str(sock.fileno()))]
        argv += [arg for path in sorted(directories) for arg in ("--readable", str(path))]
        passed = [theirs.fileno(), *(sock.fileno() for sock in listeners)]
        try:
            self._process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, pass_fds=passed)
        except OSError:
            self.channel.close()
            raise
        finally:
            theirs.close()
        models = tuple(_describe(model) for model in self.models)
        self.tell(
            control.Start(models, settings.request_deadline_s, settings.ring, settings.capture)
        )

    @property
    def pid(self) -> int | None:
        """The process id, once it has been started."""
        return self._process.pid if self._process is not None else None

    def tell(self, command: control.Command, descriptor: int | None = None) -> bool:
        """Send a command; return False when the child cannot take it any more."""
        self._conduct.told(command)
        try:
            control.send(self.channel, command, descriptor)
        except OSError as exc:
            log.debug("runtime %d takes no %s: %s", self.number, command, exc)
            return False
        finally:
            if isinstance(command, control.Serve):
                self._accept_by_s = time.monotonic() + ACCEPT_S
        return True

    def hear(self) -> tuple[control.Report, int | None] | None:
        """Return its next report and the connection that came with it; None at the channel's end.

        Raises:
            OSError: BlockingIOError when there is none yet.
            PeerError: `control_invalid`: it says what it may not say, or not now.
        """
        received = control.receive_report(self.channel)
        if received is None:
            return None
        report, descriptor = received
        is_with_socket = descriptor is not None
        fault = self._conduct.fault_of(report, time.monotonic(), is_with_socket=is_with_socket)
        if fault is None and descriptor is not None and not _is_connection(descriptor):
            fault = "it handed over what is no connection"
        if fault is not None:
            if descriptor is not None:
                os.close(descriptor)
            raise PeerError(fault, code="control_invalid")
        return report, descriptor

    def condemn(self, code: str, why: str, culprit: str | None = None) -> None:
        """Set down why it ends and which model is at fault, unless that is known already."""
        if self.verdict is None:
            self.verdict = (code, control.printable(why)[:300])
            self.culprit = culprit if any(model.name == culprit for model in self.models) else None

    def beat(self, report: control.Beat) -> Heartbeat:
        """Take note of a sign of life; return what it says of the models that it has."""
        self.last_beat_s = time.monotonic()
        self.oldest_request_s = report.oldest_request_s
        counted = {
            model.name: _counters(report.models[model.name])
            for model in self.models
            if model.name in report.models
        }
        tap = report.tap
        stats = TapStats(tap.sampled_count, tap.dropped_count) if tap is not None else None
        return Heartbeat(self.number, counted, report.oldest_request_s, report.rss_bytes, stats)

    def windows(self, report: control.Windows) -> tuple[WindowStats, ...]:
        """Return its windows, at most one for each model that it has."""
        closed = {window.model: window for window in report.windows}
        return tuple(
            _window_stats(closed[model.name], model)
            for model in self.models
            if model.name in closed
        )

    def columns(self, report: control.Columns) -> ColumnStats | None:
        """Return what it counted of one of the models that it has; None of any other."""
        model = self._model(report.model)
        if model is None:
            return None
        return ColumnStats(
            model=model.name,
            version=model.version,
            manifest=model.manifest,
            start_unix_ms=report.start_unix_ms,
            duration_s=report.duration_s,
            row_count=report.row_count,
            first=report.first,
            columns=report.columns,
            between=report.between if len(report.between) == len(report.columns) else (),
            scores=report.scores,
            flagged=_checks(report.flagged),
            rejected=_checks(report.rejected),
        )

    def labelled(self, report: measured.Labelled) -> LabelStats | None:
        """Return what it counted of labels of one of the models that it has; None of any other."""
        model = self._model(report.model)
        if model is None:
            return None
        return LabelStats(
            model=model.name,
            version=model.version,
            manifest=model.manifest,
            start_unix_ms=report.start_unix_ms,
            duration_s=report.duration_s,
            labelled_count=report.labelled,
            correct_count=report.correct,
            confusion=report.confusion,
            scores=report.scores,
            score_correct=report.score_correct,
            score_sums=report.score_sums,
            errors=_error_sums(report.errors),
            refused=_refused(report.refused),
        )

    def captured(self, report: measured.Captured) -> tuple[CapturedRow, ...]:
        """Return the rows of models that it has; none of a request whose sizes do not add up."""
        known = {model.name: model for model in self.models}
        return tuple(
            row
            for request in report.requests
            if (model := known.get(request.model)) is not None
            for row in _captured_rows(request, model)
        )

    def lateness(self, now_s: float) -> str | None:
        """Return what it should have done by now, in words, or None."""
        if not self.is_ready:
            is_late = now_s - self._started_at_s > self.timeout_s
            return f"not ready within {self.timeout_s:g} s" if is_late else None
        if self._accept_by_s is not None and now_s > self._accept_by_s:
            return f"accepts no connection {ACCEPT_S:g} s after it was told to"
        return None

    def _model(self, name: str) -> ServedModel | None:
        return next((model for model in self.models if model.name == name), None)

    def kill(self) -> None:
        """End the process at once; the end of its channel follows."""
        if self._process is not None:
            self._process.kill()

    def reap(self) -> tuple[str, str]:
        """Wait for the end of the process; return why it ended, as code and words."""
        self.channel.close()
        if self._process is None:
            return self.verdict or (Code.RUNTIME_DIED, "it was never started")
        try:
            status = self._process.wait(REAP_S)
        except subprocess.TimeoutExpired:
            self.condemn(Code.RUNTIME_DIED, "it closed its control channel and did not end")
            self._process.kill()
            status = self._process.wait()
        if self.verdict is not None:
            return self.verdict
        if status < 0:
            return Code.RUNTIME_DIED, f"ended by {_signal_name(-status)}"
        return Code.RUNTIME_DIED, f"ended with exit code {status}"


def _error_sums(errors: tuple[float, float, float] | None) -> ErrorSums | None:
    if errors is None:
        return None
    error, absolute, squared = errors
    return ErrorSums(error=error, absolute=absolute, squared=squared)


def _refused(refused: measured.RefusedLabels | None) -> RefusedLabels | None:
    if refused is None:
        return None
    return RefusedLabels(
        unknown_id=refused.unknown_id,
        already_labelled=refused.already_labelled,
        wrong_type=refused.wrong_type,
        other_version=refused.other_version,
    )


def _counters(tally: control.Tally) -> Counters:
    """Return a child's counts as the supervisor knows them."""
    return Counters(
        request_count=tally.request_count,
        row_count=tally.row_count,
        runtime=tally.runtime,
        deadline=tally.deadline,
        client=tally.client,
        non_finite=tally.non_finite,
        latency=tally.latency if len(tally.latency) == LATENCY_BINS else (),
        shift=OutputShift(control.printable(shift.column), shift.row_count, shift.psi, shift.excess)
        if (shift := tally.shift)
        else None,
    )


def _checks(checks: control.Checks | None) -> CheckCounts | None:
    if checks is None:
        return None
    return CheckCounts(
        range=checks.range,
        category=checks.category,
        missing=checks.missing,
        infinite=checks.infinite,
    )


def _window_stats(window: control.Window, model: ServedModel) -> WindowStats:
    """Return a child's window of one of its models as the supervisor knows it."""
    return WindowStats(
        model=model.name,
        version=model.version,
        manifest=model.manifest,
        start_unix_ms=window.start_unix_ms,
        duration_s=window.duration_s,
        counters=_counters(window.tally),
    )


def _captured_rows(request: measured.CapturedRequest, model: ServedModel) -> list[CapturedRow]:
    tensors = tuple(
        RowTensor(t.name, t.is_output, t.datatype, t.width if t.datatype == "BYTES" else 1, t.shape)
        for t in request.tensors
    )
    n_rows = len(request.scores)
    sizes = [tensor.size_bytes for tensor in tensors]
    is_whole = sum(sizes) <= MAX_ROW_BYTES and all(
        len(told.data) == n_rows * size for told, size in zip(request.tensors, sizes, strict=True)
    )
    if not is_whole or tensors[0].is_output:
        return []
    return [
        CapturedRow(
            model=model.name,
            version=model.version,
            manifest=model.manifest,
            at_unix_ms=request.at_unix_ms,
            id=request.id,
            score=request.scores[number],
            tensors=tensors,
            left_out=request.left_out,
            data=b"".join(
                told.data[number * size : (number + 1) * size]
                for told, size in zip(request.tensors, sizes, strict=True)
            ),
        )
        for number in range(n_rows)
    ]


def _is_connection(descriptor: int) -> bool:
    """Whether this is a stream socket with or without a peer, and no listening one."""
    try:
        sock = socket.socket(fileno=descriptor)
    except OSError:
        return False
    try:
        is_listening = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        return sock.type == socket.SOCK_STREAM and not is_listening
    finally:
        sock.detach()


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # one of the real-time signals between the first and the last
        return f"signal {number}"


def _describe(model: ServedModel) -> control.Model:
    return control.Model(
        name=model.name,
        version=model.version,
        manifest=model.manifest,
        files={name: str(path) for name, path in model.files.items()},
        memory_mb=model.memory_mb,
    )
