"""A kill at every system call of a refresh that brings a new root, new targets and a new model."""

import itertools
import shutil
import signal
import tempfile
from pathlib import Path

import pytest

from agent.adapters.durable import TEMPORARY
from tests.conformance.device import MODEL, Device
from tests.conformance.repository import Repository
from tests.storage import tracer
from tests.storage.kills import SHM, killing, let_pass
from wire.trust import model_role

pytestmark = [pytest.mark.usefixtures("can_trace"), pytest.mark.system, pytest.mark.slow]

ROLE = model_role(MODEL)
NEWS = {"root": 2, "timestamp": 3, "snapshot": 3, "targets": 3, ROLE: 2}


@pytest.fixture(scope="module")
def repository():
    repository = Repository()
    repository.add_model(MODEL)
    repository.release(MODEL, "1.0.0", 1)
    repository.publish_all(ROLE, "targets")
    return repository


@pytest.fixture(scope="module")
def news(repository):
    """Everything that is served after a rotation of the online keys and a release."""
    before = dict(repository.files)
    for role in ("timestamp", "snapshot"):
        repository.rotate(role)
    repository.publish("root")
    repository.release(MODEL, "2.0.0", 2)
    repository.publish_all(ROLE, "targets")
    after = dict(repository.files)
    repository.files.clear()
    repository.files.update(before)
    return after


@pytest.fixture
def place():
    root = Path(tempfile.mkdtemp(dir=SHM if SHM.is_dir() else None, prefix="modelfleet-"))
    yield root
    shutil.rmtree(root)


def serve(files):
    def fetch(name):
        if name not in files:
            raise LookupError(name)
        yield files[name]

    return fetch


def trusted(device):
    """Return the bytes of every file that the next start would read."""
    paths = [*device.directory.glob("*.json"), *device.directory.glob("root_history/*.json")]
    return {p: p.read_bytes() for p in paths if not p.name.startswith(TEMPORARY)}


def kill_at(point, repository, news, root):
    """Kill a refresh at its call of this number, and go on; return that call, or None beyond the end."""
    device = Device(root, repository.bootstrap)
    assert device.refresh(repository.fetch) is None
    ended = tracer.run(
        lambda: 0 if device.refresh(serve(news)) is None else 1,
        tracer.WRITING,
        root,
        killing(point),
    )
    assert ended.code in (0, -signal.SIGKILL)
    published = {*news.values(), *repository.files.values()}
    torn = [path for path, data in trusted(device).items() if data not in published]
    assert not torn, f"kill at call {point}: {torn}"
    # Nothing can be had: what is there must say so, and not be broken.
    assert device.refresh(serve({})) == "trust_unavailable", f"kill at {point}: {device.said}"
    assert device.refresh(serve(news)) is None, f"kill at call {point}: {device.said}"
    assert device.versions() == NEWS
    assert device.view.models[MODEL].releases.keys() == {"1.0.0", "2.0.0"}
    # The mirror that is a step behind has a timestamp by a key that was revoked.
    assert device.refresh(repository.fetch) == "trust_signature"
    return ended.calls[-1][0] if ended.code else None


def test_a_kill_at_any_call_leaves_the_old_or_the_new(repository, news, place):
    hit = []
    for point in itertools.count(1):
        root = place / str(point)
        root.mkdir()
        if (call := kill_at(point, repository, news, root)) is None:
            break
        hit.append(call)
        shutil.rmtree(root)
    print(f"{len(hit)} kill points, 0 torn, 0 bricked")  # noqa: T201
    assert {"fsync", "rename", "write", "openat to write", "pwrite64"} <= set(hit)
    assert len(hit) >= 60


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_power_cut_may_leave_any_of_the_files_old(repository, news, place, count):
    """They are put in place together: which of the renames a cut leaves is the file system's choice."""
    device = Device(place, repository.bootstrap)
    assert device.refresh(repository.fetch) is None
    before = trusted(device)
    assert device.refresh(serve(news)) is None
    after = trusted(device)
    changed = [path for path in before if path.parent == device.directory and path.stem != "root"]
    assert len(changed) == len(NEWS) - 1
    for old in itertools.combinations(changed, count):
        for path in old:
            path.write_bytes(before[path])
        assert device.refresh(serve({})) in {"trust_unavailable", "trust_rollback"}
        assert device.refresh(serve(news)) is None, device.said
        assert trusted(device) == after


def test_the_points_are_those_of_an_undisturbed_refresh(repository, news, place):
    device = Device(place, repository.bootstrap)
    assert device.refresh(repository.fetch) is None
    ended = tracer.run(
        lambda: 0 if device.refresh(serve(news)) is None else 1, tracer.WRITING, place, let_pass
    )
    assert ended.code == 0
    synced = [path for call, path, _ in ended.calls if call == "fsync" and "scratch" not in path]
    # Root history, root, timestamp, snapshot, targets, model: each file.
    assert len([path for path in synced if ".tmp-" in path]) == len(NEWS) + 1
