"""The agent's state on disk: the update machine's, what the last runtime told of itself, marks of trust.

One row each in SQLite, WAL and `synchronous=FULL`. Measured in 60 power cuts: of all SQLite settings
only WAL with FULL lost no acknowledged write and tore none.

SQLite does not notice a bit that flips inside a row, nor a journal that it cannot read to its end: a row
is sealed with its digest and numbered. The last *settled* state, one with no update under way, is kept a
second time in a file of its own, `state.settled`. A database that is damaged, or older than that, is
moved aside, and the agent goes on from the settled state: what it names is never collected. One that
is locked, on a full disk or not writable is as good as ever, and stays where it is: a start reads it
without opening it for writing, or goes on from the settled state, and writes nothing over it before it
could be opened and is known to be no newer.
"""

from __future__ import annotations

import contextlib
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter, ValidationError

from agent.core.states import DeviceState, Idle
from agent.core.trust import Mark, Marks
from wire.errors import StorageError
from wire.messages import Inventory

from .database import DISK_FAULTS, Database, look_into, unreadable
from .durable import sealed, storage_error, unsealed, write_durably

SCHEMA_VERSION: Final = 1
FOUND_AGAIN: Final = "state_found_again"
"""Code of a database that shows, when it can be opened at last, another state than was gone on from."""
TABLES: Final = frozenset({"meta", "state", "inventory", "trust"})
_NEVER_WRITTEN: Final = 0
"""The second place of the schema's version in a database of an agent that knew of one only."""
_STATE: Final = TypeAdapter(DeviceState)
_MARKS: Final = TypeAdapter(dict[str, Mark])


class SqliteStateStore:
    """Loads and saves `DeviceState`; used by the loop's thread only."""

    def __init__(self, path: Path, *, can_wait: bool = False) -> None:
        """Open the database, or begin a new one.

        Opening adds only what is missing, and renews the journal if it can, so that another
        program's lock on writing does not keep the agent from serving what it has.

        Args:
            path: The file.
            can_wait: As of `Database`: what is there is read as well as that can be done.

        Raises:
            StorageError: As `storage_fault`, or `state_newer` when a newer agent wrote it.
        """
        self._path = path
        self._copy = path.with_suffix(".settled")
        self._copied: DeviceState | None = None
        self._number = 0
        self._is_to_compare = False
        self._database = Database(path, self._prepare, can_wait=can_wait)

    @property
    def fault(self) -> StorageError | None:
        """Why the database could not be opened yet; None once it was."""
        return self._database.fault

    def load(self) -> DeviceState:
        """Return the saved state, or a blank one.

        While the database cannot be opened, it is the settled state, should no newer one be readable.

        Raises:
            StorageError: As `storage_fault`; `state_unreadable` also when writes were lost.
        """
        copied, settled = self._read_copy()  # first: a running agent's database gets only newer
        self._is_to_compare = False
        try:
            state = self._load(copied)
        except StorageError:
            if self.fault is None or settled is None:
                raise
            self._number, state = copied, settled
        self._is_to_compare = self.fault is not None
        return state

    def _load(self, copied: int) -> DeviceState:
        try:
            body = self._body("state")
            number, text = (0, None) if body is None else _opened(body)
            state = DeviceState() if text is None else _STATE.validate_json(text)
        except (ValidationError, ValueError, TypeError) as exc:
            raise unreadable(self._path, str(exc).splitlines()[0]) from exc
        if number < copied:
            raise unreadable(self._path, f"it has lost what was written after number {number}")
        self._number = number
        return state

    def save(self, state: DeviceState) -> None:
        """Put `state` on disk; it survives a power cut once this returns.

        Raises:
            StorageError: As `storage_fault` and `storage_error`.
        """
        self._write("state", sealed(self._number + 1, _STATE.dump_json(state).decode()))
        self._number += 1
        self.settle(state)

    def settle(self, state: DeviceState) -> None:
        """Keep a settled state a second time, if it says anything new.

        Raises:
            StorageError: As `storage_error`. The state is saved all the same.
        """
        if not isinstance(state.update, Idle):
            return
        state = replace(
            state, is_serving=False, serve_failure_count=0, short_life_count=0, step_count=0
        )
        if self._copied is None:
            _, self._copied = self._read_copy()
        if state == self._copied:
            return
        text = sealed(self._number, _STATE.dump_json(state).decode())
        try:
            write_durably(self._copy, text.encode())
        except OSError as exc:
            raise storage_error(self._copy, exc) from exc
        self._copied = state

    def restore(self) -> DeviceState | None:
        """Begin a new database with the settled state; return that, or None if it is lost too.

        Raises:
            StorageError: As `storage_fault`.
        """
        self._number, state = self._read_copy()
        if state is not None:
            self.save(state)
        return state

    def load_inventory(self) -> Inventory:
        """Return what the last runtime told of itself; blank when none has, or it is unreadable."""
        with contextlib.suppress(StorageError, ValueError, TypeError):
            if (body := self._body("inventory")) is not None:
                return Inventory.model_validate_json(_opened(body)[1])
        return Inventory()

    def save_inventory(self, inventory: Inventory) -> None:
        """Keep what a runtime told of itself, for those who ask this device.

        Raises:
            StorageError: As `storage_fault`.
        """
        self._write("inventory", sealed(0, inventory.model_dump_json()))

    def load_marks(self) -> Marks:
        """Return the marks of trust; none when none were saved, or their row has changed on disk.

        Raises:
            StorageError: As `storage_fault`.
        """
        body = self._body("trust")
        with contextlib.suppress(ValueError):  # ValidationError is one
            return _MARKS.validate_json(unsealed(body)[1]) if body is not None else {}
        return {}

    def save_marks(self, marks: Marks) -> None:
        """Put the marks of trust on disk; they survive a power cut once this returns.

        Raises:
            StorageError: As `storage_fault`.
        """
        self._write("trust", sealed(0, _MARKS.dump_json(dict(marks)).decode()))

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def _read_copy(self) -> tuple[int, DeviceState | None]:
        """Return number and state of the settled copy; of one that is damaged as of none."""
        try:
            number, body = unsealed(self._copy.read_text())
            return number, _STATE.validate_json(body)
        except (OSError, ValueError):  # ValidationError and UnicodeDecodeError are of the latter
            return 0, None

    def _body(self, table: str) -> str | None:
        query = f"SELECT body FROM {table} WHERE id = 1"  # noqa: S608 - a constant
        try:
            with self._database.use() as db:
                row = db.execute(query).fetchone()
        except StorageError as exc:
            if self.fault is None or exc.code not in DISK_FAULTS:
                raise
            row = look_into(self._path, query)
        return None if row is None else row[0]

    def _write(self, table: str, body: str) -> None:
        with self._database.use() as db:
            db.execute(f"INSERT OR REPLACE INTO {table} VALUES (1, ?)", (body,))  # noqa: S608 - a constant

    def _prepare(self, db: sqlite3.Connection) -> None:
        found = {name for (name,) in db.execute("SELECT name FROM sqlite_master")}
        if "meta" in found:
            self._refuse_newer(db)
        if self._is_to_compare and "state" in found:
            self._compare(db)
        self._is_to_compare = False
        if found >= TABLES:
            return
        db.execute("BEGIN IMMEDIATE")
        db.execute("CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value INTEGER)")
        for table in sorted(TABLES - {"meta"}):
            db.execute(f"CREATE TABLE IF NOT EXISTS {table} (id INTEGER PRIMARY KEY, body TEXT)")
        db.execute("INSERT OR IGNORE INTO meta VALUES ('schema', ?)", (SCHEMA_VERSION,))
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        db.execute("COMMIT")

    def _compare(self, db: sqlite3.Connection) -> None:
        """See that what was gone on from is not older than what is there."""
        row = db.execute("SELECT body FROM state WHERE id = 1").fetchone()
        try:
            number = 0 if row is None else _opened(row[0])[0]
        except (ValueError, TypeError) as exc:
            why = f"its state is damaged: {exc}"
        else:
            if number <= self._number:
                return
            why = f"its state is number {number}, newer than {self._number}"
        raise StorageError(
            f"{self._path} can be opened again: {why}",
            code=FOUND_AGAIN,
            hint="the agent starts again, from what is there",
        )

    def _refuse_newer(self, db: sqlite3.Connection) -> None:
        query = "SELECT value FROM meta WHERE key = 'schema'"
        (version,) = db.execute(query).fetchone() or (0,)
        # In two places, since one that has changed by itself must not keep the agent from starting.
        (again,) = db.execute("PRAGMA user_version").fetchone()
        if again not in (_NEVER_WRITTEN, version) or not isinstance(version, int):
            raise unreadable(self._path, f"its schema is {version!r}, or {again!r}")
        if version > SCHEMA_VERSION:
            raise StorageError(
                f"{self._path} was written by a newer agent (schema {version}, this one knows "
                f"{SCHEMA_VERSION})",
                code="state_newer",
                hint="install the newer agent again",
            )


def _opened(body: str) -> tuple[int, str]:
    """Return number and body of a row; one of an agent that sealed nothing is JSON as it stands.

    Raises:
        ValueError: As `unsealed`.
    """
    return (0, body) if body.startswith("{") else unsealed(body)
