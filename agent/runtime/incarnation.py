"""The life of one incarnation: load, prove, serve, hand over, end."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import uvloop

from agent import control, measured
from wire.errors import BundleError, PeerError
from wire.lifecycle import Code

from .capture import RowCapture
from .comparison import Comparison
from .confine import limit_memory
from .drain import DrainableServer
from .memory import machine_bytes, rss_bytes
from .selftest import run_golden
from .server import InferenceServer
from .session import MAX_OPSET, LoadedModel, runtime_name
from .tap import RequestTap

BEAT_S: Final = 1.0
DEFAULT_BUDGET_MB: Final = 512
"""For a model that declares no memory budget; generous, since it guards against bombs."""
HEADROOM_BYTES: Final = 256 * 1024 * 1024
"""For requests, answers and threads, beside the models' own budgets."""
LOAD_FACTOR: Final = 6
"""Times the files' size that loading may take: mapped, read, parsed, unpacked, packed for the CPU,
and golden rows."""
READ_AGAIN_S: Final = 5.0
"""Golden rows that cannot be read are left alone this long: that is no evidence against the model."""


def run(
    channel: socket.socket, listeners: Sequence[socket.socket], protections: tuple[str, ...]
) -> int:
    """Live from the `Start` command to the end; return the exit code."""
    received = control.receive_command(channel)
    if received is None or not isinstance(received[0], control.Start):
        return 1
    start = received[0]
    budget_bytes = _budget_bytes(start.models)
    allowance_bytes = budget_bytes + HEADROOM_BYTES + LOAD_FACTOR * _size_bytes(start.models)
    if limit_memory(allowance_bytes):
        protections = (*protections, "memory_limit")
    # From here on a model may have a say in what this process tells.
    control.send(channel, control.Confined(runtime_name(), MAX_OPSET, protections))
    models: dict[str, LoadedModel] = {}
    for model in start.models:
        try:
            models[model.name] = _load(model)
        except (BundleError, OSError, MemoryError) as exc:
            code, text = _why(exc)
            control.send(channel, control.Failed(model.name, code, text[:300]))
            return 1
    limit_memory(budget_bytes)
    control.send(channel, control.Ready())
    capture = None
    if start.capture is not None:
        capture = RowCapture(start.capture, models, np.random.default_rng())
    server = InferenceServer(models, start.request_deadline_s, start.ring, capture)
    return uvloop.run(Incarnation(channel, listeners, models, server, capture).live())


def _budget_bytes(models: Sequence[control.Model]) -> int:
    """Return what serving these models may take; no budget is larger than the machine."""
    budget_mb = sum(model.memory_mb or DEFAULT_BUDGET_MB for model in models)
    return min(budget_mb * 1024 * 1024, machine_bytes()) + HEADROOM_BYTES


def _size_bytes(models: Sequence[control.Model]) -> int:
    return sum(Path(path).stat().st_size for model in models for path in model.files.values())


def _load(model: control.Model) -> LoadedModel:
    loaded = LoadedModel(model)
    loaded.measure(run_golden(loaded))
    return loaded


def _why(exc: BundleError | OSError | MemoryError) -> tuple[str, str]:
    """Return code and words of a load that failed: by the bundle's fault, or this disk's."""
    match exc:
        case BundleError():
            return exc.code, str(exc)
        case OSError() if exc.errno != errno.ENOMEM:
            return Code.STORAGE_ERROR, str(exc)
        case _:
            return Code.LOAD_FAILED, "it needs more memory than its budget and this device allow"


class Incarnation:
    """Serves and obeys; everything here runs in the event loop's thread."""

    def __init__(
        self,
        channel: socket.socket,
        listeners: Sequence[socket.socket],
        models: dict[str, LoadedModel],
        app: InferenceServer,
        capture: RowCapture | None = None,
    ) -> None:
        self._channel = channel
        self._listeners = list(listeners)
        self._models = models
        self._app = app
        self._capture = capture
        self._server = DrainableServer(app)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._ended = asyncio.Event()
        self._telling = asyncio.Lock()
        self._comparison: Comparison | None = None

    async def live(self) -> int:
        """Serve until drained, or until the channel ends."""
        self._channel.setblocking(False)
        loop = asyncio.get_running_loop()
        loop.add_reader(self._channel.fileno(), self._on_readable)
        self._spawn(self._beat())
        self._spawn(self._server.run_ticks())
        await self._ended.wait()
        loop.remove_reader(self._channel.fileno())
        return 0

    def _on_readable(self) -> None:
        while True:
            try:
                received = control.receive_command(self._channel)
            except BlockingIOError:
                return
            except (OSError, PeerError):
                received = None
            if received is None:
                self._ended.set()
                return
            self._obey(*received)

    def _obey(self, command: control.Command, descriptor: int | None) -> None:
        match command:
            case control.Serve():
                self._spawn(self._serve())
            case control.StopAccepting():
                self._server.stop_accepting()
                self._tell(control.Stopped())
            case control.Drain():
                self._spawn(self._drain(command))
            case control.Adopt() if descriptor is not None:
                self._spawn(self._server.adopt(descriptor))
            case control.CloseWindow():
                self._tell(self._close_windows())
            case control.CloseColumns():
                self._spawn(self._tell_columns())
            case control.GiveLabels():
                self._app.take_labels(command)
            case control.CheckGolden(model=name):
                self._spawn(self._check_golden(name))
            case _:
                self._shadow(command, descriptor)

    def _shadow(self, command: control.Command, descriptor: int | None) -> None:
        """Do what is said of a shadow, as the one that feeds it or as the shadow itself."""
        match command:
            case control.Tap() if descriptor is not None:
                self._tap(RequestTap(command, descriptor))
            case control.Untap():
                self._tap(None)
            case control.Feed(model=name) if descriptor is not None and name in self._models:
                self._feed(Comparison(self._models[name], command, descriptor))
            case control.CloseShadow() if self._comparison is not None:
                self._tell(self._comparison.close_window())
            case _:
                pass

    def _tap(self, tap: RequestTap | None) -> None:
        if self._app.tap is not None:
            self._app.tap.close()
        self._app.tap = tap

    def _feed(self, comparison: Comparison) -> None:
        self._comparison = comparison
        loop, descriptor = asyncio.get_running_loop(), comparison.socket.fileno()

        def read() -> None:
            if not comparison.read():
                loop.remove_reader(descriptor)

        loop.add_reader(descriptor, read)

    async def _serve(self) -> None:
        await self._server.accept(self._listeners)
        self._tell(control.Accepting())

    async def _drain(self, command: control.Drain) -> None:
        self._server.stop_accepting()
        if command.has_heir:
            moved, cut = await self._server.hand_over(self._give_away, command.drain_s)
        else:
            moved, cut = 0, await self._server.let_end(command.drain_s)
        self._tell(self._close_windows())
        await self._tell_columns()
        self._tell_captured()
        self._tell(control.Drained(moved, cut))
        self._ended.set()

    def _give_away(self, descriptor: int) -> bool:
        try:
            control.send(self._channel, control.HandOver(), descriptor)
        except BlockingIOError:
            return False  # the supervisor is busy; the next sweep tries again
        except OSError:
            return False
        return True

    def _close_windows(self) -> control.Windows:
        return control.Windows(
            tuple(counters.close_window() for counters in self._app.counters.values())
        )

    async def _tell_columns(self) -> None:
        """Close the window of the columns, and tell of it as fast as the supervisor reads.

        The counts of many models are more than its socket holds at once.
        """
        closed: list[control.Columns | measured.Labelled] = []
        for counters in self._app.counters.values():
            closed += counters.close_columns()
            closed += counters.close_labels()
        async with self._telling:
            for part in closed:
                while not self._is_told(part):
                    await self._until_writable()

    def _is_told(self, report: control.Report) -> bool:
        """Tell, and return whether there was room for it, or nobody to tell."""
        try:
            control.send(self._channel, report)
        except BlockingIOError:
            return False
        except OSError:
            self._ended.set()
        return True

    async def _until_writable(self) -> None:
        loop, writable = asyncio.get_running_loop(), asyncio.Event()
        loop.add_writer(self._channel.fileno(), writable.set)
        try:
            await writable.wait()
        finally:
            loop.remove_writer(self._channel.fileno())

    async def _check_golden(self, name: str) -> None:
        model = self._models.get(name)
        if model is None:
            self._tell(control.Golden(name, is_passed=False, detail="there is no such model"))
            return
        while True:
            try:
                run_golden(model)
            except OSError:
                await asyncio.sleep(READ_AGAIN_S)
            except BundleError as exc:
                self._tell(control.Golden(name, is_passed=False, detail=str(exc)[:300]))
                return
            else:
                self._tell(control.Golden(name, is_passed=True, detail=""))
                return

    async def _beat(self) -> None:
        while True:
            self._tell(
                control.Beat(
                    {name: counters.total() for name, counters in self._app.counters.items()},
                    round(self._app.oldest_request_s(), 3),
                    rss_bytes(),
                    self._app.tap.counts() if self._app.tap is not None else None,
                )
            )
            self._tell_captured()
            await asyncio.sleep(BEAT_S)

    def _tell_captured(self) -> None:
        """Tell of the rows that were captured; what a busy supervisor does not take is gone."""
        if self._capture is not None and (captured := self._capture.close()) is not None:
            self._tell(captured)

    def _tell(self, report: control.Report) -> None:
        self._is_told(
            report
        )  # a supervisor that does not read for long is ended by its own watchdog

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (fault := task.exception()) is not None:
            raise fault
