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


CONNECT_FREE_COUNT: Final = 3
"""Starts in a row that nobody had asked for and that connect at once: power cuts come in groups."""
CONNECT_FIRST_S: Final = 2.0
CONNECT_CAP_S: Final = 300.0
"""As `RestartMaxDelaySec` of the unit."""
SETTLED_S: Final = 60.0
"""An agent that stays up this long has no part in a row: systemd's second is nothing beside it."""


def connect_delay_s(in_a_row: int) -> float:
    """Return the wait, in seconds, of an agent that serves before it connects to the broker.

    What ends it again and again may be what the broker sends: meanwhile it serves, ever longer. So
    the delay grows where systemd (before 254) starts it again each second, and a fleet in such a
    loop is no storm for its broker.

    Args:
        in_a_row: Starts after an end that nobody had asked for, without one that stayed up between.
    """
    return _after_free(in_a_row, CONNECT_CAP_S)


FAILED_CAP_S: Final = 32.0
"""With the minute that a first start waits for its controller, well below the unit's TimeoutStartSec."""


def failed_start_delay_s(in_a_row: int) -> float:
    """Return the wait, in seconds, before an agent ends that failed before it could serve.

    systemd (before 254) starts it again a second after its end, for ever: what repeats does so ever
    more seldom. The first failures end at once, so that whoever starts it by hand is told at once.

    Args:
        in_a_row: Starts that failed so, this one included, without one that served between.
    """
    return _after_free(in_a_row, FAILED_CAP_S)


def _after_free(in_a_row: int, cap_s: float) -> float:
    over = in_a_row - CONNECT_FREE_COUNT
    if over <= 0:
        return 0.0
    return min(cap_s, CONNECT_FIRST_S * 2.0 ** min(over - 1, 16))
