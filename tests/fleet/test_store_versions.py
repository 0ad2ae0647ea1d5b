"""Stores of older programs, of newer ones, and what holds the revisions against the tables."""

import contextlib
import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect

from fleet.store import migrations
from fleet.store.database import open_database
from fleet.store.devices import Selection
from fleet.store.journal import EventRow
from fleet.store.schema import METADATA, SCHEMA_VERSION
from fleet.store.store import Store
from tests.postgres import execute_raw
from wire.errors import StorageError

GOLDEN = Path(__file__).parents[1] / "golden" / "store"
"""Dumps of stores that the programs of these versions made; 3 did not count its last tables."""
VERSIONS = ["1", "2", "3-first", "3"]


def older(version, path):
    """Make the store that an older program made."""
    with contextlib.closing(sqlite3.connect(path)) as raw:
        raw.executescript((GOLDEN / f"version-{version}.sql").read_text())


@contextlib.contextmanager
def writing(where):
    database = open_database(where, is_sole=False)
    try:
        with database.writer.begin() as connection:
            yield connection
    finally:
        database.close()


def content(path):
    """Return the rows of the tables of ours, but for the version."""
    query = "SELECT name FROM sqlite_master WHERE type = 'table'"
    names = {name for (name,) in execute_raw(path, query)} & METADATA.tables.keys() - {"meta"}
    return {name: execute_raw(path, f"SELECT * FROM {name}") for name in names}  # noqa: S608 - ours


def shape(where):
    """Return all that the database itself says of its tables, in no order of columns."""
    with writing(where) as connection:
        found = inspect(connection)
        return {
            table: {
                "columns": sorted(
                    (
                        c["name"],
                        repr(c["type"]),
                        c["nullable"],
                        str(c["default"]),
                        c.get("autoincrement"),
                    )
                    for c in found.get_columns(table)
                ),
                "key": found.get_pk_constraint(table)["constrained_columns"],
                "references": sorted(
                    (f["constrained_columns"], f["referred_table"], f["options"])
                    for f in found.get_foreign_keys(table)
                ),
                "unique": sorted(u["column_names"] for u in found.get_unique_constraints(table)),
                "indexes": sorted(
                    (i["name"], i["column_names"], bool(i["unique"]))
                    for i in found.get_indexes(table)
                    if not i.get("duplicates_constraint")
                ),
                "never_again": "AUTOINCREMENT" in _statement(connection, table),
            }
            for table in sorted(found.get_table_names())
        }


def _statement(connection, table):
    if connection.dialect.name != "sqlite":
        return ""
    query = "SELECT sql FROM sqlite_master WHERE name = ?"
    return connection.exec_driver_sql(query, (table,)).scalar_one()


def test_the_revisions_make_the_tables_of_the_program(where, empty, tmp_path):
    with writing(empty) as connection:
        migrations.upgrade(connection)
    with writing(empty) as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "compare_server_default": True}
        )
        assert compare_metadata(context, METADATA) == []
    Store(where, tmp_path).close()
    made, new = shape(empty), shape(where)
    assert made.keys() == new.keys() == METADATA.tables.keys() | {"alembic_version"}
    for table in new:
        assert made[table] == new[table], table


def test_the_newest_revision_is_that_of_the_program_and_each_follows_one(tmp_path):
    with writing(tmp_path / "any.db") as connection:
        scripts = ScriptDirectory.from_config(migrations.config(connection))
    assert scripts.get_heads() == [str(SCHEMA_VERSION)]
    line = [(r.revision, r.down_revision) for r in scripts.walk_revisions()]
    numbers = range(SCHEMA_VERSION, 3, -1)
    assert line == [*((str(n), str(n - 1)) for n in numbers), ("3", None)]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_store_of_an_older_program_is_taken_over_with_all_that_it_has(version, tmp_path):
    path = tmp_path / "fleet.db"
    older(version, path)
    before = content(path)
    store = Store(path, tmp_path)
    after = content(path)
    for name, rows in before.items():
        assert [row[: len(old)] for row, old in zip(after[name], rows, strict=True)] == rows, name
    with store.write() as tx:
        assert tx.devices.rows(Selection())[0].tags == {"site": "lab"}
        tx.journal.note([EventRow("device", "cam-1", "seen")], 2)
        assert [event.id for event in tx.journal.events(0, 9)] == [1, 2]
        assert tx.rollouts.newest() == []
        assert tx.trust.all_newest() == []
    store.close()
    Store(path, tmp_path).close()
    fresh = tmp_path / "fresh.db"
    Store(fresh, tmp_path).close()
    assert shape(path) == shape(fresh)
    ((noted,),) = execute_raw(path, "SELECT value FROM meta")
    assert noted == str(SCHEMA_VERSION), "what a program from before alembic reads"


@pytest.mark.parametrize("version", ["3-first", "3"])
def test_certificates_of_an_older_program_keep_their_order(version, tmp_path):
    older(version, tmp_path / "fleet.db")
    store = Store(tmp_path / "fleet.db", tmp_path)
    with store.read() as tx:
        assert [row.serial[0] for row in tx.identities.certificates("cam-1")] == ["b", "c", "a"]
    store.close()


@pytest.mark.postgres
def test_version_3_on_postgresql_becomes_today_s_with_its_certificates(cluster, tmp_path):
    """No program wrote one; the steps must hold there all the same, for those to come."""
    url = cluster.database(is_empty=True)
    with writing(url) as connection:
        migrations.upgrade(connection, "3")
    columns = "serial, device, key_digest, pem, issued_unix_ms, not_after_unix_ms"
    for serial, at in ("b", 500), ("c", 100), ("a", 300):
        values = f"('{serial}', 'cam', 'k', 'pem', {at}, 9)"
        execute_raw(url, f"INSERT INTO certificates ({columns}) VALUES {values}")  # noqa: S608 - ours
    store = Store(url, tmp_path)
    with store.read() as tx:
        assert [row.serial for row in tx.identities.certificates()] == ["c", "a", "b"]
    store.close()


def test_a_takeover_that_fails_leaves_the_store_as_it_was(tmp_path):
    path = tmp_path / "fleet.db"
    older("3", path)
    execute_raw(path, "CREATE TABLE _alembic_tmp_certificates (in_the_way TEXT)")
    query = "SELECT sql FROM sqlite_master ORDER BY name"
    before = execute_raw(path, query)
    with pytest.raises(StorageError) as caught:
        Store(path, tmp_path)
    assert caught.value.code == "store_unreadable"
    assert execute_raw(path, query) == before
    execute_raw(path, "DROP TABLE _alembic_tmp_certificates")
    Store(path, tmp_path).close()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE alembic_version SET version_num = '99'",
        # As a program from before alembic would have said it.
        "DROP TABLE alembic_version; UPDATE meta SET value = '99'",
    ],
)
def test_a_store_of_a_newer_program_is_refused_with_advice(where, tmp_path, statement):
    Store(where, tmp_path).close()
    for part in statement.split(";"):
        execute_raw(where, part)
    with pytest.raises(StorageError) as caught:
        Store(where, tmp_path)
    assert caught.value.code == "store_newer"
    assert re.search(r"schema version 99, this program knows \d+$", str(caught.value))
    assert caught.value.hint


def test_somebody_else_s_database_is_refused_and_left(empty, tmp_path):
    execute_raw(empty, "CREATE TABLE recipes (name TEXT)")
    with pytest.raises(StorageError) as caught:
        Store(empty, tmp_path)
    assert caught.value.code == "store_unreadable"
    assert "meta" in str(caught.value)
    with writing(empty) as connection:
        assert inspect(connection).get_table_names() == ["recipes"]


OPENING = """
import sys
from pathlib import Path
from fleet.store.store import Store
path = Path(sys.argv[1])
Store(path, path.parent).close()
print(*sorted({"alembic", "psycopg"} & sys.modules.keys()))
"""


def test_a_store_that_is_new_or_up_to_date_is_opened_without_alembic(tmp_path):
    def loaded():
        command = [sys.executable, "-c", OPENING, str(tmp_path / "fleet.db")]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()

    assert (loaded(), loaded()) == ([], [])
    (tmp_path / "fleet.db").unlink()
    older("3", tmp_path / "fleet.db")
    assert loaded() == ["alembic"]
