"""When to ask the controller itself for signed metadata: when something waits for it, and seldom.

The broker comes first. What it does not bring within `PATIENCE_S` is asked for over HTTPS at once; while the same is
still wanting, again after `REST_S`, then ever more seldom. No change of what is wanted makes two pulls
follow each other faster than `PATIENCE_S`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf
from typing import Final

PATIENCE_S: Final = 5.0
REST_S: Final = 60.0
REST_CAP_S: Final = 3600.0


@dataclass(frozen=True, slots=True)
class Want:
    """What is wanting; one that is equal is still the same.

    Attributes:
        code: Why something waits.
        snapshot: Version of what is known; 0 for nothing.
        models: Whose documents matter.
    """

    code: str
    snapshot: int
    models: frozenset[str]


@dataclass(frozen=True, slots=True)
class Schedule:
    """What is wanting since when, and what was done about it; instants are monotonic."""

    want: Want | None = None
    since_s: float = 0.0
    pull_count: int = 0
    pulled_at_s: float = -inf


def look(
    schedule: Schedule, want: Want | None, now_s: float, chance: float
) -> tuple[Schedule, bool]:
    """Return the schedule from now on, and whether to pull.

    Args:
        schedule: Until now.
        want: What is wanting now, if anything.
        now_s: Monotonic.
        chance: A random number in [0, 1), the same at each call, which tells devices apart.
    """
    if want is None:
        return Schedule(pulled_at_s=schedule.pulled_at_s), False
    if want != schedule.want:
        schedule = Schedule(want, now_s, pulled_at_s=schedule.pulled_at_s)
    rest_s = PATIENCE_S
    if schedule.pull_count:
        rest_s = min(REST_CAP_S, REST_S * 2.0 ** min(schedule.pull_count - 1, 16))
    due_s = max(schedule.since_s + PATIENCE_S, schedule.pulled_at_s + rest_s * (1 + chance / 2))
    if now_s < due_s:
        return schedule, False
    return replace(schedule, pull_count=schedule.pull_count + 1, pulled_at_s=now_s), True
