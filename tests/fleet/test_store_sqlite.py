"""What only a store in a file has."""

import os
import stat

import pytest

from fleet.store.store import Store
from wire.errors import StorageError


def test_the_database_is_durable_by_its_settings(tmp_path):
    store = Store(tmp_path / "fleet.db", tmp_path)
    with store._database.writer.connect() as connection:
        values = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    store.close()
    assert values == {
        "journal_mode": "wal",
        "synchronous": 2,
        "foreign_keys": 1,
        "busy_timeout": 5000,
    }


def test_nobody_else_reads_it_whatever_the_users_mask(tmp_path):
    before = os.umask(0)
    try:
        store = Store(tmp_path / "store" / "fleet.db", tmp_path / "store")
        store.chunks.add({"a" * 64: b"chunk"})
        made = {
            path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "store").iterdir()
        }
        store.close()
    finally:
        os.umask(before)
    assert made.keys() >= {"fleet.db", "fleet.db-wal", "chunks"}
    assert {name: mode & 0o077 for name, mode in made.items()} == dict.fromkeys(made, 0)


def test_a_file_that_is_no_database_is_refused_with_advice(tmp_path):
    (tmp_path / "fleet.db").write_bytes(b"no database at all" * 100)
    with pytest.raises(StorageError) as caught:
        Store(tmp_path / "fleet.db", tmp_path)
    assert caught.value.code == "store_unreadable"
    assert "restore a backup" in caught.value.hint
