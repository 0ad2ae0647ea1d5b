"""A SQLite file whose commits survive a power cut, and what is done when one does not work.

A connection that has met an I/O error is not used again: SQLite may then call a sound file malformed for
as long as it is open. It is closed, and the file opened again, as by a new start; and with a new journal.
Linux forgets the pages that a failed sync could not write, and lets them be read for as long as they are
in memory: a commit behind them in the same journal would end with the power at the hole that they left.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from wire.errors import StorageError

from .durable import storage_error

BUSY_S: Final = 2.0
"""Another program that writes (a backup, a person) is waited for this long, with the loop."""
DAMAGE: Final = frozenset(
    {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT, sqlite3.SQLITE_ERROR}
)
"""Waiting or making room does not help against these; SQLITE_ERROR is a table that is not ours."""
DISK_FAULTS: Final = frozenset({"disk_full", "state_unwritable"})
"""Codes of a disk that may work again, with a file that may be as good as ever."""
LOCKED: Final = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
MAX_ASIDE: Final = 3
"""Damaged files that are kept of each kind, the newest: a disk that goes bad must not fill itself."""
_MODES: Final = slice(18, 20)
"""Where the header of a database has its write and its read mode: 1, or 2 for WAL (fileformat2 1.3.3)."""
FAULTS: Final = (sqlite3.Error, UnicodeDecodeError)
"""What a failed operation raises; the second when SQLite's own words about damage are no text."""


def open_database(path: Path) -> sqlite3.Connection:
    """Return a connection whose commits survive a power cut.

    Raises:
        StorageError: As `storage_fault`.
    """
    if (fault := _header_fault(path)) is not None:
        raise unreadable(path, fault)
    try:
        connection = connect(path)
    except FAULTS as exc:
        raise storage_fault(path, exc) from exc
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        (verdict,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
        if verdict != "ok":
            raise unreadable(path, verdict)
    except FAULTS as exc:
        connection.close()
        raise storage_fault(path, exc) from exc
    except StorageError:
        connection.close()
        raise
    return connection


def connect(path: Path, mode: str = "mode=rwc") -> sqlite3.Connection:
    """Return a connection that gives text which is none as well as it can, for digests to find."""
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?{mode}",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        timeout=BUSY_S,
    )
    connection.text_factory = lambda data: data.decode("utf-8", "replace")
    return connection


def look_into(path: Path, query: str) -> tuple[Any, ...] | None:
    """Return the first row of a query on a file that cannot be opened, with a disk full or read-only.

    SQLite reads no file in WAL mode beside which it cannot make an index of the journal. Where there is no
    journal, as after an orderly stop, it does when it is told that nobody changes the file; on a
    read-only disk with the index that is there; and on a full one with an index in memory.

    Raises:
        StorageError: As `storage_fault`.
    """
    ways = (("mode=ro", "NORMAL"), ("mode=rw", "EXCLUSIVE"))
    fault: StorageError | None = None
    for mode, locking in ways if _has_journal(path) else (("mode=ro&immutable=1", "NORMAL"),):
        try:
            with contextlib.closing(connect(path, mode)) as connection:
                connection.execute(f"PRAGMA locking_mode={locking}")
                row: tuple[Any, ...] | None = connection.execute(query).fetchone()
                return row
        except FAULTS as exc:
            fault = storage_fault(path, exc)
    raise fault or unreadable(path, "there is no way")


def _has_journal(path: Path) -> bool:
    try:
        return path.with_name(f"{path.name}-wal").stat().st_size > 0
    except FileNotFoundError:
        return False
    except OSError:
        return True  # it may be there: never read past it


def renew_journal(connection: sqlite3.Connection) -> bool:
    """Copy the journal into the database and cut it to nothing; return False if a lock forbade that.

    All that it held is written and synced once more, so that nothing rests on a sync that failed.

    Raises:
        sqlite3.Error: The disk is full or fails; the journal is as it was.
    """
    (is_busy, _, _) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    return not is_busy


def _header_fault(path: Path) -> str | None:
    """Return what is wrong with the header that SQLite takes for an order to write nothing."""
    try:
        with path.open("rb") as file:
            modes = file.read(_MODES.stop)[_MODES]
    except OSError:
        return None  # there is none yet; or SQLite finds words for it
    return "its header makes no sense" if set(modes) - {1, 2} else None


def move_aside(path: Path) -> Path:
    """Rename a damaged file so that a new one can begin; a database's journal goes with it.

    Together they are all that a person could still save something from. The oldest give way to the
    newest `MAX_ASIDE`.

    Raises:
        StorageError: As `storage_error`.
    """
    try:
        return _move_aside(path)
    except OSError as exc:
        raise storage_error(path, exc) from exc


def _move_aside(path: Path) -> Path:
    prefix = f"{path.name}.unreadable-"
    rests = (p.name.removeprefix(prefix) for p in path.parent.glob(f"{prefix}*"))
    numbers = sorted(int(rest) for rest in rests if rest.isdecimal())
    for number in numbers[: -MAX_ASIDE + 1]:
        for suffix in ("-wal", ""):
            path.with_name(f"{prefix}{number}{suffix}").unlink(missing_ok=True)
    target = path.with_name(f"{prefix}{max(numbers, default=0) + 1}")
    path.rename(target)
    path.with_name(f"{path.name}-shm").unlink(missing_ok=True)
    journal = path.with_name(f"{path.name}-wal")
    if journal.exists():
        journal.rename(target.with_name(f"{target.name}-wal"))
    return target


def storage_fault(path: Path, exc: sqlite3.Error | UnicodeDecodeError) -> StorageError:
    """Return the typed form of a failed operation: what is wrong with the file, and what to do.

    The codes are `state_unreadable`, for damage alone, `state_locked`, `disk_full` and
    `state_unwritable`.
    """
    cause = getattr(exc, "sqlite_errorcode", 0) & 0xFF  # without the extension
    if cause in DAMAGE or isinstance(exc, UnicodeDecodeError):
        return unreadable(path, str(exc))
    if cause in LOCKED:
        return locked(path)
    if cause == sqlite3.SQLITE_FULL:
        return StorageError(
            f"cannot write {path}: the disk is full", code="disk_full", hint="free some disk space"
        )
    return StorageError(
        f"cannot write {path}: {exc}",
        code="state_unwritable",
        hint="check whose it is, and that its file system is writable",
    )


def locked(path: Path) -> StorageError:
    """Return the error of a file that another program holds."""
    return StorageError(
        f"{path} is locked by another program",
        code="state_locked",
        hint=f"end that program; `fuser {path}` names it",
    )


def unreadable(path: Path, why: str) -> StorageError:
    """Return the error of a damaged file, which is moved aside."""
    return StorageError(f"{path} cannot be read: {why}", code="state_unreadable")


class Database:
    """One file, opened when it is needed; used by one thread only.

    Attributes:
        fault: Why it could not be opened yet; None once it was.
    """

    def __init__(
        self, path: Path, prepare: Callable[[sqlite3.Connection], None], *, can_wait: bool = False
    ) -> None:
        """Open the file, or begin a new one.

        Args:
            path: The file.
            prepare: Looks at a connection that was just opened, and makes the tables.
            can_wait: Whether a disk that is full or fails is no reason to give up: the file is opened
                when it is used and can be.

        Raises:
            StorageError: As `storage_fault`, or of `prepare`.
        """
        self.fault: StorageError | None = None
        self._path = path
        self._prepare = prepare
        self._connection: sqlite3.Connection | None = None
        self._has_failed = False
        try:
            with self.use():
                pass
        except StorageError as exc:
            if not can_wait or exc.code not in DISK_FAULTS:
                raise
            self.fault = exc

    @contextlib.contextmanager
    def use(self) -> Iterator[sqlite3.Connection]:
        """Give the connection; what was begun on it and not committed is rolled back.

        Raises:
            StorageError: As `storage_fault`.
        """
        try:
            if self._connection is None:
                self._connection = self._open()
            yield self._connection
        except FAULTS as exc:
            fault = storage_fault(self._path, exc)
            if fault.code in ("state_locked", "disk_full") and self._connection is not None:
                with contextlib.suppress(sqlite3.Error):
                    self._connection.rollback()
            else:
                self._has_failed = True
                self.close()
            raise fault from exc

    def close(self) -> None:
        """Close the file; it is opened again when it is used again."""
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None

    def _open(self) -> sqlite3.Connection:
        connection = open_database(self._path)
        try:
            self._renew_journal(connection)
            self._prepare(connection)
        except BaseException:
            connection.close()
            raise
        self.fault = None
        return connection

    def _renew_journal(self, connection: sqlite3.Connection) -> None:
        """See that nothing is committed behind what a sync, of the run before perhaps, did not write.

        Raises:
            sqlite3.Error: As `renew_journal`.
            StorageError: `state_locked`, after a fault of this run.
        """
        try:
            is_renewed = renew_journal(connection)
        except sqlite3.OperationalError as exc:
            # A start must serve what it has on a full disk too; whether the run before met a fault
            # nobody knows, and the next checkpoint does the same.
            if self._has_failed or storage_fault(self._path, exc).code != "disk_full":
                raise
            return
        if not is_renewed and self._has_failed:
            raise locked(self._path)
        self._has_failed = False
