"""Latency as counts over log-scaled bins: they merge exactly, by addition, over time and devices."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate
from typing import Final

LATENCY_EDGES_MS: Final[tuple[float, ...]] = tuple(0.01 * 10 ** (i / 20) for i in range(141))
"""0.01 ms to 100 s, 20 bins a decade: a quantile is exact to 10^(1/20) = 12 %."""

LATENCY_BINS: Final = len(LATENCY_EDGES_MS) + 1
"""Below the first edge, [edge, next edge) …, from the last edge on."""
BUCKET_STEP: Final = 10
"""Prometheus is told every half decade of the edges: 0.01 ms, 0.0316 ms, 0.1 ms … 100 s."""


def latency_quantile(counts: Sequence[int], share: float) -> float | None:
    """Return the upper edge, in ms, of the bin that holds the quantile `share`; None if empty.

    The last bin has no upper edge and answers its lower one, 100 s: "at least".

    Args:
        counts: `LATENCY_BINS` of them, as bisect_right over the edges fills them, or none.
        share: 0 to 1.
    """
    total = sum(counts)
    if total == 0:
        return None
    # The smallest value is rank 1. A share that is no binary fraction may round a whole rank up.
    rank = max(1, math.ceil(share * total * (1 - 1e-12)))
    sums = accumulate(counts)
    position = next(number for number, reached in enumerate(sums) if reached >= rank)
    return round(LATENCY_EDGES_MS[min(position, len(LATENCY_EDGES_MS) - 1)], 4)


def count_above(counts: Sequence[int], limit_ms: float) -> int:
    """Return how many certainly took `limit_ms` or longer: the bin that holds it does not count."""
    return sum(counts[bisect_left(LATENCY_EDGES_MS, limit_ms) + 1 :])


def merged(first: Sequence[int], second: Sequence[int]) -> tuple[int, ...]:
    """Return the sum of two counts; an empty one is nothing."""
    if not first or not second:
        return tuple(first or second)
    return tuple(a + b for a, b in zip(first, second, strict=True))


def trimmed(counts: Sequence[int]) -> tuple[int, ...]:
    """Return counts without the zeros at their end, as they go over the wire."""
    end = next((n for n in range(len(counts), 0, -1) if counts[n - 1]), 0)
    return tuple(counts[:end])


def padded(counts: Sequence[int]) -> tuple[int, ...]:
    """Return what `trimmed` took the zeros from with all `LATENCY_BINS`; of nothing, nothing."""
    return (*counts, *(0,) * (LATENCY_BINS - len(counts))) if counts else ()


def buckets_s(counts: Sequence[int]) -> tuple[list[tuple[str, int]], float]:
    """Return counts as a histogram of Prometheus: by upper edge, how many are below; and the sum, in s.

    The sum is of the bins' upper edges, so 12 % too large at most.

    Args:
        counts: `LATENCY_BINS` of them, or none.
    """
    reached = [*accumulate(counts)] or [0] * LATENCY_BINS
    places = range(0, len(LATENCY_EDGES_MS), BUCKET_STEP)
    found = [(f"{LATENCY_EDGES_MS[place] / 1000:.6g}", reached[place]) for place in places]
    uppers = (*LATENCY_EDGES_MS, LATENCY_EDGES_MS[-1])
    total_ms = sum(count * upper for count, upper in zip(counts, uppers, strict=False))
    return [*found, ("+Inf", reached[-1])], total_ms / 1000


def since(now: Sequence[int], before: Sequence[int]) -> tuple[int, ...]:
    """Return what was counted between two moments of one count, never less than nothing."""
    if not now or not before:
        return tuple(max(0, count) for count in now)
    return tuple(max(0, a - b) for a, b in zip(now, before, strict=True))
