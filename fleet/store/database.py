"""What the store asks of a database, and which one it is: a file of SQLite, or PostgreSQL by URL."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Final, Protocol

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DataError, SQLAlchemyError

from wire.errors import StorageError

from .sqlite import SqliteDatabase

BUSY_TIMEOUT_MS: Final = 5_000
"""Another process that writes (a backup, a person) is waited for this long."""


class Database(Protocol):
    """A database with tables of ours, or for them.

    Attributes:
        name: As a person knows it, without a password.
        writer: Transactions that exclude one another, whatever process they come from, and are on
            disk when they have ended.
        reader: Transactions that see one state, and wait for no writer.
        unreadable_hint: What to look at where the tables cannot be opened.
        failed_hint: What to look at where a statement failed.
    """

    name: str
    writer: Engine
    reader: Engine
    unreadable_hint: str
    failed_hint: str

    def check(self, connection: Connection) -> None:
        """See whether the database is fit for a store, on a connection for writing.

        Raises:
            StorageError: `store_unreadable`.
        """

    def migration(self) -> AbstractContextManager[Connection]:
        """Begin a transaction that excludes writers, in which tables may be made anew."""

    def fault(self, exc: SQLAlchemyError) -> StorageError | None:
        """Return what a person can mend without the data being at fault, if it is that.

        The codes are `store_locked`, `store_full`, `store_unwritable` and `store_unreachable`.
        """

    def close(self) -> None:
        """Close all connections. Idempotent."""


def open_database(where: Path | str, *, is_sole: bool) -> Database:
    """Return the database; no connection is made yet.

    Args:
        where: The file of SQLite, or the URL of PostgreSQL.
        is_sole: Whether this is a controller, of which a store has one. A file's is told by the
            lease beside it (`fleet.lease`), PostgreSQL's by a lock in the database.

    Raises:
        ConfigError: `postgres_missing` or `store_url`.
    """
    if isinstance(where, Path):
        return SqliteDatabase(where, BUSY_TIMEOUT_MS)
    from .postgres import PostgresDatabase

    return PostgresDatabase(where, BUSY_TIMEOUT_MS, is_sole=is_sole)


@contextmanager
def translated(database: Database) -> Iterator[None]:
    """Raise what a database does wrong as a `StorageError`.

    Raises:
        StorageError: As `Database.fault`, else `store_failed`.
        ValueError: A value that the database cannot hold. No fault of the database: one bad value
            must not be tried again and again with the others.
    """
    try:
        yield
    except DataError as exc:
        raise ValueError(f"{database.name} cannot hold a value: {cause_of(exc)}") from exc
    except SQLAlchemyError as exc:
        raise database.fault(exc) or StorageError(
            f"the store failed: {cause_of(exc)}",
            code="store_failed",
            hint=database.failed_hint,
        ) from exc


def cause_of(exc: SQLAlchemyError) -> str:
    """Return what the driver said, short enough for a sentence."""
    return " ".join(str(getattr(exc, "orig", None) or exc).split())[:200]
