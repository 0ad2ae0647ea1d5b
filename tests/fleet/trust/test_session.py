"""People who sign: alone, with others, at once, interrupted, and shown what is not true."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from securesystemslib.signer import SSlibKey

from fleet.api.schemas import TrustKey
from fleet.cli.client import Client
from fleet.cli.key_roles import online_key
from fleet.trust.changes import changes
from fleet.trust.documents import Document, freeze
from fleet.trust.draft import Draft
from fleet.trust.drill import drill_all
from fleet.trust.keys import KeyFolder
from fleet.trust.ledger import Ledger, proposal_text, read_proposal
from fleet.trust.session import Session, restore
from tests.fleet.peers import SECRET, Fleet
from tests.fleet.trust.device import DeviceSight
from wire.errors import ConfigError, PeerError, TransferError


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path, now_unix_ms=1_900_000_000_000)
    fleet.settle()
    yield fleet
    fleet.controller.stop()
    fleet.store.close()


def person(folder: Path, name: str) -> KeyFolder:
    keys = KeyFolder(folder / name, lambda _: SECRET, lambda _: "")
    keys.make(name)
    return keys


def key_of(keys: KeyFolder) -> Any:
    (file,) = keys.files().values()
    return file.key


def set_keys(session: Session, role: str, keys: Sequence[Any], threshold: int) -> Draft:
    draft = session.draft()
    draft.set_keys(role, keys, threshold)
    return draft


def add_bob(fleet: Fleet, role: str, threshold: int) -> KeyFolder:
    """Add Bob to a role of the fleet's owner, both signing."""
    bob = person(fleet.folder, "bob")
    session = fleet.session()
    keys = [*session.base.keys(role).values(), key_of(bob)]
    done = session.complete(set_keys(session, role, keys, threshold))
    if not done.is_complete:
        path = fleet.folder / "passed.sign"
        path.write_bytes(proposal_text(done.documents))
        assert sign(fleet, path, bob)
    return bob


def sign(fleet: Fleet, path: Path, keys: KeyFolder) -> bool:
    """Do what `fleet sign` does; return whether it was enough."""
    session = fleet.session(keys)
    draft = Draft.of(session.base, read_proposal(path), fleet.now_unix_ms)
    session.require_wanted_key(draft)
    done = session.complete(draft)
    path.write_bytes(proposal_text(done.documents))
    return done.is_complete


def test_a_threshold_is_reached_by_passing_a_file_around(fleet: Fleet, tmp_path: Path) -> None:
    bob = add_bob(fleet, "root", 2)
    session = fleet.session()
    draft = session.draft()
    draft.renew("root")
    done = session.complete(draft)
    assert [role for role, _, _ in done.missing] == ["root"]
    assert fleet.session().base.root.version == 2, "one of two is not enough"
    path = tmp_path / "renew.sign"
    path.write_bytes(proposal_text(done.documents))
    with pytest.raises(ConfigError, match=r"no key in .* is wanted") as refusal:
        sign(fleet, path, fleet.keys)
    assert key_of(bob).keyid[:8] in str(refusal.value), "the same key does not count twice"
    assert sign(fleet, path, bob)
    assert fleet.session().base.root.version == 3


def test_signatures_that_are_none_do_not_count(fleet: Fleet, tmp_path: Path) -> None:
    bob = add_bob(fleet, "root", 2)
    session = fleet.session()
    draft = session.draft()
    draft.renew("root")
    (document,) = session.complete(draft).documents
    forged = json.loads(document.body)
    forged["signatures"].append({"keyid": key_of(bob).keyid, "sig": "00" * 64})
    path = tmp_path / "forged.sign"
    texts = {document.file_name: json.dumps(forged)}
    path.write_text(json.dumps({"modelfleet": "sign 1", "documents": texts}))
    draft = Draft.of(session.base, read_proposal(path), fleet.now_unix_ms)
    assert draft.signature_count == 1
    assert [count for _, count, _ in draft.missing()] == [1]


def test_a_file_that_goes_round_says_what_it_changes(fleet: Fleet, tmp_path: Path) -> None:
    fleet.release("1.0.0")
    session = fleet.session()
    draft = session.draft()
    draft.add_release("digits", "6.6.6", b"evil")
    path = tmp_path / "x.sign"
    path.write_bytes(proposal_text(draft.documents()))
    again = Draft.of(session.base, read_proposal(path), fleet.now_unix_ms)
    words, until = session.words(again)
    assert words.startswith("release digits:6.6.6, number 2, ")
    assert until == "good: model-digits to 2031-03-17"


def test_who_signs_is_shown_keys_thresholds_and_how_long_it_lasts(fleet: Fleet) -> None:
    bob, team = person(fleet.folder, "bob"), person(fleet.folder, "team")
    session = fleet.session()
    (alice,) = session.base.keys("targets").values()
    draft = set_keys(session, "targets", [alice, key_of(bob)], 2)
    draft.add_model("digits", [key_of(team)])
    draft.set_keys("model-digits", [key_of(team), key_of(bob)], 2)
    assert session.words(draft) == (
        f"targets: key {key_of(bob).keyid} is added",
        "targets: 2 of 2 must sign",
        f"new role model-digits: key {key_of(team).keyid}, {key_of(bob).keyid}; 2 of 2 must sign",
        "good: root to 2031-03-17, targets to 2031-03-17, model-digits to 2031-03-17",
    )
    renewal = session.draft()
    renewal.renew("root")
    assert session.words(renewal) == ("renewed: root to 2031-03-17",)


def test_another_key_behind_a_known_id_is_a_change(fleet: Fleet) -> None:
    session = fleet.session()
    draft = session.draft()
    draft.renew("root")
    (document,) = draft.documents()
    (keyid,) = document.signed.roles["root"].keyids
    document.signed.keys[keyid] = key_of(person(fleet.folder, "eve"))
    after = replace(session.base, root=document)
    assert list(changes(session.base, after))[:2] == [
        f"root: another key is behind the id {keyid}",
        "root: 1 of 1 must sign",
    ]


def test_nobody_signs_a_file_with_a_swapped_key(fleet: Fleet, tmp_path: Path) -> None:
    bob, carol, eve = (person(fleet.folder, name) for name in ("bob", "carol", "eve"))
    session = fleet.session()
    keys = [*session.base.keys("root").values(), key_of(bob), key_of(carol)]
    done = session.complete(set_keys(session, "root", keys, 2))
    path = tmp_path / "x.sign"
    path.write_bytes(proposal_text(done.documents))
    assert sign(fleet, path, bob)
    session = fleet.session()
    draft = session.draft()
    draft.renew("root")
    metadata = copy.deepcopy(draft.documents()[0].metadata)
    swapped = key_of(carol).keyid
    metadata.signed.keys[swapped] = SSlibKey.from_dict(swapped, key_of(eve).to_dict())
    for signer in fleet.keys.signers(set(session.base.role("root").keyids)):
        metadata.sign(signer, append=True)
    path.write_bytes(proposal_text([freeze("root", metadata)]))
    with pytest.raises(PeerError, match="another key behind the id") as refusal:
        sign(fleet, path, bob)
    assert refusal.value.code == "key_id_foreign"
    assert "do not sign" in refusal.value.hint


@pytest.mark.parametrize("garble", ["other-id", "no-key"])
def test_a_controllers_key_that_is_not_the_one_of_its_id_gets_no_office(
    fleet: Fleet, garble: str
) -> None:
    made = fleet.controller.make_trust_key("director")
    given = {"keyid": "a" * 64, "key": made.to_dict()}
    if garble == "no-key":
        given = {"keyid": made.keyid, "key": {"keytype": "ed25519"}}

    class Stolen:
        """A controller that answers what it likes."""

        def post(self, *_: object) -> TrustKey:
            return TrustKey.model_validate(given)

    with pytest.raises(PeerError) as refusal:
        online_key(cast("Client", Stolen()), "director")
    assert refusal.value.code == "key_unusable"


@pytest.mark.parametrize(
    "text",
    ["", "[]", '{"modelfleet": "sign 2", "documents": {}}',
     '{"modelfleet": "sign 1", "documents": {"3.timestamp.json": "{}"}}',
     '{"modelfleet": "sign 1", "documents": {"../x": "{}"}}',
     '{"modelfleet": "sign 1", "documents": {"3.targets.json": 7}}'],
)  # fmt: skip
def test_a_file_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.sign"
    path.write_text(text)
    with pytest.raises(ConfigError) as refusal:
        read_proposal(path)
    assert refusal.value.code == "proposal_unreadable"


def test_who_has_no_key_for_it_is_told_whose_it_takes(fleet: Fleet) -> None:
    fleet.release("1.0.0")
    stranger = person(fleet.folder, "stranger")
    session = fleet.session(stranger)
    draft = session.draft()
    draft.add_release("digits", "2.0.0", b"x")
    with pytest.raises(ConfigError, match="signs model-digits") as refusal:
        session.require_keys(draft)
    assert refusal.value.code == "key_not_at_hand"
    (keyid,) = session.base.role("model-digits").keyids
    assert keyid[:8] in str(refusal.value)


def test_a_team_signs_its_own_model_only(fleet: Fleet, tmp_path: Path) -> None:
    device = DeviceSight(fleet.store, (tmp_path / "root.json").read_bytes(), tmp_path / "device")
    fleet.release("1.0.0")
    fleet.release("1.0.0", model="faces")
    team = person(fleet.folder, "vision")
    session = fleet.session()
    done = session.complete(set_keys(session, "model-digits", [key_of(team)], 1))
    path = tmp_path / "team.sign"
    path.write_bytes(proposal_text(done.documents))
    assert sign(fleet, path, team), "the targets key gives, the team's takes"

    mine = fleet.session(team)
    draft = mine.draft()
    draft.add_release("digits", "2.0.0", b"two")
    assert mine.complete(draft).is_complete
    assert device.number("digits", "2.0.0") == 2
    draft = mine.draft()
    draft.add_release("faces", "2.0.0", b"two")
    assert not mine.complete(draft).is_complete
    assert device.number("faces", "2.0.0") is None
    former = fleet.session()
    draft = former.draft()
    draft.add_release("digits", "3.0.0", b"three")
    with pytest.raises(ConfigError):
        former.require_keys(draft)


@pytest.mark.parametrize(
    "role", ["root", "targets", "model-digits", "snapshot", "timestamp", "director"]
)
def test_devices_follow_every_rotation(fleet: Fleet, tmp_path: Path, role: str) -> None:
    fleet.release("1.0.0")
    device = DeviceSight(fleet.store, (tmp_path / "root.json").read_bytes(), tmp_path / "device")
    assert device.number("digits", "1.0.0") == 1
    session = fleet.session()
    (old,) = session.base.role(role).keyids
    online = role in ("snapshot", "timestamp", "director")
    fresh = fleet.controller.make_trust_key(role) if online else fleet.keys.make(role).key
    assert session.complete(set_keys(session, role, [fresh], 1)).is_complete
    assert fleet.session().base.role(role).keyids == [fresh.keyid] != [old]
    fleet.release("2.0.0")
    assert device.number("digits", "2.0.0") == 2
    newcomer = DeviceSight(fleet.store, (tmp_path / "root.json").read_bytes(), tmp_path / "new")
    assert newcomer.number("digits", "1.0.0") == 1
    fleet.settle()
    fleet.add("cam")
    fleet.roll_out("2.0.0")
    assert fleet.devices["cam"].active() == "2.0.0"


def test_a_replaced_key_signs_nothing_any_more(fleet: Fleet) -> None:
    fleet.release("1.0.0")
    thief = KeyFolder(fleet.folder / "offline", lambda _: SECRET, lambda _: "")
    session = fleet.session()
    stolen = thief.signers(set(session.base.role("model-digits").keyids))
    fresh = fleet.keys.make("model-digits").key
    assert session.complete(set_keys(session, "model-digits", [fresh], 1)).is_complete
    draft = fleet.session().draft()
    draft.add_release("digits", "6.6.6", b"evil")
    draft.sign(stolen)
    with pytest.raises(PeerError) as refusal:
        fleet.hand_in(draft.documents(), may_skip=False)
    assert refusal.value.code == "trust_signature"


def test_an_interrupted_command_is_completed_by_the_next(fleet: Fleet) -> None:
    fleet.release("1.0.0")

    class Dead:
        """A connection that breaks before anything has arrived."""

        fetch = fleet.fetch

        def hand_in(self, documents: Sequence[Document[Any]], *, may_skip: bool) -> None:
            raise TransferError("it broke", code="controller_unreachable")

    broken = Session(Dead(), Ledger(fleet.folder), fleet.keys, fleet.now_unix_ms)
    draft = broken.draft()
    draft.add_release("digits", "2.0.0", b"two")
    with pytest.raises(TransferError) as cut:
        broken.complete(draft)
    assert "again" in cut.value.hint
    again = fleet.session()
    assert "digits" in again.base.models
    assert again.finish_pending() != ()
    assert again.finish_pending() == ()
    assert fleet.session().base.models["digits"].version == 2


def test_what_was_overtaken_meanwhile_is_forgotten(fleet: Fleet) -> None:
    fleet.release("1.0.0")
    draft = fleet.session().draft()
    draft.add_release("digits", "2.0.0", b"two")
    draft.sign(fleet.keys.signers(draft.keyids()))
    Ledger(fleet.folder).set_pending(draft.documents())
    fleet.release("3.0.0")
    session = fleet.session()
    assert session.finish_pending() == ()
    assert Ledger(fleet.folder).pending() == []


def test_no_controller_makes_anybody_sign_on_top_of_what_is_old(fleet: Fleet) -> None:
    fleet.release("1.0.0")
    before = fleet.fetch()
    fleet.release("2.0.0")
    fleet.fetch = lambda: before  # type: ignore[method-assign]
    with pytest.raises(PeerError, match="digits version 1, and version 2") as refusal:
        fleet.session()
    assert refusal.value.code == "trust_rollback"


def test_no_controller_makes_anybody_sign_on_top_of_what_is_foreign(
    fleet: Fleet, tmp_path: Path
) -> None:
    other = Fleet(tmp_path / "other", now_unix_ms=fleet.now_unix_ms)
    other.release("1.0.0")
    fleet.fetch = other.fetch  # type: ignore[method-assign]
    with pytest.raises(PeerError) as refusal:
        fleet.session()
    assert refusal.value.code == "trust_mismatch"
    other.kill()


def test_a_store_that_was_lost_gets_everything_back(fleet: Fleet, tmp_path: Path) -> None:
    device = DeviceSight(fleet.store, (tmp_path / "root.json").read_bytes(), tmp_path / "device")
    fleet.release("1.0.0")
    session = fleet.session()
    fresh = fleet.keys.make("root").key
    assert session.complete(set_keys(session, "root", [fresh], 1)).is_complete
    assert device.number("digits", "1.0.0") == 1
    fleet.kill()
    for path in tmp_path.glob("fleet.db*"):
        path.unlink()
    fleet.now_unix_ms += 600_000
    fleet._open()
    device._store = fleet.store
    with pytest.raises(PeerError) as nothing:
        fleet.session()
    assert nothing.value.code == "trust_unavailable"
    restore(fleet, Ledger(fleet.folder))
    assert fleet.session().base.root.version == 2
    assert device.number("digits", "1.0.0") == 1, "snapshot and timestamp are news to it"
    fleet.release("2.0.0")
    assert device.number("digits", "2.0.0") == 2


def test_a_store_that_was_set_back_gets_what_was_signed_since(fleet: Fleet, tmp_path: Path) -> None:
    fleet.release("1.0.0")
    with fleet.store.write() as tx:
        backup = tx.trust.all_newest()
    for version in ("2.0.0", "3.0.0"):
        fleet.release(version)
    with fleet.store.write() as tx:
        tx.trust._connection.exec_driver_sql("DELETE FROM trust")
        for row in backup:
            tx.trust.add(*row)
    with pytest.raises(PeerError) as refusal:
        fleet.session()
    assert refusal.value.code == "trust_rollback"
    assert "fleet keys restore" in refusal.value.hint
    restore(fleet, Ledger(fleet.folder))
    assert fleet.session().base.models["digits"].version == 3


def test_a_drill_says_which_roles_the_keys_cannot_rotate(fleet: Fleet) -> None:
    fleet.release("1.0.0")
    session = fleet.session()
    before = {d.file_name: d.body for d in fleet.fetch()}
    good = drill_all(session.base, fleet.keys, fleet.now_unix_ms)
    assert {result.role for result in good if result.is_good} == {
        "root", "targets", "snapshot", "timestamp", "director", "model-digits",
    }  # fmt: skip
    (fleet.keys.path / f"root-{session.base.role('root').keyids[0][:8]}.pub").unlink()
    lame = drill_all(session.base, fleet.keys, fleet.now_unix_ms)
    assert {result.role for result in lame if not result.is_good} == {
        "root", "targets", "snapshot", "timestamp",
    }  # fmt: skip
    assert all("root lacks 1 of" in result.detail for result in lame if not result.is_good)
    assert {d.file_name: d.body for d in fleet.fetch()} == before
