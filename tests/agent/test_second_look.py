"""What a candidate says of a bundle, against what its files are."""

import pytest

from agent.adapters import content_files
from agent.adapters.content_files import ContentStore
from agent.adapters.state_sqlite import SqliteStateStore
from agent.core import events as ev
from agent.core.serving import SHORT_LIFE_S
from agent.core.states import (
    BundleFacts,
    DeviceState,
    ModelRecord,
    OnProbation,
    SelfTesting,
)
from agent.core.update import step
from agent.effects import Effects
from agent.loop import Inbox, Loop
from agent.ports import CandidateFailed, Promoted, RuntimeDied
from agent.runtimes import Runtimes
from tests.agent.adapters.bundles import make_bundle
from tests.agent.adapters.test_content_files import install
from wire.lifecycle import Code
from wire.manifest import MODEL, digest_of

CODES = [
    Code.MANIFEST_INVALID, Code.MODEL_REFUSED, Code.LOAD_FAILED, Code.SELF_TEST_FAILED,
    Code.RUNTIME_DIED,
]  # fmt: skip


class Host:
    """Starts nothing; remembers which models it was to start."""

    def __init__(self):
        self.started = []

    def start_candidate(self, models, *, auto_promote):
        self.started.append([model.name for model in models])
        return len(self.started)


class Silence:
    """An uplink, and what reports by it, that says nothing."""

    def record(self, topic, make):
        pass

    def alarm(self, code, detail):
        pass

    def report(self, make):
        pass

    def observe(self, item):
        pass


class Device:
    """A bundle on disk and under test, and a loop that hears of it."""

    def __init__(self, root):
        self.content, self.host = ContentStore(root), Host()
        self.bundle = make_bundle(b"m" * 500)
        install(self.content, self.bundle)
        self.target = self.bundle.assignment
        self.facts = BundleFacts(digest_of(self.bundle.files[MODEL]))
        self.runtimes = Runtimes(self.host, self.content, is_replacing=False)
        self.effects = Effects(
            device="x", content=self.content, fetcher=None, runtimes=self.runtimes, uplink=Silence()
        )
        self.loop = Loop(
            device="x",
            inbox=Inbox(),
            store=SqliteStateStore(root / "state.db"),
            effects=self.effects,
            runtimes=self.runtimes,
            fetcher=None,
            uplink=Silence(),
            trust=None,
            telemetry=Silence(),
            notifier=None,
            is_link_alive=None,
        )
        self.loop._state = DeviceState(
            generation=1, desired=(self.target,), update=SelfTesting(self.target, self.facts, 1)
        )
        self.start()

    @property
    def model(self):
        return self.content.content / digest_of(self.bundle.files[MODEL])

    @property
    def state(self):
        return self.loop._state

    def start(self):
        models = ((self.target.name, self.target.ref),)
        return self.runtimes.start_candidate(ev.StartCandidate(models))

    def hear(self, code, model="digits"):
        self.loop._handle(CandidateFailed(len(self.host.started), model, code, "as it said"))
        return self.state.record("digits")


@pytest.fixture
def device(tmp_path):
    return Device(tmp_path)


@pytest.mark.parametrize("model", ["digits", None])
@pytest.mark.parametrize("code", CODES)
def test_a_bundle_whose_bytes_are_as_they_were_is_quarantined(device, code, model):
    record = device.hear(code, model)
    assert (record.outcome, record.code, record.detail) == ("rejected", code, "as it said")
    assert device.state.quarantine_code(device.target.ref.manifest) == code


@pytest.mark.parametrize("model", ["digits", None])
@pytest.mark.parametrize("code", CODES)
def test_a_bundle_that_changed_on_disk_is_not_quarantined(device, code, model):
    device.model.write_bytes(b"n" * 500)
    record = device.hear(code, model)
    assert (record.outcome, record.code) == ("failed", Code.CONTENT_CORRUPT)
    assert not device.state.quarantined
    assert not device.content.is_whole(device.target.ref.manifest), "it is fetched again"


def test_a_bundle_that_cannot_be_read_is_not_quarantined_and_stays(device):
    device.model.rename(aside := device.content.content.with_name("aside"))
    device.model.mkdir()  # to read it is an error, and it is there
    record = device.hear(Code.LOAD_FAILED)
    assert (record.outcome, record.code) == ("failed", Code.STORAGE_ERROR)
    assert not device.state.quarantined
    refused = device.start()
    assert refused.code == Code.STORAGE_ERROR, "what was known of its bytes is known no more"
    device.model.rmdir()
    aside.rename(device.model)
    assert device.start() is None


def test_a_disk_that_failed_once_is_not_held_against_the_bundle(device):
    record = device.hear(Code.STORAGE_ERROR)
    assert (record.outcome, record.code) == ("failed", Code.STORAGE_ERROR)
    assert not device.state.quarantined


def test_golden_rows_that_fail_on_damaged_files_end_the_trial_and_quarantine_nothing(device):
    record = ModelRecord("digits", active=device.target.ref)
    trial = OnProbation(device.target, device.facts, is_golden_due=True)
    state = DeviceState(generation=1, models=(record,), update=trial, is_serving=True)
    failed = ev.GoldenRowsChecked(is_passed=False, detail="off by up to 3")
    assert device.effects.second_look(failed, state) is failed
    device.model.write_bytes(b"n" * 500)
    state, _ = step(state, device.effects.second_look(failed, state))
    assert (state.update.code, state.quarantined) == (Code.CONTENT_CORRUPT, ())


def test_what_served_and_ended_by_itself_is_hashed_again(device):
    assert list(device.runtimes.translate(Promoted(1), device.state)) == [ev.RuntimeAccepts()]
    device.model.write_bytes(b"n" * 500)
    assert device.start() is None, "its bytes are known to be sound"
    died = RuntimeDied(1, Code.RUNTIME_DIED, "killed")
    (ended,) = device.runtimes.translate(died, device.state)
    assert 0 <= ended.served_s < SHORT_LIFE_S
    assert device.start().code == Code.CONTENT_CORRUPT


def test_who_asked_is_told_of_each_release_that_is_loaded(device):
    told = []
    runtimes = Runtimes(
        device.host, device.content, is_replacing=False, loaded=lambda *said: told.append(said)
    )
    start = ev.StartCandidate(((device.target.name, device.target.ref),))
    assert runtimes.start_candidate(start) is None
    ((model, inputs),) = told
    assert (model.name, model.manifest) == (device.target.name, device.target.ref.manifest)
    assert [spec.name for spec in inputs] == ["X"]


def test_progress_is_told_while_a_bundle_is_read(device, monkeypatch):
    monkeypatch.setattr(content_files, "BLOCK_BYTES", 100)
    beats = []
    runtimes = Runtimes(
        device.host, device.content, is_replacing=False, beat=lambda: beats.append(1)
    )
    start = ev.StartCandidate(((device.target.name, device.target.ref),))
    assert runtimes.start_candidate(start) is None
    assert len(beats) >= 5


def test_a_candidate_that_was_replaced_is_not_taken_for_the_one_that_accepts(device):
    assert device.start() is None
    assert list(device.runtimes.translate(Promoted(1), device.state)) == []
    assert list(device.runtimes.translate(Promoted(2), device.state)) == [ev.RuntimeAccepts()]
