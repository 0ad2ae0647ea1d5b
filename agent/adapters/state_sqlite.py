"""The agent's state on disk: the update machine's and what the last runtime told of itself.

One row each in SQLite, WAL and `synchronous=FULL`.

Measured in 60 power cuts: of all SQLite settings only WAL with FULL lost no acknowledged write
and tore none. A database that cannot be read is moved aside, so that the agent starts empty
rather than not at all.
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
_STATE: Final = TypeAdapter(DeviceState)


def open_database(path: Path) -> sqlite3.Connection:
    """Return a connection whose commits survive a power cut.

    Raises:
        StorageError: `state_unreadable`.
    """
    try:
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA busy_timeout=5000")
        (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.DatabaseError as exc:
        raise _unreadable(path, str(exc)) from exc
    if verdict != "ok":
        raise _unreadable(path, verdict)
    return connection


def move_aside(path: Path) -> Path:
    """Rename an unreadable database (and its journal files) so that a new one can begin."""
    number = 1
    while (target := path.with_name(f"{path.name}.unreadable-{number}")).exists():
        number += 1
    path.rename(target)
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    return target


class SqliteStateStore:
    """Loads and saves `DeviceState`; used by the loop's thread only."""

    def __init__(self, path: Path) -> None:
        """Open the database, or begin a new one.

        Raises:
            StorageError: `state_unreadable`, or `state_newer` when a newer agent wrote it.
        """
        self._path = path
        self._connection = open_database(path)
        try:
            with self._connection as db:
                db.execute("CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value INTEGER)")
                for table in ("state", "inventory"):
                    db.execute(
                        f"CREATE TABLE IF NOT EXISTS {table} (id INTEGER PRIMARY KEY, body TEXT)"
                    )
                db.execute("INSERT OR IGNORE INTO meta VALUES ('schema', ?)", (SCHEMA_VERSION,))
                row = db.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone()
        except sqlite3.DatabaseError as exc:
            raise _unreadable(path, str(exc)) from exc
        if row[0] > SCHEMA_VERSION:
            raise StorageError(
                f"{path} was written by a newer agent (schema {row[0]}, this one knows "
                f"{SCHEMA_VERSION})",
                code="state_newer",
                hint="install the newer agent again",
            )

    def load(self) -> DeviceState:
        """Return the saved state, or a blank one.

        Raises:
            StorageError: `state_unreadable`.
        """
        try:
            body = self._body("state")
            return DeviceState() if body is None else _STATE.validate_json(body)
        except (sqlite3.DatabaseError, ValidationError) as exc:
            raise _unreadable(self._path, str(exc).splitlines()[0]) from exc

    def save(self, state: DeviceState) -> None:
        """Put `state` on disk; it survives a power cut once this returns.

        Raises:
            StorageError: `state_unwritable`.
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
            StorageError: `state_unwritable`.
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
            raise StorageError(
                f"cannot write {self._path}: {exc}",
                code="state_unwritable",
                hint="free some disk space, or check that the file system is writable",
            ) from exc


def _unreadable(path: Path, why: str) -> StorageError:
    return StorageError(f"{path} cannot be read: {why}", code="state_unreadable")
