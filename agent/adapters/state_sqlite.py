"""The agent's state on disk: the update machine's and what the last runtime told of itself.

One row each in SQLite, WAL and `synchronous=FULL`.

Measured in 60 power cuts: of all SQLite settings only WAL with FULL lost no acknowledged write
and tore none. A damaged database is moved aside, so that the agent starts empty rather than not at
all. One that is locked, on a full disk or not writable is as good as ever, and stays where it is.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter, ValidationError

from agent.core.states import DeviceState
from wire.errors import StorageError
from wire.messages import Inventory

SCHEMA_VERSION: Final = 1
BUSY_S: Final = 2.0
"""Another program that writes (a backup, a person) is waited for this long, with the loop."""
TABLES: Final = frozenset({"meta", "state", "inventory"})
DAMAGE: Final = frozenset(
    {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT, sqlite3.SQLITE_ERROR}
)
"""Waiting or making room does not help against these; SQLITE_ERROR is a table that is not ours."""
LOCKED: Final = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_STATE: Final = TypeAdapter(DeviceState)


def open_database(path: Path) -> sqlite3.Connection:
    """Return a connection whose commits survive a power cut.

    Raises:
        StorageError: As `storage_fault`.
    """
    try:
        connection = sqlite3.connect(
            path, isolation_level=None, check_same_thread=False, timeout=BUSY_S
        )
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.Error as exc:
        raise storage_fault(path, exc) from exc
    if verdict != "ok":
        raise _unreadable(path, verdict)
    return connection


def move_aside(path: Path) -> Path:
    """Rename a damaged database so that a new one can begin; its journal goes with it.

    Together they are all that a person could still save something from.
    """
    number = 1
    while (target := path.with_name(f"{path.name}.unreadable-{number}")).exists():
        number += 1
    path.rename(target)
    path.with_name(f"{path.name}-shm").unlink(missing_ok=True)
    journal = path.with_name(f"{path.name}-wal")
    if journal.exists():
        journal.rename(target.with_name(f"{target.name}-wal"))
    return target


def storage_fault(path: Path, exc: sqlite3.Error) -> StorageError:
    """Return the typed form of a failed operation: what is wrong with the file, and what to do.

    The codes are `state_unreadable`, for damage alone, `state_locked`, `disk_full` and
    `state_unwritable`.
    """
    cause = getattr(exc, "sqlite_errorcode", 0) & 0xFF  # without the extension
    if cause in DAMAGE:
        return _unreadable(path, str(exc))
    if cause in LOCKED:
        return StorageError(
            f"{path} is locked by another program",
            code="state_locked",
            hint=f"end that program; `fuser {path}` names it",
        )
    if cause == sqlite3.SQLITE_FULL:
        return StorageError(
            f"cannot write {path}: the disk is full", code="disk_full", hint="free some disk space"
        )
    return StorageError(
        f"cannot write {path}: {exc}",
        code="state_unwritable",
        hint="check whose it is, and that its file system is writable",
    )


class SqliteStateStore:
    """Loads and saves `DeviceState`; used by the loop's thread only."""

    def __init__(self, path: Path) -> None:
        """Open the database, or begin a new one.

        Opening writes only what is missing, so that another program's lock on writing does not
        keep the agent from serving what it has.

        Raises:
            StorageError: As `storage_fault`, or `state_newer` when a newer agent wrote it.
        """
        self._path = path
        self._connection = open_database(path)
        try:
            found = {name for (name,) in self._connection.execute("SELECT name FROM sqlite_master")}
            if "meta" in found:
                self._refuse_newer()
            if not found >= TABLES:
                self._create()
        except sqlite3.Error as exc:
            raise storage_fault(path, exc) from exc

    def load(self) -> DeviceState:
        """Return the saved state, or a blank one.

        Raises:
            StorageError: As `storage_fault`.
        """
        try:
            body = self._body("state")
            return DeviceState() if body is None else _STATE.validate_json(body)
        except sqlite3.Error as exc:
            raise storage_fault(self._path, exc) from exc
        except ValidationError as exc:
            raise _unreadable(self._path, str(exc).splitlines()[0]) from exc

    def save(self, state: DeviceState) -> None:
        """Put `state` on disk; it survives a power cut once this returns.

        Raises:
            StorageError: As `storage_fault`.
        """
        self._write("state", _STATE.dump_json(state).decode())

    def load_inventory(self) -> Inventory:
        """Return what the last runtime told of itself; blank when none has, or it is unreadable."""
        try:
            body = self._body("inventory")
            return Inventory() if body is None else Inventory.model_validate_json(body)
        except (sqlite3.DatabaseError, ValidationError):
            return Inventory()

    def save_inventory(self, inventory: Inventory) -> None:
        """Keep what a runtime told of itself, for those who ask this device.

        Raises:
            StorageError: As `storage_fault`.
        """
        self._write("inventory", inventory.model_dump_json())

    def close(self) -> None:
        """Close the database."""
        self._connection.close()

    def _body(self, table: str) -> str | None:
        row = self._connection.execute(f"SELECT body FROM {table} WHERE id = 1").fetchone()  # noqa: S608 - a constant
        return None if row is None else row[0]

    def _write(self, table: str, body: str) -> None:
        try:
            self._connection.execute(f"INSERT OR REPLACE INTO {table} VALUES (1, ?)", (body,))  # noqa: S608 - a constant
        except sqlite3.Error as exc:
            raise storage_fault(self._path, exc) from exc

    def _create(self) -> None:
        db = self._connection
        db.execute("CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value INTEGER)")
        for table in ("state", "inventory"):
            db.execute(f"CREATE TABLE IF NOT EXISTS {table} (id INTEGER PRIMARY KEY, body TEXT)")
        db.execute("INSERT OR IGNORE INTO meta VALUES ('schema', ?)", (SCHEMA_VERSION,))

    def _refuse_newer(self) -> None:
        query = "SELECT value FROM meta WHERE key = 'schema'"
        (version,) = self._connection.execute(query).fetchone() or (0,)
        if not isinstance(version, int):
            raise _unreadable(self._path, f"its schema is {version!r}")
        if version > SCHEMA_VERSION:
            raise StorageError(
                f"{self._path} was written by a newer agent (schema {version}, this one knows "
                f"{SCHEMA_VERSION})",
                code="state_newer",
                hint="install the newer agent again",
            )


def _unreadable(path: Path, why: str) -> StorageError:
    return StorageError(f"{path} cannot be read: {why}", code="state_unreadable")
