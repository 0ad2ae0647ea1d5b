"""Which of many keys of records are there: each is sought by itself, in a table of any size."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from sqlalchemy import Connection, text

from .schema import RECORDS

Key = tuple[str, str, int]
"""Device, boot and number."""
BATCH: Final = 250
"""Keys in one statement; SQLite before 3.32 takes at most 999 values."""
STORED: Final = f"""
FROM k CROSS JOIN {RECORDS.name} AS r
WHERE r.device = k.device AND r.boot = k.boot AND r.seq = k.seq
"""
"""Where a record has the key `k`."""


def found(connection: Connection, keys: Iterable[Key], where: str) -> set[Key]:
    """Return those of some keys that are there.

    In words of SQL, since SQLite answers `(device, boot, seq) IN (VALUES …)` by a look at every
    record that there is, and SQLAlchemy takes four times as long to put the same join together.

    Args:
        connection: Within a transaction.
        keys: Each once.
        where: Such as `STORED`.
    """
    wanted = list(keys)
    there: set[Key] = set()
    for start in range(0, len(wanted), BATCH):
        part = wanted[start : start + BATCH]
        marks = ", ".join(f"(:d{n}, :b{n}, :s{n})" for n in range(len(part)))
        values = {
            f"{c}{n}": v for n, key in enumerate(part) for c, v in zip("dbs", key, strict=True)
        }
        query = (
            f"WITH k (device, boot, seq) AS (VALUES {marks}) SELECT k.device, k.boot, k.seq {where}"
        )
        there.update(
            (row.device, row.boot, row.seq) for row in connection.execute(text(query), values)
        )
    return there
