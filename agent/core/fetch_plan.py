"""Which chunks to ask for next, and when to say that some do not come."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Final

WINDOW: Final = 8
"""Chunks asked for at once. mosquitto silently drops retained QoS 0 deliveries when a hundred are
outstanding; 8 already reaches the rate of 32."""
SILENCE_S: Final = 5.0
"""After this long without any chunk, the controller is asked for the missing ones by name."""


@dataclass(frozen=True, slots=True)
class FetchPlan:
    """What is still needed, in order, and what has been asked for.

    Every step costs the same, however much is needed: a large model has tens of thousands of chunks.

    Attributes:
        queue: Digests in the order in which they are wanted.
        position: How many of `queue` have been asked for.
        asked: Those that are awaited, with a subscription under way.
        quiet_since_s: When the last chunk came, or asking began; monotonic.
    """

    queue: tuple[str, ...]
    position: int = 0
    asked: tuple[str, ...] = ()
    quiet_since_s: float = 0.0

    @property
    def is_done(self) -> bool:
        """Whether everything is on disk."""
        return not self.asked and self.position == len(self.queue)


def begin(missing: Sequence[str], now_s: float) -> FetchPlan:
    """Return the plan for these chunks; repeated digests are needed once."""
    return FetchPlan(tuple(dict.fromkeys(missing)), quiet_since_s=now_s)


def ask(plan: FetchPlan) -> tuple[FetchPlan, tuple[str, ...]]:
    """Return the chunks to subscribe to now, at most `WINDOW` outstanding."""
    fresh = plan.queue[plan.position : plan.position + WINDOW - len(plan.asked)]
    position, asked = plan.position + len(fresh), plan.asked + fresh
    return FetchPlan(plan.queue, position, asked, plan.quiet_since_s), fresh


def received(plan: FetchPlan, digest: str, now_s: float) -> FetchPlan:
    """Return the plan after a verified chunk that was asked for is on disk."""
    asked = tuple(d for d in plan.asked if d != digest)
    return FetchPlan(plan.queue, plan.position, asked, now_s)


def link_lost(plan: FetchPlan, now_s: float) -> FetchPlan:
    """Return the plan after all subscriptions are gone: what was asked for comes first again."""
    return FetchPlan(plan.asked + plan.queue[plan.position :], quiet_since_s=now_s)


def overdue(plan: FetchPlan, now_s: float) -> tuple[FetchPlan, AbstractSet[str]]:
    """Return the chunks that do not come, to be asked for by name and subscribed to again."""
    if not plan.asked or now_s - plan.quiet_since_s < SILENCE_S:
        return plan, frozenset()
    return link_lost(plan, now_s), frozenset(plan.asked)
