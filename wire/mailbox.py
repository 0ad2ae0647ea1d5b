"""A queue for one reader that may be filled from anywhere, a signal handler included."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from typing import Generic, TypeVar

ItemT = TypeVar("ItemT")


class Mailbox(Generic[ItemT]):
    """Like `queue.SimpleQueue`, but that `get` always returns in time.

    In CPython up to 3.12, `SimpleQueue.get` of a thread that is off its core for longer than its
    timeout, between two readings of the clock, waits without end; so it does after a signal at the
    wrong moment. Then only the next `put` wakes it. `Lock.acquire` counts what is left from zero.
    """

    def __init__(self) -> None:
        self._items: deque[ItemT] = deque()
        self._is_filled = threading.Lock()  # open while there may be something
        self._is_filled.acquire()

    def put(self, item: ItemT) -> None:
        """Add an item; never blocks, and may interrupt itself."""
        self._items.append(item)
        with contextlib.suppress(RuntimeError):  # it is open already
            self._is_filled.release()

    def get(self, timeout_s: float) -> ItemT | None:
        """Return the next item, or None when there is none within `timeout_s`; one thread's only."""
        deadline_s = time.monotonic() + timeout_s
        while True:
            if self._items:
                return self._items.popleft()
            left_s = min(max(0.0, deadline_s - time.monotonic()), threading.TIMEOUT_MAX)
            if not self._is_filled.acquire(timeout=left_s) and not self._items:
                return None

    def __len__(self) -> int:
        """Return how many items wait."""
        return len(self._items)
