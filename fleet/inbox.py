"""The bounded queue between the link's threads and the controller's loop."""

from __future__ import annotations

import threading
from collections import deque
from typing import Final

from wire.link import Delivered, LinkEvent

MAX_DELIVERIES: Final = 8192
"""Deliveries that wait, at most 512 MB if every one were of the largest size, 4 MB as a rule.

When it is full, further ones are dropped and counted. A dropped record comes again, because it was
not acknowledged; dropped retained state is asked for again by subscribing anew.
"""


class Inbox:
    """Takes events from any thread without blocking; the loop takes them in order."""

    def __init__(self, max_deliveries: int = MAX_DELIVERIES) -> None:
        self._condition = threading.Condition()
        self._events: deque[LinkEvent] = deque()
        self._max_deliveries = max_deliveries
        self._delivery_count = 0
        self._is_woken = False
        self._is_overflowed = False
        self.dropped_count = 0

    def put(self, event: LinkEvent) -> None:
        """Add an event; a delivery too many is dropped. Other events are few and never dropped."""
        with self._condition:
            if isinstance(event, Delivered):
                if self._delivery_count >= self._max_deliveries:
                    self.dropped_count += 1
                    self._is_overflowed = True
                    return
                self._delivery_count += 1
            self._events.append(event)
            self._condition.notify()

    def wake(self) -> None:
        """Make a waiting `take` return, with or without events."""
        with self._condition:
            self._is_woken = True
            self._condition.notify()

    def take(self, limit: int, timeout_s: float) -> list[LinkEvent]:
        """Return at most `limit` events, waiting at most `timeout_s` seconds for the first."""
        with self._condition:
            if not self._events and not self._is_woken:
                self._condition.wait(timeout_s)
            self._is_woken = False
            taken = [self._events.popleft() for _ in range(min(limit, len(self._events)))]
            self._delivery_count -= sum(isinstance(event, Delivered) for event in taken)
            return taken

    @property
    def delivery_count(self) -> int:
        """How many deliveries wait."""
        with self._condition:
            return self._delivery_count

    @property
    def is_empty(self) -> bool:
        """Whether no event waits."""
        with self._condition:
            return not self._events

    def has_overflowed(self) -> bool:
        """Return whether deliveries were dropped since the last call and room is there again."""
        with self._condition:
            if not self._is_overflowed or self._events:
                return False
            self._is_overflowed = False
            return True
