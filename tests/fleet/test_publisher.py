from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from fleet.publisher import MAX_IN_FLIGHT, Publisher
from fleet.store.store import Store
from fleet.trust.authority import Authority
from tests.fleet.peers import Fleet
from wire.content import decode_chunk
from wire.link import Sink, WillFactory
from wire.topics import Qos


class SlowLink:
    """A link whose broker acknowledges when the test says so."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, bytes]] = []
        self.is_full = False

    def start(self, sink: Sink, will: WillFactory) -> None: ...

    def publish(self, topic: str, payload: bytes, *, qos: Qos, retain: bool) -> int | None:
        if self.is_full:
            return None
        self.sent.append((topic, payload))
        return len(self.sent)

    def subscribe(self, filters: Sequence[str], *, qos: Qos) -> None: ...

    def unsubscribe(self, filters: Sequence[str]) -> None: ...

    def is_alive(self) -> bool:
        return True

    def stop(self) -> None: ...


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "fleet.db", tmp_path)
    yield store
    store.close()


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path)
    fleet.settle()
    yield fleet
    fleet.controller.stop()
    fleet.store.close()


def publish(store: Store, *messages: tuple[str, str]) -> None:
    with store.write() as tx:
        for topic, payload in messages:
            tx.journal.publish(topic, payload)


def unsent(store: Store) -> list[str]:
    with store.read() as tx:
        return [p.topic for p in tx.journal.unsent()]


def test_at_most_a_window_is_in_flight(store: Store) -> None:
    link = SlowLink()
    publisher = Publisher(store, link, Authority(store.data_dir))
    publisher.on_connected([])
    publish(store, *((f"t/{n:02}", "x") for n in range(20)))
    publisher.load()
    publisher.pump(0)
    assert len(link.sent) == MAX_IN_FLIGHT
    publisher.on_published(1)
    publisher.pump(0)
    assert len(link.sent) == MAX_IN_FLIGHT + 1
    publisher.settle()
    assert len(unsent(store)) == 19


def test_what_was_not_acknowledged_is_sent_again_in_order(store: Store) -> None:
    link = SlowLink()
    publisher = Publisher(store, link, Authority(store.data_dir))
    publisher.on_connected([])
    publish(store, ("t/a", "1"))
    publisher.load()
    publisher.pump(0)
    publish(store, ("t/a", "2"), ("t/b", "1"))  # a newer word on the same topic
    publisher.load()
    publisher.pump(0)
    publisher.on_disconnected()
    link.sent.clear()
    publisher.pump(0)
    assert link.sent == []  # not while the link is down
    publisher.on_connected([])
    publisher.pump(0)
    assert link.sent == [("t/a", b"1"), ("t/a", b"2"), ("t/b", b"1")]


def test_acknowledgements_of_an_earlier_connection_mean_nothing(store: Store) -> None:
    link = SlowLink()
    publisher = Publisher(store, link, Authority(store.data_dir))
    publisher.on_connected([])
    publish(store, ("t/a", "1"))
    publisher.load()
    publisher.pump(0)
    publisher.on_disconnected()
    publisher.on_published(1)
    publisher.settle()
    assert unsent(store) == ["t/a"]


def test_a_full_link_is_tried_again(store: Store) -> None:
    link = SlowLink()
    publisher = Publisher(store, link, Authority(store.data_dir))
    publisher.on_connected([])
    publish(store, ("t/a", "1"))
    publisher.load()
    link.is_full = True
    publisher.pump(0)
    link.is_full = False
    publisher.pump(0)
    assert link.sent == [("t/a", b"1")]


def test_what_was_stored_before_a_kill_is_sent_by_the_next_process(store: Store) -> None:
    publish(store, ("t/a", "1"))
    link = SlowLink()
    publisher = Publisher(store, link, Authority(store.data_dir))
    publisher.on_connected([])
    publisher.load()
    publisher.pump(0)
    assert link.sent == [("t/a", b"1")]


def chunk_topics(fleet: Fleet) -> list[str]:
    return [t for t in fleet.broker._retained if t.startswith("fleet/v1/chunk/")]


def push(fleet: Fleet, version: str) -> str:
    release = fleet.release(version)
    fleet.controller._has_new_chunks = True
    fleet.settle()
    return release.index_digest


def test_chunks_are_published_once_retained_and_are_what_they_claim(fleet: Fleet) -> None:
    digest = push(fleet, "1.0.0")
    payload = fleet.broker._retained[f"fleet/v1/chunk/{digest}"]
    assert hashlib.sha256(decode_chunk(digest, payload)).hexdigest() == digest
    fleet.broker._retained.clear()
    fleet.restart()
    assert chunk_topics(fleet) == []  # the broker said that it has them


def test_chunks_that_a_kill_kept_back_are_published_at_the_next_start(fleet: Fleet) -> None:
    fleet.release("1.0.0")
    assert chunk_topics(fleet) == []
    fleet.restart()
    assert len(chunk_topics(fleet)) == 1


def test_missing_chunks_are_published_again_but_not_too_often(fleet: Fleet) -> None:
    fleet.add("a", "b")
    digest = push(fleet, "1.0.0")
    device = fleet.devices["a"]
    device.want(digest)
    assert device.chunks == {digest: 1}
    for _ in range(10):
        device.miss(digest)
        fleet.devices["b"].miss(digest)
        fleet.settle()
    assert device.chunks == {digest: 2}
    fleet.wait(5, step_s=5)
    device.miss(digest)
    fleet.settle()
    assert device.chunks == {digest: 3}


def test_unknown_chunks_are_not_published(fleet: Fleet) -> None:
    fleet.add("a")
    before = dict(fleet.broker._retained)
    fleet.devices["a"].miss("e" * 64)
    fleet.settle()
    assert fleet.broker._retained.keys() == before.keys()


def test_a_chunk_that_is_damaged_on_disk_does_not_stop_the_others(fleet: Fleet) -> None:
    lost = fleet.release("1.0.0").index_digest
    path = fleet.folder / "chunks" / lost[:2] / lost
    path.write_bytes(b"damaged")
    other = push(fleet, "2.0.0")
    assert chunk_topics(fleet) == [f"fleet/v1/chunk/{other}"]
