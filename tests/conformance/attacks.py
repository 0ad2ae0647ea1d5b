"""The table of attacks: what is published, by which code a device refuses it, and what it trusts then."""

import json

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import MetaFile

from tests.conformance.device import MODEL
from tests.conformance.repository import DAY
from wire.trust import model_role

ROLE = model_role(MODEL)
FIRST = {"root": 1, "timestamp": 2, "snapshot": 2, "targets": 2, ROLE: 2}
"""Versions that every device trusts before it is attacked."""

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
