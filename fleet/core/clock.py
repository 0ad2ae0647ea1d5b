"""What a device's clock may say. Nothing is ordered, judged or expired by it, only complained of."""

from __future__ import annotations

from typing import Final

MAX_AHEAD_MS: Final = 600_000
"""Clocks that are kept right differ by seconds, and a message takes as long at most."""
EARLIEST_UNIX_MS: Final = 1_704_067_200_000
"""2024 began: older than this program. A board without a battery begins in 1970."""
_UNITS: Final = ((86_400_000, "days"), (3_600_000, "hours"), (60_000, "minutes"))


def fault_of(said_unix_ms: int, now_unix_ms: int) -> str | None:
    """Return in words what is wrong with a time that a device has written, or None.

    Being behind is none: a record may have waited for weeks on a device that was offline.

    Args:
        said_unix_ms: By the device's clock, when it wrote.
        now_unix_ms: By the controller's, when that arrived.
    """
    if said_unix_ms < EARLIEST_UNIX_MS <= now_unix_ms:
        return "its clock says a time before 2024"
    ahead_ms = said_unix_ms - now_unix_ms
    if ahead_ms <= MAX_AHEAD_MS:
        return None
    size, unit = next((s, u) for s, u in _UNITS if ahead_ms >= 2 * s)
    return f"its clock is {ahead_ms // size} {unit} ahead of the controller's"
