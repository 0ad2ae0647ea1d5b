from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from fleet.core.audit import Row, first_fault
from fleet.core.states import ReleaseKey
from fleet.store.devices import PresenceRow, Selection
from fleet.store.identities import CertificateRow
from fleet.store.journal import EventRow, RecordKey, RecordRow
from fleet.store.record_ranges import MAX_RANGES
from fleet.store.store import Store
from wire import messages as m
from wire.errors import PeerError, StorageError


@pytest.fixture
def store(where: Path | str, tmp_path: Path) -> Iterator[Store]:
    store = Store(where, tmp_path)
    yield store
    store.close()


def model(version: str) -> m.DesiredModel:
    return m.DesiredModel(name="digits", version=version, manifest=version * 64, index="0" * 64)


def record(seq: int, *, channel: str = "telemetry/vitals", boot: str = "b" * 16) -> RecordRow:
    return RecordRow(RecordKey("cam", boot, seq), channel, 1000 + seq, "{}")


def test_what_was_written_is_there_after_opening_again(where: Path | str, tmp_path: Path) -> None:
    first = Store(where, tmp_path)
    with first.write() as tx:
        tx.devices.add([("cam", {"site": "lab"})], 1)
    first.close()
    second = Store(where, tmp_path)
    with second.read() as tx:
        assert [row.tags for row in tx.devices.rows(Selection())] == [{"site": "lab"}]
    second.close()


def test_a_transaction_that_raises_leaves_nothing(store: Store) -> None:
    def fail() -> None:
        with store.write() as tx:
            tx.devices.add([("cam", {})], 1)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    with store.read() as tx:
        assert tx.devices.ids(Selection()) == []


def test_readers_see_the_last_commit_while_a_writer_works(store: Store) -> None:
    with store.write() as tx:
        tx.devices.add([("a", {})], 1)
        with store.read() as other:
            assert other.devices.ids(Selection()) == []
    with store.read() as other:
        assert other.devices.ids(Selection()) == ["a"]


def test_writers_of_many_threads_take_turns(store: Store) -> None:
    def work(number: int) -> None:
        for step in range(10):
            with store.write() as tx:
                tx.devices.add([(f"d-{number}-{step}", {})], 1)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with store.read() as tx:
        assert len(tx.devices.ids(Selection())) == 40


def test_a_reader_sees_one_state_from_its_first_look_on(store: Store) -> None:
    with store.read() as other:
        assert other.devices.ids(Selection()) == []
        with store.write() as tx:
            tx.devices.add([("a", {})], 1)
        assert other.devices.ids(Selection()) == []


def test_programs_that_write_at_once_take_turns(where: Path | str, tmp_path: Path) -> None:
    """Two stores are what two processes have: the chain of the audit log stays whole."""
    stores = [Store(where, tmp_path) for _ in range(2)]

    def work(store: Store) -> None:
        for step in range(25):
            with store.write() as tx:
                tx.audit.append(Row(step, "local", "test", "", "done"))
                tx.journal.note([EventRow("device", "d", str(step))], 1)

    threads = [threading.Thread(target=work, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with stores[0].read() as tx:
        rows = list(tx.audit.after(0))
        assert [row.seq for row in rows] == list(range(1, 51))
        assert first_fault(rows, []) is None
        assert len(tx.journal.events(0, 99)) == 50
    for store in stores:
        store.close()


def test_devices_are_added_all_or_none(store: Store) -> None:
    with store.write() as tx:
        tx.devices.add([("a", {})], 1)
    with pytest.raises(PeerError) as caught, store.write() as tx:
        tx.devices.add([("b", {}), ("a", {})], 1)
    assert caught.value.code == "device_exists"
    assert "a" in str(caught.value)
    with pytest.raises(PeerError, match="named twice"), store.write() as tx:
        tx.devices.add([("c", {}), ("c", {})], 1)
    with store.read() as tx:
        assert tx.devices.ids(Selection()) == ["a"]


def test_selections_ask_for_every_tag(store: Store) -> None:
    with store.write() as tx:
        tx.devices.add(
            [
                ("a", {"site": "lab", "kind": "cam"}),
                ("b", {"site": "lab"}),
                ("c", {"site": "hall", "kind": "cam"}),
            ],
            1,
        )
    with store.read() as tx:
        assert tx.devices.ids(Selection(match={"site": "lab"})) == ["a", "b"]
        assert tx.devices.ids(Selection(match={"site": "lab", "kind": "cam"})) == ["a"]
        assert tx.devices.ids(Selection(match={"site": "moon"})) == []


def test_texts_sort_by_code_points(store: Store) -> None:
    names = ["a", "B", "a-b", "ab", "C_d", "c", "b"]
    with store.write() as tx:
        tx.devices.add([(name, {}) for name in names], 1)
    with store.read() as tx:
        assert tx.devices.ids(Selection()) == sorted(names)
        page = tx.devices.page(Selection(), after="C_d", limit=2)
    assert sorted(page) == ["a", "a-b"]


def test_certificates_keep_their_order_whatever_the_clock_said(store: Store) -> None:
    def certificate(serial: str, issued_unix_ms: int) -> CertificateRow:
        return CertificateRow(serial, "cam", "k", "pem", issued_unix_ms, 9_000)

    with store.write() as tx:
        for serial, at in ("b", 500), ("c", 100), ("a", 300):
            tx.identities.add_certificate(certificate(serial, at))
    with store.write() as tx:
        assert [row.serial for row in tx.identities.certificates()] == ["b", "c", "a"]
        tx.identities.revoke("cam", 1, but={"a", "c"})
        tx.identities.prune(10_000)
        tx.identities.add_certificate(certificate("d", 50))
        assert [row.serial for row in tx.identities.certificates("cam")] == ["c", "a", "d"]


def test_numbers_are_as_large_as_the_wire_lets_them_be(store: Store) -> None:
    with store.write() as tx:
        tx.devices.add([("cam", {})], 1)
        tx.journal.add_records([record(m.MAX_INTEGER)])
        assert [r.key.seq for r in tx.journal.records("cam", channel=None, limit=9)] == [
            m.MAX_INTEGER
        ]


def test_records_are_stored_once(store: Store) -> None:
    with store.write() as tx:
        tx.devices.add([("cam", {})], 1)
        assert len(tx.journal.add_records([record(1), record(2), record(2)])) == 2
        fresh = tx.journal.add_records([record(2), record(3), record(1, boot="c" * 16)])
    assert {(r.key.boot[0], r.key.seq) for r in fresh} == {("b", 3), ("c", 1)}


def test_records_that_are_no_longer_kept_are_known_when_they_come_again(store: Store) -> None:
    former, current = "1" * 16, "5" * 16
    with store.write() as tx:
        tx.devices.add([("cam", {}), ("other", {})], 1)
        rows = [record(seq, boot=current) for seq in (1, 2, 3, 5, 6, 9)]
        tx.journal.add_records([*rows, record(4, boot=former)])
    with store.write() as tx:
        assert tx.journal.prune_records(1003) == 2
        assert tx.journal.prune_records(1007) == 4
        assert tx.journal.prune_records(1007) == 0
        again = [record(seq, boot=boot) for boot in (former, current) for seq in range(1, 11)]
        assert tx.journal.ranges.covered(row.key for row in again) == {
            ("cam", former, 4),
            *(("cam", current, seq) for seq in (1, 2, 3, 5, 6)),
        }
        other = replace(record(4, boot=former), key=RecordKey("other", former, 4))
        fresh = tx.journal.add_records([*again, other])
        assert [row.key.seq for row in fresh if row.key.boot == current] == [4, 7, 8, 10]
        assert len(fresh) == 4 + 9 + 1
        assert tx.journal.prune_records(2000) == len(fresh) + 1
        assert tx.journal.add_records([*again, other]) == []


def test_what_is_known_of_records_no_longer_kept_is_bounded(store: Store) -> None:
    def record_at(seq: int) -> RecordRow:
        return RecordRow(RecordKey("cam", f"{seq:016x}", seq), "telemetry/vitals", seq, "{}")

    rows = [record_at(2 * number) for number in range(1, MAX_RANGES + 4)]
    with store.write() as tx:
        tx.devices.add([("cam", {})], 1)
        tx.journal.add_records(rows)
        tx.journal.prune_records(10**6)
        covered = tx.journal.ranges.covered(row.key for row in rows)
        assert covered == {row.key for row in rows[3:]}, "the newest"
        tx.journal.ranges.prune(2 * MAX_RANGES)
        covered = tx.journal.ranges.covered(row.key for row in rows)
        assert covered == {row.key for row in rows[-4:]}
        tx.devices.remove("cam")
        assert tx.journal.ranges.covered(row.key for row in rows) == set()


def test_records_are_listed_newest_first_by_channel(store: Store) -> None:
    with store.write() as tx:
        tx.devices.add([("cam", {})], 1)
        tx.journal.add_records([record(1), record(2, channel="event/update"), record(3), record(4)])
        listed = tx.journal.records("cam", channel="telemetry", limit=2)
        assert [r.key.seq for r in listed] == [4, 3]
        listed = tx.journal.records("cam", channel="event/update", limit=9)
        assert [r.key.seq for r in listed] == [2]
        assert tx.journal.prune_records(1003) == 2
        assert [r.key.seq for r in tx.journal.records("cam", channel=None, limit=9)] == [4, 3]


def test_newest_is_by_number_within_a_boot_and_the_current_boot_comes_first(store: Store) -> None:
    """What waited on the device comes after what is new, and that of an earlier boot last of all."""
    old, former, current = "9" * 16, "1" * 16, "5" * 16
    arrivals = [(old, 1), (former, 7), (former, 8), (current, 2), (former, 3), (current, 1)]
    arrivals += [(former, 6)]
    with store.write() as tx:
        tx.devices.add([("cam", {})], 1)
        tx.devices.set_presence("cam", PresenceRow("online", current, 1, former, "", 1))
        for at_unix_ms, (boot, seq) in enumerate(arrivals, 5000):
            row = RecordRow(RecordKey("cam", boot, seq), "telemetry/vitals", at_unix_ms, "{}")
            tx.journal.add_records([row])

        def newest(limit: int, channel: str | None = None) -> list[tuple[str, int]]:
            rows = tx.journal.records("cam", channel=channel, limit=limit)
            return [(row.key.boot, row.key.seq) for row in rows]

        assert newest(1) == newest(1, "telemetry/vitals") == [(current, 2)]
        of_former = [(former, seq) for seq in (8, 7, 6, 3)]
        assert newest(99) == [(current, 2), (current, 1), *of_former, (old, 1)]
        assert newest(4) == newest(99)[:4]
        assert newest(9, "event/update") == []


def test_a_newer_publication_replaces_an_unsent_one_of_its_topic(store: Store) -> None:
    with store.write() as tx:
        tx.journal.publish("t/1", "old")
        old = tx.journal.unsent()[0]
        tx.journal.publish("t/1", "new")
        tx.journal.set_sent([old.id])  # the old one's confirmation must not drop the new one
        assert [p.payload for p in tx.journal.unsent()] == ["new"]
        assert tx.journal.unsent(after=tx.journal.unsent()[0].id) == []


def test_events_beyond_the_cap_are_dropped(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fleet.store.journal.MAX_EVENTS", 5)
    with store.write() as tx:
        for number in range(12):
            tx.journal.note([EventRow("device", "d", str(number))], 1)
        assert [e.text for e in tx.journal.events(0, 99)] == ["7", "8", "9", "10", "11"]


def test_confirmed_history_is_a_stack_that_a_rollback_pops(store: Store) -> None:
    def history() -> list[ReleaseKey]:
        with store.read() as tx:
            found = tx.states.confirmed(Selection(device="cam"), "digits")
        return [key for key, _ in found.get("cam", [])]

    with store.write() as tx:
        tx.devices.add([("cam", {})], 1)
        for version in "1", "1", "2", "3":
            tx.states.add_confirmed("cam", model(version), 1)
    assert [key.version for key in history()] == ["3", "2", "1"]
    with store.write() as tx:
        tx.states.void_confirmed_after("cam", "digits", "2" * 64)
        assert not tx.states.add_confirmed("cam", model("2"), 1)  # confirmed again: no news
    assert [key.version for key in history()] == ["2", "1"]


def test_confirmed_history_is_bounded(store: Store) -> None:
    with store.write() as tx:
        tx.devices.add([("cam", {})], 1)
        for number in range(30):
            tx.states.add_confirmed("cam", model("ab"[number % 2]), number)
        found = tx.states.confirmed(Selection(device="cam"), "digits")["cam"]
    assert len(found) == 8


def test_removing_a_device_removes_all_that_is_stored_of_it(store: Store) -> None:
    with store.write() as tx:
        tx.devices.add([("cam", {"a": "b"})], 1)
        tx.journal.add_records([record(1)])
        tx.states.set_desired("cam", model("1"), 1)
        tx.states.set_generation("cam", 1)
        tx.states.add_confirmed("cam", model("1"), 1)
        tx.devices.remove("cam")
        tx.devices.add([("cam", {})], 1)
        assert tx.journal.records("cam", channel=None, limit=9) == []
        assert tx.states.generations(Selection()) == {}
        assert tx.states.confirmed(Selection(), "digits") == {}


def test_a_damaged_chunk_is_noticed_and_healed_by_adding_it_again(
    store: Store, tmp_path: Path
) -> None:
    plain = b"hello"
    digest = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
    store.chunks.add({digest: plain})
    path = tmp_path / "chunks" / digest[:2] / digest
    path.write_bytes(b"damaged")
    with pytest.raises(StorageError) as caught:
        store.chunks.read(digest)
    assert caught.value.code == "chunk_lost"
    store.chunks.discard(digest)
    store.chunks.add({digest: plain})
    assert store.chunks.read(digest)
    assert list(path.parent.glob(".*")) == []
