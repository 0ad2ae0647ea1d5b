"""Starts on a disk that takes nothing: what is read, kept and written over."""

from dataclasses import replace

import pytest

from agent.adapters.content_files import ContentStore
from agent.adapters.state_sqlite import SqliteStateStore
from agent.core import events as ev
from agent.core.states import DeviceState, ModelRecord, OnProbation
from agent.effects import Effects
from agent.loop import Inbox, Loop, StopRequested
from agent.runtimes import Runtimes
from agent.service import _open_state
from tests.agent.adapters.bundles import make_bundle
from tests.agent.adapters.test_content_files import install
from tests.agent.test_second_look import Host, Silence
from wire.errors import StorageError
from wire.lifecycle import Outcome
from wire.manifest import digest_of


@pytest.fixture
def bundles(tmp_path):
    """Two bundles on disk."""
    content = ContentStore(tmp_path)
    pair = make_bundle(b"old" * 9), make_bundle(b"new" * 9, version="2.0.0")
    for bundle in pair:
        install(content, bundle)
    return pair


def states(bundles):
    """Return a settled state, and the one after it, with an update on probation."""
    old, new = (bundle.assignment for bundle in bundles)
    record = ModelRecord(
        "digits",
        active=old.ref,
        is_confirmed=True,
        target=old.ref,
        outcome=Outcome.CONFIRMED,
        generation=1,
    )
    trial = ModelRecord("digits", active=new.ref, fallback=old.ref)
    return (
        DeviceState(generation=1, desired=(old,), models=(record,)),
        DeviceState(generation=2, desired=(new,), models=(trial,), update=OnProbation(new)),
    )


def make_loop(root, store):
    content = ContentStore(root)
    runtimes = Runtimes(Host(), content, is_replacing=False)
    inbox = Inbox()
    effects = Effects(
        device="x", content=content, fetcher=None, runtimes=runtimes, uplink=Silence()
    )
    loop = Loop(
        device="x",
        inbox=inbox,
        store=store,
        effects=effects,
        runtimes=runtimes,
        fetcher=None,
        uplink=Silence(),
        trust=None,
        telemetry=Silence(),
        notifier=None,
        is_link_alive=None,
    )
    return loop, inbox


def test_a_state_whose_second_copy_could_not_be_written_is_started_from(tmp_path, bundles):
    settled, _ = states(bundles)
    store = SqliteStateStore(tmp_path / "state.db")
    store.save(settled)
    (tmp_path / ".tmp-state.settled").mkdir()  # nothing can be written in its place
    newer = replace(settled, generation=2)
    with pytest.raises(StorageError):
        store.save(newer)
    store.close()
    store, lost = _open_state(tmp_path / "state.db")
    assert (store.load(), lost) == (newer, None)


def test_a_newer_state_that_shows_late_is_started_from_and_has_lost_nothing(tmp_path, bundles):
    settled, newer = states(bundles)
    path = tmp_path / "state.db"
    store = SqliteStateStore(path)
    store.save(settled)
    store.save(newer)
    store.close()
    (journal := tmp_path / "state.db-wal").mkdir()  # the database can be read by no means
    (journal / "x").touch()

    store, _ = _open_state(path)
    loop, inbox = make_loop(tmp_path, store)
    loop._state = store.load()
    loop._is_on_disk = False
    loop._apply(ev.Started())
    assert loop._state.served_set() == settled.served_set()
    loop._catch_up()
    assert inbox.get(0) is None

    (journal / "x").unlink()
    journal.rmdir()
    loop._save_again_at_s = 0.0
    loop._catch_up()
    assert isinstance(stop := inbox.get(0), StopRequested)
    assert "newer than" in stop.error
    store.close()
    store, lost = _open_state(path)
    assert (store.load(), lost) == (newer, None)
    ContentStore(tmp_path).load(digest_of(bundles[1].manifest))


def test_a_device_without_bundles_does_not_wait_for_its_disk(tmp_path):
    (tmp_path / "state.db-shm").mkdir()
    with pytest.raises(StorageError) as caught:
        _open_state(tmp_path / "state.db")
    assert caught.value.code == "state_unwritable"
