"""A client of the broker under audit, and what it heard."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from wire.endpoint import TlsFiles
from wire.link import Connected, Delivered, Disconnected, LinkEvent
from wire.link_paho import PahoLink
from wire.mailbox import Mailbox

CONNECT_S: Final = 20.0
"""NATS reads its users a moment after it was told to."""
ATTEMPTS: Final = 4
"""A broker that was just told to read its users again may refuse one or two."""
ANSWER_S: Final = 10.0


class Peer:
    """See the module.

    Attributes:
        heard: Topic and payload of all that arrived.
        ends: How often it was thrown off, or not let in.
        link: To the broker.
    """

    def __init__(self, url: str, client_id: str, files: TlsFiles) -> None:
        self._events: Mailbox[LinkEvent] = Mailbox()
        self.heard: set[tuple[str, bytes]] = set()
        self.ends = 0
        self.link = PahoLink(url, client_id, tls=files)
        self.link.start(self._events.put, lambda: None)

    def connects(self, timeout_s: float = CONNECT_S) -> bool:
        """Return whether it is let in within a time, and a few attempts."""
        is_over = self._wait(
            lambda event: isinstance(event, Connected) or self.ends >= ATTEMPTS, timeout_s
        )
        return is_over and self.ends < ATTEMPTS

    def is_let_in_at_once(self) -> bool:
        """Return the outcome of the first attempt."""
        first = self._take(CONNECT_S)
        return isinstance(first, Connected)

    def say(self, topic: str, payload: bytes) -> None:
        """Publish once."""
        self.link.publish(topic, payload, qos=1, retain=False)

    def hears(self, topic: str, payload: bytes) -> bool:
        """Return whether this message arrives; all before it are taken note of."""
        return (topic, payload) in self.heard or self._wait(
            lambda _: (topic, payload) in self.heard, ANSWER_S
        )

    def hears_soon(self, topic: str, payload: bytes) -> bool:
        """Return whether this message arrives within a second."""
        return self._wait(lambda _: (topic, payload) in self.heard, 1.0)

    def drain(self, seconds: float) -> None:
        """Take note of what happens for a while."""
        self._wait(lambda _: False, seconds)

    def _wait(self, is_it: Callable[[LinkEvent], bool], timeout_s: float) -> bool:
        until_s = time.monotonic() + timeout_s
        while (event := self._take(until_s - time.monotonic())) is not None:
            if is_it(event):
                return True
        return False

    def _take(self, timeout_s: float) -> LinkEvent | None:
        event = self._events.get(timeout_s)
        if isinstance(event, Delivered):
            self.heard.add((event.topic, event.payload))
        elif isinstance(event, Disconnected):
            self.ends += 1
        return event
