"""The statistics behind the guards: is a share of slow requests real, does memory grow steadily."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from wire.latency import count_above, latency_quantile

from .states import MemoryTrace

SLOW_SHARE: Final = 0.01
"""A 99th percentile is over a limit when more than this share of requests is."""

FALSE_ALARM: Final = 1e-5
"""Chance that a release whose 99th percentile is just at the limit seems over it, at one look. A
probation of ten minutes looks 600 times, at counts that mostly stay the same."""

LATENCY_FLOOR_MS: Final = 25.0
"""Slower by less than this than the release before is fine, whatever the ratio: a busy core makes
a request wait that long, and 0.2 ms against 0.05 ms is no reason to go back."""

MIN_REFERENCE_REQUESTS: Final = 200
"""Fewer have no 99th percentile to compare with: the two slowest of 200 are beyond it."""

MAX_LOWS: Final = 64
"""Points of a memory trace; 16 in each quarter when it is full."""

MIN_LOWS: Final = 16
"""Points of a memory trace before it is judged: 16 s with traffic, at one sample a second."""

MEMORY_SHARE: Final = 0.1
"""Growth by less than this share is no leak: allocators keep that much for themselves."""

STEADY_SHARE: Final = 0.25
"""Both halves of a steady growth are at least this share of it; of a single step one is 0."""

_MIB: Final = 1024 * 1024


def is_share_above(count: int, total: int, share: float) -> bool:
    """Return whether `count` of `total` shows a true share above `share`.

    The exact one-sided binomial test (Clopper and Pearson, 1934): P(X >= count) < `FALSE_ALARM`
    for X ~ Binomial(total, share). It needs no least number of requests: of 20, five do.
    """
    if total == 0 or count <= share * total:
        return False
    log_term = (
        math.lgamma(total + 1)
        - math.lgamma(count + 1)
        - math.lgamma(total - count + 1)
        + count * math.log(share)
        + (total - count) * math.log1p(-share)
    )
    term = tail = math.exp(log_term)
    # Above the mean each term is smaller than the one before by a factor that itself falls.
    for number in range(count, total):
        term *= (total - number) / (number + 1) * share / (1 - share)
        tail += term
        if tail >= FALSE_ALARM:
            return False
        if term < tail * 1e-12:
            break
    return tail < FALSE_ALARM


def is_p99_above(latency: Sequence[int], limit_ms: float) -> bool:
    """Return whether the 99th percentile is really above `limit_ms`, not by a few unlucky ones."""
    return is_share_above(count_above(latency, limit_ms), sum(latency), SLOW_SHARE)


def is_median_above(latency: Sequence[int], limit_ms: float) -> bool:
    """Return whether half of the requests take longer than `limit_ms`."""
    return 2 * count_above(latency, limit_ms) > sum(latency)


def reference_p99_ms(latency: Sequence[int]) -> float | None:
    """Return the 99th percentile that the next release is held to; None of too few requests."""
    if sum(latency) < MIN_REFERENCE_REQUESTS:
        return None
    return latency_quantile(latency, 0.99)


def ratio_limit_ms(reference_ms: float, ratio: float) -> float:
    """Return the 99th percentile allowed after a release that had `reference_ms`."""
    return max(ratio * reference_ms, reference_ms + LATENCY_FLOOR_MS)


def observe_memory(trace: MemoryTrace, rss_bytes: int) -> MemoryTrace:
    """Return the trace with one sample more; at most `MAX_LOWS` points and as many pending."""
    pending = (*trace.pending, rss_bytes)
    if len(pending) < trace.stride:
        return MemoryTrace(trace.lows, trace.stride, pending)
    lows = (*trace.lows, min(pending))
    if len(lows) < MAX_LOWS:
        return MemoryTrace(lows, trace.stride)
    halved = tuple(min(pair) for pair in zip(lows[::2], lows[1::2], strict=True))
    return MemoryTrace(halved, trace.stride * 2)


def growth_bytes(trace: MemoryTrace) -> int:
    """Return the steady growth of memory after the warm-up, 0 where there is none.

    Of the four quarters of the trace the first is warm-up and is not looked at. What counts of
    each other is its lowest point, since requests under way come and go. Growth is that from the
    second quarter to the fourth, if the third lies well between: a step, such as an arena that a
    larger batch makes, is on one side of it, and warming up slows down before it.
    """
    if len(trace.lows) < MIN_LOWS:
        return 0
    size = len(trace.lows) // 4
    second, third, fourth = (min(trace.lows[-n * size :][:size]) for n in (3, 2, 1))
    growth = fourth - second
    is_steady = min(third - second, fourth - third) >= STEADY_SHARE * growth
    return growth if growth > 0 and is_steady else 0


def growth_limit_bytes(trace: MemoryTrace, limit_mb: int, budget_mb: int | None) -> int:
    """Return the growth allowed: `limit_mb` or a tenth of the whole, within the declared budget."""
    limit = max(limit_mb * _MIB, int(MEMORY_SHARE * min(trace.lows, default=0)))
    return limit if budget_mb is None else min(limit, budget_mb * _MIB)
