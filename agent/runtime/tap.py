"""What the serving runtime gives a shadow: a sample of the answered requests, and never its time.

One datagram for each, sent after the reply, without waiting: what finds the socket full is dropped and
counted. The queue is the socket's own, in the kernel, and bounded by it. A shadow that hangs leaves it
full; one that ends makes the first send fail, which ends the tap.
"""

from __future__ import annotations

import errno
import secrets
import socket
import struct
from typing import Final

from agent.control import Tap, TapCounts

HEADER: Final = struct.Struct("!IId")
"""Bytes of the request's body, bytes of the answer's, latency of the answer in milliseconds."""
CHANCES: Final = 1_000_000
MAX_SAMPLE_BYTES: Final = 128 * 1024
"""Of both bodies: copying that into the kernel takes some 30 us. 1,500 rows of 8 features fit."""


class RequestTap:
    """Gives a share of one model's requests away; lives in the event loop's thread."""

    def __init__(self, order: Tap, descriptor: int) -> None:
        """Take the writing end over.

        Args:
            order: Whose requests, and which share.
            descriptor: A SOCK_SEQPACKET that nobody but this process writes to.
        """
        self.model = order.model
        self._chosen_below = round(order.sample_ratio * CHANCES)
        self._socket: socket.socket | None = socket.socket(fileno=descriptor)
        self._sampled_count = 0
        self._dropped_count = 0

    def offer(self, body: bytes, answer: bytes, latency_ms: float) -> None:
        """Give a request and its answer to the shadow, by chance and if there is room; never waits."""
        if self._socket is None or secrets.randbelow(CHANCES) >= self._chosen_below:
            return
        self._sampled_count += 1
        if len(body) + len(answer) > MAX_SAMPLE_BYTES:
            self._dropped_count += 1
            return
        header = HEADER.pack(len(body), len(answer), latency_ms)
        try:
            self._socket.sendmsg([header, body, answer], (), socket.MSG_DONTWAIT)
        except OSError as exc:
            self._dropped_count += 1
            if exc.errno not in (errno.EAGAIN, errno.ENOBUFS, errno.EMSGSIZE, errno.ENOMEM):
                self.close()

    def counts(self) -> TapCounts:
        """Return how many were chosen and how many of them dropped since this tap was opened."""
        return TapCounts(self._sampled_count, self._dropped_count)

    def close(self) -> None:
        """Give nothing more. Idempotent."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
