"""Self-healing: whatever happened to a device's files while it was off, it serves, says so, and recovers."""

import json
import os
import shutil

import numpy as np
import pytest

from agent.adapters.state_sqlite import SqliteStateStore
from tests.storage.device import live
from tests.storage.ledger import Ledger
from tests.storage.scenario import AT_THE_END, STAGES, Scenario
from tests.storage.witness import Memory, Witness

SEEDS = range(*map(int, os.environ.get("DAMAGE_SEEDS", "1-40").split("-")))
LAST = {"generation": len(STAGES), "stage": len(STAGES) - 1}
SCENARIO = Scenario.drawn(5)
assert not SCENARIO.is_replacing


class Photographer(Witness):
    """Copies the state directory when the scenario has come to its end, and all files are open."""

    def __init__(self, descriptor, root, target):
        super().__init__(descriptor)
        self._root, self._target = root, target

    def tell(self, what, *details):
        super().tell(what, *details)
        if what == "settled":
            shutil.copytree(self._root, self._target)


@pytest.fixture(scope="module")
def lived(tmp_path_factory):
    """A state directory as a power cut would leave it, and what had been told of it."""
    folder = tmp_path_factory.mktemp("lived")
    memory, ledger = Memory(), Ledger(SCENARIO)
    photographer = Photographer(memory.descriptor, folder / "root", folder / "copy")
    (folder / "root").mkdir()
    assert live(folder / "root", SCENARIO, photographer) == 0
    lines = memory.lines()
    at = [what for what, *_ in lines].index("settled")
    ledger.read(lines[:at])
    memory.close()
    return folder / "copy", ledger


@pytest.fixture
def root(lived, tmp_path):
    shutil.copytree(lived[0], tmp_path / "root")
    return tmp_path / "root"


class Relived:
    """A life on damaged files: what it found, served first and came to."""

    def __init__(self, root):
        memory = Memory()
        code = live(root, SCENARIO, Witness(memory.descriptor), **LAST)
        told = memory.lines()
        memory.close()
        assert code == 0, told
        assert not [line for line in told if line[0] in ("wrong", "refused")]
        assert ["settled", AT_THE_END] in told, told
        _, state, self.losses, records, _ = next(line for line in told if line[0] == "found")
        self.state = json.loads(state)
        self.records = {(boot, seq): sha256 for boot, seq, sha256 in records}
        self.first_served = next(line[1] for line in told if line[0] == "serving")
        self.sealed_count = sum(line[0] == "sealed" for line in told)


def flip(data, at, chance):
    return data[:at] + bytes([data[at] ^ (1 << int(chance.integers(8)))]) + data[at + 1 :]


def truncate(data, at, _chance):
    return data[:at]


def zero_block(data, at, _chance):
    start = at - at % 512
    return data[:start] + bytes(len(data[start : start + 512])) + data[start + 512 :]


def scramble(data, at, chance):
    return data[:at] + chance.bytes(len(data) - at)


def is_shared(lived_root, path):
    """Whether several bundles have this file: with it, the fallback is damaged too."""
    manifests = [json.loads(p.read_bytes()) for p in lived_root.glob("content/*") if is_manifest(p)]
    return sum(path.name in {e["sha256"] for e in m["files"]} for m in manifests) > 1


def is_manifest(path):
    return (path.parents[1] / "bundles" / f"{path.name}.json").exists()


@pytest.mark.parametrize("seed", SEEDS, ids="seed-{}".format)
def test_any_damage_to_any_file(root, lived, seed):
    chance = np.random.default_rng(seed)
    files = sorted(p for p in root.rglob("*") if p.is_file() and not p.name.endswith("-shm"))
    kinds = sorted({path.parent.name + path.suffix for path in files})
    kind = kinds[seed % len(kinds)]
    path = chance.choice([p for p in files if p.parent.name + p.suffix == kind])
    harm = chance.choice([flip, truncate, zero_block, scramble])
    data = path.read_bytes()
    at = int(chance.integers(len(data)))
    path.write_bytes(harm(data, at, chance))
    is_in_fallback_too = is_shared(lived[0], path)
    print(f"seed {seed}: {harm.__name__} {path.name} at {at} of {len(data)}")  # noqa: T201

    relived = Relived(root)

    assert relived.first_served or is_in_fallback_too, "there was a good model: nothing served"
    _, ledger = lived
    is_journal = path.name.endswith("-wal")  # its last transaction may end one write earlier
    is_old = json.dumps(relived.state) != json.dumps(json.loads(ledger.states[-1]))
    assert not is_old or relived.losses or is_journal, "an old state, and no word about it"
    is_short = not ledger.records.items() <= relived.records.items()
    assert not is_short or relived.losses or is_journal, "records are gone, and no word about it"


def active_of(root):
    store = SqliteStateStore(root / "state.db")
    record = store.load().record("digits")
    store.close()
    return record


def test_a_lost_database_costs_no_model_and_no_fetch(root):
    before = active_of(root)
    for path in root.glob("state.db*"):
        path.write_bytes(os.urandom(9000))
    relived = Relived(root)
    assert relived.first_served == AT_THE_END
    assert relived.state["models"][0]["active"]["manifest"] == before.active.manifest
    assert relived.state["generation"] == LAST["generation"]
    assert relived.sealed_count == 0
    (loss,) = relived.losses
    assert "state.db cannot be read" in loss
    assert "moved to state.db.unreadable-1, started as of generation 6" in loss
    assert (root / "state.db.unreadable-1").stat().st_size == 9000


@pytest.mark.parametrize("kept_bytes", [0, 1, 100, 4096])
def test_a_database_that_was_cut_short_is_not_taken_for_a_new_one(root, kept_bytes):
    (root / "state.db-wal").unlink()
    (root / "state.db").write_bytes((root / "state.db").read_bytes()[:kept_bytes])
    relived = Relived(root)
    assert relived.first_served == AT_THE_END
    assert relived.losses


def test_with_nothing_left_the_device_begins_again_and_says_so(root):
    for path in root.glob("state.*"):
        path.write_bytes(b"")
    (root / "state.db").write_bytes(b"nothing")
    relived = Relived(root)
    assert relived.state["models"] == []
    assert "started empty" in relived.losses[0]


@pytest.mark.parametrize("what", ["model", "manifest"])
def test_a_damaged_model_makes_way_for_the_fallback_and_is_fetched_again(root, what):
    record = active_of(root)
    manifest = root / "content" / record.active.manifest
    entries = {e["path"]: e["sha256"] for e in json.loads(manifest.read_bytes())["files"]}
    path = manifest if what == "manifest" else root / "content" / entries["model.onnx"]
    path.write_bytes(path.read_bytes()[:-1])
    relived = Relived(root)
    assert relived.first_served == {"digits": record.fallback.version}
    assert relived.sealed_count == 1
    assert active_of(root).active.manifest == record.active.manifest


def test_of_a_damaged_outbox_the_sound_records_are_sent(root, lived):
    """One record of many is hit, where SQLite itself sees nothing."""
    database = root / "outbox.db"
    store = Relived(root)  # puts the journal into the file
    assert store.records
    data = database.read_bytes()
    at = data.rindex(b'"code":')
    database.write_bytes(data[:at] + b'"cod3":' + data[at + 7 :])
    count = data.count(b'"code":')
    relived = Relived(root)
    assert len(relived.losses) == 1
    saved = int(relived.losses[0].rpartition(", ")[2].split()[0])
    assert 0 < saved == len(relived.records) < count + 1
