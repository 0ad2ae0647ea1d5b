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

    Attributes:
        needed: Digests not on disk yet, in the order in which they are wanted.
        asked: Those with a subscription under way.
        quiet_since_s: When the last chunk came, or asking began; monotonic.
    """

    needed: tuple[str, ...]
    asked: frozenset[str] = frozenset()
    quiet_since_s: float = 0.0

    @property
    def is_done(self) -> bool:
        """Whether everything is on disk."""
        return not self.needed


def begin(missing: Sequence[str], now_s: float) -> FetchPlan:
    """Return the plan for these chunks; repeated digests are needed once."""
    return FetchPlan(tuple(dict.fromkeys(missing)), quiet_since_s=now_s)


def ask(plan: FetchPlan) -> tuple[FetchPlan, tuple[str, ...]]:
    """Return the chunks to subscribe to now, at most `WINDOW` outstanding."""
    free = WINDOW - len(plan.asked)
    fresh = tuple(digest for digest in plan.needed if digest not in plan.asked)[: max(0, free)]
    asked = plan.asked | set(fresh)
    return FetchPlan(plan.needed, asked, plan.quiet_since_s), fresh


def received(plan: FetchPlan, digest: str, now_s: float) -> FetchPlan:
    """Return the plan after a verified chunk is on disk."""
    needed = tuple(d for d in plan.needed if d != digest)
    return FetchPlan(needed, plan.asked - {digest}, now_s)


def link_lost(plan: FetchPlan, now_s: float) -> FetchPlan:
    """Return the plan after all subscriptions are gone."""
    return FetchPlan(plan.needed, frozenset(), now_s)


def overdue(plan: FetchPlan, now_s: float) -> tuple[FetchPlan, AbstractSet[str]]:
    """Return the chunks that do not come, to be asked for by name and subscribed to again."""
    if plan.is_done or not plan.asked or now_s - plan.quiet_since_s < SILENCE_S:
        return plan, frozenset()
    return FetchPlan(plan.needed, frozenset(), now_s), plan.asked
