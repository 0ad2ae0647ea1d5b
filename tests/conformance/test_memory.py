"""Marks: what a device remembers when its cached metadata is lost, zeroed or set back; and when it forgets."""

import shutil

import pytest

from tests.conformance.device import MODEL, Device
from tests.conformance.repository import Repository
from wire.trust import model_role

ROLE = model_role(MODEL)
CACHED = (
    "root.json",
    "root_history/1.root.json",
    "timestamp.json",
    "snapshot.json",
    "targets.json",
    f"{ROLE}.json",
)


@pytest.fixture
def repository():
    repository = Repository()
    repository.add_model(MODEL)
    repository.release(MODEL, "1.0.0", 1)
    repository.publish_all(ROLE, "targets")
    return repository


@pytest.fixture
def device(repository, tmp_path):
    device = Device(tmp_path, repository.bootstrap)
    assert device.refresh(repository.fetch) is None
    return device


def old_and_new(repository, *roles):
    """Publish anew; return what a mirror had before that."""
    old = dict(repository.files)
    repository.publish_all(*roles)
    return old


def serving(files):
    def fetch(name):
        if name not in files:
            raise LookupError(name)
        yield files[name]

    return fetch


@pytest.mark.parametrize("roles", [(), (ROLE,), ("targets", ROLE)])
def test_a_lost_cache_opens_no_way_back(repository, device, roles):
    old = old_and_new(repository, *roles)
    assert device.refresh(repository.fetch) is None
    device.lose()
    assert device.refresh(serving(old)) == "trust_rollback"
    assert "was trusted once" in device.said[1]
    assert device.refresh(repository.fetch) is None  # and what is new still is


@pytest.mark.parametrize("name", CACHED)
@pytest.mark.parametrize("fate", ["missing", "empty", "zeroed", "torn", "flipped"])
def test_a_damaged_file_costs_nothing_but_a_fetch(repository, device, name, fate):
    path = device.directory / name
    data = path.read_bytes()
    damaged = {
        "empty": b"",
        "zeroed": bytes(len(data)),
        "torn": data[: len(data) // 2],
        "flipped": data.replace(b'"version": ', b'"version": 1', 1),
    }
    path.unlink() if fate == "missing" else path.write_bytes(damaged[fate])
    view = device.view
    assert device.refresh(repository.fetch) is None
    assert device.view == view == device.load()
    assert path.read_bytes() == data


def test_a_cache_that_is_set_back_opens_no_way_back(repository, device, tmp_path):
    shutil.copytree(device.directory, tmp_path / "backup")
    old = old_and_new(repository, ROLE)
    assert device.refresh(repository.fetch) is None
    shutil.rmtree(device.directory)
    shutil.copytree(tmp_path / "backup", device.directory)
    assert device.refresh(serving(old)) == "trust_rollback"
    assert device.refresh(repository.fetch) is None


def test_a_root_that_was_lost_is_not_replaced_by_an_older_one(repository, device):
    old = dict(repository.files)
    repository.publish("root")
    assert device.refresh(repository.fetch) is None
    device.lose()
    assert device.refresh(serving(old)) == "trust_rollback"
    assert device.refresh(repository.fetch) is None


def test_a_lost_database_leaves_the_cache_to_protect(repository, device):
    old = old_and_new(repository, ROLE)
    assert device.refresh(repository.fetch) is None
    for path in device.state.parent.glob("state*"):
        path.unlink()
    assert device.refresh(serving(old)) == "trust_rollback"


def test_a_role_that_is_left_out_is_noticed_after_the_loss_of_the_cache(repository, device):
    device.lose()
    del repository.snapshot.meta[f"{ROLE}.json"]
    repository.publish("snapshot", "timestamp")
    assert device.refresh(repository.fetch) == "trust_rollback"


RECOVERIES = {
    "timestamp": (("timestamp",), ("timestamp",)),
    "snapshot": (("timestamp", "snapshot"), ("snapshot", "timestamp")),
    "targets": (("snapshot",), ("targets", "snapshot", "timestamp")),
    "model": (("snapshot",), (ROLE, "snapshot", "timestamp")),
}
"""What a thief drove up: the keys that a new root replaces, and what is published after that."""


@pytest.mark.parametrize("what", RECOVERIES)
@pytest.mark.parametrize("is_lost", [False, True], ids=["cached", "lost"])
def test_new_keys_undo_versions_that_a_thief_drove_up(repository, device, what, is_lost):
    keys, roles = RECOVERIES[what]
    stolen = {"model": ROLE}.get(what, what)
    good = {role: repository.documents[role].version for role in ("timestamp", "snapshot", stolen)}
    repository.publish(stolen, version=99_999)
    repository.publish(*[role for role in ("snapshot", "timestamp") if role != stolen])
    assert device.refresh(repository.fetch) is None
    assert device.versions()[stolen] == 99_999
    if is_lost:
        device.lose("timestamp.json", "snapshot.json", "targets.json", f"{ROLE}.json")
    for role in keys:
        repository.rotate(role)
    repository.publish("root")
    repository.documents[stolen].version = good[stolen]
    for role in roles:
        repository.publish(role)
    assert device.refresh(repository.fetch) is None, device.said
    assert device.versions()[stolen] == good[stolen] + 1


@pytest.mark.parametrize("rotated", ["snapshot", "targets"])
def test_keys_of_others_undo_nothing(repository, device, rotated):
    """The timestamp's mark falls with the timestamp's keys alone."""
    repository.rotate(rotated)
    repository.publish("root")
    assert device.refresh(repository.fetch) in (None, "trust_signature")
    device.lose("timestamp.json")
    repository.publish_all("targets")
    repository.publish("timestamp", version=1)
    assert device.refresh(repository.fetch) == "trust_rollback"


def test_a_key_that_only_pretends_to_sign_keeps_no_mark(repository, device):
    """A signature that is not good must not tie a mark to a key that stays."""
    second = repository.add_key("timestamp")
    repository.publish("root")
    repository.signers["timestamp"].remove(second)
    repository.documents["timestamp"].version = 99_998
    data = repository.sign("timestamp").replace(b'"signatures": [', b'"signatures": [{"keyid": "%s", "sig": "%s"}, ' % (second.public_key.keyid.encode(), b"0" * 128))  # fmt: skip
    repository.files["timestamp.json"] = data
    assert device.refresh(repository.fetch) is None
    (stolen,) = repository.signers["timestamp"]
    repository.root.revoke_key(stolen.public_key.keyid, "timestamp")
    repository.add_key("timestamp")
    repository.publish("root")
    repository.publish("timestamp", version=5)
    assert device.refresh(repository.fetch) is None, device.said


def floor_of(device):
    return device.view.models[MODEL].floor


def raise_floor(repository, floor):
    repository.documents[ROLE].unrecognized_fields["floor"] = floor
    repository.publish_all(ROLE)


def test_a_floor_never_falls(repository, device):
    raise_floor(repository, 7)
    assert device.refresh(repository.fetch) is None
    raise_floor(repository, 2)
    assert device.refresh(repository.fetch) is None
    assert floor_of(device) == 7
    device.lose()
    assert device.refresh(repository.fetch) is None
    assert floor_of(device) == 7


def test_new_keys_of_a_model_undo_its_floor(repository, device):
    raise_floor(repository, 2**53 - 1)
    assert device.refresh(repository.fetch) is None
    repository.rotate(ROLE)
    repository.publish("targets")
    raise_floor(repository, 2)
    assert device.refresh(repository.fetch) is None
    assert floor_of(device) == 2
