"""Which chunks to ask for next, of whom, and when to say that some do not come.

There are two sources, and either is enough: the broker, which retains chunks and serves a whole fleet, and
the controller's own listener (decision 0008). All awaited chunks are asked of one of them:

    BROKER      -> CONTROLLER   no chunk for SILENCE_S, or no link for AWAY_S; unless the controller rests
    CONTROLLER  -> BROKER       it failed, and rests: for 5 s, then ever longer; or it stood in for a
                                link that is back
    CONTROLLER                  goes on else, window by window and file by file, without any waiting
    any         -> BROKER       with the next bundle

So with the broker empty, one silence is all that a bundle waits for; with the controller away, it is asked
now and then; with both away, nothing is asked but at those times.
"""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from enum import StrEnum
from math import inf
from typing import Final

WINDOW: Final = 8
"""Chunks asked for at once. mosquitto silently drops retained QoS 0 deliveries when a hundred are
outstanding; 8 already reaches the rate of 32."""
SILENCE_S: Final = 5.0
"""After this long without any chunk, the controller is asked for the missing ones by name."""
AWAY_S: Final = 1.0
"""A link that is back within this time is worth waiting for."""
REST_FIRST_S: Final = 5.0
REST_CAP_S: Final = 300.0
"""How long a controller rests that has failed; doubled each time until it works again."""


class Source(StrEnum):
    """Who is asked for chunks."""

    BROKER = "the broker"
    CONTROLLER = "the controller"


@dataclass(frozen=True, slots=True)
class Sources:
    """Which source is asked, and how the second one did; kept over the files of a bundle, and longer.

    Attributes:
        current: Who is asked.
        is_link_missed: Whether the controller stands in for a link that is down.
        failures: Of the controller, since it last worked.
        rests_until_s: It is not asked before; infinite on a device without one. Monotonic.
    """

    current: Source = Source.BROKER
    is_link_missed: bool = False
    failures: int = 0
    rests_until_s: float = inf

    def for_another_bundle(self) -> Sources:
        """Begin with the broker again."""
        return replace(self, current=Source.BROKER)

    def may_pull(self, now_s: float) -> bool:
        """Return whether the controller may be asked."""
        return now_s >= self.rests_until_s

    def failed(self, now_s: float, chance: float) -> Sources:
        """Let the controller rest, for half to all of a time that doubles."""
        cap_s = min(REST_CAP_S, REST_FIRST_S * 2.0 ** min(self.failures, 16))
        rest_s = cap_s * (0.5 + chance / 2)
        return Sources(Source.BROKER, False, self.failures + 1, now_s + rest_s)


BROKER_ALONE: Final = Sources()
BOTH: Final = Sources(rests_until_s=0.0)


@dataclass(frozen=True, slots=True)
class FetchPlan:
    """What is still needed, in order, and what has been asked for.

    Every step costs the same, however much is needed: a large model has tens of thousands of chunks.

    Attributes:
        queue: Digests in the order in which they are wanted.
        position: How many of `queue` have been asked for.
        asked: Those that are awaited, from whichever source.
        quiet_since_s: When the last chunk came, or asking began; monotonic.
        sources: Of whom chunks are asked.
    """

    queue: tuple[str, ...]
    position: int = 0
    asked: tuple[str, ...] = ()
    quiet_since_s: float = 0.0
    sources: Sources = BROKER_ALONE

    @property
    def is_done(self) -> bool:
        """Whether everything is on disk."""
        return not self.asked and self.position == len(self.queue)


def begin(missing: Sequence[str], now_s: float, sources: Sources = BROKER_ALONE) -> FetchPlan:
    """Return the plan for these chunks; repeated digests are needed once."""
    return FetchPlan(tuple(dict.fromkeys(missing)), quiet_since_s=now_s, sources=sources)


def ask(plan: FetchPlan, *, is_up: bool) -> tuple[FetchPlan, tuple[str, ...]]:
    """Return the chunks to ask for now, at most `WINDOW` outstanding, of the plan's source.

    Args:
        plan: The plan.
        is_up: Whether there is a link to the broker.
    """
    if plan.sources.current is Source.BROKER and not is_up:
        return plan, ()
    fresh = plan.queue[plan.position : plan.position + max(0, WINDOW - len(plan.asked))]
    return replace(plan, position=plan.position + len(fresh), asked=plan.asked + fresh), fresh


def received(plan: FetchPlan, digest: str, now_s: float, by: Source = Source.BROKER) -> FetchPlan:
    """Return the plan after a verified chunk that was asked for is on disk."""
    asked = tuple(d for d in plan.asked if d != digest)
    sources = plan.sources
    if by is Source.CONTROLLER and sources.failures:
        sources = replace(sources, failures=0, rests_until_s=now_s)
    return replace(plan, asked=asked, quiet_since_s=now_s, sources=sources)


def link_changed(plan: FetchPlan, now_s: float) -> FetchPlan:
    """Return the plan after all subscriptions are gone; what is asked of the controller stays asked."""
    return plan if plan.sources.current is Source.CONTROLLER else _again(plan, now_s, plan.sources)


def pull_failed(plan: FetchPlan, now_s: float, chance: float) -> FetchPlan:
    """Return the plan after the controller could not give a chunk that is awaited.

    Args:
        plan: The plan.
        now_s: Monotonic.
        chance: A random number in [0, 1): a fleet does not come back in step.
    """
    return _again(plan, now_s, plan.sources.failed(now_s, chance))


def overdue(plan: FetchPlan, now_s: float, *, is_up: bool) -> tuple[FetchPlan, AbstractSet[str]]:
    """Return the chunks that the broker does not bring: to be asked for again, of whom the plan says.

    Whoever else has them is to be told their names, so that the broker gets them, too.
    """
    sources = plan.sources
    if sources.current is Source.CONTROLLER:
        if sources.is_link_missed and is_up:  # what is under way comes, all else by the link
            return replace(plan, sources=replace(sources, current=Source.BROKER)), frozenset()
        return plan, frozenset()  # each pull ends by itself
    if not (plan.asked or not is_up) or now_s - plan.quiet_since_s < (
        SILENCE_S if is_up else AWAY_S
    ):
        return plan, frozenset()
    if not plan.asked and not sources.may_pull(now_s):
        return plan, frozenset()
    if sources.may_pull(now_s):
        sources = replace(sources, current=Source.CONTROLLER, is_link_missed=not is_up)
    return _again(plan, now_s, sources), frozenset(plan.asked)


def _again(plan: FetchPlan, now_s: float, sources: Sources) -> FetchPlan:
    """Return the plan in which what was asked for comes first again."""
    rest = plan.asked + plan.queue[plan.position :]
    return FetchPlan(rest, quiet_since_s=now_s, sources=sources)
