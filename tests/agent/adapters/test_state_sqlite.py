from dataclasses import replace

import pytest

from agent.adapters.state_sqlite import SqliteStateStore, move_aside, open_database
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
