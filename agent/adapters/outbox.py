"""Store and forward: records wait on disk until the controller says that it has stored them.

SQLite, WAL and FULL, in a file of its own, so that a flood of records cannot hurt the state.
When the cap is reached the oldest records go, and a gap record says which.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from wire.messages import StoredRange

from .state_sqlite import open_database, storage_fault

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
            StorageError: As `storage_fault`.
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
            raise storage_fault(path, exc) from exc
        self._bytes: int = row[0]

    def append(self, topic: str, make: Callable[[int], bytes]) -> tuple[Waiting, list[Gap]]:
        """Keep a record; return it, and what had to go for it.

        Args:
            topic: Where it will be published.
            make: Returns the payload for the record's sequence number.

        Raises:
            StorageError: As `storage_fault`; nothing was kept, and no number was used up.
        """
        seq = self._seq + 1
        record = Waiting(self._boot, seq, topic, make(seq))
        size = len(topic) + len(record.payload)
        before = self._bytes
        try:
            # In one transaction: what makes room must not be gone without the gap that says so.
            self._db.execute("BEGIN IMMEDIATE")
            gaps = self._make_room(size)
            self._db.execute(
                "INSERT INTO record (boot, seq, topic, payload) VALUES (?, ?, ?, ?)",
                (record.boot, record.seq, record.topic, record.payload),
            )
            self._db.execute("COMMIT")
        except sqlite3.Error as exc:
            self._bytes = before
            with contextlib.suppress(sqlite3.Error):
                self._db.rollback()
            raise storage_fault(self._path, exc) from exc
        self._seq = seq
        self._bytes += size
        return record, gaps

    def waiting(self, limit: int, *, after: int = 0) -> list[tuple[int, Waiting]]:
        """Return up to `limit` records, oldest first, with positions greater than `after`.

        Raises:
            StorageError: As `storage_fault`.
        """
        try:
            rows = self._db.execute(
                "SELECT position, boot, seq, topic, payload FROM record WHERE position > ?"
                " ORDER BY position LIMIT ?",
                (after, limit),
            ).fetchall()
        except sqlite3.Error as exc:
            raise storage_fault(self._path, exc) from exc
        return [(row[0], Waiting(*row[1:])) for row in rows]

    def delete(self, stored: Iterable[StoredRange]) -> int:
        """Delete exactly the records of these ranges; return how many there were.

        Raises:
            StorageError: As `storage_fault`; some may be deleted by then.
        """
        count = 0
        for span in stored:
            try:
                rows = self._db.execute(
                    "DELETE FROM record WHERE boot = ? AND seq BETWEEN ? AND ?"
                    " RETURNING length(topic) + length(payload)",
                    (span.boot, span.first, span.last),
                ).fetchall()
            except sqlite3.Error as exc:
                raise storage_fault(self._path, exc) from exc
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
