"""How long to wait before trying again."""

from __future__ import annotations

from typing import Final

RESPAWN_FIRST_S: Final = 0.5
RESPAWN_CAP_S: Final = 60.0


def respawn_delay_s(failure_count: int) -> float:
    """Return the wait, in seconds, before a runtime is started again.

    None before the first start; then doubling, so that a model that dies at once does not turn
    the device into a heater, capped so that a repaired cause is found within a minute.
    """
    if failure_count == 0:
        return 0.0
    return min(RESPAWN_CAP_S, RESPAWN_FIRST_S * 2.0 ** min(failure_count - 1, 16))
