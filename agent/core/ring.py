"""How many answers are remembered, so that a label may still come for them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Ring:
    """Bounds of the ring: answered rows of each model, and bytes of all models together.

    A request of one row counts as 640 bytes (it takes about 500): by default 13,000 of these are
    remembered, and 20,000 rows in larger requests.
    """

    max_rows: int = 20_000
    max_bytes: int = 8 * 1024 * 1024
