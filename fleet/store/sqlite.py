"""The store in a file: SQLite with WAL and `synchronous=FULL`."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import SQLAlchemyError

from wire.errors import StorageError

LOCKED: Final = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})


class SqliteDatabase:
    """See `fleet.store.database.Database`."""

    unreadable_hint = "check its owner and rights; if the file is damaged, restore a backup"
    failed_hint = "look for a damaged file; nothing was half written"

    def __init__(self, path: Path, busy_timeout_ms: int) -> None:
        self.name = str(path)
        self._path = path
        self._busy_timeout_ms = busy_timeout_ms
        self.writer = self._engine(begin="BEGIN IMMEDIATE", pool_size=1)
        self.reader = self._engine(begin="BEGIN", pool_size=8)

    def check(self, connection: Connection) -> None:
        """See `fleet.store.database.Database.check`: a file that opens is fit."""

    @contextmanager
    def migration(self) -> Iterator[Connection]:
        """Begin a transaction in which tables may be made anew.

        SQLite alters a table by copying it and dropping the old one, which takes along what refers
        to it; so references are off meanwhile, and looked at when all is done.
        """
        engine = self._engine(begin="BEGIN IMMEDIATE", pool_size=1, has_references=False)
        try:
            with engine.begin() as connection:
                yield connection
                broken = connection.exec_driver_sql("PRAGMA foreign_key_check").all()
                if broken:
                    raise StorageError(
                        f"{self.name} has {len(broken)} rows that belong to nothing",
                        code="store_failed",
                        hint="restore a backup; nothing was changed",
                    )
        finally:
            engine.dispose()

    def fault(self, exc: SQLAlchemyError) -> StorageError | None:
        """See `fleet.store.database.Database.fault`."""
        said = getattr(exc, "orig", None)
        cause = getattr(said, "sqlite_errorcode", 0) & 0xFF
        if cause in LOCKED:
            return StorageError(
                f"{self.name} is locked by another program",
                code="store_locked",
                hint=f"end that program (`fuser {self.name}` names it), then try again: nothing was"
                " changed",
            )
        if cause == sqlite3.SQLITE_FULL:
            return StorageError(
                f"cannot write {self.name}: the disk is full",
                code="store_full",
                hint="free some disk space, then try again: nothing was changed",
            )
        if cause == sqlite3.SQLITE_READONLY:
            return StorageError(
                f"cannot write {self.name}: {said}",
                code="store_unwritable",
                hint="check whose it is, and that its file system is writable: nothing was changed",
            )
        return None

    def close(self) -> None:
        """Close all connections. Idempotent."""
        self.writer.dispose()
        self.reader.dispose()

    def _engine(self, *, begin: str, pool_size: int, has_references: bool = True) -> Engine:
        engine = create_engine(
            f"sqlite:///{self._path}",
            pool_size=pool_size,
            max_overflow=0 if pool_size == 1 else 32,
            connect_args={"check_same_thread": False, "timeout": self._busy_timeout_ms / 1000},
        )

        def on_connect(dbapi: Any, _record: Any) -> None:
            # The driver's own transactions begin too late and cannot be IMMEDIATE.
            dbapi.isolation_level = None
            for pragma in (
                f"busy_timeout={self._busy_timeout_ms}",
                "journal_mode=WAL",
                "synchronous=FULL",
                f"foreign_keys={'ON' if has_references else 'OFF'}",
            ):
                dbapi.execute(f"PRAGMA {pragma}")

        def on_begin(connection: Connection) -> None:
            connection.exec_driver_sql(begin)

        event.listen(engine, "connect", on_connect)
        event.listen(engine, "begin", on_begin)
        return engine
