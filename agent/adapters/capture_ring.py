"""The ring of captured rows: on disk, bounded, the oldest going first; and what of it is being uploaded.

SQLite, WAL and FULL, in a file of its own: a power cut leaves whole rows. A pack that goes to the
controller is kept as it was made until the controller has it, so that sending it twice stores it once;
then its rows are deleted here.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent.core.captured import CapturedRow, CaptureRules, pack
from wire.capture import CaptureFacts, CaptureRequest
from wire.errors import StorageError
from wire.packs import MAX_PACK_BYTES, MAX_PACK_PLAIN_BYTES, MAX_PACK_ROWS

from . import capture_rows
from .database import FAULTS, Database, connect
from .outbox_rows import Pages

NAME: Final = "capture.db"
LEAST_BYTES: Final = 256 * 1024
"""Below it there would be no room for one row and one pack."""
PLAIN_SHARE: Final = MAX_PACK_PLAIN_BYTES // 4
"""Values of a pack as they are gathered; texts may grow when rows of several widths stand together."""
OPEN: Final = "open"


@dataclass(frozen=True, slots=True)
class Bounds:
    """What the ring may hold: `max_bytes` of the file, whose journal takes up to 4 MiB more."""

    max_bytes: int
    max_rows: int
    max_age_ms: int


@dataclass(frozen=True, slots=True)
class Job:
    """What was asked for last, and how far it has come; `state` is open, done, over or a code."""

    request: CaptureRequest
    last_number: int
    sent_count: int
    state: str


class CaptureRing:
    """Captured rows, oldest first. Safe from any thread."""

    def __init__(self, path: Path, bounds: Bounds) -> None:
        """Open the file, or begin a new one; one that is damaged is deleted, since its rows were a sample.

        Raises:
            StorageError: As `storage_fault`.
        """
        self._path = path
        self._bounds = bounds
        self._lock = threading.Lock()
        self.was_damaged = False
        try:
            self._database = Database(path, capture_rows.prepare, can_wait=True)
        except StorageError as exc:
            if exc.code != "state_unreadable":
                raise
            delete(path)
            self.was_damaged = True
            self._database = Database(path, capture_rows.prepare, can_wait=True)

    def add(self, rows: Sequence[CapturedRow], now_unix_ms: int) -> None:
        """Keep rows; those that are too old or too many go, the oldest first.

        Raises:
            StorageError: As `storage_fault`; then none of them is kept.
        """
        bounds = self._bounds
        oldest_unix_ms = now_unix_ms - bounds.max_age_ms
        rows = [row for row in rows if row.at_unix_ms >= oldest_unix_ms]
        with self._writing() as db:
            self._drop_old(db, now_unix_ms)
            (count,) = db.execute("SELECT count(*) FROM row").fetchone()
            for row in rows[-bounds.max_rows :]:
                size_bytes = capture_rows.cost_bytes(row)
                while count and (count >= bounds.max_rows or not self._has_room(db, size_bytes)):
                    count -= _drop_oldest(db)
                if self._has_room(db, size_bytes):
                    capture_rows.insert(db, row)
                    count += 1

    def expire(self, now_unix_ms: int) -> None:
        """Delete what is too old, though nothing new comes.

        Raises:
            StorageError: As `storage_fault`.
        """
        with self._writing() as db:
            self._drop_old(db, now_unix_ms)

    def facts(self, rules: CaptureRules) -> CaptureFacts:
        """Return what is here, beside what is kept by rule.

        Raises:
            StorageError: As `storage_fault`.
        """
        with self._lock, self._database.use() as db:
            count, since, given = _facts(db)
        return facts_of(rules, count, since, given)

    def ask(self, request: CaptureRequest) -> bool:
        """Take up a request for the rows that are here now; return False if it is the one there is.

        Raises:
            StorageError: As `storage_fault`; it is not taken up.
        """
        with self._writing() as db:
            job = _job(db)
            if job is not None and job.request.id == request.id:
                return False
            (last,) = db.execute("SELECT coalesce(max(number), 0) FROM row").fetchone()
            db.execute("DELETE FROM pack")
            db.execute(
                "INSERT OR REPLACE INTO job VALUES (1, ?, ?, 0, ?)",
                (request.model_dump_json(), last, OPEN),
            )
        return True

    def job(self) -> Job | None:
        """Return what was asked for last.

        Raises:
            StorageError: As `storage_fault`.
        """
        with self._lock, self._database.use() as db:
            return _job(db)

    def next_pack(self, now_unix_ms: int) -> bytes | None:
        """Return the pack to send: the one that was sent last, until it is confirmed, or a new one.

        Returns:
            None where nothing is asked for.

        Raises:
            StorageError: As `storage_fault`.
        """
        with self._writing() as db:
            job = _job(db)
            if job is None or job.state != OPEN:
                return None
            if now_unix_ms >= job.request.until_unix_ms:
                db.execute("UPDATE job SET state = 'over'")
                db.execute("DELETE FROM pack")
                return None
            row = db.execute("SELECT body FROM pack").fetchone()
            if row is not None:
                return bytes(row[0])
            self._drop_old(db, now_unix_ms)
            numbers, rows, is_all = _gathered(db, job)
            packed = pack(rows, job.request.id, job.request.model, is_all=is_all)
            kept = json.dumps(numbers[: packed.row_count])
            db.execute("INSERT INTO pack VALUES (1, ?, ?)", (packed.body, kept))
            return packed.body

    def confirm(self, now_unix_ms: int, *, is_wanted: bool) -> int:
        """Delete the rows of the pack that the controller has now; return how many it had.

        Args:
            now_unix_ms: The time.
            is_wanted: Whether the controller wants more.

        Raises:
            StorageError: As `storage_fault`; then it is sent again.
        """
        with self._writing() as db:
            row = db.execute("SELECT numbers FROM pack").fetchone()
            if row is None:
                return 0
            numbers = json.loads(row[0])
            db.executemany("DELETE FROM row WHERE number = ?", [(n,) for n in numbers])
            db.execute("DELETE FROM pack")
            db.execute(
                "UPDATE job SET sent_count = sent_count + ?, state = ?",
                (len(numbers), OPEN if is_wanted else "done"),
            )
            (given,) = db.execute("SELECT coalesce(sum(row_count), 0) FROM given").fetchone()
            db.execute(
                "INSERT OR REPLACE INTO given VALUES (1, ?, ?)", (given + len(numbers), now_unix_ms)
            )
            return len(numbers)

    def end(self, code: str) -> None:
        """Give up what is asked for; the rows stay.

        Raises:
            StorageError: As `storage_fault`.
        """
        with self._writing() as db:
            db.execute("UPDATE job SET state = ?", (code,))
            db.execute("DELETE FROM pack")

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._database.close()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._lock, self._database.use() as db:
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
                db.execute("COMMIT")
            except BaseException as exc:
                if not isinstance(exc, FAULTS):  # else `Database.use` knows what to do
                    db.rollback()
                raise

    def _has_room(self, db: sqlite3.Connection, size_bytes: int) -> bool:
        # A pack may have to stand beside the rows.
        cap_bytes = self._bounds.max_bytes - MAX_PACK_BYTES - MAX_PACK_ROWS * 16
        return capture_rows.has_room(Pages.of(db), size_bytes, cap_bytes)

    def _drop_old(self, db: sqlite3.Connection, now_unix_ms: int) -> None:
        oldest = now_unix_ms - self._bounds.max_age_ms
        db.execute("DELETE FROM row WHERE at_unix_ms < ?", (oldest,))


def facts_of(
    rules: CaptureRules, count: int = 0, since_unix_ms: int | None = None, given_count: int = 0
) -> CaptureFacts:
    """Return what is told of a ring."""
    return CaptureFacts(
        sample_ppm=round(rules.sample * 1e6),
        uncertain_below_ppm=round(rules.uncertain_below * 1e6),
        row_count=count,
        since_unix_ms=since_unix_ms,
        uploaded_count=given_count,
    )


def delete(path: Path) -> None:
    """Delete a ring. Idempotent.

    Raises:
        StorageError: `state_unwritable`.
    """
    try:
        for suffix in ("-wal", "-shm", ""):
            file = path.with_name(f"{path.name}{suffix}")
            if file.exists():  # a read-only file system refuses to unlink what is not there, too
                file.unlink(missing_ok=True)
    except OSError as exc:
        raise StorageError(
            f"cannot delete {path}: {exc.strerror}",
            code="state_unwritable",
            hint="check whose it is, and that its file system is writable",
        ) from exc


def peek(path: Path) -> tuple[int, int | None, int] | None:
    """Return how many rows a ring has, since when, and how many were uploaded; None where it cannot be read.

    For programs beside the agent: nothing is written.
    """
    if not path.exists():
        return 0, None, 0
    try:
        with contextlib.closing(connect(path, "mode=ro")) as db:
            return _facts(db)
    except FAULTS:
        return None


def _facts(db: sqlite3.Connection) -> tuple[int, int | None, int]:
    count, since = db.execute("SELECT count(*), min(at_unix_ms) FROM row").fetchone()
    (given,) = db.execute("SELECT coalesce(sum(row_count), 0) FROM given").fetchone()
    return count, since, given


def _drop_oldest(db: sqlite3.Connection) -> int:
    return db.execute("DELETE FROM row WHERE number = (SELECT min(number) FROM row)").rowcount


def _job(db: sqlite3.Connection) -> Job | None:
    row = db.execute("SELECT request, last_number, sent_count, state FROM job").fetchone()
    if row is None:
        return None
    try:
        return Job(CaptureRequest.model_validate_json(row[0]), *row[1:])
    except ValueError:
        return None  # changed on disk: the next request takes its place


def _gathered(db: sqlite3.Connection, job: Job) -> tuple[list[int], list[CapturedRow], bool]:
    """Return the rows of the next pack at most, their numbers, and whether they are all that is left."""
    request, left = job.request, job.request.limit - job.sent_count
    numbers: list[int] = []
    rows: list[CapturedRow] = []
    damaged: list[int] = []
    size_bytes, is_all = 0, True
    for number, row in capture_rows.chosen(
        db,
        request.model,
        job.last_number,
        left + 1,
        is_uncertain_first=request.first == "uncertain",
    ):
        if row is None:
            damaged.append(number)
            continue
        is_full = len(rows) == min(MAX_PACK_ROWS, left)
        if is_full or (rows and size_bytes + len(row.data) > PLAIN_SHARE):
            is_all = len(rows) == left
            break
        numbers.append(number)
        rows.append(row)
        size_bytes += len(row.data)
    db.executemany("DELETE FROM row WHERE number = ?", [(n,) for n in damaged])
    return numbers, rows, is_all
