"""Which of the waiting records to send next: what is new before what has waited.

Nothing here looks at a time that a record carries: lanes are in the order of their numbers, and a clock
that jumps reorders nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

WINDOW: Final = 64
"""Records sent and not yet acknowledged by the controller; with 400 bytes each, 26 kB."""


class Lane(IntEnum):
    """The turns, the first one first; within each the oldest goes first.

    `URGENT` are events of any age, `LIVE` is telemetry made since the sending began anew or shortly
    before, `BACKLOG` the telemetry from before that.
    """

    URGENT = 0
    LIVE = 1
    BACKLOG = 2


PLACES: Final[Mapping[Lane, int]] = {Lane.URGENT: 40, Lane.LIVE: 40, Lane.BACKLOG: 16}
"""Of the window. Events and live telemetry have 8 places at least, whatever nobody acknowledges in the other
lanes; the backlog has what they leave."""
LIVE_FROM_BEFORE: Final = 20
"""Telemetry from before a connection that is sent as live: an interval of a device with eight models, so
that what it does is seen at once, not when the next interval ends."""
BACKLOG_PER_S: Final = 8.0
"""With live records below the 10 a second that hosted brokers allow a device (EMQX Serverless)."""
BACKLOG_BURST: Final = 16.0
"""Sent at once, after a rest: a short outage is made up for without a wait."""


RESEND_FIRST_S: Final = 15.0
RESEND_CAP_S: Final = 600.0
RESENDS_SOON: Final = 3
"""So often a record is sent again without a longer wait: where a third of all is lost on the way, 93 of 100
are through by then. What is not is ever more seldom: nobody may be storing it."""


def resend_wait_s(resend_count: int) -> float:
    """Return how long a record waits for its acknowledgement before it is sent again.

    Args:
        resend_count: How often it was sent again before.
    """
    doublings = min(16, max(0, resend_count + 1 - RESENDS_SOON))
    return min(RESEND_CAP_S, RESEND_FIRST_S * 2.0**doublings)


def room(lane: Lane, under_way: Mapping[Lane, int], allowance: float) -> int:
    """Return how many records of a lane may be sent now.

    Args:
        lane: Asked for in the order of the lanes, so that what an earlier one takes is counted.
        under_way: Sent and not acknowledged, by lane.
        allowance: What the backlog may send now.
    """
    count = min(WINDOW - sum(under_way.values()), PLACES[lane] - under_way[lane])
    if lane is Lane.BACKLOG:
        count = min(count, int(allowance))
    return max(0, count)


@dataclass(frozen=True, slots=True)
class Allowance:
    """What the backlog may send: a token bucket.

    Attributes:
        count: As of `at_s`.
        at_s: Monotonic.
    """

    count: float
    at_s: float

    def at(self, now_s: float) -> Allowance:
        """Return it at a later instant."""
        grown = self.count + max(0.0, now_s - self.at_s) * BACKLOG_PER_S
        return Allowance(min(BACKLOG_BURST, grown), now_s)

    def less(self, count: int) -> Allowance:
        """Return what is left after some were sent."""
        return Allowance(self.count - count, self.at_s)
