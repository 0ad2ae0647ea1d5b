"""Which devices belong to which phase: a stable order, cut at cumulative shares."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple


class Cut(NamedTuple):
    """One phase's cumulative size, and the share that asked for it."""

    share: str
    size: int


def stable_order(rollout: str, devices: Iterable[str]) -> tuple[str, ...]:
    """Return `devices` in an order that depends on the rollout and the ids alone.

    A device is not the canary of every rollout, and a restarted controller finds the same order.
    """

    def key(device: str) -> tuple[bytes, str]:
        return hashlib.sha256(f"{rollout}/{device}".encode()).digest(), device

    return tuple(sorted(set(devices), key=key))


def phase_sizes(shares: Sequence[str], device_count: int) -> tuple[Cut, ...]:
    """Return the phases that have devices of their own.

    Args:
        shares: Cumulative, each a count (`"5"`) or a share of the matched devices (`"50%"`).
        device_count: How many devices matched; with 0 there are no phases.

    Percentages round up, so that a share is never less than one device; counts are capped at
    `device_count`; a phase that would add no device is left out.
    """
    cuts: list[Cut] = []
    reached = 0
    for share in shares:
        size = min(_size(share, device_count), device_count)
        if size > reached:
            cuts.append(Cut(share, size))
            reached = size
    return tuple(cuts)


def _size(share: str, device_count: int) -> int:
    if share.endswith("%"):
        # Whole numbers: 7 % of 100 devices is 7, where floats round 7.000000000000001 up to 8.
        return -(-int(share[:-1]) * device_count // 100)
    return int(share)


def phase_of(position: int, cuts: Sequence[Cut]) -> int | None:
    """Return the phase, from 0, of the device at `position`; None beyond the last share."""
    return next((number for number, cut in enumerate(cuts) if position < cut.size), None)
