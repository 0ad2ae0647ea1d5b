"""The store: one writer at a time, readers beside it, every failure a `StorageError`."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, Engine, create_engine, event, insert, inspect, select, update
from sqlalchemy.exc import SQLAlchemyError

from fleet import acts
from wire.errors import StorageError

from .audit import Audit
from .content import ChunkFolder
from .devices import Devices
from .identities import Identities
from .journal import Journal
from .releases import Releases
from .rollouts import Rollouts
from .schema import ADDED_SINCE, META, METADATA, SCHEMA_VERSION
from .states import States
from .tokens import Tokens
from .trust import Trust

BUSY_TIMEOUT_MS: Final = 5_000
"""Another process with the file open (a backup, a person) is waited for this long."""
LOCKED: Final = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})


class Tx:
    """One transaction, or one consistent read: the tables by subject."""

    def __init__(self, connection: Connection) -> None:
        self.devices = Devices(connection)
        self.states = States(connection)
        self.releases = Releases(connection)
        self.rollouts = Rollouts(connection)
        self.journal = Journal(connection)
        self.identities = Identities(connection)
        self.tokens = Tokens(connection)
        self.trust = Trust(connection)
        self.audit = Audit(connection)


class Store:
    """The controller's database (SQLite, WAL, `synchronous=FULL`) and its folder of chunks."""

    def __init__(self, path: Path, data_dir: Path) -> None:
        """Open the store, and make it when it is not there.

        Raises:
            StorageError: `store_unreadable`, `store_newer`, or as `_fault`.
        """
        self._path = path
        self.data_dir = data_dir
        self._lock = threading.RLock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.chunks = ChunkFolder(data_dir / "chunks")
            self._writer = _engine(path, begin="BEGIN IMMEDIATE", pool_size=1)
            self._reader = _engine(path, begin="BEGIN", pool_size=8)
            self._prepare()
        except SQLAlchemyError as exc:
            if (known := _fault(path, exc)) is not None:
                raise known from exc
            raise StorageError(
                f"{path} cannot be used as the store: {_cause(exc)}",
                code="store_unreadable",
                hint="check its owner and rights; if the file is damaged, restore a backup",
            ) from exc
        except OSError as exc:
            raise StorageError(
                f"{exc.filename or path}: {exc.strerror}",
                code="store_unreadable",
                hint="the store's folder must exist and be writable",
            ) from exc

    @contextmanager
    def write(self) -> Iterator[Tx]:
        """Run one transaction; it is on disk when the block ends, or undone when it raises.

        Transactions run one after the other, whatever thread they come from. The first one of an
        act (`fleet.acts`) holds the act's row of the audit log.

        Raises:
            StorageError: As `_fault`, else `store_failed`; nothing of the transaction remains.
        """
        act = acts.current()
        with self._lock, _translated(self._path), self._writer.begin() as connection:
            tx = Tx(connection)
            yield tx
            if act is not None and not act.is_noted:
                tx.audit.append(act.row("done"))
        if act is not None:
            act.is_noted = True

    @contextmanager
    def read(self) -> Iterator[Tx]:
        """Give one consistent view; it never waits for a writer.

        Raises:
            StorageError: As `_fault`, else `store_failed`.
        """
        with _translated(self._path), self._reader.begin() as connection:
            yield Tx(connection)

    def close(self) -> None:
        """Close all connections. Idempotent."""
        with self._lock:
            self._writer.dispose()
            self._reader.dispose()

    def _prepare(self) -> None:
        with self._writer.begin() as connection:
            if not inspect(connection).get_table_names():
                METADATA.create_all(connection)
                connection.execute(
                    insert(META).values(key="schema_version", value=str(SCHEMA_VERSION))
                )
                return
            found = connection.execute(
                select(META.c.value).where(META.c.key == "schema_version")
            ).scalar_one_or_none()
            if found in ADDED_SINCE:
                METADATA.create_all(connection)
                connection.execute(
                    update(META)
                    .where(META.c.key == "schema_version")
                    .values(value=str(SCHEMA_VERSION))
                )
                return
        if found != str(SCHEMA_VERSION):
            raise StorageError(
                f"{self._path} has schema version {found}, this program knows {SCHEMA_VERSION}",
                code="store_newer",
                hint="install the modelfleet release that wrote it, or give another [store] dir",
            )


def _engine(path: Path, *, begin: str, pool_size: int) -> Engine:
    engine = create_engine(
        f"sqlite:///{path}",
        pool_size=pool_size,
        max_overflow=0 if pool_size == 1 else 32,
        connect_args={"check_same_thread": False, "timeout": BUSY_TIMEOUT_MS / 1000},
    )

    def on_connect(dbapi: Any, _record: Any) -> None:
        # The driver's own transactions begin too late and cannot be IMMEDIATE.
        dbapi.isolation_level = None
        for pragma in (
            f"busy_timeout={BUSY_TIMEOUT_MS}",
            "journal_mode=WAL",
            "synchronous=FULL",
            "foreign_keys=ON",
        ):
            dbapi.execute(f"PRAGMA {pragma}")

    def on_begin(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    event.listen(engine, "connect", on_connect)
    event.listen(engine, "begin", on_begin)
    return engine


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except SQLAlchemyError as exc:
        raise _fault(path, exc) or StorageError(
            f"the store failed: {_cause(exc)}",
            code="store_failed",
            hint="look for a damaged file; nothing was half written",
        ) from exc


def _fault(path: Path, exc: SQLAlchemyError) -> StorageError | None:
    """Return what a person can mend without the file being at fault, if it is that.

    The codes are `store_locked`, `store_full` and `store_unwritable`.
    """
    cause = getattr(getattr(exc, "orig", None), "sqlite_errorcode", 0) & 0xFF
    if cause in LOCKED:
        return StorageError(
            f"{path} is locked by another program",
            code="store_locked",
            hint=f"end that program (`fuser {path}` names it), then try again: nothing was changed",
        )
    if cause == sqlite3.SQLITE_FULL:
        return StorageError(
            f"cannot write {path}: the disk is full",
            code="store_full",
            hint="free some disk space, then try again: nothing was changed",
        )
    if cause == sqlite3.SQLITE_READONLY:
        return StorageError(
            f"cannot write {path}: {_cause(exc)}",
            code="store_unwritable",
            hint="check whose it is, and that its file system is writable: nothing was changed",
        )
    return None


def _cause(exc: SQLAlchemyError) -> str:
    return str(getattr(exc, "orig", None) or exc)[:200]
