"""An in-memory broker and its links: for simulations and for tests of everything above a link."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence

from .link import (
    Connected,
    Delivered,
    Disconnected,
    LinkEvent,
    Published,
    Sink,
    Will,
    WillFactory,
)
from .topics import Qos


def matches(pattern: str, topic: str) -> bool:
    """Return whether an MQTT filter matches a topic (MQTT 3.1.1 section 4.7)."""
    levels = topic.split("/")
    parts = pattern.split("/")
    for position, part in enumerate(parts):
        if part == "#":
            return True
        if position >= len(levels) or part not in ("+", levels[position]):
            return False
    return len(parts) == len(levels)


class MemoryBroker:
    """A broker for any number of `MemoryLink`s: retained messages, wills, takeover.

    Deliveries run in the publisher's thread, one at a time, never inside another delivery.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._links: dict[str, MemoryLink] = {}
        self._retained: dict[str, bytes] = {}
        self._pending: deque[tuple[MemoryLink, LinkEvent]] = deque()
        self._is_draining = False
        self._token = 0

    def link(self, client_id: str) -> MemoryLink:
        """Return an unconnected link for `client_id`."""
        return MemoryLink(self, client_id)

    def cut(self, client_id: str) -> None:
        """Drop a client's connection as a broken cable does: its will is published."""
        with self._lock:
            if link := self._links.get(client_id):
                self.drop(link, "cut", send_will=True)

    def attach(self, link: MemoryLink) -> None:
        """Connect a link; an older one with the same client id is dropped."""
        with self._lock:
            if old := self._links.get(link.client_id):
                self.drop(old, "taken over", send_will=True)
            self._links[link.client_id] = link
            self._post(link, Connected())

    def drop(self, link: MemoryLink, reason: str, *, send_will: bool) -> None:
        """Disconnect a link, if it is connected."""
        with self._lock:
            if self._links.get(link.client_id) is not link:
                return
            del self._links[link.client_id]
            self._post(link, Disconnected(reason))
            if send_will and link.will is not None:
                self._route(link.will.topic, link.will.payload, retain=True)

    def publish(self, link: MemoryLink, topic: str, payload: bytes, *, retain: bool) -> int | None:
        """Publish for a link; return its token, or None if it is not connected."""
        with self._lock:
            if self._links.get(link.client_id) is not link:
                return None
            self._token += 1
            token = self._token  # deliveries below may publish in turn, and count on
            self._post(link, Published(token))
            self._route(topic, payload, retain=retain)
            return token

    def _route(self, topic: str, payload: bytes, *, retain: bool) -> None:
        with self._lock:
            if retain and payload:
                self._retained[topic] = payload
            elif retain:
                self._retained.pop(topic, None)
            for link in list(self._links.values()):
                if any(matches(pattern, topic) for pattern in link.filters):
                    self._post(link, Delivered(topic, payload, retained=False))

    def subscribe(self, link: MemoryLink, filters: Sequence[str]) -> None:
        """Add filters to a link and deliver what is retained under them."""
        with self._lock:
            link.filters.update(filters)
            for topic, payload in list(self._retained.items()):
                if any(matches(pattern, topic) for pattern in filters):
                    self._post(link, Delivered(topic, payload, retained=True))

    def unsubscribe(self, link: MemoryLink, filters: Sequence[str]) -> None:
        """Remove filters from a link."""
        with self._lock:
            link.filters.difference_update(filters)

    def _post(self, link: MemoryLink, event: LinkEvent) -> None:
        self._pending.append((link, event))
        if self._is_draining:
            return
        self._is_draining = True
        try:
            while self._pending:
                target, next_event = self._pending.popleft()
                target.deliver(next_event)
        finally:
            self._is_draining = False


class MemoryLink:
    """One client of a `MemoryBroker`; see `wire.link.Link` for the contract."""

    def __init__(self, broker: MemoryBroker, client_id: str) -> None:
        self.client_id = client_id
        self.filters: set[str] = set()
        self.will: Will | None = None
        self._broker = broker
        self._sink: Sink | None = None
        self._will_factory: WillFactory = lambda: None

    def start(self, sink: Sink, will: WillFactory) -> None:
        """See `Link.start`."""
        self._sink = sink
        self._will_factory = will
        self.connect()

    def connect(self) -> None:
        """Connect, or connect again after `MemoryBroker.cut`."""
        self.filters = set()
        self.will = self._will_factory()
        self._broker.attach(self)

    def publish(self, topic: str, payload: bytes, *, qos: Qos, retain: bool) -> int | None:
        """See `Link.publish`."""
        return self._broker.publish(self, topic, payload, retain=retain)

    def subscribe(self, filters: Sequence[str], *, qos: Qos) -> None:
        """See `Link.subscribe`."""
        self._broker.subscribe(self, filters)

    def unsubscribe(self, filters: Sequence[str]) -> None:
        """See `Link.unsubscribe`."""
        self._broker.unsubscribe(self, filters)

    def is_alive(self) -> bool:
        """Return True: nothing in here can die by itself."""
        return True

    def stop(self) -> None:
        """See `Link.stop`."""
        self._broker.drop(self, "stopped", send_will=False)

    def deliver(self, event: LinkEvent) -> None:
        """Hand an event to the sink; called by the broker."""
        if self._sink is not None:
            self._sink(event)
