"""The contract of a link, on the in-memory broker and on the real ones."""

import os
import queue
import secrets
import socket
import subprocess
import threading
import time

import pytest

from fleet.broker import BrokerProcess, find_broker
from fleet.pki.authority import CertificateAuthority
from fleet.pki.folder import PkiFolder
from wire.endpoint import TlsFiles
from wire.errors import ConfigError
from wire.link import Connected, Delivered, Disconnected, Published, Will
from wire.link_memory import MemoryBroker, matches
from wire.link_paho import PahoLink

WAIT_S = 30
KINDS = [
    "memory",
    pytest.param("mosquitto", marks=pytest.mark.broker),
    pytest.param("nats", marks=pytest.mark.broker),
    pytest.param("tls", marks=pytest.mark.broker),
]


class Party:
    """A link with a name, and everything it was told."""

    def __init__(self, link, will=None):
        self.link = link
        self.events = queue.Queue()
        self.sink = self.events.put
        link.start(lambda event: self.sink(event), lambda: will)  # noqa: PLW0108  # sink is replaced

    def wait(self, kind, timeout_s=WAIT_S):
        """Return the next event of `kind`; others on the way are dropped."""
        deadline = time.monotonic() + timeout_s
        while True:
            left_s = deadline - time.monotonic()
            assert left_s > 0, f"no {kind.__name__} within {timeout_s} s"
            try:
                event = self.events.get(timeout=left_s)
            except queue.Empty:
                continue
            if isinstance(event, kind):
                return event

    def delivered(self, timeout_s=WAIT_S):
        event = self.wait(Delivered, timeout_s)
        return event.topic, event.payload

    def is_quiet(self):
        """Whether nothing but what was asked for arrives: a probe to oneself comes back first."""
        probe = f"probe/{secrets.token_hex(4)}"
        self.link.subscribe([probe], qos=1)
        self.publish(probe, b"probe")
        return self.delivered() == (probe, b"probe")

    def publish(self, topic, payload, *, qos=1, retain=False):
        """Publish, and return when the broker has it."""
        token = self.link.publish(topic, payload, qos=qos, retain=retain)
        assert token is not None
        kept = []
        while True:
            event = self.events.get(timeout=WAIT_S)
            if isinstance(event, Published) and event.token == token:
                break
            kept.append(event)
        for event in kept:
            self.events.put(event)
        return token


class RealBroker:
    """One of the brokers that the fleet uses."""

    def __init__(self, kind, folder):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.process = BrokerProcess(find_broker(kind), port, folder)
        self.process.start()
        self.url = f"mqtt://127.0.0.1:{port}"

    def link(self, client_id):
        return PahoLink(self.url, client_id)

    def cut(self, link):
        """Break a link's connection as a cable does."""
        link._client.socket().shutdown(socket.SHUT_RDWR)

    def stop(self):
        self.process.stop()


class TlsBroker(RealBroker):
    """A mosquitto that asks for certificates, and lets each that has one do what it likes."""

    def __init__(self, folder):
        program = find_broker("mosquitto")
        self._tls = CertificateAuthority.found(
            PkiFolder(folder), [], time.time_ns() // 1_000_000
        ).folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        config = folder / "mosquitto.conf"
        config.write_text(
            f"listener {port} 127.0.0.1\nallow_anonymous true\nrequire_certificate true\n"
            f"cafile {self._tls.ca.certificate}\ncertfile {self._tls.server.certificate}\n"
            f"keyfile {self._tls.server.key}\nuser root\n"
        )
        self._broker = subprocess.Popen([program.path, "-c", config])
        self.url = f"mqtts://127.0.0.1:{port}"

    def link(self, client_id):
        pair = self._tls.controller
        files = TlsFiles(self._tls.ca.certificate, pair.certificate, pair.key)
        return PahoLink(self.url, client_id, tls=files)

    def stop(self):
        self._broker.terminate()
        self._broker.wait()


class InMemory(MemoryBroker):
    """The in-memory broker under the same handle."""

    def cut(self, link):
        super().cut(link.client_id)

    def stop(self):
        pass


@pytest.fixture(params=KINDS)
def broker(request, tmp_path):
    if request.param == "memory":
        started = InMemory()
    else:
        try:
            is_tls = request.param == "tls"
            started = TlsBroker(tmp_path) if is_tls else RealBroker(request.param, tmp_path)
        except ConfigError as exc:
            if os.environ.get("CI") == "true":
                pytest.fail(f"CI must have this broker: {exc}")
            pytest.skip(f"NOT TESTED: {exc}")
    yield started
    started.stop()


@pytest.fixture
def join(broker):
    parties = []

    def join(client_id=None, will=None):
        party = Party(broker.link(client_id or f"c-{secrets.token_hex(4)}"), will)
        parties.append(party)
        party.wait(Connected)
        return party

    yield join
    for party in parties:
        party.link.stop()


@pytest.fixture
def root():
    """A topic prefix of its own: brokers live for one test, but the habit is free."""
    return f"t{secrets.token_hex(4)}"


def test_a_message_reaches_its_subscriber_and_its_token_the_sender(join, root):
    one, other = join(), join()
    other.link.subscribe([f"{root}/a"], qos=1)
    assert other.is_quiet()
    one.publish(f"{root}/a", b"hello")
    event = other.wait(Delivered)
    assert (event.topic, event.payload, event.retained) == (f"{root}/a", b"hello", False)


def test_a_retained_message_greets_a_late_subscriber(join, root):
    join().publish(f"{root}/state", b"7", retain=True)
    late = join()
    late.link.subscribe([f"{root}/state"], qos=1)
    event = late.wait(Delivered)
    assert (event.payload, event.retained) == (b"7", True)


def test_the_newest_retained_message_counts_and_an_empty_one_clears(join, root):
    one = join()
    one.publish(f"{root}/state", b"1", retain=True)
    one.publish(f"{root}/state", b"2", retain=True)
    late = join()
    late.link.subscribe([f"{root}/state"], qos=1)
    assert late.delivered() == (f"{root}/state", b"2")
    one.publish(f"{root}/state", b"", retain=True)
    assert late.delivered() == (f"{root}/state", b"")
    later = join()
    later.link.subscribe([f"{root}/state"], qos=1)
    assert later.is_quiet()


def test_subscribing_again_delivers_what_is_retained_again(join, root):
    one = join()
    one.publish(f"{root}/chunk", b"c", retain=True)
    for _ in range(2):
        one.link.subscribe([f"{root}/chunk"], qos=0)
        assert one.delivered() == (f"{root}/chunk", b"c")
        one.link.unsubscribe([f"{root}/chunk"])


def test_wildcards_select_levels(join, root):
    one, other = join(), join()
    other.link.subscribe([f"{root}/+/state", f"{root}/all/#"], qos=1)
    assert other.is_quiet()
    for level in ("a/state", "a/other", "a/b/state", "all/x/y"):
        one.publish(f"{root}/{level}", level.encode())
    assert {other.delivered()[1], other.delivered()[1]} == {b"a/state", b"all/x/y"}
    assert other.is_quiet()


def test_unsubscribing_ends_deliveries(join, root):
    one, other = join(), join()
    other.link.subscribe([f"{root}/a"], qos=1)
    other.link.unsubscribe([f"{root}/a"])
    assert other.is_quiet()
    one.publish(f"{root}/a", b"x")
    assert other.is_quiet()


def test_more_filters_than_one_request_may_carry(join, root):
    one, other = join(), join()
    names = [f"{root}/{n}" for n in range(20)]
    other.link.subscribe(names, qos=1)
    assert other.is_quiet()
    for name in names:
        one.publish(name, name.encode())
    assert sorted(other.delivered()[0] for _ in names) == sorted(names)


def test_messages_of_one_sender_on_one_topic_keep_their_order(join, root):
    one, other = join(), join()
    other.link.subscribe([f"{root}/a"], qos=1)
    assert other.is_quiet()
    for number in range(200):
        one.publish(f"{root}/a", str(number).encode())
    assert [int(other.delivered()[1]) for _ in range(200)] == list(range(200))


def test_two_hundred_chunks_come_through_a_window_of_eight(join, root):
    one, other = join(), join()
    chunks = {f"{root}/{n}": os.urandom(30_000) for n in range(200)}
    for topic, payload in chunks.items():
        one.publish(topic, payload, retain=True)
    waiting, asked, got = list(chunks), set(), {}
    while waiting or asked:
        fresh = waiting[: 8 - len(asked)]
        del waiting[: len(fresh)]
        asked |= set(fresh)
        if fresh:
            other.link.subscribe(fresh, qos=0)
        topic, payload = other.delivered()
        got[topic] = payload
        asked.discard(topic)
        other.link.unsubscribe([topic])
    assert got == chunks


def test_a_cut_sends_the_will_and_the_link_comes_back(broker, join, root):
    watcher = join()
    watcher.link.subscribe([f"{root}/presence"], qos=1)
    assert watcher.is_quiet()
    device = join(will=Will(f"{root}/presence", b"offline"))
    broker.cut(device.link)
    assert watcher.delivered() == (f"{root}/presence", b"offline")
    device.wait(Disconnected)
    if isinstance(broker, RealBroker):
        device.wait(Connected)


def test_a_stop_sends_no_will(join, root):
    watcher = join()
    watcher.link.subscribe([f"{root}/presence"], qos=1)
    device = join(will=Will(f"{root}/presence", b"offline"))
    device.link.stop()
    device.link.stop()
    assert watcher.is_quiet()


def test_the_will_is_retained(broker, join, root):
    device = join(will=Will(f"{root}/presence", b"offline"))
    watcher = join()
    watcher.link.subscribe([f"{root}/presence"], qos=1)
    # nats-server delivers a message before it has retained it: who subscribes in between gets neither.
    time.sleep(1.0)
    broker.cut(device.link)
    watcher.wait(Delivered)
    time.sleep(1.0)
    late = join()
    late.link.subscribe([f"{root}/presence"], qos=1)
    assert late.wait(Delivered).retained


def test_a_client_id_belongs_to_the_newest_connection(broker, join, root):
    old = join("cam-01")
    new = Party(broker.link("cam-01"))
    new.wait(Connected)
    old.wait(Disconnected)
    old.link.stop()
    new.link.stop()


def test_subscriptions_are_gone_after_a_new_connection(broker, join, root):
    one, other = join(), join()
    other.link.subscribe([f"{root}/a"], qos=1)
    assert other.is_quiet()
    broker.cut(other.link)
    other.wait(Disconnected)
    if isinstance(broker, RealBroker):
        other.wait(Connected)
    else:
        other.link.connect()
        other.wait(Connected)
    one.publish(f"{root}/a", b"missed")
    assert other.is_quiet()


def test_publishing_while_down_is_refused_at_once(broker, join, root):
    one = join()
    broker.cut(one.link)
    one.wait(Disconnected)
    one.link.stop()
    assert one.link.publish(f"{root}/a", b"x", qos=1, retain=False) is None


@pytest.mark.broker
@pytest.mark.parametrize("broker", ["mosquitto", "nats"], indirect=True)
def test_a_broker_that_restarts_is_found_again(broker, join, root):
    one = join()
    broker.process.stop()
    one.wait(Disconnected)
    assert one.link.publish(f"{root}/a", b"x", qos=1, retain=False) is None
    broker.process.start()
    one.wait(Connected)
    one.publish(f"{root}/a", b"y")


@pytest.mark.broker
@pytest.mark.parametrize("broker", ["mosquitto"], indirect=True)
def test_a_sink_that_fails_costs_the_connection_and_not_the_link(broker, join, root):
    one = join()

    def fail_once(event):
        one.sink = one.events.put
        raise RuntimeError("a fault above the link")

    one.link.subscribe([f"{root}/a"], qos=1)
    assert one.is_quiet()
    one.sink = fail_once
    join().publish(f"{root}/a", b"x")
    one.wait(Connected)
    assert one.link.is_alive()


@pytest.mark.broker
@pytest.mark.parametrize("broker", ["mosquitto"], indirect=True)
def test_a_stopped_link_leaves_no_thread(broker):
    before = set(threading.enumerate())
    party = Party(broker.link("c"))
    party.wait(Connected)
    party.link.stop()
    deadline = time.monotonic() + WAIT_S
    while set(threading.enumerate()) - before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert set(threading.enumerate()) - before == set()


def test_nobody_there_is_a_reason_and_no_end():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"mqtt://127.0.0.1:{probe.getsockname()[1]}"
    party = Party(PahoLink(url, "c"))
    assert "cannot reach" in party.wait(Disconnected).reason
    assert party.link.is_alive()
    party.link.stop()


@pytest.mark.parametrize(
    ("pattern", "topic", "is_match"),
    [
        ("a/b", "a/b", True),
        ("a/+", "a/b", True),
        ("a/+", "a", False),
        ("a/+", "a/b/c", False),
        ("a/#", "a", True),
        ("a/#", "a/b/c", True),
        ("#", "a", True),
        ("+/b", "a/b", True),
        ("a/b", "a/bb", False),
    ],
)
def test_filters_match_as_the_standard_says(pattern, topic, is_match):
    assert matches(pattern, topic) is is_match
