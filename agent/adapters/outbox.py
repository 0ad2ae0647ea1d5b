"""Store and forward: records wait on disk until the controller says that it has stored them.

SQLite, WAL and FULL, in a file of its own, so that a flood of records cannot hurt the state.
When the cap is reached the oldest records go, and a gap record says which.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from wire.errors import StorageError
from wire.messages import StoredRange

from .state_sqlite import open_database

MAX_BYTES: Final = 8 * 1024 * 1024
"""About 20,000 records of 400 bytes: two weeks offline at one a minute."""
DROP_SHARE: Final = 0.05
"""How much is dropped at once when the cap is reached, so that dropping is rare."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A record that has not been acknowledged."""

    boot: str
    seq: int
    topic: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class Gap:
    """Records of one boot that were dropped."""

    boot: str
    first: int
    last: int
    count: int


class Outbox:
    """Records by (boot, seq), oldest first. Used by the loop's thread only."""

    def __init__(self, path: Path, boot: str, *, max_bytes: int = MAX_BYTES) -> None:
        """Open the file, or begin a new one.

        Args:
            path: The database file.
            boot: This start's id; sequence numbers begin at 1 under it.
            max_bytes: Cap on the sum of topics and payloads.

        Raises:
            StorageError: `state_unreadable` or `state_unwritable`.
        """
        self._path = path
        self._boot = boot
        self._seq = 0
        self._max_bytes = max_bytes
        self._db = open_database(path)
        try:
            self._db.execute(
                "CREATE TABLE IF NOT EXISTS record (position INTEGER PRIMARY KEY AUTOINCREMENT,"
                " boot TEXT, seq INTEGER, topic TEXT, payload BLOB, UNIQUE (boot, seq))"
            )
            row = self._db.execute(
                "SELECT coalesce(sum(length(topic) + length(payload)), 0) FROM record"
            ).fetchone()
        except sqlite3.Error as exc:
            raise StorageError(f"{path}: {exc}", code="state_unreadable") from exc
        self._bytes: int = row[0]

    def append(self, topic: str, make: Callable[[int], bytes]) -> tuple[Waiting, list[Gap]]:
        """Keep a record; return it, and what had to go for it.

        Args:
            topic: Where it will be published.
            make: Returns the payload for the record's sequence number.

        Raises:
            StorageError: `state_unwritable`; the record is lost then.
        """
        self._seq += 1
        record = Waiting(self._boot, self._seq, topic, make(self._seq))
        size = len(topic) + len(record.payload)
        try:
            gaps = self._make_room(size)
            self._db.execute(
                "INSERT INTO record (boot, seq, topic, payload) VALUES (?, ?, ?, ?)",
                (record.boot, record.seq, record.topic, record.payload),
            )
        except sqlite3.Error as exc:
            raise StorageError(
                f"cannot write {self._path}: {exc}", code="state_unwritable"
            ) from exc
        self._bytes += size
        return record, gaps

    def waiting(self, limit: int, *, after: int = 0) -> list[tuple[int, Waiting]]:
        """Return up to `limit` records, oldest first, with positions greater than `after`."""
        rows = self._db.execute(
            "SELECT position, boot, seq, topic, payload FROM record WHERE position > ?"
            " ORDER BY position LIMIT ?",
            (after, limit),
        )
        return [(row[0], Waiting(*row[1:])) for row in rows]

    def delete(self, stored: Iterable[StoredRange]) -> int:
        """Delete exactly the records of these ranges; return how many there were."""
        count = 0
        for span in stored:
            rows = self._db.execute(
                "DELETE FROM record WHERE boot = ? AND seq BETWEEN ? AND ?"
                " RETURNING length(topic) + length(payload)",
                (span.boot, span.first, span.last),
            ).fetchall()
            self._bytes -= sum(row[0] for row in rows)
            count += len(rows)
        return count

    def __len__(self) -> int:
        row = self._db.execute("SELECT count(*) FROM record").fetchone()
        return int(row[0])

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def _make_room(self, size: int) -> list[Gap]:
        if self._bytes + size <= self._max_bytes:
            return []
        excess = self._bytes + size - self._max_bytes + int(self._max_bytes * DROP_SHARE)
        doomed: list[tuple[int, str, int]] = []
        freed = 0
        for position, boot, seq, length in self._db.execute(
            "SELECT position, boot, seq, length(topic) + length(payload) FROM record"
            " ORDER BY position"
        ):
            doomed.append((position, boot, seq))
            freed += length
            if freed >= excess:
                break
        if doomed:
            self._db.execute("DELETE FROM record WHERE position <= ?", (doomed[-1][0],))
            self._bytes -= freed
        return _gaps(doomed)


def _gaps(doomed: list[tuple[int, str, int]]) -> list[Gap]:
    by_boot: dict[str, list[int]] = {}
    for _, boot, seq in doomed:
        by_boot.setdefault(boot, []).append(seq)
    return [Gap(boot, min(seqs), max(seqs), len(seqs)) for boot, seqs in by_boot.items()]
