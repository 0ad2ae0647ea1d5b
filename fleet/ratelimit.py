"""At most one of a kind per period."""

from __future__ import annotations

from typing import Final

MAX_KEYS: Final = 10_000
"""Kinds remembered; beyond it the oldest half is forgotten and may pass once more, early."""


class RateLimit:
    """Lets each key pass once per `period_ms` milliseconds. Not for several threads."""

    def __init__(self, period_ms: int) -> None:
        self._period_ms = period_ms
        self._passed: dict[str, int] = {}

    def __contains__(self, key: object) -> bool:
        """Whether `key` has passed, and is not forgotten; from any thread."""
        return key in self._passed

    def allows(self, key: str, now_unix_ms: int) -> bool:
        """Return whether `key` may pass now; if so, that is remembered."""
        last = self._passed.get(key)
        # A clock that was set back must not silence a key for ever.
        if last is not None and 0 <= now_unix_ms - last < self._period_ms:
            return False
        self._passed.pop(key, None)
        self._passed[key] = now_unix_ms
        if len(self._passed) > MAX_KEYS:
            for old in list(self._passed)[: MAX_KEYS // 2]:
                del self._passed[old]
        return True


class Buckets:
    """Lets each key pass `rate_per_s` times a second, and `burst` times at once after a rest.

    Not for several threads.
    """

    def __init__(self, rate_per_s: float, burst: int) -> None:
        self._rate_per_s = rate_per_s
        self._burst = burst
        self._left: dict[str, tuple[float, float]] = {}

    def takes(self, key: str, now_s: float) -> bool:
        """Return whether `key` may pass now, by a clock that never goes back; if so, it has."""
        left, then_s = self._left.pop(key, (float(self._burst), now_s))
        left = min(self._burst, left + (now_s - then_s) * self._rate_per_s)
        is_allowed = left >= 1
        self._left[key] = (left - 1 if is_allowed else left, now_s)
        if len(self._left) > MAX_KEYS:
            for old in list(self._left)[: MAX_KEYS // 2]:
                del self._left[old]
        return is_allowed
