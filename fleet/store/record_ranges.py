"""Numbers of records whose bodies are gone, so that one that comes again is known and not counted twice."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from sqlalchemy import Connection, delete, func, insert, select

from .record_keys import Key, found
from .schema import RECORD_RANGES, RECORDS

RANGE_DAYS: Final = 730
"""How long numbers are kept: as long as the sums that their records went into."""
MAX_RANGES: Final = 1_000
"""Of one device; the oldest beyond that go. A start of the agent is one, and more where records were lost."""
COVERED: Final = f"""
FROM k CROSS JOIN {RECORD_RANGES.name} AS r
WHERE r.device = k.device AND r.boot = k.boot AND r.first_seq <= k.seq AND r.last_seq >= k.seq
"""
"""Where a range holds the key `k`."""
_NUMBERED: Final = (RECORDS.c.device, RECORDS.c.boot, RECORDS.c.seq, RECORDS.c.received_unix_ms)


class RecordRanges:
    """The table `record_ranges`, within one transaction: ranges that neither overlap nor touch."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def covered(self, keys: Iterable[Key]) -> set[Key]:
        """Return those of `keys` whose records were here."""
        return found(self._connection, keys, COVERED)

    def take_over(self, before_unix_ms: int) -> None:
        """Keep the numbers of all records received before an instant, which are about to go."""
        place = func.row_number().over(
            partition_by=(RECORDS.c.device, RECORDS.c.boot), order_by=RECORDS.c.seq
        )
        old = (
            # Numbers without a gap are as far from their places as the first of them.
            select(*_NUMBERED, (RECORDS.c.seq - place).label("shift"))
            .where(RECORDS.c.received_unix_ms < before_unix_ms)
            .subquery()
        )
        query = (
            select(
                old.c.device,
                old.c.boot,
                func.min(old.c.seq),
                func.max(old.c.seq),
                func.max(old.c.received_unix_ms),
            )
            .group_by(old.c.device, old.c.boot, old.c.shift)
            .order_by(old.c.device, old.c.boot, old.c.shift)
        )
        devices = set()
        for device, boot, first, last, received in self._connection.execute(query).all():
            self._add(device, boot, first, last, received)
            devices.add(device)
        for device in sorted(devices):
            self._bound(device)

    def prune(self, before_unix_ms: int) -> None:
        """Forget ranges of which nothing was received since an instant."""
        old = RECORD_RANGES.c.received_unix_ms < before_unix_ms
        self._connection.execute(delete(RECORD_RANGES).where(old))

    def _add(self, device: str, boot: str, first: int, last: int, received: int) -> None:
        """Store a range; what it meets becomes one with it."""
        met = (
            (RECORD_RANGES.c.device == device)
            & (RECORD_RANGES.c.boot == boot)
            & (RECORD_RANGES.c.first_seq <= last + 1)
            & (RECORD_RANGES.c.last_seq >= first - 1)
        )
        rows = self._connection.execute(select(RECORD_RANGES).where(met)).all()
        if rows:
            self._connection.execute(delete(RECORD_RANGES).where(met))
        self._connection.execute(
            insert(RECORD_RANGES).values(
                device=device,
                boot=boot,
                first_seq=min([first, *(row.first_seq for row in rows)]),
                last_seq=max([last, *(row.last_seq for row in rows)]),
                received_unix_ms=max([received, *(row.received_unix_ms for row in rows)]),
            )
        )

    def _bound(self, device: str) -> None:
        mine = RECORD_RANGES.c.device == device
        count = select(func.count()).select_from(RECORD_RANGES).where(mine)
        if self._connection.execute(count).scalar_one() <= MAX_RANGES:
            return
        query = (
            select(RECORD_RANGES.c.boot, RECORD_RANGES.c.first_seq)
            .where(mine)
            .order_by(
                RECORD_RANGES.c.received_unix_ms.desc(),
                RECORD_RANGES.c.boot,
                RECORD_RANGES.c.first_seq.desc(),
            )
            .offset(MAX_RANGES)
        )
        for boot, first in self._connection.execute(query).all():
            this = (RECORD_RANGES.c.boot == boot) & (RECORD_RANGES.c.first_seq == first)
            self._connection.execute(delete(RECORD_RANGES).where(mine & this))
