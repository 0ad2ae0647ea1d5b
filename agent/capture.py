"""Keeps captured rows, and gives the controller what an operator asked for: in a thread of its own.

There is one only where the device's own configuration has `[capture]`. Nothing that the loop or the
runtimes do waits for it: rows come through a queue that is bounded and drops, and a pack a second is
all that is sent, so that telemetry has its turn.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

from wire.capture import CaptureFacts, CaptureRequest
from wire.errors import ModelfleetError, PeerError, StorageError
from wire.lifecycle import Code
from wire.manifest import TensorSpec
from wire.messages import MAX_DETAIL_BYTES
from wire.packs import PackTaken

from .adapters.capture_ring import CaptureRing, facts_of
from .core.backoff import respawn_delay_s
from .core.captured import CapturedRow, CaptureRules
from .core.leave_out import REMEDY, describe, unmatched
from .ports import RowsCaptured, ServedModel

log = logging.getLogger(__name__)

WRITE_EVERY_S: Final = 2.0
"""One sync of the disk for what came meanwhile; each wears flash."""
PACK_EVERY_S: Final = 1.0
"""At most 60 KiB a second go up."""
FACTS_EVERY_S: Final = 300.0
"""How often the inventory says how many rows there are; at once after an upload."""
MAX_WAITING: Final = 16
"""Reports of runtimes, 100 kB each at most, that wait for the disk; what is over is dropped."""
FINAL: Final = frozenset({"capture_not_wanted", "capture_invalid", "capture_full"})
"""Refusals that another try will not change."""
STOP_S: Final = 5.0

Send = Callable[[bytes], PackTaken]


class Capture:
    """The keeper of captured rows. `put` is for any thread, the rest for the loop's."""

    def __init__(
        self,
        ring: CaptureRing,
        rules: CaptureRules,
        send: Send | None,
        tell: Callable[[CaptureFacts], None],
    ) -> None:
        """Take note of what to do; nothing is done before `start`.

        Args:
            ring: Where the rows are.
            rules: Of the device's configuration.
            send: Gives the controller a pack; None where there is no way to it.
            tell: Takes the facts when they are news; from the thread of this.
        """
        self._ring = ring
        self._rules = rules
        self._send = send
        self._tell = tell
        self._waiting: queue.Queue[RowsCaptured | None] = queue.Queue(MAX_WAITING)
        self._thread = threading.Thread(target=self._work, name="capture", daemon=True)
        self._is_stopping = False
        self._failure_count = 0
        self._has_failed = False
        self._is_uploaded = False
        """Whether the last round gave the last of what was asked for."""
        self.dropped_count = 0
        self.facts = facts_of(rules)

    def start(self) -> None:
        """Begin to keep and to send."""
        self._thread.start()

    def put(self, captured: RowsCaptured) -> None:
        """Keep rows, if there is room for them to wait."""
        self.dropped_count += captured.dropped_count
        try:
            self._waiting.put_nowait(captured)
        except queue.Full:
            self.dropped_count += len(captured.rows)

    def ask(self, request: CaptureRequest) -> None:
        """Take up a request of the controller's; it is on disk when this returns."""
        try:
            if self._ring.ask(request):
                log.info("captured rows of %s are asked for: %s", request.model, request.id)
        except StorageError as exc:
            log.error("request %s for captured rows is not taken up: %s", request.id, exc)  # noqa: TRY400

    def is_alive(self) -> bool:
        """Return False if the thread has died."""
        return self._is_stopping or self._thread.is_alive()

    def stop(self) -> None:
        """Keep what waits, and end."""
        self._is_stopping = True
        with contextlib.suppress(queue.Full):  # then it wakes anyway
            self._waiting.put_nowait(None)
        self._thread.join(STOP_S)
        self._ring.close()

    def _work(self) -> None:
        facts_due_s = send_due_s = time.monotonic()
        while not self._is_stopping:
            now_s = time.monotonic()
            if now_s >= facts_due_s:
                self._look()
                facts_due_s = now_s + FACTS_EVERY_S
            if now_s >= send_due_s:
                send_due_s = now_s + self._upload()
                if self._is_uploaded:
                    facts_due_s = now_s
            self._keep(min(WRITE_EVERY_S, max(0.0, send_due_s - time.monotonic())))
        self._keep(0.0)

    def _keep(self, wait_s: float) -> None:
        """Put on disk what came within some seconds."""
        end_s = time.monotonic() + wait_s
        rows: list[CapturedRow] = []
        while True:
            left_s = end_s - time.monotonic()
            try:
                captured = self._waiting.get(block=left_s > 0, timeout=max(0.0, left_s) or None)
            except queue.Empty:
                break
            if captured is None:
                break
            rows += captured.rows
        if not rows:
            return
        try:
            self._ring.add(rows, _now_unix_ms())
            self._has_failed = False
        except StorageError as exc:
            self.dropped_count += len(rows)
            if not self._has_failed:
                log.warning("captured rows cannot be kept: %s; %s", exc, exc.hint)
            self._has_failed = True

    def _upload(self) -> float:
        """Send a pack if one is asked for; return after how many seconds to look again."""
        self._is_uploaded = False
        if self._send is None:
            return PACK_EVERY_S
        try:
            body = self._ring.next_pack(_now_unix_ms())
            if body is None:
                return PACK_EVERY_S
            taken = self._send(body)
            count = self._ring.confirm(_now_unix_ms(), is_wanted=taken.is_wanted)
        except PeerError as exc:
            return self._refused(exc)
        except ModelfleetError as exc:
            self._failure_count += 1
            log.info("captured rows are not with the controller yet: %s", exc)
            return max(PACK_EVERY_S, respawn_delay_s(self._failure_count))
        self._failure_count = 0
        self._is_uploaded = not taken.is_wanted
        log.info("the controller has %d captured rows, pack %s", count, taken.digest[:12])
        return PACK_EVERY_S

    def _refused(self, exc: PeerError) -> float:
        log.warning("the controller refuses captured rows: %s (%s)", exc, exc.code)
        if exc.code not in FINAL:
            self._failure_count += 1
            return max(PACK_EVERY_S, respawn_delay_s(self._failure_count))
        try:
            self._ring.end(exc.code)
        except StorageError as fault:
            log.warning("%s", fault)
        return PACK_EVERY_S

    def _look(self) -> None:
        try:
            self._ring.expire(_now_unix_ms())
            found = self._ring.facts(self._rules)
        except StorageError as exc:
            log.warning("%s", exc)
            return
        if found != self.facts:
            self.facts = found
            self._tell(found)


class LeftOut:
    """Says once of each release, in a run of the agent, that nothing of it is kept because of `leave_out`.

    For the loop's thread.
    """

    def __init__(self, rules: CaptureRules, alarm: Callable[[str, str], None]) -> None:
        """Take note of what to look for.

        Args:
            rules: Of the device's configuration.
            alarm: Tells people, by code and in words.
        """
        self._rules = rules
        self._alarm = alarm
        self._told: set[str] = set()

    def look(self, model: ServedModel, inputs: Sequence[TensorSpec]) -> None:
        """Hold a release against the rules when it is loaded."""
        leave_out = self._rules.leave_out
        if model.manifest in self._told or not unmatched(leave_out, inputs):
            return
        self._told.add(model.manifest)
        words = f"{model.name} {model.version}: {describe(leave_out, inputs)}"
        log.warning("%s; %s", words, REMEDY)
        self._alarm(
            Code.LEAVE_OUT_UNKNOWN, f"{words[: MAX_DETAIL_BYTES - len(REMEDY) - 2]}; {REMEDY}"
        )


def _now_unix_ms() -> int:
    return time.time_ns() // 1_000_000
