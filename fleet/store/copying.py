"""A store's rows from one database into another, such as from SQLite into PostgreSQL."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Final

from sqlalchemy import Connection, Table, func, insert, select, text

from wire.errors import ConfigError

from .database import Database, open_database, translated
from .revision import bring_up_to_date
from .schema import META, METADATA

BATCH: Final = 1_000
"""Rows in one statement: a record has about 400 bytes."""


def copy_store(source: Path | str, target: Path | str) -> int:
    """Copy all rows into a store that has none, in one transaction; return how many there were.

    Nobody may write the source meanwhile. Chunks are files, and stay where they are.

    Args:
        source: The file of SQLite, or the URL of PostgreSQL; brought up to date if it is older.
        target: The same; its tables are made.

    Raises:
        ConfigError: `store_not_empty`; or as `open_database`.
        StorageError: As `Store`; nothing was copied.
        ValueError: A value that the target cannot hold; nothing was copied.
    """
    with contextlib.ExitStack() as stack:
        databases = [open_database(where, is_sole=True) for where in (source, target)]
        for database in databases:
            stack.callback(database.close)
            with translated(database):
                bring_up_to_date(database)
        old, new = databases
        with (
            translated(old),
            old.reader.begin() as reader,
            translated(new),
            new.writer.begin() as writer,
        ):
            _refuse_full(new, writer)
            return sum(_copy(table, reader, writer) for table in _tables())


def _tables() -> list[Table]:
    """Return the tables with rows of a fleet; those that others refer to come first."""
    return [table for table in METADATA.sorted_tables if table is not META]


def _refuse_full(database: Database, connection: Connection) -> None:
    for table in _tables():
        if connection.execute(select(table).limit(1)).first() is not None:
            raise ConfigError(
                f"{database.name} has a fleet's rows already, in {table.name}",
                code="store_not_empty",
                hint="give a database of its own, and new",
            )


def _copy(table: Table, reader: Connection, writer: Connection) -> int:
    count = 0
    rows = reader.execution_options(yield_per=BATCH).execute(select(table)).mappings()
    for part in rows.partitions():
        writer.execute(insert(table), [dict(row) for row in part])
        count += len(part)
    # The rows brought their numbers along, which PostgreSQL has not counted.
    column = table.autoincrement_column
    if count and column is not None and writer.dialect.name == "postgresql":
        newest = select(func.max(column)).scalar_subquery()
        sequence = func.pg_get_serial_sequence(table.name, column.name)
        writer.execute(select(func.setval(sequence.op("::")(text("regclass")), newest)))
    return count
