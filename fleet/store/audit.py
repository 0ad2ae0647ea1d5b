"""The audit log: rows are added and never changed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

from sqlalchemy import Connection, insert, select

from fleet.core.audit import Entry, Row, sealed

from .schema import AUDIT


class Audit:
    """The table `audit`, within one transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def append(self, act: Row) -> None:
        """Add a row that names the newest one."""
        self._connection.execute(insert(AUDIT).values(**asdict(sealed(self.newest(), act))))

    def newest(self) -> Entry | None:
        """Return the newest row."""
        return next(iter(self.page(before=None, limit=1)), None)

    def at(self, seq: int) -> Entry | None:
        """Return one row, None where it is not there."""
        row = self._connection.execute(select(AUDIT).where(AUDIT.c.seq == seq)).first()
        return Entry(*row) if row is not None else None

    def page(self, *, before: int | None, limit: int) -> list[Entry]:
        """Return the newest rows with numbers below `before`, newest first."""
        query = select(AUDIT).order_by(AUDIT.c.seq.desc()).limit(limit)
        if before is not None:
            query = query.where(AUDIT.c.seq < before)
        return [Entry(*row) for row in self._connection.execute(query)]

    def after(self, seq: int) -> Iterator[Entry]:
        """Return all rows with numbers above `seq`, oldest first."""
        query = select(AUDIT).where(AUDIT.c.seq > seq).order_by(AUDIT.c.seq)
        for row in self._connection.execute(query):
            yield Entry(*row)
