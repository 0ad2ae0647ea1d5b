import sqlite3
from dataclasses import replace

import pytest

from agent.adapters.state_sqlite import SqliteStateStore, move_aside, open_database, storage_fault
from agent.core.states import Assignment, DeviceState, Fetching, OnProbation, Ref
from wire.errors import StorageError
from wire.messages import Inventory

REF = Ref("1.0.0", "a" * 64, "b" * 64)


@pytest.mark.parametrize(
    "state",
    [
        DeviceState(),
        DeviceState(generation=3, desired=(), update=Fetching(Assignment("m", REF))),
        DeviceState(update=OnProbation(Assignment("m", REF), served_s=1.5, start_count=2)),
    ],
)
def test_what_was_saved_is_loaded_by_the_next_start(tmp_path, state):
    store = SqliteStateStore(tmp_path / "state.db")
    store.save(replace(state, generation=99))
    store.save(state)
    store.close()
    assert SqliteStateStore(tmp_path / "state.db").load() == state


@pytest.mark.parametrize("keep", [0, 20, 4096])
def test_an_unreadable_file_is_said_to_be_so_and_moved_aside(tmp_path, keep):
    path = tmp_path / "state.db"
    SqliteStateStore(path).close()
    path.write_bytes(path.read_bytes()[:keep] + b"garbage" * 2000)
    with pytest.raises(StorageError) as caught:
        SqliteStateStore(path).load()
    assert caught.value.code == "state_unreadable"
    first = move_aside(path)
    assert first.exists()
    assert SqliteStateStore(path).load() == DeviceState()
    assert move_aside(path) != first


def test_a_body_that_makes_no_sense_is_unreadable(tmp_path):
    store = SqliteStateStore(tmp_path / "state.db")
    database = open_database(tmp_path / "state.db")
    database.execute('INSERT INTO state VALUES (1, \'{"generation": -1, "update": 7}\')')
    with pytest.raises(StorageError, match="cannot be read"):
        store.load()


def test_a_newer_schema_is_refused_with_the_way_out(tmp_path):
    SqliteStateStore(tmp_path / "state.db").close()
    open_database(tmp_path / "state.db").execute("UPDATE meta SET value = 99")
    with pytest.raises(StorageError) as caught:
        SqliteStateStore(tmp_path / "state.db")
    assert caught.value.code == "state_newer"
    assert "newer agent" in caught.value.hint


def test_what_a_runtime_told_of_itself_outlives_the_agent(tmp_path):
    store = SqliteStateStore(tmp_path / "state.db")
    assert store.load_inventory() == Inventory()
    told = Inventory(runtime="onnxruntime 1.32.0", protections=("rlimits", "seccomp"))
    store.save_inventory(told)
    store.close()
    store = SqliteStateStore(tmp_path / "state.db")
    assert store.load_inventory() == told
    assert store.load() == DeviceState()
    open_database(tmp_path / "state.db").execute("UPDATE inventory SET body = '[]'")
    assert store.load_inventory() == Inventory()


@pytest.fixture
def locked(tmp_path):
    """Two stores of one file: what a backup program does to ours."""
    path = tmp_path / "state.db"
    store = SqliteStateStore(path)
    store.save(DeviceState(generation=7))
    store._connection.execute("PRAGMA busy_timeout=0")
    other = open_database(path)
    other.execute("BEGIN IMMEDIATE")
    yield store
    other.close()


def test_a_lock_is_no_damage_and_keeps_nobody_from_reading(locked, tmp_path):
    with pytest.raises(StorageError) as caught:
        locked.save(DeviceState(generation=8))
    assert caught.value.code == "state_locked"
    assert "fuser" in caught.value.hint
    assert SqliteStateStore(tmp_path / "state.db").load() == DeviceState(generation=7)


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (sqlite3.SQLITE_CORRUPT, "state_unreadable"),
        (sqlite3.SQLITE_NOTADB, "state_unreadable"),
        (sqlite3.SQLITE_BUSY, "state_locked"),
        (sqlite3.SQLITE_BUSY_SNAPSHOT, "state_locked"),
        (sqlite3.SQLITE_FULL, "disk_full"),
        (sqlite3.SQLITE_READONLY, "state_unwritable"),
        (sqlite3.SQLITE_CANTOPEN, "state_unwritable"),
        (sqlite3.SQLITE_IOERR_WRITE, "state_unwritable"),
        (0, "state_unwritable"),
    ],
)
def test_only_damage_makes_a_file_unreadable(tmp_path, number, code):
    fault = sqlite3.OperationalError("words")
    fault.sqlite_errorcode = number
    found = storage_fault(tmp_path / "state.db", fault)
    assert (found.code, "state.db" in str(found)) == (code, True)
    assert found.hint or code == "state_unreadable"


def test_the_journal_goes_with_a_file_that_is_moved_aside(tmp_path):
    for suffix in ("", "-wal", "-shm"):
        (tmp_path / f"state.db{suffix}").write_text(suffix)
    aside = move_aside(tmp_path / "state.db")
    assert sorted(path.name for path in tmp_path.iterdir()) == [aside.name, f"{aside.name}-wal"]


def test_a_database_of_somebody_else_is_not_added_to(tmp_path):
    path = tmp_path / "state.db"
    open_database(path).execute("CREATE TABLE meta (name TEXT)")
    with pytest.raises(StorageError) as caught:
        SqliteStateStore(path)
    assert caught.value.code == "state_unreadable"
