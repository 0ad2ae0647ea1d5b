"""The loop on a disk that fails, and at its end: what it keeps for later, and which tries it gives back."""

import math

import pytest

from agent.core import events as ev
from agent.core.states import DeviceState, Fetching, ModelRecord, OnProbation
from agent.loop import StopRequested
from tests.agent.test_second_look import Device
from wire.errors import StorageError
from wire.lifecycle import Code, Outcome


class Fetcher:
    """Fetches nothing."""

    def fetch(self, assignment, wait_s):
        pass

    def cancel(self):
        pass


@pytest.fixture
def device(tmp_path):
    device = Device(tmp_path)
    device.effects._fetcher = Fetcher()
    return device


class Still:
    """The other parts of an agent that ends: there is nothing for them to do."""

    due_s = math.inf

    def start(self, models):
        pass

    def on_trust(self):
        pass

    def stopping(self):
        pass

    def stop(self):
        pass

    def leave(self):
        pass


def full(state):
    raise StorageError("no space left", code="state_unwritable", hint="make room")


def test_what_comes_once_while_the_disk_fails_is_not_lost_among_what_repeats(device, monkeypatch):
    loop, target = device.loop, device.target
    loop._state = DeviceState(1, (target,), update=Fetching(target))
    with monkeypatch.context() as broken:
        broken.setattr(loop._store, "save", full)
        for generation in range(2, 102):
            loop._apply(ev.DesiredReceived(generation, (target,)))
        manifest = target.ref.manifest
        loop._apply(ev.FetchFailed(manifest, Outcome.FAILED, Code.DISK_FULL, "no room"))
    loop._save_again_at_s = 0.0
    loop._catch_up()
    assert device.state.generation == 101
    assert device.state.record(target.name).code == Code.DISK_FULL


def run_on_probation(device, error, *, start_count):
    """Run a loop that finds a release on probation, until it is stopped."""
    loop, target = device.loop, device.target
    record = ModelRecord(target.name, active=target.ref)
    trial = OnProbation(target, start_count=start_count)
    loop._store.save(DeviceState(1, (target,), (record,), trial))
    loop._trust = loop._fetcher = loop._notifier = Still()
    device.host.stop = device.host.discard_candidate = Still().stop
    loop._uplink.leave = Still().leave
    loop._inbox.put(StopRequested(error))
    assert loop.run() == error
    return loop._store.load().update.start_count


@pytest.mark.parametrize(
    ("error", "count"), [(None, 1), ("the ear for the runtimes has ended unexpectedly", 2)]
)
def test_only_an_orderly_stop_gives_a_try_back(device, error, count):
    assert run_on_probation(device, error, start_count=1) == count


def test_a_start_that_cannot_be_written_serves_and_is_not_counted(device, monkeypatch):
    real = device.loop._store.save
    monkeypatch.setattr(
        device.loop._store,
        "save",
        lambda state: (full if state.update.start_count > 1 else real)(state),
    )
    assert run_on_probation(device, "killed", start_count=1) == 1
    assert device.host.started[-1] == [device.target.name]
