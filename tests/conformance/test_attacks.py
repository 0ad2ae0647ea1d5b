"""What a thief of keys, of a mirror or of a broker may publish, and by which code a device refuses it.

Areas of tuf-conformance 2.4: expiry, thresholds, rotation, rollback, recovery from fast-forward, hashes
and lengths, delegations, odd names, malformed documents. Every attack comes after one good refresh.
"""

import itertools
from urllib.parse import quote

import pytest

from tests.conformance.attacks import ATTACKS, FIRST, ROLE, signed_by_a_stranger
from tests.conformance.device import MODEL, Device
from tests.conformance.repository import DAY, TOP_LEVEL, Repository

HASHED = (
    "a snapshot by strangers",
    "an old snapshot by the name of the new one",
    "a new snapshot that lists older targets",
    "a new snapshot that forgets a role",
    "old targets by the name of the new ones",
    "expired targets",
    "new keys for every online role",
)
"""Attacks that are made once more where timestamp and snapshot hold lengths and hashes too."""


@pytest.fixture
def has_hashes():
    return False


@pytest.fixture
def repository(has_hashes):
    repository = Repository(has_hashes=has_hashes)
    repository.add_model(MODEL)
    repository.publish(ROLE)
    repository.release(MODEL, "1.0.0", 1)
    repository.publish_all(ROLE, "targets")
    return repository


@pytest.fixture
def device(repository, tmp_path):
    device = Device(tmp_path, repository.bootstrap)
    assert device.refresh(repository.fetch) is None
    assert device.versions() == FIRST
    return device


@pytest.mark.parametrize(
    ("name", "has_hashes"), [*((n, False) for n in ATTACKS), *((n, True) for n in HASHED)]
)
def test_an_attack_meets_its_code_and_changes_nothing_else(name, repository, device):
    act, code, versions = ATTACKS[name]
    before = device.view
    act(repository)
    assert device.refresh(repository.fetch) == code, device.said
    assert device.versions() == versions
    if code is not None:
        assert device.view is before
        assert code == device.said[0]
        assert len(device.said[1]) > 10  # words for a person


def test_what_was_trusted_before_an_attack_is_trusted_after_it(repository, device):
    signed_by_a_stranger(repository, "timestamp")
    repository.publish("timestamp")
    assert device.refresh(repository.fetch) == "trust_signature"
    assert device.load() == device.view


@pytest.mark.parametrize("role", TOP_LEVEL)
def test_metadata_that_expires_is_known_on_as_expired(repository, device, role):
    """A device that was away for a year knows what it knew, and that it is old."""
    assert device.refresh(repository.fetch, after_s=365 * 86_400) == "trust_expired"
    kept = device.load()
    assert kept.roles[role].version == FIRST[role]
    assert kept.expired(0) is None
    assert kept.expired(int((repository.now + 60 * DAY).timestamp() * 1000)) == "timestamp"


@pytest.mark.parametrize("name", ["?", "#", "/role", "../role", "a b", "%2e%2e", "."])
def test_a_role_of_any_name_stays_in_its_directory(repository, device, name, tmp_path):
    repository.delegate(name, ["odd/*"], is_terminating=False)
    repository.publish_all(name, "targets")
    outside = {p for p in tmp_path.rglob("*") if device.directory not in p.parents}
    marks, store = device.open()
    try:
        now_unix_ms = int(repository.now.timestamp() * 1000)
        run = store.run(repository.fetch, ["odd/file"], now_unix_ms=now_unix_ms)
    finally:
        marks.close()
    assert run.found == {"odd/file": None}
    assert device.directory.joinpath(f"{quote(name, '')}.json").is_file()
    assert {p for p in tmp_path.rglob("*") if device.directory not in p.parents} == outside


def test_no_mixture_of_two_valid_states_is_trusted(repository, device, tmp_path):
    """Every choice between old and new for each document, all of them signed and served as asked."""
    old = dict(repository.files)
    repository.release(MODEL, "2.0.0", 2)
    repository.publish_all(ROLE, "targets")
    new = dict(repository.files)
    names = {
        "timestamp.json": ("timestamp.json", "timestamp.json"),
        "snapshot": ("2.snapshot.json", "3.snapshot.json"),
        "targets": ("2.targets.json", "3.targets.json"),
        ROLE: (f"2.{ROLE}.json", f"3.{ROLE}.json"),
    }
    trusted = []
    for choice in itertools.product((0, 1), repeat=len(names)):
        files = {"1.root.json": old["1.root.json"]}
        for pick, (first, second) in zip(choice, names.values(), strict=True):
            data = (old[first], new[second])[pick]
            files |= {first: data, second: data}
        fresh = Device(tmp_path / str(choice), repository.bootstrap)
        fresh.state.parent.mkdir()
        code = fresh.refresh(Repository.fetch.__get__(Served(files)))
        if code is None and fresh.view.faults == {}:
            trusted.append(choice)
    assert trusted == [(0, 0, 0, 0), (1, 1, 1, 1)]


class Served:
    """Files that no repository stands behind."""

    def __init__(self, files):
        self.files = files
