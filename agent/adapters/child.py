"""Incarnations as processes: started, promoted, watched and ended, connections relayed between.

The order of a swap, so that no request is lost and no client sees the old version after the new:
the candidate loads and proves itself; the old one closes its listening sockets (new connections
wait in the supervisor's backlog); the candidate accepts; the old one hands its idle connections
over, one by one as they become idle, and ends. With `swap = "replace"` the old one hands over
everything first, and the supervisor holds the connections until the candidate accepts.
"""

from __future__ import annotations

import logging
import os
import selectors
import socket
import threading
import time
from typing import Final

from agent import control, measured
from agent.ports import (
    CandidateFailed,
    CandidateReady,
    ColumnsClosed,
    GoldenChecked,
    LabelsClosed,
    Promoted,
    RowsCaptured,
    RuntimeDied,
    RuntimeSettings,
    RuntimeSink,
    ServedModel,
    ShadowClosed,
    ShadowGone,
    ShadowOrder,
    WindowClosed,
)
from wire.errors import PeerError
from wire.lifecycle import Code
from wire.performance import GivenLabel

from .aside import START_FACTOR, Aside, shadow_settings
from .child_process import Child
from .listeners import open_listeners

log = logging.getLogger(__name__)

STOP_ACCEPTING_S: Final = 2.0
"""How long the old incarnation may take to close its listening sockets before it is overtaken."""
KILL_AFTER_S: Final = 5.0
"""Grace beyond a deadline before SIGKILL."""
REPLACE_DRAIN_S: Final = 5.0
"""Longest drain when the old incarnation ends first: nobody serves meanwhile."""
REPLACE_GRACE_S: Final = 2.0
"""Beyond that, before SIGKILL: with both, a model that hangs is replaced within 10 s."""
MAX_HELD: Final = 2048
"""Connections held while nobody serves: half the descriptors that the unit allows."""
MAX_REPORTS_PER_TURN: Final = 64
"""Of one child before the others are heard again."""


class ProcessRuntimeHost:
    """See `agent.ports.RuntimeHost`.

    Methods are called by the loop's thread; one reader thread takes what the children say, relays
    connections and posts events. One lock guards everything between them.
    """

    def __init__(self, settings: RuntimeSettings, sink: RuntimeSink) -> None:
        self._settings = settings
        self._sink = sink
        self._listeners: list[socket.socket] = []
        self._lock = threading.RLock()
        self._selector = selectors.DefaultSelector()
        self._wake_out, self._wake_in = os.pipe()
        os.set_blocking(self._wake_out, False)
        self._number = 0
        self._serving: Child | None = None
        self._candidate: Child | None = None
        self._shadow: Aside | None = None
        self._leaving: list[Child] = []
        self._queued: Child | None = None  # waits for the old one to be gone (swap = "replace")
        self._held: list[int] = []
        self._promoting_since_s: float | None = None
        self._is_stopping = False
        self._reader = threading.Thread(target=self._read, name="runtimes", daemon=True)

    def open(self) -> None:
        """See `RuntimeHost.open`."""
        self._listeners = open_listeners(self._settings)
        self._selector.register(self._wake_out, selectors.EVENT_READ, None)
        self._reader.start()

    def start_candidate(self, models: tuple[ServedModel, ...], *, auto_promote: bool) -> int:
        """See `RuntimeHost.start_candidate`."""
        with self._lock:
            self.discard_candidate()
            child = self._make(models, auto_promote=auto_promote)
            if self._settings.swap == "replace" and (self._serving or self._leaving):
                self._queued = child
                if self._serving is not None:
                    self._drain(self._serving, min(self._settings.drain_s, REPLACE_DRAIN_S))
                    self._serving = None
            else:
                self._launch(child)
            return child.number

    def promote(self) -> None:
        """See `RuntimeHost.promote`."""
        with self._lock:
            if self._candidate is None or not self._candidate.is_ready:
                return
            if self._serving is not None and self._serving.tell(control.StopAccepting()):
                self._promoting_since_s = time.monotonic()
            else:
                self._candidate.tell(control.Serve())

    def discard_candidate(self) -> None:
        """See `RuntimeHost.discard_candidate`."""
        with self._lock:
            self._queued = None
            self._promoting_since_s = None
            if self._candidate is not None:
                child, self._candidate = self._candidate, None
                self._end(child)

    def start_shadow(self, model: ServedModel, order: ShadowOrder) -> int:
        """See `RuntimeHost.start_shadow`."""
        settings = self._settings
        with self._lock:
            self.stop_shadow()
            self._number += 1
            timeout_s = START_FACTOR * settings.start_timeout_s
            child = Child(self._number, (model,), auto_promote=False, timeout_s=timeout_s)
            try:
                child.spawn(shadow_settings(settings), ())
            except OSError as exc:
                text = f"no process could be started: {exc.strerror or exc}"
                self._sink(ShadowGone(child.number, Code.START_FAILED, text))
                return child.number
            self._shadow = Aside(child, order)
            self._listen_to(child)
            return child.number

    def stop_shadow(self) -> None:
        """See `RuntimeHost.stop_shadow`."""
        with self._lock:
            if self._shadow is not None:
                shadow, self._shadow = self._shadow, None
                shadow.close(self._serving)
                self._end(shadow.child)

    def close_shadow(self) -> None:
        """See `RuntimeHost.close_shadow`."""
        with self._lock:
            if self._shadow is not None and self._shadow.child.is_ready:
                self._shadow.child.tell(control.CloseShadow())

    def close_window(self) -> None:
        """See `RuntimeHost.close_window`."""
        with self._lock:
            if self._serving is not None:
                self._serving.tell(control.CloseWindow())

    def close_columns(self) -> None:
        """See `RuntimeHost.close_columns`."""
        with self._lock:
            if self._serving is not None:
                self._serving.tell(control.CloseColumns())

    def give_labels(self, model: str, labels: tuple[GivenLabel, ...]) -> None:
        """See `RuntimeHost.give_labels`."""
        told = tuple(control.GivenLabel(o.id, o.label, o.row, o.version) for o in labels)
        with self._lock:
            if self._serving is not None:
                self._serving.tell(control.GiveLabels(model, told))

    def check_golden(self, model: str) -> None:
        """See `RuntimeHost.check_golden`."""
        with self._lock:
            if self._serving is not None:
                self._serving.tell(control.CheckGolden(model))

    def tick(self) -> None:
        """See `RuntimeHost.tick`."""
        now_s = time.monotonic()
        with self._lock:
            if (child := self._candidate) is not None and (why := child.lateness(now_s)):
                child.condemn(Code.START_TIMEOUT, why)
                child.kill()
            if (child := self._serving) is not None and (why := self._stuck(child, now_s)):
                child.condemn(Code.REQUEST_STUCK, why)
                child.kill()
            limit_s = self._settings.shadow_timeout_s
            if (aside := self._shadow) is not None and (fault := aside.fault(now_s, limit_s)):
                aside.child.condemn(*fault)
                aside.child.kill()
            for child in self._leaving:
                if now_s > child.leave_by_s:
                    child.kill()
            self._pass_on_held()
            since_s = self._promoting_since_s
            if since_s is not None and now_s - since_s > STOP_ACCEPTING_S and self._candidate:
                self._promoting_since_s = None
                self._candidate.tell(control.Serve())

    def is_alive(self) -> bool:
        """See `RuntimeHost.is_alive`."""
        return self._reader.is_alive()

    def stop(self) -> None:
        """See `RuntimeHost.stop`."""
        with self._lock:
            if not self._reader.is_alive() or self._is_stopping:
                return
            self._is_stopping = True
            self.stop_shadow()
            self.discard_candidate()
            self._drop_held()
            if self._serving is not None:
                self._drain(self._serving, self._settings.drain_s, has_heir=False)
                self._serving = None
        deadline_s = time.monotonic() + self._settings.drain_s + KILL_AFTER_S
        while self._leaving and time.monotonic() < deadline_s:
            time.sleep(0.01)
        with self._lock:
            for child in self._leaving:
                child.kill()
        os.write(self._wake_in, b"x")
        self._reader.join(timeout=KILL_AFTER_S)
        for listener in self._listeners:
            listener.close()
        path = self._settings.socket
        if path is not None and "unix" not in self._settings.inherited:
            path.unlink(missing_ok=True)

    # -- starting and ending, lock held

    def _make(self, models: tuple[ServedModel, ...], *, auto_promote: bool) -> Child:
        self._number += 1
        return Child(
            self._number,
            models,
            auto_promote=auto_promote,
            timeout_s=self._settings.start_timeout_s,
        )

    def _launch(self, child: Child) -> None:
        settings = self._settings
        try:
            child.spawn(settings, self._listeners)
        except OSError as exc:
            text = f"no process could be started: {exc.strerror or exc}"
            self._sink(CandidateFailed(child.number, None, Code.START_FAILED, text))
            return
        self._candidate = child
        self._listen_to(child)

    def _listen_to(self, child: Child) -> None:
        self._selector.register(child.channel, selectors.EVENT_READ, child)
        os.write(self._wake_in, b"x")

    def _drain(self, child: Child, drain_s: float, *, has_heir: bool = True) -> None:
        grace_s = KILL_AFTER_S if self._settings.swap == "overlap" else REPLACE_GRACE_S
        child.leave_by_s = time.monotonic() + drain_s + grace_s
        self._leaving.append(child)
        if not child.tell(control.Drain(drain_s, has_heir)):
            child.kill()

    def _end(self, child: Child) -> None:
        child.leave_by_s = time.monotonic()
        self._leaving.append(child)
        child.kill()

    def _stuck(self, child: Child, now_s: float) -> str | None:
        limit_s = self._settings.request_deadline_s + KILL_AFTER_S
        if child.oldest_request_s > limit_s:
            return f"an inference has run for {child.oldest_request_s:.0f} s"
        silent_s = now_s - child.last_beat_s
        if silent_s > self._settings.heartbeat_timeout_s:
            return f"no sign of life for {silent_s:.0f} s"
        return None

    def _drop_held(self) -> None:
        for descriptor in self._held:
            os.close(descriptor)
        self._held.clear()

    # -- the reader thread

    def _read(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.data is None:
                    self._woken()
                else:
                    self._hear(key.data)
            with self._lock:
                if self._is_stopping and not self._leaving:
                    return

    def _woken(self) -> None:
        try:
            os.read(self._wake_out, 1024)
        except BlockingIOError:
            return

    def _hear(self, child: Child) -> None:
        for _ in range(MAX_REPORTS_PER_TURN):
            # Locked from the first byte: an answer must not be judged before its question is noted.
            with self._lock:
                try:
                    received = child.hear()
                except BlockingIOError:
                    return
                except ConnectionResetError:
                    continue  # it left words of ours unread; its own last words come after this
                except OSError as exc:
                    log.warning("runtime %d: %s", child.number, exc)
                    received = None
                except PeerError as exc:
                    child.condemn(Code.RUNTIME_DIED, f"it broke the protocol and was ended: {exc}")
                    child.kill()
                    received = None
                if received is None:
                    self._gone(child)
                    return
                self._take(child, *received)

    def _take(self, child: Child, report: control.Report, descriptor: int | None) -> None:
        match report:
            case control.HandOver() if descriptor is not None:
                self._relay(descriptor)
            case control.Confined():
                child.facts = report
            case control.Ready():
                self._ready(child)
            case control.Failed(model=model, code=code, detail=detail):
                child.condemn(code, detail, model)
                child.kill()  # it said so itself; nobody waits for it
            case control.Stopped() if child is self._serving and self._promoting_since_s:
                self._promoting_since_s = None
                if self._candidate is not None:
                    self._candidate.tell(control.Serve())
            case control.Accepting() if child is self._candidate:
                self._accepting(child)
            case control.Beat():
                beat = child.beat(report)
                if child is self._serving:
                    self._sink(beat)
            case _:
                self._pass_on(child, report)

    def _pass_on(self, child: Child, report: control.Report) -> None:
        """Tell the loop what was asked for."""
        match report:
            case control.Windows():
                self._sink(WindowClosed(child.number, child.windows(report)))
            case control.Columns():
                if (columns := child.columns(report)) is not None:
                    self._sink(ColumnsClosed(child.number, columns))
            case measured.Labelled():
                if (labelled := child.labelled(report)) is not None:
                    self._sink(LabelsClosed(child.number, labelled))
            case measured.Captured(dropped_count=dropped):
                self._sink(RowsCaptured(child.number, child.captured(report), dropped))
            case measured.Compared() if self._shadow is not None and child is self._shadow.child:
                stats = self._shadow.stats(report, self._serving)
                self._sink(ShadowClosed(child.number, stats))
            case control.Golden(model=model, is_passed=is_passed, detail=detail):
                detail = control.printable(detail)
                self._sink(GoldenChecked(child.number, model, is_passed, detail))
            case _:
                log.debug("runtime %d: %s", child.number, report)

    def _ready(self, child: Child) -> None:
        if self._shadow is not None and child is self._shadow.child:
            child.is_ready = True
            child.last_beat_s = time.monotonic()
            self._shadow.connect()
            self._shadow.tap(self._serving)
            return
        if child is not self._candidate:
            return
        child.is_ready = True
        child.last_beat_s = time.monotonic()
        facts = child.facts
        self._sink(CandidateReady(child.number, facts.runtime, facts.max_opset, facts.protections))
        if child.auto_promote:
            self.promote()

    def _accepting(self, child: Child) -> None:
        old, self._serving, self._candidate = self._serving, child, None
        self._pass_on_held()
        if self._shadow is not None:
            self._shadow.tap(child)
        self._sink(Promoted(child.number))
        if old is not None:
            self._drain(old, self._settings.drain_s)

    def _relay(self, descriptor: int) -> None:
        """Pass a connection on to what serves; keep it for what comes; close it at the end."""
        taker = self._serving
        is_taken = taker is not None and taker.tell(control.Adopt(), descriptor)
        if is_taken or self._is_stopping or len(self._held) >= MAX_HELD:
            os.close(descriptor)
        else:
            self._held.append(descriptor)

    def _pass_on_held(self) -> None:
        """Try again with what nobody could take; a runtime that is busy takes it a moment later."""
        if self._serving is None:
            return
        held, self._held = self._held, []
        for descriptor in held:
            self._relay(descriptor)

    def _gone(self, child: Child) -> None:
        """Answer the end of a child's channel: the process ends, whatever it was is over."""
        self._selector.unregister(child.channel)
        code, detail = child.reap()
        if child in self._leaving:
            self._leaving.remove(child)
        elif child is self._candidate:
            self._candidate = None
            self._promoting_since_s = None
            self._sink(CandidateFailed(child.number, child.culprit, code, detail))
        elif self._shadow is not None and child is self._shadow.child:
            shadow, self._shadow = self._shadow, None
            shadow.close(self._serving)
            self._sink(ShadowGone(child.number, *Aside.end(code, detail)))
        elif child is self._serving:
            self._serving = None
            self._sink(RuntimeDied(child.number, code, detail))
            if self._promoting_since_s and self._candidate is not None:
                self._promoting_since_s = None
                self._candidate.tell(control.Serve())
        if self._queued is not None and not self._leaving and not self._is_stopping:
            queued, self._queued = self._queued, None
            self._launch(queued)
