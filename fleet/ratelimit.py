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
