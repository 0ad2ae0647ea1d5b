"""The version of the store's tables: read without alembic, brought up to date by it."""

from __future__ import annotations

from sqlalchemy import Connection, insert, inspect, select, update

from wire.errors import StorageError

from .database import Database
from .schema import META, METADATA, REVISION, SCHEMA_VERSION


def bring_up_to_date(database: Database) -> None:
    """Make the tables where there are none, and those of an older program today's.

    A new store gets today's tables at once and is marked as up to date; the tests hold these
    against what the revisions make. Programs from before alembic read the version in `meta`.

    Raises:
        SQLAlchemyError: The database failed, or is somebody else's.
        StorageError: `store_newer`; or `store_failed`, and nothing was changed.
    """
    with database.writer.begin() as connection:
        database.check(connection)
        found = found_version(connection)
        if found is None:
            METADATA.create_all(connection)
            REVISION.create(connection)
            connection.execute(insert(REVISION).values(version_num=str(SCHEMA_VERSION)))
            connection.execute(insert(META).values(key="schema_version", value=str(SCHEMA_VERSION)))
            return
    if found == str(SCHEMA_VERSION):
        return
    _refuse_newer(database, found)
    from .migrations import upgrade

    with database.migration() as connection:
        # Another process may have been first.
        _refuse_newer(database, found_version(connection))
        upgrade(connection)
        connection.execute(
            update(META).where(META.c.key == "schema_version").values(value=str(SCHEMA_VERSION))
        )


def found_version(connection: Connection) -> str | None:
    """Return the version of the tables that are there, None where there are none."""
    tables = inspect(connection).get_table_names()
    if not tables:
        return None
    query = select(META.c.value).where(META.c.key == "schema_version")
    if REVISION.name in tables:
        query = select(REVISION.c.version_num)
    return connection.execute(query).scalar_one_or_none()


def _refuse_newer(database: Database, found: str | None) -> None:
    if found is None or not found.isdecimal() or int(found) > SCHEMA_VERSION:
        raise StorageError(
            f"{database.name} has schema version {found}, this program knows {SCHEMA_VERSION}",
            code="store_newer",
            hint="install the modelfleet release that wrote it, or give another [store] dir or url",
        )
