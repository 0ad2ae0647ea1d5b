from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fleet.inbox import Inbox
from fleet.ingest import ack_messages
from fleet.ratelimit import RateLimit
from fleet.store.devices import Selection
from fleet.store.journal import RecordKey
from tests.fleet.peers import Device, Fleet
from tests.postgres import away
from wire import codec, topics
from wire import messages as m
from wire.lifecycle import UpdateState
from wire.link import Connected, Delivered

OLD_BOOT = "0" * 16


@pytest.fixture
def fleet(tmp_path: Path, where: Path | str) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path, where=where)
    fleet.settle()
    fleet.add("cam")
    yield fleet
    fleet.controller.stop()
    fleet.store.close()


@pytest.fixture
def cam(fleet: Fleet) -> Device:
    return fleet.devices["cam"]


def seqs(fleet: Fleet, device: str = "cam") -> list[int]:
    with fleet.store.read() as tx:
        rows = tx.journal.records(device, channel=None, limit=1000)
    return sorted(row.key.seq for row in rows)


def acked(device: Device) -> list[tuple[str, int, int]]:
    return [(r.boot, r.first, r.last) for ack in device.acks for r in ack.stored]


def test_records_are_stored_once_and_acknowledged_each_time(fleet: Fleet, cam: Device) -> None:
    for seq in 1, 2, 3, 7:
        cam.send_record(seq)
    fleet.settle()
    assert seqs(fleet) == [1, 2, 3, 7]
    assert acked(cam) == [(cam.boot, 1, 3), (cam.boot, 7, 7)]
    cam.acks.clear()
    cam.send_record(2)
    fleet.settle()
    assert seqs(fleet) == [1, 2, 3, 7]
    assert acked(cam) == [(cam.boot, 2, 2)]


def test_records_of_an_earlier_boot_are_a_series_of_their_own(fleet: Fleet, cam: Device) -> None:
    cam.send_record(1)
    cam.send_record(1, boot=OLD_BOOT)
    fleet.settle()
    assert seqs(fleet) == [1, 1]
    assert sorted(acked(cam)) == sorted([(cam.boot, 1, 1), (OLD_BOOT, 1, 1)])


def test_nothing_is_acknowledged_that_is_not_stored(fleet: Fleet, cam: Device) -> None:
    fleet.store.close()
    with away(fleet.database):
        cam.send_record(1)
        fleet.controller.run_once()
        fleet.controller.run_once()
        assert cam.acks == []
    fleet.wait(2)
    cam.send_record(1)  # the outbox sends what was not acknowledged
    fleet.settle()
    assert acked(cam) == [(cam.boot, 1, 1)]


def test_state_that_was_lost_to_a_failing_store_is_asked_for_again(
    fleet: Fleet, cam: Device
) -> None:
    fleet.store.close()
    with away(fleet.database):
        cam.cut()
        fleet.controller.run_once()
    fleet.wait(2)
    assert fleet.presence("cam") == "offline"


def test_an_update_event_is_told_to_watchers_once(fleet: Fleet, cam: Device) -> None:
    release = fleet.release("1.0.0")
    event = m.UpdateEvent(
        boot=cam.boot,
        seq=1,
        at_unix_ms=5,
        generation=1,
        model="digits",
        manifest=release.manifest,
        from_=UpdateState.FETCHING,
        to=UpdateState.SELF_TESTING,
        code="fetched",
    )
    for _ in range(3):
        cam.send(topics.Event("cam", "update"), codec.encode(event))
    fleet.settle()
    assert fleet.events("update") == ["digits:1.0.0 fetching -> self_testing (fetched)"]


def test_alarms_and_gaps_are_told_to_watchers(fleet: Fleet, cam: Device) -> None:
    alarm = m.AlarmEvent(boot=cam.boot, seq=1, at_unix_ms=1, code="disk_full", detail="2 MB left")
    gap = m.GapEvent(
        boot=cam.boot,
        seq=2,
        lost_boot=OLD_BOOT,
        first=1,
        last=9,
        count=9,
        reason="records_dropped",
    )
    cam.send(topics.Event("cam", "alarm"), codec.encode(alarm))
    cam.send(topics.Event("cam", "gap"), codec.encode(gap))
    fleet.settle()
    assert fleet.events("alarm") == [
        "disk_full 2 MB left",
        "dropped 9 records (records_dropped)",
    ]


@pytest.mark.parametrize(
    "payload",
    [
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"v":1}',
        b'{"v":2,"boot":"%s","seq":1}' % (b"0" * 16),
        b"[" * 5000,
        b"{" + b'"a":1,' * 3000 + b'"b":1}',
        b'{"v":1,"boot":"0000000000000000","seq":1e999}',
        json.dumps({"v": 1, "boot": "x" * 16, "seq": 1}).encode(),
    ],
)
@pytest.mark.parametrize("channel", ["presence", "reported", "event/update", "telemetry/vitals"])
def test_malformed_messages_are_counted_and_dropped(
    fleet: Fleet, cam: Device, channel: str, payload: bytes
) -> None:
    before = fleet.controller.ingest.malformed_count
    cam.link.publish(f"fleet/v1/device/cam/{channel}", payload, qos=1, retain=False)
    cam.send_record(1)
    fleet.settle()
    assert fleet.controller.ingest.malformed_count == before + 1
    assert seqs(fleet) == [1]
    assert fleet.presence("cam") == "online"


def test_complaints_about_one_fault_are_rate_limited(fleet: Fleet, cam: Device) -> None:
    for _ in range(20):
        cam.send(topics.Reported("cam"), b"{")
    fleet.settle()
    assert len(fleet.events("alarm")) == 1
    fleet.wait(61, step_s=61)
    cam.send(topics.Reported("cam"), b"{")
    fleet.settle()
    assert len(fleet.events("alarm")) == 2


@given(
    st.lists(
        st.tuples(st.sampled_from(["a", "b"]), st.sampled_from("cd"), st.integers(1, 300)),
        max_size=400,
    )
)
def test_acknowledgements_name_exactly_what_is_stored_however_it_came(
    keys: list[tuple[str, str, int]],
) -> None:
    """Events, what is new and what has waited alternate: their numbers come in any order, with holes."""
    stored = [RecordKey(device, boot * 16, seq) for device, boot, seq in keys]
    named: list[RecordKey] = []
    for device, message in ack_messages(stored):
        assert 1 <= len(message.stored) <= m.MAX_ACK_RANGES
        named += [
            RecordKey(device, span.boot, seq)
            for span in message.stored
            for seq in range(span.first, span.last + 1)
        ]
    assert sorted(named) == sorted(set(stored)), "each once"


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(["presence", "reported", "event/update", "event/chunks_missing", "event/x"]),
    st.binary(max_size=200)
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["v", "boot", "seq", "models", "chunks", "state"]), inner
            )
        ),
        max_leaves=12,
    ).map(lambda value: json.dumps(value).encode()),
)
def test_no_payload_stops_the_loop(fleet: Fleet, cam: Device, channel: str, payload: bytes) -> None:
    cam.link.publish(f"fleet/v1/device/cam/{channel}", payload, qos=1, retain=False)
    fleet.settle()
    assert fleet.controller.is_connected


def test_unknown_devices_are_ignored_and_named_once(fleet: Fleet) -> None:
    stranger = Device(fleet.broker, "stranger")
    for seq in range(5):
        stranger.send_record(seq)
        fleet.settle()
    assert stranger.acks == []
    assert sum("not in the fleet" in text for text in fleet.events("device")) == 1
    assert fleet.controller.ingest.unknown_count >= 5


def test_presence_follows_the_connection(fleet: Fleet, cam: Device) -> None:
    assert fleet.presence("cam") == "online"
    cam.cut()
    fleet.settle()
    assert fleet.presence("cam") == "offline"
    cam.reboot()
    fleet.settle()
    assert fleet.presence("cam") == "online"
    assert fleet.events("presence") == ["online", "offline", "online"]


@pytest.mark.parametrize(("boot", "births_back"), [(None, 1), (OLD_BOOT, 0)])
def test_a_will_of_an_earlier_connection_is_ignored(
    fleet: Fleet, cam: Device, boot: str | None, births_back: int
) -> None:
    cam.cut()
    cam.back()
    fleet.settle()
    cam.send_presence("offline", boot=boot, birth=cam.birth - births_back)
    fleet.settle()
    assert fleet.presence("cam") == "online"


def test_a_device_that_came_and_went_while_the_controller_was_away_is_offline(
    fleet: Fleet, cam: Device
) -> None:
    fleet.kill()
    cam.reboot()
    cam.cut()
    fleet._open()
    fleet.settle()
    assert fleet.presence("cam") == "offline"


def test_the_will_of_the_boot_before_is_ignored_even_when_it_is_retained(
    fleet: Fleet, cam: Device
) -> None:
    former = cam.boot
    cam.reboot()
    fleet.settle()
    cam.send_presence("offline", boot=former, birth=1)
    fleet.restart()
    assert fleet.presence("cam") == "online"


def test_an_older_report_of_the_same_boot_is_dropped(fleet: Fleet, cam: Device) -> None:
    def report(seq: int, generation: int, boot: str) -> None:
        message = m.Reported(boot=boot, seq=seq, generation=generation)
        cam.send(topics.Reported("cam"), codec.encode(message), retain=True)
        fleet.settle()

    def generation() -> int:
        with fleet.store.read() as tx:
            return tx.states.reports(Selection(device="cam"))["cam"].generation

    report(100, 3, cam.boot)
    report(100, 4, cam.boot)
    report(99, 5, cam.boot)
    assert generation() == 3
    report(1, 6, "f" * 16)
    assert generation() == 6


def test_the_inbox_drops_deliveries_when_full_and_never_control_events() -> None:
    inbox = Inbox(max_deliveries=2)
    for _ in range(5):
        inbox.put(Delivered("t", b"", retained=False))
    inbox.put(Connected())
    assert inbox.dropped_count == 3
    assert not inbox.has_overflowed()  # not before there is room again
    assert [type(e) for e in inbox.take(10, 0)] == [Delivered, Delivered, Connected]
    assert inbox.has_overflowed()
    assert not inbox.has_overflowed()


def test_acknowledgements_are_ranges_of_at_most_what_a_message_holds() -> None:
    keys = [RecordKey("cam", OLD_BOOT, seq) for seq in range(0, 400, 2)]
    messages = ack_messages(keys)
    assert [len(ack.stored) for _, ack in messages] == [64, 64, 64, 8]
    assert {r.first for _, ack in messages for r in ack.stored} == {key.seq for key in keys}
    assert all(len(codec.encode(ack)) <= codec.MAX_CONTROL_BYTES for _, ack in messages)
    assert ack_messages([]) == []


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("01"), st.integers(0, 30))))
def test_acknowledgements_name_exactly_what_is_stored(keys: list[tuple[str, str, int]]) -> None:
    stored = {RecordKey(device, boot * 16, seq) for device, boot, seq in keys}
    named = {
        RecordKey(device, r.boot, seq)
        for device, ack in ack_messages(stored)
        for r in ack.stored
        for seq in range(r.first, r.last + 1)
    }
    assert named == stored


def test_a_rate_limit_survives_a_clock_that_is_set_back() -> None:
    limit = RateLimit(100)
    assert limit.allows("a", 1000)
    assert not limit.allows("a", 1099)
    assert limit.allows("b", 1099)
    assert limit.allows("a", 1100)
    assert limit.allows("a", 5)
