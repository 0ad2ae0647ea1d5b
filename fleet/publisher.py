"""What the controller sends: acknowledgements, desired states and chunks, a few at a time.

Everything but acknowledgements is retained state that is stored first and marked as sent when the
broker has it; a lost connection or a killed controller means that it is sent once more.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from fleet.core.reconcile import REPUBLISH_EVERY_MS
from fleet.store.deliveries import MQTT, Delivery
from fleet.store.journal import Publication
from fleet.store.store import Store
from fleet.trust.authority import Authority
from wire import codec, topics
from wire import messages as m
from wire.errors import StorageError
from wire.link import Link
from wire.topics import Qos

from . import desired
from .monitoring.feedback import LabelQueue, Labels
from .ratelimit import RateLimit

log = logging.getLogger(__name__)

MAX_IN_FLIGHT: Final = 8
"""Messages that the broker has not acknowledged; ten is the smallest limit met, two are spare."""
MAX_ACKS: Final = 10_000
"""Acknowledgements that wait; beyond it the oldest go, and the devices send those records again."""
CHUNK_AGAIN_MS: Final = 5_000
"""Shortest time between two publications of one chunk, however many devices miss it."""


@dataclass(frozen=True, slots=True)
class _Ack:
    device: str
    message: m.Ack


@dataclass(frozen=True, slots=True)
class _Again:
    """A device's desired state, read when it is sent."""

    device: str


@dataclass(frozen=True, slots=True)
class _Chunk:
    digest: str


_Item = _Ack | Publication | _Again | _Chunk | Delivery | Labels


class Publisher:
    """Sends in this order: acknowledgements, stored publications, alerts, labels, repetitions, chunks.

    Used by the controller's loop only, but for `labels`.
    """

    def __init__(self, store: Store, link: Link, authority: Authority) -> None:
        self._store = store
        self._link = link
        self._authority = authority
        self._is_connected = False
        self._acks: deque[_Ack] = deque(maxlen=MAX_ACKS)
        self._publications: deque[Publication] = deque()
        self._newest_publication = 0
        self._alerts: deque[Delivery] = deque()
        self._newest_alert = 0
        self.labels = LabelQueue()
        self._again: dict[str, None] = {}
        self._chunks: dict[str, None] = {}
        self._in_flight: dict[int, _Item] = {}
        self._sent_publications: list[int] = []
        self._sent_alerts: list[int] = []
        self._sent_chunks: list[str] = []
        self._again_limit = RateLimit(REPUBLISH_EVERY_MS)
        self._chunk_limit = RateLimit(CHUNK_AGAIN_MS)

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits and nothing is under way."""
        waiting = (self._acks, self._publications, self._alerts, self.labels, self._again)
        return not any((*waiting, self._chunks)) and not self._in_flight

    def on_connected(self, devices: Iterable[str]) -> None:
        """Begin to send; the desired states of `devices` go out again, whatever the broker kept."""
        self.on_disconnected()
        self._is_connected = True
        self._again.update(dict.fromkeys(devices))

    def renew(self, devices: Iterable[str]) -> None:
        """Say the desired states of `devices` again, since what is retained will expire."""
        self._again.update(dict.fromkeys(devices))

    def on_disconnected(self) -> None:
        """Stop sending; what was under way is sent again later."""
        self._is_connected = False
        # Newest first onto the front, so that the order stays: of two desired states to one device
        # the newer must be the one that the broker keeps.
        for item in reversed(self._in_flight.values()):
            self._put_back(item)
        self._in_flight.clear()

    def on_published(self, token: int) -> None:
        """Note that the broker has a message."""
        match self._in_flight.pop(token, None):
            case Publication(id=number):
                self._sent_publications.append(number)
            case Delivery(id=number):
                self._sent_alerts.append(number)
            case _Chunk(digest=digest):
                self._sent_chunks.append(digest)
            case _:
                pass

    def acknowledge(self, messages: Iterable[tuple[str, m.Ack]]) -> None:
        """Have acknowledgements sent."""
        self._acks.extend(_Ack(device, message) for device, message in messages)

    def repeat(self, devices: Iterable[str], now_unix_ms: int) -> None:
        """Have the desired states of devices that lag sent again, each at most every few seconds.

        One that is on its way, or has just gone out, is not sent twice.
        """
        waiting = {p.topic for p in self._publications}
        for device in devices:
            topic = topics.Desired(device).text
            if topic not in waiting and self._again_limit.allows(topic, now_unix_ms):
                self._again[device] = None

    def repeat_chunks(self, digests: Iterable[str], now_unix_ms: int) -> None:
        """Have known chunks sent again, each at most every few seconds.

        Raises:
            StorageError: The store failed.
        """
        under_way = {item.digest for item in self._in_flight.values() if isinstance(item, _Chunk)}
        wanted = set(digests) - self._chunks.keys() - under_way
        if not wanted:
            return
        with self._store.read() as tx:
            known = tx.releases.known(wanted)
        for digest in sorted(known):
            if self._chunk_limit.allows(digest, now_unix_ms):
                self._chunks[digest] = None

    def load(self) -> None:
        """Take up what has been stored for sending since the last call.

        Raises:
            StorageError: The store failed.
        """
        with self._store.read() as tx:
            fresh = tx.journal.unsent(self._newest_publication)
            alerts = tx.deliveries.waiting(MQTT, after=self._newest_alert)
        self._alerts.extend(alerts)
        if alerts:
            self._newest_alert = alerts[-1].id
        self._publications.extend(fresh)
        if fresh:
            self._newest_publication = fresh[-1].id

    def load_chunks(self) -> None:
        """Take up all chunks that the broker has never acknowledged.

        Raises:
            StorageError: The store failed.
        """
        with self._store.read() as tx:
            digests = tx.releases.unpublished()
        under_way = {item.digest for item in self._in_flight.values() if isinstance(item, _Chunk)}
        done = set(self._sent_chunks)
        self._chunks.update({d: None for d in digests if d not in under_way and d not in done})

    def pump(self, now_unix_ms: int) -> None:
        """Send as much as the window allows.

        Raises:
            StorageError: The store failed; what was being sent waits.
        """
        while self._is_connected and len(self._in_flight) < MAX_IN_FLIGHT:
            item = self._next()
            if item is None:
                return
            try:
                message = self._message(item, now_unix_ms)
            except StorageError:
                self._put_back(item)
                raise
            if message is None:
                continue
            topic, payload = message
            token = self._link.publish(topic.text, payload, qos=topic.qos, retain=topic.retain)
            if token is None:  # the link is down or full: a later pump tries again
                self._put_back(item)
                return
            self._in_flight[token] = item
            if not isinstance(item, _Chunk | _Ack | Delivery | Labels):
                self._again_limit.allows(topic.text, now_unix_ms)

    def settle(self) -> None:
        """Store which messages the broker has.

        Raises:
            StorageError: The store failed; they are kept for the next call.
        """
        if not self._sent_publications and not self._sent_chunks and not self._sent_alerts:
            return
        with self._store.write() as tx:
            tx.journal.set_sent(self._sent_publications)
            tx.releases.set_published(self._sent_chunks)
            tx.deliveries.done(self._sent_alerts)
        self._sent_publications = []
        self._sent_chunks = []
        self._sent_alerts = []

    def _next(self) -> _Item | None:
        if self._acks:
            return self._acks.popleft()
        if self._publications:
            return self._publications.popleft()
        if self._alerts:
            return self._alerts.popleft()
        if self.labels:
            return self.labels.take()
        if self._again:
            device = next(iter(self._again))
            del self._again[device]
            return _Again(device)
        if self._chunks:
            digest = next(iter(self._chunks))
            del self._chunks[digest]
            return _Chunk(digest)
        return None

    def _put_back(self, item: _Item) -> None:
        match item:
            case _Ack():
                self._acks.appendleft(item)
            case Publication():
                self._publications.appendleft(item)
            case Delivery():
                self._alerts.appendleft(item)
            case Labels():
                self.labels.put_back(item)
            case _Again(device=device):
                self._again[device] = None
            case _Chunk(digest=digest):
                self._chunks[digest] = None

    def _message(self, item: _Item, now_unix_ms: int) -> tuple[_Out, bytes] | None:
        match item:
            case _Ack(device=device, message=message):
                return _out(topics.Ack(device)), codec.encode(message)
            case Publication(topic=topic, payload=payload):
                if payload and isinstance(topics.parse(topic), topics.Desired):
                    state = codec.decode(m.Desired, payload.encode())
                    return _Out(topic, 1, retain=True), self._sealed(state, now_unix_ms)
                return _Out(topic, 1, retain=True), payload.encode()
            case Labels(device=device, payload=payload):
                return _out(topics.Feedback(device)), payload
            case Delivery(body=body):
                return _out(topics.ControllerAlert()), body.encode()
            case _Again(device=device):
                with self._store.read() as tx:
                    present = desired.current(tx, device)
                if present is None:
                    return None
                return _out(topics.Desired(device)), self._sealed(present, now_unix_ms)
            case _Chunk(digest=digest):
                try:
                    return _out(topics.Chunk(digest)), self._store.chunks.read(digest)
                except StorageError as exc:
                    log.error("cannot publish chunk %s: %s", digest, exc)  # noqa: TRY400 - no bug
                    self._store.chunks.discard(digest)
                    return None

    def _sealed(self, state: m.Desired, now_unix_ms: int) -> bytes:
        """Sign a desired state when it goes out, so that its expiry is fresh however long it waited."""
        with self._store.read() as tx:
            return self._authority.seal(tx, state, now_unix_ms)


@dataclass(frozen=True, slots=True)
class _Out:
    text: str
    qos: Qos
    retain: bool


def _out(
    topic: topics.Ack | topics.Desired | topics.Feedback | topics.Chunk | topics.ControllerAlert,
) -> _Out:
    return _Out(topic.text, topic.qos, topic.retain)
