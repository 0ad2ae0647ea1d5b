"""What the controller signs and says by itself, over days, restarts and brokers that forget."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from securesystemslib.signer import Signature

from fleet.api.schemas import RollbackIn, RolloutIn
from fleet.trust.authority import DAY_MS, Authority
from tests.fleet.peers import Fleet
from wire import codec, topics
from wire import messages as m
from wire.errors import ConfigError, PeerError, StorageError
from wire.link import Delivered, LinkEvent
from wire.link_memory import MemoryBroker
from wire.trust import SignedText, open_sealed

pytestmark = pytest.mark.slow

START = 1_800_000_000_000


class Listener:
    """Somebody else on the broker: what was retained before he came, then what is published."""

    def __init__(self, fleet: Fleet, name: str) -> None:
        self.heard: dict[str, bytes] = {}
        self.counts: dict[str, int] = {}
        self._link = fleet.broker.link(name)
        self._link.start(self._take, lambda: None)
        self._link.subscribe([topics.TRUST_FILTER, "fleet/v1/trust/model/+"], qos=1)
        self._link.subscribe(["fleet/v1/device/+/desired"], qos=1)

    def _take(self, event: LinkEvent) -> None:
        if isinstance(event, Delivered):
            self.heard[event.topic] = event.payload
            self.counts[event.topic] = self.counts.get(event.topic, 0) + 1

    def expires(self, role: str) -> str:
        return str(self.signed(f"fleet/v1/trust/{role}")["expires"])

    def signed(self, topic: str) -> dict[str, Any]:
        return dict(json.loads(self.heard[topic])["signed"])

    def desired(self, device: str) -> tuple[SignedText, m.Desired]:
        text = open_sealed(self.heard[topics.Desired(device).text])
        return text, codec.decode(m.Desired, text.body)


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path, now_unix_ms=START)
    fleet.settle()
    yield fleet
    fleet.controller.stop()
    fleet.store.close()


def verify(fleet: Fleet, text: SignedText) -> None:
    keys = fleet.session().base.keys("director")
    signature = Signature(text.signature.keyid, text.signature.sig)
    keys[text.signature.keyid].verify_signature(signature, text.signed_bytes)


def test_what_is_signed_is_retained_for_whoever_comes(fleet: Fleet) -> None:
    fleet.release("1.0.0")
    fleet.settle()
    heard = Listener(fleet, "late").heard
    assert set(heard) == {
        f"fleet/v1/trust/{name}" for name in ("timestamp", "snapshot", "targets", "model/digits")
    }
    with fleet.store.read() as tx:
        for row in tx.trust.all_newest():
            if row.role != "root":
                topic = f"fleet/v1/trust/{row.role.replace('model-', 'model/')}"
                assert heard[topic].decode() == row.body, "byte for byte"


def test_a_broker_that_forgot_everything_is_told_everything(fleet: Fleet) -> None:
    session = fleet.session()
    draft = session.draft()
    draft.renew("root")
    assert session.complete(draft).is_complete
    fleet.release("1.0.0")
    fleet.settle()
    fleet.kill()
    fleet.broker = MemoryBroker()
    fleet._open()
    fleet.settle()
    heard = Listener(fleet, "late").heard
    assert {topic.removeprefix("fleet/v1/trust/") for topic in heard} == {
        "timestamp", "snapshot", "targets", "model/digits", "root-2",
    }  # fmt: skip


def test_the_timestamp_is_signed_daily_and_the_snapshot_in_time(fleet: Fleet) -> None:
    listener = Listener(fleet, "listener")
    seen = []
    for day in range(40):
        fleet.wait(24 * 3600, step_s=3 * 3600)
        for role in ("timestamp", "snapshot"):
            signed = listener.signed(f"fleet/v1/trust/{role}")
            seen.append((role, signed["version"]))
            left = _unix_ms(signed["expires"]) - fleet.now_unix_ms
            assert left > (5 if role == "timestamp" else 10) * DAY_MS, (day, role)
    versions = [version for role, version in seen if role == "timestamp"]
    assert versions == sorted(set(versions)), "each day a higher one"
    assert 2 <= len({version for role, version in seen if role == "snapshot"}) <= 4


def test_a_clock_that_was_far_ahead_leaves_no_timestamp_that_lasts_for_years(fleet: Fleet) -> None:
    listener = Listener(fleet, "listener")
    fleet.now_unix_ms += 3650 * DAY_MS
    fleet.settle()
    ahead = listener.signed("fleet/v1/trust/timestamp")
    fleet.now_unix_ms -= 3650 * DAY_MS
    fleet.settle()
    back = listener.signed("fleet/v1/trust/timestamp")
    assert back["version"] > ahead["version"]
    assert _unix_ms(back["expires"]) < fleet.now_unix_ms + 8 * DAY_MS


def test_a_desired_state_is_signed_for_one_device_and_a_week(fleet: Fleet) -> None:
    fleet.release("1.0.0")
    fleet.add("cam-01")
    listener = Listener(fleet, "listener")
    fleet.roll_out("1.0.0")
    text, desired = listener.desired("cam-01")
    verify(fleet, text)
    assert desired.device == "cam-01"
    assert desired.issued_unix_ms == fleet.now_unix_ms
    assert desired.expires_unix_ms == fleet.now_unix_ms + 7 * DAY_MS
    with fleet.store.read() as tx:
        assert desired.snapshot == tx.trust.version("snapshot") > 0


def test_a_retained_desired_state_is_renewed_before_it_expires(fleet: Fleet) -> None:
    fleet.release("1.0.0")
    fleet.add("cam-01", "cam-02")
    fleet.roll_out("1.0.0")
    listener = Listener(fleet, "listener")
    for _ in range(9):
        fleet.wait(24 * 3600, step_s=3600)
        for device in ("cam-01", "cam-02"):
            text, desired = listener.desired(device)
            verify(fleet, text)
            assert desired.expires_unix_ms is not None
            assert desired.expires_unix_ms > fleet.now_unix_ms + 5 * DAY_MS
            assert desired.generation == 1, "the same order, no new one"
    assert listener.counts[topics.Desired("cam-01").text] < 20, "once a day, not more"


def test_a_desired_state_that_waited_for_the_broker_goes_out_fresh(fleet: Fleet) -> None:
    fleet.release("1.0.0")
    fleet.add("cam-01")
    fleet.roll_out("1.0.0")
    fleet.release("2.0.0")
    fleet.broker.cut("controller")
    fleet.settle()
    fleet.controller.start_rollout(_order("2.0.0"))
    fleet.now_unix_ms += 30 * DAY_MS
    listener = Listener(fleet, "listener")
    fleet.restart()
    _, desired = listener.desired("cam-01")
    assert desired.issued_unix_ms == fleet.now_unix_ms


def test_a_new_directors_key_signs_every_desired_state_again(fleet: Fleet) -> None:
    fleet.release("1.0.0")
    fleet.add("cam-01")
    fleet.roll_out("1.0.0")
    listener = Listener(fleet, "listener")
    former, _ = listener.desired("cam-01")
    session = fleet.session()
    draft = session.draft()
    draft.set_keys("director", [fleet.controller.make_trust_key("director")], 1)
    assert session.complete(draft).is_complete
    fleet.wait(2)
    text, _ = listener.desired("cam-01")
    assert text.signature.keyid != former.signature.keyid
    verify(fleet, text)


def test_what_is_not_signed_is_not_rolled_out(fleet: Fleet) -> None:
    fleet.release("1.0.0")
    fleet.add("cam-01")
    fleet.sign = lambda *_: None  # type: ignore[method-assign]
    fleet.release("2.0.0")
    with pytest.raises(PeerError, match=r"digits:2\.0\.0 is not signed") as refusal:
        fleet.roll_out("2.0.0")
    assert refusal.value.code == "not_signed"


def test_what_is_retired_or_dead_is_not_rolled_out(fleet: Fleet) -> None:
    for version in ("1.0.0", "2.0.0", "3.0.0"):
        fleet.release(version)
    fleet.add("cam-01")
    session = fleet.session()
    draft = session.draft()
    draft.raise_floor("digits", "2.0.0")
    draft.retire("digits", "3.0.0")
    assert session.complete(draft).is_complete
    for version, code in (("1.0.0", "below_floor"), ("3.0.0", "not_signed")):
        with pytest.raises(PeerError) as refusal:
            fleet.roll_out(version)
        assert refusal.value.code == code
    fleet.roll_out("2.0.0")
    assert fleet.devices["cam-01"].active() == "2.0.0"


def test_a_rollback_passes_over_what_is_dead(fleet: Fleet) -> None:
    for version in ("1.0.0", "2.0.0", "3.0.0"):
        fleet.release(version)
    fleet.add("cam-01")
    for version in ("2.0.0", "1.0.0", "3.0.0"):
        fleet.roll_out(version)
    session = fleet.session()
    draft = session.draft()
    draft.raise_floor("digits", "2.0.0")
    assert session.complete(draft).is_complete
    fleet.controller.rollback(RollbackIn(model="digits"))
    fleet.settle()
    assert fleet.devices["cam-01"].active() == "2.0.0", "not 1.0.0, which was confirmed last"


def test_what_was_pushed_with_other_content_is_not_signed_beside_it(fleet: Fleet) -> None:
    fleet.release("1.0.0")
    fleet.sign = lambda *_: None  # type: ignore[method-assign]
    fleet.release("2.0.0")
    session = fleet.session()
    draft = session.draft()
    draft.add_release("digits", "2.0.0", b"another manifest")
    with pytest.raises(PeerError) as refusal:
        session.complete(draft)
    assert refusal.value.code == "trust_mismatch"


def test_documents_and_their_publications_are_one_transaction(fleet: Fleet) -> None:
    fleet.broker.cut("controller")
    fleet.settle()
    fleet.release("1.0.0")
    with fleet.store.read() as tx:
        waiting = [publication.topic for publication in tx.journal.unsent()]
    assert waiting[-4:] == [
        f"fleet/v1/trust/{name}" for name in ("targets", "model/digits", "snapshot", "timestamp")
    ], "each after what it depends on"


def test_a_controller_without_its_keys_says_so(tmp_path: Path) -> None:
    (tmp_path / "trust").mkdir()
    (tmp_path / "trust" / "director-1.pem").write_text("nothing")
    with pytest.raises(ConfigError, match=r"director-1\.pem") as refusal:
        Authority(tmp_path / "trust")
    assert refusal.value.code == "key_unreadable"


def test_without_the_directors_key_nothing_is_said_unsigned(fleet: Fleet, tmp_path: Path) -> None:
    with fleet.store.read() as tx, pytest.raises(StorageError) as refusal:
        Authority(tmp_path / "empty").seal(tx, m.Desired(device="cam-01", generation=1), START)
    assert refusal.value.code == "director_missing"


def _order(version: str) -> Any:
    return RolloutIn(model="digits", version=version, phases=["100%"], soak_s=0)


def _unix_ms(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp() * 1000)
