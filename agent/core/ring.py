"""How many answers are remembered, so that a label may still come for them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Ring:
    """Bounds of the ring: answered rows of each model, and bytes of all models together.

    By default a request of one row takes about 450 bytes, so that both are reached together.
    """

    max_rows: int = 20_000
    max_bytes: int = 8 * 1024 * 1024
