import shutil
import sqlite3
from dataclasses import replace

import pytest
from pydantic import TypeAdapter

from agent.adapters.database import move_aside, open_database, storage_fault
from agent.adapters.state_sqlite import SqliteStateStore
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
    newer = open_database(tmp_path / "state.db")
    newer.execute("UPDATE meta SET value = 99")
    newer.execute("PRAGMA user_version = 99")
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
    store._database._connection.execute("PRAGMA busy_timeout=0")
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


def test_a_database_that_went_back_in_time_is_not_believed(tmp_path):
    path = tmp_path / "state.db"
    store = SqliteStateStore(path)
    store.save(DeviceState(generation=1))
    store.close()
    old = path.read_bytes()
    store = SqliteStateStore(path)
    store.load()
    store.save(DeviceState(generation=2))
    store.close()
    path.write_bytes(old)
    with pytest.raises(StorageError, match="lost what was written after number 1") as caught:
        SqliteStateStore(path).load()
    assert caught.value.code == "state_unreadable"
    move_aside(path)
    store = SqliteStateStore(path)
    assert store.restore() == store.load() == DeviceState(generation=2)


def test_only_settled_states_are_kept_twice(tmp_path):
    store = SqliteStateStore(tmp_path / "state.db")
    store.save(DeviceState(generation=1, is_serving=True))
    copy = (tmp_path / "state.settled").read_bytes()
    store.save(DeviceState(generation=1))
    store.save(DeviceState(generation=2, update=Fetching(Assignment("m", REF))))
    assert (tmp_path / "state.settled").read_bytes() == copy, "nothing that is worth a sync"
    store.close()
    move_aside(tmp_path / "state.db")
    assert SqliteStateStore(tmp_path / "state.db").restore() == DeviceState(generation=1)


def test_what_an_agent_without_seals_wrote_is_read(tmp_path):
    path = tmp_path / "state.db"
    SqliteStateStore(path).close()
    state = DeviceState(generation=3)
    database = open_database(path)
    database.execute("PRAGMA user_version = 0")
    body = TypeAdapter(DeviceState).dump_json(state).decode()
    database.execute("INSERT INTO state VALUES (1, ?)", (body,))
    assert SqliteStateStore(path).load() == state


def make_unopenable(path):
    """Have SQLite make no index of the journal, as on a disk that is full or read-only."""
    index = path.with_name(f"{path.name}-shm")
    index.unlink(missing_ok=True)
    index.mkdir()
    return index


STATES = [
    DeviceState(generation=2),
    DeviceState(generation=3, update=Fetching(Assignment("m", REF))),
]


@pytest.mark.parametrize("is_killed", [False, True], ids=["orderly", "killed"])
@pytest.mark.parametrize("state", STATES, ids=["settled", "underway"])
def test_what_cannot_be_opened_is_read_and_goes_on_later(tmp_path, state, is_killed):
    path = tmp_path / "state.db"
    store = SqliteStateStore(path)
    store.save(DeviceState(generation=1))
    store.save(state)
    if is_killed:  # with what was committed in the journal alone
        shutil.copytree(tmp_path, tmp_path / "killed")
        path = tmp_path / "killed" / "state.db"
    store.close()
    index = make_unopenable(path)
    with pytest.raises(StorageError, match="cannot write"):
        SqliteStateStore(path)
    store = SqliteStateStore(path, can_wait=True)
    assert (store.load(), store.fault.code) == (state, "state_unwritable")
    with pytest.raises(StorageError, match="cannot write"):
        store.save(replace(state, generation=4))
    index.rmdir()
    store.save(replace(state, generation=5))
    assert store.fault is None
    store.close()
    assert SqliteStateStore(path).load().generation == 5


def test_what_can_be_read_by_no_means_is_not_written_over_when_it_is_newer(tmp_path):
    path = tmp_path / "state.db"
    store = SqliteStateStore(path)
    store.save(DeviceState(generation=1))
    newer = DeviceState(generation=2, update=Fetching(Assignment("m", REF)))
    store.save(newer)
    store.close()
    journal = path.with_name("state.db-wal")
    journal.mkdir()
    (journal / "x").touch()
    store = SqliteStateStore(path, can_wait=True)
    assert store.load() == DeviceState(generation=1), "the settled one"
    (journal / "x").unlink()
    journal.rmdir()
    for _ in range(2):
        with pytest.raises(StorageError) as caught:
            store.save(DeviceState(generation=1, is_serving=True))
        assert caught.value.code == "state_found_again"
    store.close()
    assert SqliteStateStore(path).load() == newer


def test_what_opens_only_when_it_is_loaded_is_believed(tmp_path):
    path = tmp_path / "state.db"
    store = SqliteStateStore(path)
    store.save(DeviceState(generation=1))
    store.close()
    index = make_unopenable(path)
    store = SqliteStateStore(path, can_wait=True)
    index.rmdir()
    assert (store.load(), store.fault) == (DeviceState(generation=1), None)


def test_a_lock_is_nothing_to_wait_for(tmp_path):
    path = tmp_path / "state.db"
    SqliteStateStore(path).close()
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("PRAGMA locking_mode=EXCLUSIVE")
    holder.execute("BEGIN EXCLUSIVE")
    with pytest.raises(StorageError) as caught:
        SqliteStateStore(path, can_wait=True)
    assert caught.value.code == "state_locked"
    holder.close()


def test_of_many_damaged_files_the_newest_are_kept(tmp_path):
    for number in range(5):
        (tmp_path / "state.db").write_text(str(number))
        (tmp_path / "state.db-wal").write_text(str(number))
        move_aside(tmp_path / "state.db")
    kept = {
        path.name: path.read_text()
        for path in tmp_path.iterdir()
        if path.suffix[-1] in "0123456789"
    }
    assert kept == {f"state.db.unreadable-{n + 1}": str(n) for n in (2, 3, 4)}
    assert len(list(tmp_path.iterdir())) == 6
