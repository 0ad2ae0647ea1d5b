"""Events that wait for a disk that works: in their order, each as often as it means something. Pure.

What waits is stepped later against the state as it then is. So an event that comes again and again while
the disk fails takes one place, and those that come once always find one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from .events import DesiredReceived, DirectorGone, Event, GoldenRowsChecked, TryDue

MAX_POSTPONED: Final = 64
"""Events that wait; no more than a handful do, since no work begins whose state is not on disk."""

SAID_ONCE: Final = (DirectorGone, TryDue, GoldenRowsChecked)
"""The first of these says all that the later ones could."""


def with_postponed(waiting: Iterable[Event], event: Event) -> tuple[Event, ...]:
    """Return what waits, with one event more.

    A desired state takes the place of an older one as if that had never been heard, and comes after what
    happened meanwhile: that is about the work of a state before it. Generations are compared from the
    last `DirectorGone` on, which has them count from the beginning.
    """
    kept = tuple(waiting)
    if isinstance(event, SAID_ONCE) and any(isinstance(known, type(event)) for known in kept):
        return kept
    if isinstance(event, DesiredReceived):
        gone = next((n for n, known in enumerate(kept) if isinstance(known, DirectorGone)), -1)
        before, since = kept[: gone + 1], kept[gone + 1 :]
        desired = [known for known in since if isinstance(known, DesiredReceived)]
        if any(known.generation >= event.generation for known in desired):
            return kept
        kept = (*before, *(known for known in since if known not in desired))
    return (*kept, event)[:MAX_POSTPONED]
