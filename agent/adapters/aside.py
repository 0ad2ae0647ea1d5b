"""A shadow's process, and the socket by which the serving runtime gives it a sample of the requests.

The socket is a SOCK_SEQPACKET pair: its buffer is the queue, and bounds it. The supervisor keeps the
writing end as well, to give it to each runtime that comes to serve.
"""

from __future__ import annotations

import logging
import socket
from dataclasses import replace
from typing import Final

from agent import control, measured
from agent.core.ring import Ring
from agent.ports import RuntimeSettings, ShadowOrder, ShadowStats
from wire.latency import LATENCY_BINS
from wire.lifecycle import Code

from .child_process import Child
from .host import pss_bytes

log = logging.getLogger(__name__)

QUEUE_BYTES: Final = 256 * 1024
"""Of requests and answers that wait; the kernel caps it (net.core.wmem_max) and counts its own part in."""
START_FACTOR: Final = 10
"""Times the start timeout of others: it loads while nothing else wants the CPU."""


def shadow_settings(settings: RuntimeSettings) -> RuntimeSettings:
    """Return how a shadow runs: only while nothing else wants the CPU, and it remembers no request."""
    program = (*settings.program, "--aside")
    return replace(settings, program=program, ring=Ring(max_rows=0, max_bytes=0), capture=None)


class Aside:
    """One shadow; guarded by the host's lock."""

    def __init__(self, child: Child, order: ShadowOrder) -> None:
        self.child = child
        self._order = order
        self._tap_end: socket.socket | None = None

    @property
    def name(self) -> str:
        """The model that it is a shadow of."""
        return self.child.models[0].name

    def connect(self) -> None:
        """Give the shadow, which is ready, its end of a new queue."""
        self._tap_end, feed_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._tap_end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, QUEUE_BYTES)
        # One way: what a hostile shadow would say to the runtime that serves has no place to go.
        feed_end.shutdown(socket.SHUT_WR)
        order = control.Feed(self.name, self._order.rtol, self._order.atol)
        self.child.tell(order, feed_end.fileno())
        feed_end.close()

    def tap(self, serving: Child | None) -> None:
        """Have what serves give the shadow its sample, once both are there."""
        if self._tap_end is not None and serving is not None:
            order = control.Tap(self.name, self._order.sample_ratio)
            serving.tell(order, self._tap_end.fileno())

    def close(self, serving: Child | None) -> None:
        """End the queue."""
        if self._tap_end is not None:
            self._tap_end.close()
            self._tap_end = None
        if serving is not None:
            serving.tell(control.Untap())

    def stats(self, report: measured.Compared, serving: Child | None) -> ShadowStats:
        """Return what it said that it compared, as the supervisor knows it."""
        return ShadowStats(
            start_unix_ms=report.start_unix_ms,
            duration_s=report.duration_s,
            row_count=report.row_count,
            agree_count=report.agree_count,
            refused_count=report.refused_count,
            failed_count=report.failed_count,
            classes=tuple(
                (control.printable(each.label), each.row_count, each.disagree_count)
                for each in report.classes
            ),
            active_latency=_whole(report.active_latency),
            shadow_latency=_whole(report.shadow_latency),
            active_pss_bytes=pss_bytes(serving.pid) if serving is not None else 0,
            shadow_pss_bytes=pss_bytes(self.child.pid),
        )

    def fault(self, now_s: float, timeout_s: float) -> tuple[str, str] | None:
        """Return code and words of what it should have done by now, or None."""
        if not self.child.is_ready:
            why = self.child.lateness(now_s)
            return None if why is None else (Code.START_TIMEOUT, why)
        silent_s = now_s - self.child.last_beat_s
        if silent_s > timeout_s:
            return Code.SHADOW_STUCK, f"no sign of life for {silent_s:.0f} s"
        return None

    @staticmethod
    def end(code: str, detail: str) -> tuple[str, str]:
        """Return code and words of its end: what would be a runtime's death is a shadow's."""
        return (Code.SHADOW_DIED if code == Code.RUNTIME_DIED else code), detail


def _whole(counts: tuple[int, ...]) -> tuple[int, ...]:
    return counts if len(counts) == LATENCY_BINS else ()
