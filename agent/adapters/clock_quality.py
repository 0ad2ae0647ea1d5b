"""How well the machine's clock is kept, as the kernel and whoever disciplines it say."""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_STA_UNSYNC: Final = 0x40
_TIME_ERROR: Final = 5
"""Both of <sys/timex.h>: the flag, and the state that adjtimex(2) answers without a good clock."""
_TIMESYNCD: Final = Path("/run/systemd/timesync/synchronized")
"""systemd-timesyncd's flag; it is there once the clock was set since the machine's start."""
_US_PER_MS: Final = 1000


class _Timex(ctypes.Structure):
    """`struct timex`, as far as it is read; glibc's has 208 bytes on 64-bit Linux."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_byte * 256),
    )


@dataclass(frozen=True, slots=True)
class ClockQuality:
    """What is known of the clock.

    Attributes:
        is_synchronized: Something sets it by a better one; None where nobody says.
        error_ms: Most by which it may be off, by the kernel's reckoning; None where it does not say.
    """

    is_synchronized: bool | None
    error_ms: float | None


def clock_quality() -> ClockQuality:
    """Return how well the clock is kept.

    adjtimex(2) only reads here. The units of systemd/ refuse it together with what sets a clock;
    there systemd-timesyncd's flag says as much, without the error.
    """
    timex = _Timex()
    state = _adjtimex(timex)
    if state is None:
        return ClockQuality(_timesyncd_says(), None)
    if state == _TIME_ERROR or timex.status & _STA_UNSYNC:
        return ClockQuality(is_synchronized=False, error_ms=None)
    return ClockQuality(is_synchronized=True, error_ms=timex.maxerror / _US_PER_MS)


def _adjtimex(timex: _Timex) -> int | None:
    try:
        call = ctypes.CDLL(None).adjtimex
    except (OSError, AttributeError):
        return None
    state = int(call(ctypes.byref(timex)))
    return None if state < 0 else state


def _timesyncd_says() -> bool | None:
    """Return whether systemd-timesyncd has set the clock, None where it does not run."""
    if not os.path.isdir(_TIMESYNCD.parent):  # noqa: PTH112 - a refusal is no reason to raise
        return None
    return os.path.exists(_TIMESYNCD)  # noqa: PTH110 - same
