"""What a thief of keys, of a mirror or of a broker may publish, and by which code a device refuses it.

Areas of tuf-conformance 2.4: expiry, thresholds, rotation, rollback, recovery from fast-forward, hashes
and lengths, delegations, odd names, malformed documents. Every attack comes after one good refresh.
"""

import json
from urllib.parse import quote

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import MetaFile

from tests.conformance.device import MODEL, Device
from tests.conformance.repository import DAY, TOP_LEVEL, Repository
from wire.trust import model_role

ROLE = model_role(MODEL)
FIRST = {"root": 1, "timestamp": 2, "snapshot": 2, "targets": 2, ROLE: 2}
"""Versions that every device trusts before it is attacked."""


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


ATTACKS = {}


def attack(code, **versions):
    """Register an attack: the code it meets, and the versions that are trusted after it."""

    def register(function):
        ATTACKS[function.__name__.replace("_", " ")] = (function, code, {**FIRST, **versions})
        return function

    return register


# -- signatures


def signed_by_a_stranger(repository, *roles):
    for role in roles:
        repository.signers[role] = [CryptoSigner.generate_ed25519()]


@attack("trust_signature")
def a_root_by_strangers(repository):
    signed_by_a_stranger(repository, "root")
    repository.publish("root")


@attack("trust_signature")
def a_root_by_new_keys_that_the_old_ones_do_not_know(repository):
    repository.rotate("root")
    repository.publish("root")


@attack("trust_signature")
def a_root_by_old_keys_alone(repository):
    (old,) = repository.drop_keys("root")
    repository.add_key("root")
    repository.signers["root"] = [old]
    repository.publish("root")


@attack("trust_signature")
def a_root_below_its_threshold(repository):
    repository.add_key("root")
    repository.root.roles["root"].threshold = 2
    repository.signers["root"].pop()
    repository.publish("root")


@attack("trust_signature")
def a_timestamp_by_strangers(repository):
    signed_by_a_stranger(repository, "timestamp")
    repository.publish("timestamp")


@attack("trust_signature", timestamp=3)
def a_snapshot_by_strangers(repository):
    signed_by_a_stranger(repository, "snapshot")
    repository.publish("snapshot", "timestamp")


@attack("trust_signature", timestamp=3, snapshot=3)
def targets_by_strangers(repository):
    signed_by_a_stranger(repository, "targets")
    repository.publish_all("targets")


@attack("trust_signature", timestamp=3)
def a_snapshot_by_the_timestamp_s_key(repository):
    repository.signers["snapshot"] = repository.signers["timestamp"]
    repository.publish("snapshot", "timestamp")


@attack("trust_malformed", root=2)
def one_key_twice_for_a_threshold_of_two(repository):
    repository.root.roles["timestamp"].threshold = 2
    repository.publish("root")
    document = json.loads(repository.sign("timestamp"))
    document["signatures"] *= 2
    repository.files["timestamp.json"] = json.dumps(document).encode()


@attack("trust_signature", root=2)
def one_signature_for_a_threshold_of_two(repository):
    repository.add_key("timestamp")
    repository.root.roles["timestamp"].threshold = 2
    repository.publish("root")
    repository.signers["timestamp"].pop()
    repository.publish("timestamp")


@attack("trust_signature")
def one_flipped_digit_of_a_signed_text(repository):
    repository.publish("timestamp")
    data = repository.files["timestamp.json"]
    repository.files["timestamp.json"] = data.replace(b'"version": 3', b'"version": 4')


@attack("trust_signature", root=2)
def a_timestamp_whose_key_was_revoked(repository):
    old = repository.drop_keys("timestamp")
    repository.add_key("timestamp")
    repository.publish("root")
    repository.signers["timestamp"] = old
    repository.publish("timestamp")


# -- versions


@attack("trust_rollback")
def an_older_timestamp(repository):
    repository.publish("timestamp", version=1)


@attack("trust_rollback")
def a_new_timestamp_that_names_an_older_snapshot(repository):
    repository.timestamp.snapshot_meta.version = 1
    repository.publish("timestamp")


@attack("trust_rollback", timestamp=3)
def a_new_snapshot_that_lists_older_targets(repository):
    repository.snapshot.meta["targets.json"] = MetaFile(1)
    repository.publish("snapshot", "timestamp")


@attack("trust_rollback", timestamp=3)
def a_new_snapshot_that_lists_an_older_model(repository):
    repository.snapshot.meta[f"{ROLE}.json"] = MetaFile(1)
    repository.publish("snapshot", "timestamp")


@attack("trust_mismatch", timestamp=3)
def a_new_snapshot_that_forgets_a_role(repository):
    del repository.snapshot.meta[f"{ROLE}.json"]
    repository.publish("snapshot", "timestamp")


@attack("trust_mismatch")
def a_root_that_skips_a_version(repository):
    repository.publish("root", version=3)
    repository.files["2.root.json"] = repository.files.pop("3.root.json")


@attack("trust_rollback")
def an_old_root_as_a_new_one(repository):
    repository.files["2.root.json"] = repository.files["1.root.json"]


@attack(None, timestamp=2)
def another_timestamp_of_the_same_version(repository):
    repository.timestamp.snapshot_meta.version = 9
    repository.publish("timestamp", version=2)


# -- mix and match


@attack("trust_mismatch", timestamp=3)
def an_old_snapshot_by_the_name_of_the_new_one(repository):
    repository.publish("snapshot", "timestamp")
    repository.files["3.snapshot.json"] = repository.files["2.snapshot.json"]


@attack("trust_mismatch", timestamp=3, snapshot=3)
def old_targets_by_the_name_of_the_new_ones(repository):
    repository.publish_all("targets")
    repository.files["3.targets.json"] = repository.files["2.targets.json"]


@attack("trust_mismatch", timestamp=3, snapshot=3)
def a_newer_document_than_the_snapshot_lists(repository):
    repository.publish_all("targets")
    repository.publish("targets")
    repository.files["3.targets.json"] = repository.files["4.targets.json"]


@attack("trust_mismatch")
def one_role_s_document_as_another_s(repository):
    repository.signers["timestamp"] += repository.signers["snapshot"]
    repository.files["timestamp.json"] = repository.files["2.snapshot.json"]


# -- expiry


def expired(repository, role):
    repository.documents[role].expires = repository.now - DAY


@attack("trust_expired", root=2)
def an_expired_root(repository):
    expired(repository, "root")
    repository.publish("root")
    repository.publish("timestamp")


@attack(None, root=3, timestamp=3)
def an_expired_root_on_the_way_to_a_fresh_one(repository):
    expired(repository, "root")
    repository.publish("root")
    repository.root.expires = repository.now + DAY
    repository.publish("root", "timestamp")


@attack("trust_expired")
def an_expired_timestamp(repository):
    expired(repository, "timestamp")
    repository.publish("timestamp")


@attack("trust_expired", timestamp=3)
def an_expired_snapshot(repository):
    expired(repository, "snapshot")
    repository.publish("snapshot", "timestamp")


@attack("trust_expired", timestamp=3, snapshot=3)
def expired_targets(repository):
    expired(repository, "targets")
    repository.publish_all("targets")


# -- length and form


@attack("trust_too_large")
def an_endless_timestamp(repository):
    repository.files["timestamp.json"] = b" " * 20_000


@attack("trust_too_large")
def a_root_over_its_cap(repository):
    repository.files["2.root.json"] = b" " * 70_000


@attack("trust_malformed")
def no_json(repository):
    repository.files["timestamp.json"] = b"{"


@attack("trust_malformed")
def deep_json(repository):
    repository.files["timestamp.json"] = b"[" * 15_000


@attack("trust_malformed")
def no_text(repository):
    repository.files["timestamp.json"] = b"\xff\xfe" * 100


@attack("trust_malformed")
def an_empty_file(repository):
    repository.files["timestamp.json"] = b""


@attack("trust_malformed")
def a_document_without_a_version(repository):
    document = json.loads(repository.files["timestamp.json"])
    del document["signed"]["version"]
    repository.files["timestamp.json"] = json.dumps(document).encode()


@attack("trust_malformed")
def a_document_of_another_specification(repository):
    document = json.loads(repository.files["timestamp.json"])
    document["signed"]["spec_version"] = "2.0.0"
    repository.files["timestamp.json"] = json.dumps(document).encode()


# -- nothing there


@attack("trust_unavailable")
def no_timestamp(repository):
    del repository.files["timestamp.json"]


@attack("trust_unavailable", timestamp=3)
def no_snapshot(repository):
    repository.publish("snapshot", "timestamp")
    del repository.files["3.snapshot.json"]


@attack("trust_unavailable", timestamp=3, snapshot=3)
def no_targets(repository):
    repository.publish_all("targets")
    del repository.files["3.targets.json"]


# -- what looks odd and is right


@attack(None, root=2, timestamp=3)
def fields_that_nobody_knows(repository):
    repository.root.unrecognized_fields["motto"] = {"a": [1, 2]}
    repository.publish("root", "timestamp")


@attack(None, root=6)
def five_rotations_of_the_root_at_once(repository):
    for _ in range(5):
        old = repository.drop_keys("root")
        repository.add_key("root")
        repository.signers["root"] += old
        repository.publish("root")
        repository.signers["root"] = repository.signers["root"][:1]


@attack(None, root=2, timestamp=3, snapshot=3, targets=3)
def new_keys_for_every_online_role(repository):
    for role in ("timestamp", "snapshot", "targets"):
        repository.rotate(role)
    repository.publish("root")
    repository.publish_all("targets")


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
