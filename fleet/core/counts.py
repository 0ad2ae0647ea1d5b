"""Sums of what devices counted: a device may say anything, and no sum of it overflows.

Every count is at most `MAX_COUNTED` when it comes in, and every sum stays at `MAX_SUM` once it is there.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import Final

from wire.messages import MAX_INTEGER

MAX_COUNTED: Final = 1_000_000_000
"""Rows or requests of one record that count: in a window of a minute, 16 million a second."""
MAX_SUM: Final = MAX_INTEGER
"""Exact as a float and to every JSON reader; a thousand of them are an integer of 64 bits still."""


def added(one: int, other: int) -> int:
    """Return the sum, at most `MAX_SUM`."""
    return min(MAX_SUM, one + other)


def added_each(one: Sequence[int], other: Sequence[int]) -> tuple[int, ...]:
    """Return the sums of counts at equal places; those that one of them lacks are 0."""
    return tuple(added(a, b) for a, b in zip_longest(one, other, fillvalue=0))
