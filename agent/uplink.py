"""The agent's voice: presence, reported state, and records that wait for their acknowledgement."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from wire import codec, topics
from wire.errors import PeerError, StorageError
from wire.lifecycle import Code
from wire.link import Link, Will
from wire.messages import (
    Ack,
    AlarmEvent,
    ChunksMissing,
    GapEvent,
    LostRange,
    Message,
    Presence,
    Record,
    Reported,
)

from .adapters.losses import Gap
from .adapters.outbox import NO_END, Outbox
from .adapters.outbox_rows import Waiting
from .core.records import TELEMETRY, RecordClass, class_of
from .core.sending import BACKLOG_BURST, LIVE_FROM_BEFORE, Allowance, Lane, resend_wait_s, room

log = logging.getLogger(__name__)

REST_S: Final = 5.0
"""An outbox that fails (locked, full disk) is left alone this long: each try may block for 2 s."""
MAX_UNKEPT: Final = 256
"""Records that wait in memory for the outbox to work again, 100 kB; beyond that the lowest class goes."""

MakeRecord = Callable[[str, int], Record]


@dataclass(frozen=True, slots=True)
class _Unkept:
    topic: topics.Event | topics.Telemetry
    make: MakeRecord


@dataclass(frozen=True, slots=True)
class _Sent:
    """When a record was sent last, monotonic, in which lane, and how often again."""

    at_s: float
    lane: Lane
    again_count: int = 0


class Uplink:
    """Publishes for one device. Used by the loop's thread, but for `will` (the link's)."""

    def __init__(
        self,
        link: Link,
        outbox: Outbox,
        *,
        device: str,
        boot: str,
        agent: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take note of the device; nothing is sent before `connected`.

        Args:
            link: To the broker.
            outbox: This boot's.
            device: Its id.
            boot: This start's id.
            agent: Version, for people.
            clock: Seconds that never go back: waits are measured by it, no record is ordered by it.
        """
        self._link = link
        self._outbox = outbox
        self._device = device
        self._boot = boot
        self._agent = agent
        self._clock = clock
        self._birth = 0
        self._reported: Reported | None = None
        self._reported_seq = 0
        self._is_up = False
        self._sent: dict[tuple[str, int], _Sent] = {}
        self._under_way = dict.fromkeys(Lane, 0)
        self._cursor = dict.fromkeys(Lane, 0)
        self._mark = 0
        """Telemetry up to this turn is backlog."""
        self._is_empty = dict.fromkeys(Lane, False)
        """Lanes in which nothing more waits."""
        self._allowance = Allowance(BACKLOG_BURST, clock())
        self._told: int | None = None
        """Number of the gap record that was made last."""
        self._rest_until_s = -math.inf
        self._unkept: list[_Unkept] = []
        self._unkept_lost_count = 0
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
        record = _Unkept(topic, make)
        if not self._unkept and self._keep(record):
            return
        self._unkept.append(record)
        if len(self._unkept) > MAX_UNKEPT:
            # The first one may be on disk all the same: it is tried until that shows.
            place = min(range(1, len(self._unkept)), key=lambda i: _class_of(self._unkept[i]))
            del self._unkept[place]
            self._unkept_lost_count += 1
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
        try:
            if not self._outbox.delete(ack.stored):
                return
            for span in ack.stored:
                for key in [k for k in self._sent if k[0] == span.boot]:
                    if span.first <= key[1] <= span.last:
                        self._forget(key)
            self._tell_losses()
        except StorageError as exc:
            self._rest(exc)
            return
        self._pump()

    def controller_seen(self) -> None:
        """Say again what the controller may not have heard while it was away: it has come.

        A broker has the report retained, but one that was killed may have handed an older one to a
        controller that came while the newest was on its way.
        """
        if self._is_up and self._reported is not None:
            self._publish(topics.Reported(self._device), self._reported)
        self._start_over()

    def tick(self, now_s: float) -> None:
        """Send again what was not acknowledged in time.

        Args:
            now_s: Monotonic.
        """
        self._keep_waiting()
        if not self._is_up:
            return
        try:
            self._send_again(now_s)
        except StorageError as exc:
            self._rest(exc)
            return
        self._pump()

    def _send_again(self, now_s: float) -> None:
        """Send again what was not acknowledged in time, each record by a time of its own.

        Raises:
            StorageError: As of the outbox.
        """
        for key, sent in list(self._sent.items()):
            if self._is_resting() or now_s - sent.at_s < resend_wait_s(sent.again_count):
                continue
            waiting = self._outbox.get(*key)
            if waiting is None:  # it had to go
                self._forget(key)
            elif self._publish_record(waiting):
                self._sent[key] = _Sent(self._clock(), sent.lane, sent.again_count + 1)

    def _forget(self, key: tuple[str, int]) -> None:
        self._under_way[self._sent.pop(key).lane] -= 1

    def _start_over(self) -> None:
        """Forget what is under way: all of it is sent again, the newest telemetry before the rest."""
        self._sent.clear()
        for lane in Lane:
            self._under_way[lane], self._is_empty[lane] = 0, False
        try:
            self._mark = self._outbox.before_newest(LIVE_FROM_BEFORE)
        except StorageError as exc:
            self._rest(exc)  # with the old mark what is newer counts as live
        self._cursor = {Lane.URGENT: 0, Lane.LIVE: self._mark, Lane.BACKLOG: 0}
        self._pump()

    def _pump(self) -> None:
        """Send waiting records, lane after lane."""
        self._allowance = self._allowance.at(self._clock())
        for lane in Lane:
            count = room(lane, self._under_way, self._allowance.count)
            if self._is_empty[lane] or not count or not self._is_up or self._is_resting():
                continue
            try:
                rows = self._ahead(lane, count)
            except StorageError as exc:
                self._rest(exc)
                return
            for turn, waiting in rows:
                if not self._send(waiting, lane):
                    return
                self._cursor[lane] = turn
            self._is_empty[lane] = len(rows) < count

    def _ahead(self, lane: Lane, count: int) -> list[tuple[int, Waiting]]:
        """Return the next records of a lane."""
        return self._outbox.waiting(
            count,
            after=self._cursor[lane],
            until=self._mark if lane is Lane.BACKLOG else NO_END,
            classes=(RecordClass.EVENT,) if lane is Lane.URGENT else TELEMETRY,
        )

    def _send(self, waiting: Waiting, lane: Lane) -> bool:
        if not self._publish_record(waiting):
            return False
        self._sent[waiting.boot, waiting.seq] = _Sent(self._clock(), lane)
        self._under_way[lane] += 1
        if lane is Lane.BACKLOG:
            self._allowance = self._allowance.less(1)
        return True

    def _publish_record(self, waiting: Waiting) -> bool:
        token = self._link.publish(waiting.topic, waiting.payload, qos=1, retain=False)
        return token is not None

    def _keep(self, record: _Unkept) -> bool:
        """Put a record into the outbox, and send what may be sent; return whether it was taken."""
        try:
            taken = self._outbox.append(
                record.topic.text, lambda seq: codec.encode(record.make(self._boot, seq))
            )
        except StorageError as exc:
            self._rest(exc)
            return False
        self.dropped_count += taken.dropped_count
        self._is_empty[Lane.URGENT] = self._is_empty[Lane.LIVE] = False
        self._pump()
        return True

    def _keep_waiting(self) -> None:
        """Put into the outbox what could not be put there before, in its order."""
        while self._unkept and not self._is_resting():
            if not self._keep(self._unkept[0]):
                return
            del self._unkept[0]
        if self._unkept_lost_count and not self._unkept:
            count, self._unkept_lost_count = self._unkept_lost_count, 0
            self.alarm(
                Code.RECORDS_DROPPED,
                f"{count} records were lost in memory while the outbox could not be written",
            )

    def _is_resting(self) -> bool:
        return self._clock() < self._rest_until_s

    def _rest(self, exc: StorageError) -> None:
        log.error("records wait in memory: %s; %s", exc, exc.hint)
        self._rest_until_s = self._clock() + REST_S

    def _tell_losses(self) -> None:
        """Make a gap record of what was dropped, if the one before has been acknowledged.

        Only when the controller hears: until then losses that touch become one, and take no room.

        Raises:
            StorageError: As of the outbox.
        """
        if not self._outbox.has_losses or self._unkept:
            return  # what was tried in vain must be tried again first
        if self._told is not None and self._outbox.get(self._boot, self._told) is not None:
            return
        taken = self._outbox.tell_lost(topics.Event(self._device, "gap").text, self._gap_event)
        if taken is not None:
            self.dropped_count += taken.dropped_count
            self._told = taken.record.seq
            self._is_empty[Lane.URGENT] = False

    def _gap_event(self, seq: int, gap: Gap) -> bytes:
        ranges = tuple(LostRange(first=first, last=last) for first, last in gap.ranges)
        event = GapEvent(
            boot=self._boot,
            seq=seq,
            lost_boot=gap.boot,
            first=ranges[0].first,
            last=ranges[-1].last,
            count=gap.count,
            ranges=ranges,
            reason=gap.reason,
        )
        return codec.encode(event)

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


def _class_of(record: _Unkept) -> RecordClass:
    return class_of(record.topic.text)
