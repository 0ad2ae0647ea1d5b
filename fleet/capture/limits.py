"""How much of devices' captured rows is kept, and how long."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CaptureLimits:
    """See `[capture]` of `fleet.toml`."""

    keep_ms: int = 90 * 86_400_000
    max_bytes: int = 2**30
    device_max_bytes: int = 64 * 2**20
