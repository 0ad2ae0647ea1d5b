"""What may follow what: every way to hand in something that nobody with the right key has signed."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from securesystemslib.signer import CryptoSigner, SSlibKey
from tuf.api.metadata import Metadata, Root, Targets

from fleet.trust.documents import OFFLINE_DAYS, Document, expiry, freeze
from fleet.trust.draft import Draft
from fleet.trust.releases import SignedRelease, put_release, releases_of, set_floor
from fleet.trust.repository import follow, succeed
from tests.fleet.peers import Fleet
from tests.fleet.trust.device import DeviceSight
from wire.errors import PeerError

NOW = time.time_ns() // 1_000_000


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path, now_unix_ms=NOW)
    fleet.settle()
    fleet.release("1.0.0")
    fleet.release("2.0.0")
    yield fleet
    fleet.controller.stop()
    fleet.store.close()


@pytest.fixture
def device(fleet: Fleet, tmp_path: Path) -> DeviceSight:
    return DeviceSight(fleet.store, (tmp_path / "root.json").read_bytes(), tmp_path / "device")


def hand_in(fleet: Fleet, *documents: Document[Any]) -> None:
    fleet.hand_in(documents, may_skip=False)


def next_of(fleet: Fleet, role: str, change: Callable[[Any], None]) -> Document[Any]:
    """Return the next version of a document with a change, signed by the right keys."""
    base = fleet.session().base
    old = base.newest(role)
    assert old is not None
    metadata = copy.deepcopy(old.metadata)
    metadata.signed.version += 1
    metadata.signed.expires = expiry(NOW, 30)
    change(metadata.signed)
    return signed_by(fleet, metadata, role, set(base.role(role).keyids))


def signed_by(fleet: Fleet, metadata: Metadata[Any], role: str, keyids: set[str]) -> Document[Any]:
    metadata.signatures.clear()
    for signer in fleet.keys.signers(keyids):
        metadata.sign(signer, append=True)
    return freeze(role, metadata)


def foreign(fleet: Fleet, role: str) -> Document[Any]:
    """Return the next version of a document, signed by a key that the fleet does not know."""
    document = next_of(fleet, role, lambda _: None)
    metadata = copy.deepcopy(document.metadata)
    metadata.sign(CryptoSigner.generate_ed25519())
    return freeze(role, metadata)


def crossed(fleet: Fleet) -> Document[Any]:
    """Return a model's next document, signed by the targets key instead of the model's."""
    document = next_of(fleet, "model-digits", lambda _: None)
    keyids = set(fleet.session().base.role("targets").keyids)
    return signed_by(fleet, copy.deepcopy(document.metadata), "model-digits", keyids)


def renumbered(targets: Targets) -> None:
    put_release(targets, SignedRelease("digits", "3.0.0", "a" * 64, 10, 1))


def numbered_low(targets: Targets) -> None:
    del targets.targets["digits/1.0.0/manifest.json"]
    put_release(targets, SignedRelease("digits", "3.0.0", "a" * 64, 10, 1))


def exchanged(targets: Targets) -> None:
    put_release(targets, SignedRelease("digits", "1.0.0", "a" * 64, 10, 1))


def of_another_model(targets: Targets) -> None:
    put_release(targets, SignedRelease("faces", "1.0.0", "a" * 64, 10, 3))


def lowered(targets: Targets) -> None:
    set_floor(targets, 0)


def widened(targets: Targets) -> None:
    assert targets.delegations is not None
    assert targets.delegations.roles is not None
    targets.delegations.roles["model-digits"].paths = ["*/*/manifest.json"]


def without_director(targets: Targets) -> None:
    assert targets.delegations is not None
    assert targets.delegations.roles is not None
    del targets.delegations.roles["director"]


def skipped(signed: Any) -> None:
    signed.version += 1


def stale(signed: Any) -> None:
    signed.expires = expiry(NOW, -1)


def naming_files(targets: Targets) -> None:
    put_release(targets, SignedRelease("digits", "9.0.0", "a" * 64, 10, 9))


def keyless(root: Any) -> None:
    root.roles["snapshot"].keyids.clear()


def robbed(root: Any) -> None:
    """Give the snapshot to a key that the controller does not have."""
    key = CryptoSigner.generate_ed25519().public_key
    root.keys[key.keyid] = key
    root.roles["snapshot"].keyids[:] = [key.keyid]


def swapped(signed: Any, keyid: str) -> None:
    """Put another key behind the id of one that is known."""
    holder = signed if isinstance(signed, Root) else signed.delegations
    raw = CryptoSigner.generate_ed25519().public_key.to_dict()
    holder.keys[keyid] = SSlibKey.from_dict(keyid, raw)


def swapped_root(root: Root) -> None:
    swapped(root, root.roles["root"].keyids[0])


def swapped_timestamp(root: Root) -> None:
    swapped(root, root.roles["timestamp"].keyids[0])


def swapped_model(targets: Targets) -> None:
    swapped(targets, targets.get_delegated_role("model-digits").keyids[0])


def swapped_director(targets: Targets) -> None:
    swapped(targets, targets.get_delegated_role("director").keyids[0])


def swapped_in_store(root: Root) -> None:
    """Name no role's key, yet: whoever is added under this id later is somebody else."""
    swapped(root, CryptoSigner.generate_ed25519().public_key.keyid)


def for_ever(signed: Any) -> None:
    signed.expires = expiry(NOW, OFFLINE_DAYS + 2)


ATTACKS: dict[str, tuple[str, Callable[[Any], None], str]] = {
    "a-number-twice": ("model-digits", renumbered, "trust_malformed"),
    "a-number-too-low": ("model-digits", numbered_low, "trust_mismatch"),
    "other-content": ("model-digits", exchanged, "trust_mismatch"),
    "another-model": ("model-digits", of_another_model, "trust_malformed"),
    "floor-0": ("model-digits", lowered, "trust_malformed"),
    "paths-widened": ("targets", widened, "trust_malformed"),
    "no-director": ("targets", without_director, "trust_malformed"),
    "targets-name-files": ("targets", naming_files, "trust_malformed"),
    "root-without-key": ("root", keyless, "trust_malformed"),
    "root-key-swapped": ("root", swapped_root, "key_id_foreign"),
    "timestamp-key-swapped": ("root", swapped_timestamp, "key_id_foreign"),
    "idle-key-swapped": ("root", swapped_in_store, "key_id_foreign"),
    "model-key-swapped": ("targets", swapped_model, "key_id_foreign"),
    "director-key-swapped": ("targets", swapped_director, "key_id_foreign"),
    "root-robs-controller": ("root", robbed, "trust_mismatch"),
    **{
        f"{role}-{name}": (role, change, code)
        for role in ("root", "targets", "model-digits")
        for name, change, code in (
            ("skips", skipped, "version_conflict"),
            ("expired", stale, "trust_expired"),
            ("for-ever", for_ever, "expiry_too_far"),
        )
    },
}


@pytest.mark.parametrize(("role", "change", "code"), ATTACKS.values(), ids=ATTACKS)
def test_what_must_not_be_signed_is_refused_though_it_is(
    fleet: Fleet, role: str, change: Callable[[Any], None], code: str
) -> None:
    refused(fleet, next_of(fleet, role, change), code)


@pytest.mark.parametrize(("role", "change"), [("root", swapped_root), ("targets", swapped_model)])
def test_nothing_follows_documents_that_took_a_swapped_key_in_before(
    fleet: Fleet, role: str, change: Callable[[Any], None]
) -> None:
    base = fleet.session().base
    poisoned = replace(base, **{role: next_of(fleet, role, change)})
    shown: list[Document[Any]] = [*poisoned.documents()]
    for believe in (
        lambda: succeed(poisoned, [next_of(fleet, "model-digits", lambda _: None)], NOW),
        lambda: follow(poisoned.root, shown),
        lambda: follow(base.root, shown),
        lambda: succeed(None, shown, NOW),
    ):
        with pytest.raises(PeerError) as refusal:
            believe()
        assert refusal.value.code == "key_id_foreign"


@pytest.mark.parametrize("role", ["root", "targets", "model-digits"])
def test_a_foreign_key_signs_nothing(fleet: Fleet, role: str) -> None:
    refused(fleet, foreign(fleet, role), "trust_signature")


@pytest.mark.parametrize("signed_by_old", [False, True], ids=["by-the-new-keys", "by-the-old-keys"])
def test_a_root_that_replaces_its_keys_is_signed_by_the_old_and_the_new(
    fleet: Fleet, *, signed_by_old: bool
) -> None:
    thief = CryptoSigner.generate_ed25519()

    def usurped(root: Any) -> None:
        root.keys[thief.public_key.keyid] = thief.public_key
        root.roles["root"].keyids[:] = [thief.public_key.keyid]

    document = next_of(fleet, "root", usurped)
    if not signed_by_old:
        metadata = copy.deepcopy(document.metadata)
        metadata.sign(thief)
        document = freeze("root", metadata)
    refused(fleet, document, "trust_signature")


def test_a_key_signs_nothing_but_its_role(fleet: Fleet) -> None:
    refused(fleet, crossed(fleet), "trust_signature")


def test_no_byte_of_a_document_can_be_changed(fleet: Fleet) -> None:
    document = next_of(fleet, "model-digits", lambda _: None)
    text = document.body.decode().replace('"number":2', '"number":3')
    assert text != document.body.decode()
    with pytest.raises(PeerError) as refusal:
        fleet.controller.accept_trust({document.file_name: text})
    assert refusal.value.code == "trust_signature"


def test_an_older_version_is_refused_and_the_same_one_is_no_news(fleet: Fleet) -> None:
    before = fleet.session().base
    fleet.release("3.0.0")
    refused(fleet, before.models["digits"], "version_conflict")
    newest = fleet.session().base.models["digits"]
    assert fleet.controller.accept_trust({newest.file_name: newest.body.decode()}).changes == ()


def test_the_floor_never_falls(fleet: Fleet) -> None:
    session = fleet.session()
    draft = session.draft()
    draft.raise_floor("digits", "2.0.0")
    assert session.complete(draft).is_complete
    lower = next_of(fleet, "model-digits", lambda targets: set_floor(targets, 1))
    refused(fleet, lower, "trust_rollback")


@pytest.mark.parametrize(
    ("name", "text", "code"),
    [
        ("../root.json", "{}", "trust_malformed"),
        ("3.timestamp.json", "{}", "trust_malformed"),
        ("3.targets.json", "", "trust_malformed"),
        ("3.targets.json", "[" * 10_000, "trust_malformed"),
        ("3.targets.json", '{"signed": {}, "signed": {}}', "trust_malformed"),
        ("3.targets.json", json.dumps({"signatures": [], "signed": {"_type": "root"}}),
         "trust_malformed"),
        ("3.targets.json", " " * 70_000, "trust_too_large"),
        ("3.targets.json", "\ud800", "trust_malformed"),
    ],
)  # fmt: skip
def test_what_is_no_document_is_refused(fleet: Fleet, name: str, text: str, code: str) -> None:
    with pytest.raises(PeerError) as refusal:
        fleet.controller.accept_trust({name: text})
    assert refusal.value.code == code


def test_the_controller_hands_in_nothing_for_itself(fleet: Fleet) -> None:
    with fleet.store.read() as tx:
        row = tx.trust.newest("snapshot")
    assert row is not None
    with pytest.raises(PeerError, match="the controller's own to sign"):
        fleet.controller.accept_trust({f"{row.version}.snapshot.json": row.body})


def test_two_who_sign_at_once_do_not_overwrite_each_other(fleet: Fleet) -> None:
    first, second = fleet.session(), fleet.session()
    drafts = []
    for session, version in ((first, "3.0.0"), (second, "4.0.0")):
        draft = session.draft()
        draft.add_release("digits", version, version.encode())
        drafts.append(draft)
    assert first.complete(drafts[0]).is_complete
    with pytest.raises(PeerError) as conflict:
        second.complete(drafts[1])
    assert conflict.value.code == "version_conflict"
    assert "again" in conflict.value.hint
    again = fleet.session()
    draft = again.draft()
    assert draft.add_release("digits", "4.0.0", b"4.0.0").number == 4
    assert again.complete(draft).is_complete


def test_a_device_reads_what_was_signed(fleet: Fleet, device: DeviceSight) -> None:
    assert device.number("digits", "1.0.0") == 1
    assert device.number("digits", "2.0.0") == 2
    assert device.number("digits", "3.0.0") is None
    fleet.release("1.0.0", model="faces")
    assert device.number("faces", "1.0.0") == 1


def test_a_retired_release_is_gone_for_devices_and_its_number_stays_taken(
    fleet: Fleet, device: DeviceSight
) -> None:
    session = fleet.session()
    draft = session.draft()
    draft.retire("digits", "1.0.0")
    done = session.complete(draft)
    assert done.changes == (
        "digits:1.0.0 is retired",
        f"good: model-digits to {expiry(NOW, OFFLINE_DAYS):%Y-%m-%d}",
    )
    assert device.number("digits", "1.0.0") is None
    fleet.release("3.0.0")
    assert device.number("digits", "3.0.0") == 3


def test_a_release_above_a_floor_gets_a_number_above_it(fleet: Fleet) -> None:
    session = fleet.session()
    draft = session.draft()
    draft.raise_floor("digits", "2.0.0")
    draft.retire("digits", "2.0.0")
    assert session.complete(draft).is_complete
    fleet.release("3.0.0")
    found = releases_of("digits", fleet.session().base.models["digits"].signed)
    assert found["3.0.0"].number == 2


def test_a_document_that_outgrows_a_message_is_refused_with_a_way_out(fleet: Fleet) -> None:
    session = fleet.session()
    draft = Draft(session.base, NOW)
    for number in range(400):
        draft.add_release("digits", f"5.0.{number}", str(number).encode())
    with pytest.raises(PeerError, match="digits has") as refusal:
        session.complete(draft)
    assert refusal.value.code == "trust_too_large"
    assert "fleet release retire" in refusal.value.hint


def refused(fleet: Fleet, document: Document[Any], code: str) -> None:
    """Check that a document is refused with a code, and that nothing has changed."""
    before = {d.file_name: d.body for d in fleet.fetch()}
    with pytest.raises(PeerError) as refusal:
        hand_in(fleet, document)
    assert refusal.value.code == code, refusal.value
    assert {d.file_name: d.body for d in fleet.fetch()} == before
