"""One runtime process and its control channel."""

from __future__ import annotations

import logging
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence

from agent import control
from agent.ports import Counters, ServedModel, WindowStats
from wire.latency import LATENCY_BINS
from wire.lifecycle import Code

log = logging.getLogger(__name__)

REAP_S = 2.0


class Child:
    """What the supervisor knows of one incarnation.

    Attributes:
        number: Of the incarnation.
        models: What it serves.
        auto_promote: Whether it accepts as soon as it is ready.
        timeout_s: How long it may take to get ready.
        is_ready: Whether its golden rows have passed.
        verdict: Code and words of why it ends, where that is known before the end.
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
        self.verdict: tuple[str, str] | None = None
        self.culprit: str | None = None
        self.oldest_request_s = 0.0
        self.last_beat_s = 0.0
        self.leave_by_s = 0.0
        self._started_at_s = 0.0
        self._process: subprocess.Popen[bytes] | None = None

    def spawn(self, listeners: Sequence[socket.socket], deadline_s: float) -> None:
        """Start the process, never by fork alone, and tell it what to load."""
        self.channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.channel.setblocking(False)
        self._started_at_s = time.monotonic()
        directories = {path.parent for model in self.models for path in model.files.values()}
        # -P: nothing is imported from the working directory.
        argv = [sys.executable, "-P", "-m", "agent.runtime", "--control", str(theirs.fileno())]
        argv += [arg for sock in listeners for arg in ("--listen", str(sock.fileno()))]
        argv += [arg for path in sorted(directories) for arg in ("--readable", str(path))]
        passed = [theirs.fileno(), *(sock.fileno() for sock in listeners)]
        with theirs:
            self._process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, pass_fds=passed)
        models = tuple(_describe(model) for model in self.models)
        self.tell(control.Start(models, deadline_s))

    @property
    def pid(self) -> int | None:
        """The process id, once it has been started."""
        return self._process.pid if self._process is not None else None

    def tell(self, command: control.Command, descriptor: int | None = None) -> bool:
        """Send a command; return False when the child cannot take it any more."""
        try:
            control.send(self.channel, command, descriptor)
        except OSError as exc:
            log.debug("runtime %d takes no %s: %s", self.number, command, exc)
            return False
        return True

    def is_late(self, now_s: float) -> bool:
        """Whether it should have been ready by now."""
        return not self.is_ready and now_s - self._started_at_s > self.timeout_s

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
            self._process.kill()
            status = self._process.wait()
        if self.verdict is not None:
            return self.verdict
        if status < 0:
            return Code.RUNTIME_DIED, f"ended by {signal.Signals(-status).name}"
        return Code.RUNTIME_DIED, f"ended with exit code {status}"


def counters(tally: control.Tally) -> Counters:
    """Return a child's counts as the supervisor knows them."""
    return Counters(
        request_count=tally.request_count,
        row_count=tally.row_count,
        runtime=tally.runtime,
        deadline=tally.deadline,
        client=tally.client,
        non_finite=tally.non_finite,
        latency=tally.latency if len(tally.latency) == LATENCY_BINS else (),
    )


def window_stats(window: control.Window) -> WindowStats:
    """Return a child's window as the supervisor knows it."""
    return WindowStats(
        model=window.model,
        version=window.version,
        manifest=window.manifest,
        start_unix_ms=window.start_unix_ms,
        duration_s=window.duration_s,
        counters=counters(window.tally),
        p50_ms=window.p50_ms,
        p99_ms=window.p99_ms,
    )


def _describe(model: ServedModel) -> control.Model:
    return control.Model(
        name=model.name,
        version=model.version,
        manifest=model.manifest,
        files={name: str(path) for name, path in model.files.items()},
        memory_mb=model.memory_mb,
    )
