"""When a device's certificate is to be renewed."""

from __future__ import annotations

import math
from typing import Final

DUE_SHARE: Final = 2 / 3
JITTER_SHARE: Final = 1 / 12
"""Of its life, so that devices that were enrolled together do not renew together."""
SILENCE_S: Final = 900.0
"""A device whose clock cannot be right renews when the broker has been away for this long."""


def is_due(
    now_unix_ms: int,
    *,
    not_before_unix_ms: int,
    not_after_unix_ms: int,
    chance: float,
    offline_s: float,
    renewed_s: float = math.inf,
) -> bool:
    """Return whether to ask for the next certificate now.

    Args:
        now_unix_ms: The device's clock, whatever it shows.
        not_before_unix_ms: The certificate holds from here on.
        not_after_unix_ms: Until here; long ago is no reason not to ask.
        chance: In [0, 1), the same for the life of a certificate.
        offline_s: How long there has been no connection to the broker; 0 while there is one.
        renewed_s: How long ago this program last asked, by a clock that cannot be wrong.
    """
    if now_unix_ms < not_before_unix_ms:  # the clock is not set: the broker knows better
        return offline_s >= SILENCE_S
    life_ms = not_after_unix_ms - not_before_unix_ms
    # A clock that is ahead finds every new certificate old.
    if renewed_s * 1000 < life_ms * JITTER_SHARE:
        return False
    if now_unix_ms >= not_after_unix_ms and offline_s == 0:  # the broker, who knows, takes it
        return False
    return now_unix_ms >= not_before_unix_ms + life_ms * (DUE_SHARE + chance * JITTER_SHARE)
