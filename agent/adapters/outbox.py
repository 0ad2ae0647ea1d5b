"""Store and forward: records wait on disk until the controller says that it has stored them.

SQLite, WAL and FULL, in a file of its own, so that a flood of records cannot hurt the state.
When the cap is reached the oldest records go, and a gap record says which. Each record is kept with a
digest: one that has changed on disk would never be acknowledged, and stand in the way for ever.
"""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from wire.errors import StorageError
from wire.messages import StoredRange

from .database import FAULTS, Database, connect, unreadable

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

    @property
    def size_bytes(self) -> int:
        """How much of the cap it takes."""
        return len(self.topic) + len(self.payload)

    @property
    def sha256(self) -> bytes:
        """The digest of all of it."""
        head = f"{self.boot}\n{self.seq}\n{self.topic}\n"
        return hashlib.sha256(head.encode() + self.payload).digest()


@dataclass(frozen=True, slots=True)
class Gap:
    """Records of one boot that were dropped."""

    boot: str
    first: int
    last: int
    count: int


_Kept = tuple[Waiting, list[Gap]]
"""A record, and what had to go for it."""


class Outbox:
    """Records by (boot, seq), oldest first. Used by the loop's thread only."""

    def __init__(
        self, path: Path, boot: str, *, max_bytes: int = MAX_BYTES, can_wait: bool = False
    ) -> None:
        """Open the file, or begin a new one.

        Args:
            path: The database file.
            boot: This start's id; sequence numbers begin at 1 under it.
            max_bytes: Cap on the sum of topics and payloads.
            can_wait: As of `Database`.

        Raises:
            StorageError: As `storage_fault`.
        """
        self._path = path
        self._boot = boot
        self._seq = 0
        self._max_bytes = max_bytes
        self._bytes = 0
        self._tried: _Kept | None = None
        """Of the last append, while it failed; the disk may have it all the same."""
        self._found: _Kept | None = None
        """What a reopening found of an append that had failed, until it is tried again."""
        self._database = Database(path, self._prepare, can_wait=can_wait)

    @property
    def fault(self) -> StorageError | None:
        """Why the file could not be opened yet; None once it was."""
        return self._database.fault

    def append(self, topic: str, make: Callable[[int], bytes]) -> tuple[Waiting, list[Gap]]:
        """Keep a record; return it, and what had to go for it.

        Args:
            topic: Where it will be published.
            make: Returns the payload for the record's sequence number.

        Raises:
            StorageError: As `storage_fault`. Whether the record was kept shows when the file works again:
                until then the same one is to be tried again, and takes up one number in either case.
        """
        with self._database.use() as db:
            gaps: list[Gap] = []
            if self._found is not None:
                record, gaps = self._found
                if record == Waiting(self._boot, record.seq, topic, make(record.seq)):
                    self._found = None
                    return record, gaps
            seq = self._seq + 1
            record = Waiting(self._boot, seq, topic, make(seq))
            kept = self._put(db, record, gaps)
            self._seq, self._found = seq, None
        return kept

    def _put(self, db: sqlite3.Connection, record: Waiting, gaps: list[Gap]) -> _Kept:
        """Insert a record; return it with these gaps and those of what had to go for it."""
        before = self._bytes
        try:
            # In one transaction: what makes room must not be gone without the gap that says so.
            db.execute("BEGIN IMMEDIATE")
            self._tried = record, [*gaps, *self._make_room(db, record.size_bytes)]
            _insert(db, record)
            db.execute("COMMIT")
        except FAULTS:
            self._bytes = before
            raise
        kept, self._tried = self._tried, None
        self._bytes += record.size_bytes
        return kept

    def adopt(self, damaged: Path) -> int:
        """Take over the sound records of an outbox that is not; return how many there were.

        Raises:
            StorageError: As `storage_fault`, of this outbox.
        """
        found: dict[Waiting, None] = {}  # in order, and once each: damage may show a record twice
        with contextlib.suppress(*FAULTS):  # what comes before the damage is had by then
            old = connect(damaged)
            try:
                found.update((record, None) for record in _records(old) if record is not None)
            finally:
                old.close()
        with self._database.use() as db:
            db.execute("BEGIN IMMEDIATE")
            for record in found:
                _insert(db, record)
            db.execute("COMMIT")
        self._bytes += sum(record.size_bytes for record in found)
        return len(found)

    def waiting(self, limit: int, *, after: int = 0) -> list[tuple[int, Waiting]]:
        """Return up to `limit` records, oldest first, with positions greater than `after`.

        Raises:
            StorageError: As `storage_fault`.
        """
        with self._database.use() as db:
            rows = db.execute(
                "SELECT position, boot, seq, topic, payload FROM record WHERE position > ?"
                " ORDER BY position LIMIT ?",
                (after, limit),
            ).fetchall()
        return [(row[0], Waiting(*row[1:])) for row in rows]

    def delete(self, stored: Iterable[StoredRange]) -> int:
        """Delete exactly the records of these ranges; return how many there were.

        Raises:
            StorageError: As `storage_fault`; some may be deleted by then.
        """
        count = 0
        for span in stored:
            with self._database.use() as db:
                rows = db.execute(
                    "DELETE FROM record WHERE boot = ? AND seq BETWEEN ? AND ?"
                    " RETURNING length(topic) + length(payload)",
                    (span.boot, span.first, span.last),
                ).fetchall()
            self._bytes -= sum(row[0] for row in rows)
            count += len(rows)
        return count

    def __len__(self) -> int:
        with self._database.use() as db:
            row = db.execute("SELECT count(*) FROM record").fetchone()
        return int(row[0])

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def _prepare(self, db: sqlite3.Connection) -> None:
        db.execute(
            "CREATE TABLE IF NOT EXISTS record (position INTEGER PRIMARY KEY AUTOINCREMENT,"
            " boot TEXT, seq INTEGER, topic TEXT, payload BLOB, sha256 BLOB, UNIQUE (boot, seq))"
        )
        if "sha256" not in {name for _, name, *_ in db.execute("PRAGMA table_info(record)")}:
            db.execute(
                "ALTER TABLE record ADD COLUMN sha256 BLOB"
            )  # an older agent wrote no digests
        size_bytes = last = 0
        for record in _records(db):
            if record is None:
                raise unreadable(self._path, "a record has changed on disk")
            size_bytes += record.size_bytes
            if record.boot == self._boot:
                last = max(last, record.seq)
        self._bytes = size_bytes
        self._look_for_tried(last)

    def _look_for_tried(self, last: int) -> None:
        """See whether an append that failed is on disk all the same.

        A commit whose sync failed is there if the sync at closing failed too: the journal was kept, and
        recovered when the file was opened again.
        """
        if self._tried is not None and last >= self._tried[0].seq:
            self._seq, self._found = last, self._tried
        self._tried = None

    def _make_room(self, db: sqlite3.Connection, size: int) -> list[Gap]:
        if self._bytes + size <= self._max_bytes:
            return []
        excess = self._bytes + size - self._max_bytes + int(self._max_bytes * DROP_SHARE)
        doomed: list[tuple[int, str, int]] = []
        freed = 0
        for position, boot, seq, length in db.execute(
            "SELECT position, boot, seq, length(topic) + length(payload) FROM record"
            " ORDER BY position"
        ):
            doomed.append((position, boot, seq))
            freed += length
            if freed >= excess:
                break
        if doomed:
            db.execute("DELETE FROM record WHERE position <= ?", (doomed[-1][0],))
            self._bytes -= freed
        return _gaps(doomed)


def _gaps(doomed: list[tuple[int, str, int]]) -> list[Gap]:
    by_boot: dict[str, list[int]] = {}
    for _, boot, seq in doomed:
        by_boot.setdefault(boot, []).append(seq)
    return [Gap(boot, min(seqs), max(seqs), len(seqs)) for boot, seqs in by_boot.items()]


def _insert(db: sqlite3.Connection, record: Waiting) -> None:
    db.execute(
        "INSERT INTO record (boot, seq, topic, payload, sha256) VALUES (?, ?, ?, ?, ?)",
        (record.boot, record.seq, record.topic, record.payload, record.sha256),
    )


def _records(db: sqlite3.Connection) -> Iterator[Waiting | None]:
    """Return every record, oldest first; None for one that has changed on disk.

    Those of an agent that wrote no digests are believed.
    """
    rows = db.execute("SELECT boot, seq, topic, payload, sha256 FROM record ORDER BY position")
    for boot, seq, topic, payload, sha256 in rows:
        if not isinstance(payload, bytes):
            yield None
            continue
        record = Waiting(boot, seq, topic, payload)
        yield record if sha256 in (None, record.sha256) else None
