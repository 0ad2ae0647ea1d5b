"""Store and forward: records wait on disk until the controller says that it has stored them.

SQLite, WAL and FULL, in a file of its own, so that a flood of records cannot hurt the state.
When the cap is reached, or the disk nearly full, the oldest of the lowest class go, and which they were
is kept in the same transaction (`losses`) until a gap record says it. Each record is kept with a digest:
one that has changed on disk would never be acknowledged, and stand in the way for ever.
"""

from __future__ import annotations

import contextlib
import itertools
import operator
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent.core.records import (
    LEAST_BYTES,
    MAX_BYTES,
    MIN_FREE_BYTES,
    TELEMETRY,
    RecordClass,
    class_of,
)
from wire.errors import StorageError
from wire.lifecycle import Code
from wire.messages import MAX_GAP_RANGES, StoredRange

from . import losses, outbox_rows
from .database import FAULTS, Database, connect, unreadable
from .losses import Gap
from .outbox_rows import Pages, Waiting

NO_END: Final = 2**56 - 1
"""No turn is higher."""


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of a record that was handed over.

    Attributes:
        record: With its number.
        is_kept: False when it was itself what had to go.
        dropped_count: Records that had to go, itself included.
    """

    record: Waiting
    is_kept: bool
    dropped_count: int


class _NoRoomError(Exception):
    """Nothing may make room for what tells of losses: they wait."""


class Outbox:
    """Records by (boot, seq), oldest first. Used by the loop's thread only."""

    def __init__(
        self,
        path: Path,
        boot: str,
        *,
        max_bytes: int = MAX_BYTES,
        min_free_bytes: int = MIN_FREE_BYTES,
        can_wait: bool = False,
    ) -> None:
        """Open the file, or begin a new one.

        Args:
            path: The database file.
            boot: This start's id; sequence numbers begin at 1 under it.
            max_bytes: Cap on the file; its journal takes up to 4 MiB more.
            min_free_bytes: Where less of the disk is free, the file does not grow.
            can_wait: As of `Database`.

        Raises:
            StorageError: As `storage_fault`.
        """
        self._path = path
        self._boot = boot
        self._seq = 0
        self._max_bytes = max_bytes
        self._min_free_bytes = min_free_bytes
        self._turn = 0
        self._lost_count = 0
        self._tried: Taken | None = None
        """Of the last append, while it failed; the disk may have it all the same."""
        self._found: Taken | None = None
        """What a reopening found of an append that had failed, until it is tried again."""
        self._database = Database(path, self._prepare, can_wait=can_wait)

    @property
    def fault(self) -> StorageError | None:
        """Why the file could not be opened yet; None once it was."""
        return self._database.fault

    @property
    def has_losses(self) -> bool:
        """Whether records were dropped that no record tells of."""
        return self._lost_count > 0

    def append(self, topic: str, make: Callable[[int], bytes]) -> Taken:
        """Keep a record, if nothing worth more stands in its way; lower and older ones make room.

        Args:
            topic: Where it will be published.
            make: Returns the payload for the record's sequence number.

        Raises:
            StorageError: As `storage_fault`. Whether the record was kept shows when the file works again:
                until then the same one is to be tried again, and takes up one number in either case.
        """
        with self._database.use() as db:
            carried_count = 0
            if (found := self._found) is not None:
                seq = found.record.seq
                if found.record == Waiting(self._boot, seq, topic, make(seq)):
                    self._found = None
                    return found
                carried_count = found.dropped_count
            seq = self._seq + 1
            record = Waiting(self._boot, seq, topic, make(seq))
            with self._transaction(db):
                taken = self._put(db, record, carried_count)
                if not taken.is_kept:
                    # What is gone must not be so without the word that says it.
                    self._lost_count += losses.add(db, (record.boot, seq), self._reason())
            self._seq, self._found = seq, None
        return taken

    def tell_lost(self, topic: str, make: Callable[[int, Gap], bytes]) -> Taken | None:
        """Keep a record that tells of losses, and these no more; None when there is nothing to tell.

        Args:
            topic: Where it will be published.
            make: Returns the payload for the record's sequence number and what it tells.

        Raises:
            StorageError: As `storage_fault`. The losses are in a record by then, or wait as before.
        """
        with self._database.use() as db, contextlib.suppress(_NoRoomError):
            with self._transaction(db):
                gap = losses.take(db, MAX_GAP_RANGES)
                if gap is None:
                    return None
                self._lost_count -= len(gap.ranges)
                seq = self._seq + 1
                taken = self._put(db, Waiting(self._boot, seq, topic, make(seq, gap)), 0)
                if not taken.is_kept:
                    raise _NoRoomError
            self._seq = seq
            return taken
        return None

    @contextlib.contextmanager
    def _transaction(self, db: sqlite3.Connection) -> Iterator[None]:
        """Make the block one transaction, and what is counted in memory a part of it."""
        before = self._turn, self._lost_count
        try:
            db.execute("BEGIN IMMEDIATE")
            yield
            db.execute("COMMIT")
        except BaseException as exc:
            self._turn, self._lost_count = before
            if not isinstance(exc, FAULTS):  # else `Database.use` knows what to do
                self._tried = None
                db.rollback()
            raise
        self._tried = None

    def _put(self, db: sqlite3.Connection, record: Waiting, carried_count: int) -> Taken:
        """Insert a record if there is room for it or can be made."""
        is_kept, dropped_count = self._make_room(db, record)
        if is_kept:
            self._turn += 1
            outbox_rows.insert(db, record, self._turn)
        self._tried = Taken(record, is_kept, carried_count + dropped_count)
        return self._tried

    def _make_room(self, db: sqlite3.Connection, record: Waiting) -> tuple[bool, int]:
        """Drop what is worth less, and then what is older; as much as it takes, or nothing.

        Pages become free a few records at a time, so that the next ones find room too.

        Returns:
            Whether there is room now, and how many had to go; without room the record itself.
        """
        pages = Pages.of(db)
        cap_bytes = self._cap_bytes(pages)
        if pages.has_room(record, cap_bytes):
            return True, 0
        before = self._lost_count
        db.execute("SAVEPOINT room")
        highest, dropped_count = class_of(record.topic), 0
        while (key := outbox_rows.drop_oldest(db, highest)) is not None:
            dropped_count += 1
            self._lost_count += losses.add(db, key, self._reason())
            if Pages.of(db).has_room(record, cap_bytes):
                db.execute("RELEASE room")
                return True, dropped_count
        db.execute("ROLLBACK TO room")
        db.execute("RELEASE room")
        self._lost_count = before
        return False, 1

    def _cap_bytes(self, pages: Pages) -> int:
        if not self._is_disk_short():
            return self._max_bytes
        return min(self._max_bytes, max(pages.count * pages.size_bytes, LEAST_BYTES))

    def _reason(self) -> Code:
        return Code.DISK_FULL if self._is_disk_short() else Code.RECORDS_DROPPED

    def _is_disk_short(self) -> bool:
        try:
            disk = os.statvfs(self._path.parent)
        except OSError:
            return False  # writing will tell
        return disk.f_bavail * disk.f_frsize < self._min_free_bytes

    def adopt(self, damaged: Path) -> int:
        """Take over the sound records of an outbox that is not; return how many there were.

        Raises:
            StorageError: As `storage_fault`, of this outbox.
        """
        found: dict[Waiting, int] = {}  # once each: damage may show a record twice
        gaps: list[Gap] = []
        with contextlib.suppress(*FAULTS):  # what comes before the damage is had by then
            old = connect(damaged)
            try:
                for turn, record in outbox_rows.all_of(old):
                    if record is not None:
                        found.setdefault(record, turn)
                gaps += losses.all_of(old) if losses.is_sound(old) else ()
            finally:
                old.close()
        with self._database.use() as db, self._transaction(db):
            for record in sorted(found, key=found.__getitem__):
                self._turn += 1
                outbox_rows.insert(db, record, self._turn)
            for gap in gaps:
                for first, last in gap.ranges:
                    self._lost_count += losses.add_range(db, gap.boot, first, last, gap.reason)
        return len(found)

    def waiting(
        self,
        limit: int,
        *,
        after: int = 0,
        until: int = NO_END,
        classes: Sequence[RecordClass] = tuple(RecordClass),
    ) -> list[tuple[int, Waiting]]:
        """Return records in the order they came, oldest first, with their turns.

        Args:
            limit: How many at most.
            after: Only of later turns.
            until: Only of turns no later.
            classes: Only of these.

        Raises:
            StorageError: As `storage_fault`.
        """
        with self._database.use() as db:
            found = [outbox_rows.ahead(db, kind, after, until, limit) for kind in classes]
        return sorted(itertools.chain(*found), key=operator.itemgetter(0))[:limit]

    def before_newest(self, count: int) -> int:
        """Return a turn that the newest `count` pieces of telemetry are behind, 0 if all are.

        Raises:
            StorageError: As `storage_fault`.
        """
        with self._database.use() as db:
            found = [outbox_rows.newest_turns(db, kind, count + 1) for kind in TELEMETRY]
        turns = list(itertools.chain(*found))
        return sorted(turns, reverse=True)[count] if len(turns) > count else 0

    def get(self, boot: str, seq: int) -> Waiting | None:
        """Return a record that waits, or None if it does not any more.

        Raises:
            StorageError: As `storage_fault`.
        """
        query = "SELECT boot, seq, topic, payload FROM record WHERE boot = ? AND seq = ?"
        with self._database.use() as db:
            row = db.execute(query, (boot, seq)).fetchone()
        return Waiting(*row) if row is not None else None

    def untold(self) -> list[Gap]:
        """Return the losses that no record tells of yet.

        Raises:
            StorageError: As `storage_fault`.
        """
        with self._database.use() as db:
            return losses.all_of(db)

    def delete(self, stored: Iterable[StoredRange]) -> int:
        """Delete exactly the records of these ranges, all or none; return how many there were.

        Raises:
            StorageError: As `storage_fault`.
        """
        count = 0
        with self._database.use() as db, self._transaction(db):
            for span in stored:
                count += db.execute(
                    "DELETE FROM record WHERE boot = ? AND seq BETWEEN ? AND ?",
                    (span.boot, span.first, span.last),
                ).rowcount
                if self._lost_count:
                    self._lost_count += losses.subtract(db, span.boot, span.first, span.last)
        return count

    def __len__(self) -> int:
        with self._database.use() as db:
            row = db.execute("SELECT count(*) FROM record").fetchone()
        return int(row[0])

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def _prepare(self, db: sqlite3.Connection) -> None:
        self._turn = max(self._turn, outbox_rows.prepare(db))
        losses.prepare(db)
        last = 0
        for _, record in outbox_rows.all_of(db):
            if record is None:
                raise unreadable(self._path, "a record has changed on disk")
            if record.boot == self._boot:
                last = max(last, record.seq)
        if not losses.is_sound(db):
            raise unreadable(self._path, "a loss has changed on disk")
        self._lost_count = losses.count_rows(db)
        self._look_for_tried(max(last, losses.highest(db, self._boot)))

    def _look_for_tried(self, last: int) -> None:
        """See whether an append that failed is on disk all the same.

        A commit whose sync failed is there if the sync at closing failed too: the journal was kept, and
        recovered when the file was opened again.
        """
        if self._tried is not None and last >= self._tried.record.seq:
            self._seq, self._found = last, self._tried
        self._tried = None
