"""The agent's voice: presence, reported state, and records that wait for their acknowledgement."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from wire import codec, topics
from wire.errors import PeerError, StorageError
from wire.link import Link, Will
from wire.messages import (
    Ack,
    AlarmEvent,
    ChunksMissing,
    GapEvent,
    Message,
    Presence,
    Record,
    Reported,
)

from .adapters.outbox import Gap, Outbox, Waiting

log = logging.getLogger(__name__)

WINDOW: Final = 64
"""Records sent and not yet acknowledged by the controller; with 400 bytes each, 26 kB."""
RESEND_FIRST_S: Final = 15.0
RESEND_CAP_S: Final = 600.0
"""Without acknowledgement, records are sent again, ever more seldom: nobody may be storing them."""

REST_S: Final = 5.0
"""An outbox that fails (locked, full disk) is left alone this long: each try may block for 2 s."""
MAX_UNKEPT: Final = 256
"""Records that wait in memory for the outbox to work again, 100 kB; newer ones are lost."""

MakeRecord = Callable[[str, int], Record]


class Uplink:
    """Publishes for one device. Used by the loop's thread, but for `will` (the link's)."""

    def __init__(self, link: Link, outbox: Outbox, *, device: str, boot: str, agent: str) -> None:
        self._link = link
        self._outbox = outbox
        self._device = device
        self._boot = boot
        self._agent = agent
        self._birth = 0
        self._reported: Reported | None = None
        self._reported_seq = 0
        self._is_up = False
        # In the order of sending, with the monotonic instant of it.
        self._sent: dict[tuple[str, int], float] = {}
        self._cursor = 0
        self._resend_s = RESEND_FIRST_S
        self._rest_until_s = 0.0
        self._unkept: deque[tuple[topics.Event | topics.Telemetry, MakeRecord]] = deque()
        self.dropped_count = 0

    def will(self) -> Will:
        """Return the will of the next connection, under a new birth number."""
        self._birth += 1
        return Will(topics.Presence(self._device).text, codec.encode(self._presence("offline")))

    def connected(self) -> None:
        """Introduce the device to the broker, and send what waits."""
        self._is_up = True
        self._link.subscribe(topics.device_filters(self._device), qos=1)
        self._publish(topics.Presence(self._device), self._presence("online"))
        if self._reported is not None:
            self._publish(topics.Reported(self._device), self._reported)
        self._start_over()

    def disconnected(self) -> None:
        """Remember that nothing can be sent."""
        self._is_up = False

    def leave(self) -> None:
        """Say goodbye before an orderly stop."""
        self._keep_waiting()
        if self._is_up:
            self._publish(topics.Presence(self._device), self._presence("offline"))

    def report(self, make: Callable[[str, int], Reported]) -> None:
        """Publish the reported state, now and at each new connection.

        Args:
            make: Returns the message for a boot and a sequence number.
        """
        self._reported_seq += 1
        self._reported = make(self._boot, self._reported_seq)
        if self._is_up:
            self._publish(topics.Reported(self._device), self._reported)

    def record(self, topic: topics.Event | topics.Telemetry, make: MakeRecord) -> None:
        """Keep a record until the controller has it; send it at once when connected.

        Args:
            topic: Its channel.
            make: Returns the message for a boot and a sequence number.
        """
        if not self._unkept and self._keep(topic, make):
            return
        if len(self._unkept) < MAX_UNKEPT:
            self._unkept.append((topic, make))
        else:
            self.dropped_count += 1

    def alarm(self, code: str, detail: str) -> None:
        """Record something that a person should look at."""
        now_unix_ms = time.time_ns() // 1_000_000
        self.record(
            topics.Event(self._device, "alarm"),
            lambda boot, seq: AlarmEvent(
                boot=boot, seq=seq, at_unix_ms=now_unix_ms, code=code, detail=detail[:300]
            ),
        )

    def ask_chunks(self, digests: Sequence[str]) -> None:
        """Tell the controller which chunks do not come; safe from the fetcher's thread."""
        message = ChunksMissing(boot=self._boot, chunks=tuple(digests))
        self._publish(topics.Event(self._device, "chunks_missing"), message)

    def acknowledged(self, payload: bytes) -> None:
        """Delete what the controller has stored, and send more.

        Raises:
            PeerError: The payload is not an acknowledgement.
        """
        ack = codec.decode(Ack, payload)
        if self._is_resting():
            return  # what is not deleted is sent again, and acknowledged again
        oldest = next(iter(self._sent), None)
        try:
            if not self._outbox.delete(ack.stored):
                return
        except StorageError as exc:
            self._rest(exc)
            return
        for span in ack.stored:
            for key in [k for k in self._sent if k[0] == span.boot]:
                if span.first <= key[1] <= span.last:
                    del self._sent[key]
        # Only the oldest counts as progress: later ones are also acknowledged while it is lost.
        if next(iter(self._sent), None) != oldest:
            self._resend_s = RESEND_FIRST_S
        self._pump()

    def controller_seen(self) -> None:
        """Say again what the controller may not have heard while it was away: it has come.

        A broker has the report retained, but one that was killed may have handed an older one to a
        controller that came while the newest was on its way.
        """
        if self._is_up and self._reported is not None:
            self._publish(topics.Reported(self._device), self._reported)
        self._resend_s = RESEND_FIRST_S
        self._start_over()

    def tick(self, now_s: float) -> None:
        """Send again what was not acknowledged in time.

        Args:
            now_s: Monotonic.
        """
        self._keep_waiting()
        if not self._is_up:
            return
        oldest_s = next(iter(self._sent.values()), now_s)
        if now_s - oldest_s >= self._resend_s:
            self._resend_s = min(RESEND_CAP_S, self._resend_s * 2)
            self._start_over()
        else:
            self._pump()

    def _start_over(self) -> None:
        self._sent.clear()
        self._cursor = 0
        self._pump()

    def _pump(self) -> None:
        """Send waiting records, oldest first, up to the window."""
        while self._is_up and not self._is_resting() and (free := WINDOW - len(self._sent)) > 0:
            try:
                rows = self._outbox.waiting(free, after=self._cursor)
            except StorageError as exc:
                self._rest(exc)
                return
            for position, waiting in rows:
                if (waiting.boot, waiting.seq) not in self._sent and not self._send(waiting):
                    return
                self._cursor = position
            if len(rows) < free:
                return

    def _send(self, waiting: Waiting) -> bool:
        if not self._is_up:
            return False
        token = self._link.publish(waiting.topic, waiting.payload, qos=1, retain=False)
        if token is None:
            return False
        self._sent[(waiting.boot, waiting.seq)] = time.monotonic()
        return True

    def _keep(self, topic: topics.Event | topics.Telemetry, make: MakeRecord) -> bool:
        """Put a record into the outbox and send it; return whether the outbox took it."""
        try:
            waiting, gaps = self._outbox.append(
                topic.text, lambda seq: codec.encode(make(self._boot, seq))
            )
        except StorageError as exc:
            self._rest(exc)
            return False
        self._send(waiting)
        for gap in gaps:
            self._report_gap(gap)
        return True

    def _keep_waiting(self) -> None:
        """Put into the outbox what could not be put there before, in its order."""
        while self._unkept and not self._is_resting():
            if not self._keep(*self._unkept[0]):
                return
            self._unkept.popleft()

    def _is_resting(self) -> bool:
        return time.monotonic() < self._rest_until_s

    def _rest(self, exc: StorageError) -> None:
        log.error("records wait in memory: %s; %s", exc, exc.hint)
        self._rest_until_s = time.monotonic() + REST_S

    def _report_gap(self, gap: Gap) -> None:
        self.dropped_count += gap.count
        self.record(
            topics.Event(self._device, "gap"),
            lambda boot, seq: GapEvent(
                boot=boot,
                seq=seq,
                lost_boot=gap.boot,
                first=gap.first,
                last=gap.last,
                count=gap.count,
                reason="records_dropped",
            ),
        )

    def _presence(self, state: str) -> Presence:
        return Presence.model_validate(
            {"state": state, "boot": self._boot, "birth": self._birth, "agent": self._agent}
        )

    def _publish(
        self, topic: topics.Presence | topics.Reported | topics.Event, message: Message
    ) -> None:
        payload = codec.encode(message)
        if len(payload) > codec.MAX_CONTROL_BYTES:
            raise PeerError("own message is over its cap", code="payload_too_large")
        self._link.publish(topic.text, payload, qos=topic.qos, retain=topic.retain)
