"""Two rogue devices against every topic, on the real brokers: nothing crosses."""

import contextlib
import os
import re
import socket
import subprocess

import pytest

from fleet.broker import find_broker
from fleet.pki.grants import (
    AUDITOR_NAME,
    CONTROLLER_NAME,
    OBSERVER_NAME,
    grants,
    observer_name,
)
from tests.fleet.secured import Client, Secured, until
from tests.fleet.test_broker import any_port
from wire import topics
from wire.endpoint import Endpoint, TlsFiles
from wire.errors import ConfigError
from wire.link import Connected, Disconnected
from wire.link_paho import PahoLink

pytestmark = pytest.mark.broker


@pytest.fixture(params=["mosquitto", "nats"])
def secured(request, tmp_path):
    try:
        program = find_broker(request.param)
    except ConfigError as exc:
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI must have this broker: {exc}")
        pytest.skip(f"NOT TESTED: {exc}")
    made = Secured(program, any_port(), tmp_path)
    made.start()
    yield made
    made.stop()


@pytest.fixture
def join(secured):
    clients = []

    def join(files, client_id, **more):
        client = Client(secured, files, client_id, **more)
        clients.append(client)
        assert client.connects()
        return client

    yield join
    for client in clients:
        client.stop()


def topics_of(device):
    """Return a topic for every row of the table, and others that only look like the device's."""
    listed = [grant.of(device).replace("+", "update") for grant in grants() if grant.is_own]
    foreign = ("other", "a/b", "x/#", "event/x1", "telemetry/x1", "telemetry/vitals/x1")
    return [*listed, *(f"{topics.ROOT}/device/{device}/{rest}" for rest in foreign)]


PAIR = ("cam-01", "cam-02")
OTHER = dict(zip(PAIR, reversed(PAIR), strict=True))
SHARED = [grant.filter.replace("+", "a" * 64) for grant in grants() if not grant.is_own]
WILD = ["#", "fleet/#", "+/+/#", "fleet/v1/device/#", "fleet/v1/device/+/desired", "$SYS/#",
        "fleet/v1/device/+/+", "fleet/v1/device/+/+/+", "$MQTT/#", "$JS/#", "$share/g/fleet/#"]  # fmt: skip


def test_two_rogues_read_and_write_nothing_of_each_other(secured, join):
    files = dict(zip(PAIR, secured.admit(*PAIR), strict=True))
    controller = join(secured.program(CONTROLLER_NAME), "controller")
    watcher = join(secured.program(AUDITOR_NAME), "watcher")
    assert watcher.subscribe("fleet/v1/#")
    devices = {name: until_in(secured, join, files[name], name) for name in PAIR}
    for name, device in devices.items():
        for topic in (*WILD, *topics_of(OTHER[name]), *topics_of(name)):
            device.subscribe(topic)
    for name, device in devices.items():
        for topic in (*topics_of(OTHER[name]), *SHARED, *topics_of(name)):
            if "#" not in topic:
                device.publish(topic, f"written by {name}".encode())
    for name in PAIR:
        speak_to(controller, name)
    # What was sent before these has been judged when these arrive.
    for name, device in devices.items():
        device.publish(f"fleet/v1/device/{name}/reported", b"last")
        until(
            lambda n=name: (f"fleet/v1/device/{n}/reported", b"last") in watcher.received,
            "it is there",
        )
    controller.publish("fleet/v1/controller/presence", b"last")
    for name, device in devices.items():
        assert device.subscribe("fleet/v1/controller/presence")
        until(lambda d=device: last_of_all(d), f"{name} has heard everything")

    written = {(topic, payload) for topic, payload in watcher.received if b"written" in payload}
    assert written == {pair for name in PAIR for pair in may_write(name)}
    for name, device in devices.items():
        heard = {topic for topic, _ in device.received if "/device/" in topic}
        assert heard, f"{name} heard nothing: this test proves nothing"
        assert {topic.split("/")[3] for topic in heard} == {name}
        assert not [p for _, p in device.received if OTHER[name].encode() in p]


def may_write(name):
    return {
        (grant.of(name).replace("+", "update"), f"written by {name}".encode())
        for grant in grants()
        if grant.device_writes
    }


def speak_to(controller, name):
    """Write what a controller may, to one device and to all."""
    for grant in grants():
        topic = grant.of(name).replace("+", "b" * 64)
        if grant.controller_writes:
            controller.publish(topic, f"for {name if grant.is_own else 'all'}".encode())


def last_of_all(device):
    return ("fleet/v1/controller/presence", b"last") in device.received


def until_in(secured, join, files, name):
    """Return a client of a device; NATS reads its users a moment after it was told to."""
    until(lambda: can_enter(secured, files, name), f"{name} is let in")
    return join(files, name)


def can_enter(secured, files, client_id):
    client = Client(secured, files, client_id)
    try:
        return client.connects()
    finally:
        client.stop()


PROGRAMS = (OBSERVER_NAME, observer_name("eve"), CONTROLLER_NAME)


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_writes_no_topic_of_a_device_that_has_its_name(secured, join, name):
    one, eve = secured.admit("cam-01", observer_name("eve"))
    files = eve if name == observer_name("eve") else secured.program(name)
    watcher = join(secured.program(AUDITOR_NAME), "watcher")
    assert watcher.subscribe("fleet/v1/#")
    device = until_in(secured, join, one, "cam-01")
    until(lambda: can_enter(secured, files, "program"), "it is let in")
    rogue = Client(secured, files, "program", will=(f"fleet/v1/device/{name}/presence", b"will"))
    if rogue.connects():  # NATS refuses such a will at once
        for topic in topics_of(name):
            if "#" not in topic and not rogue.down.is_set():
                rogue.publish(topic, b"written")
        rogue.drop()
    rogue.stop()
    rogue = join(files, "program")
    assert name == CONTROLLER_NAME or rogue.subscribe("fleet/v1/device/cam-01/presence")
    device.publish("fleet/v1/device/cam-01/presence", b"last")
    last = ("fleet/v1/device/cam-01/presence", b"last")
    until(lambda: last in watcher.received, "a device's word arrives")
    if name != CONTROLLER_NAME:
        until(lambda: last in rogue.received, "an observer reads on")
    # NATS has no names in a topic: a controller may write where a device of that name would.
    is_open = name == CONTROLLER_NAME and secured.process.program.kind == "nats"
    assert is_open or [t for t, _ in watcher.received if "/cam-01/" not in t] == []


def test_a_will_writes_no_topic_of_another(secured, join):
    one, _ = secured.admit("cam-01", "cam-02")
    watcher = join(secured.program(AUDITOR_NAME), "watcher")
    assert watcher.subscribe("fleet/v1/#")
    until(lambda: can_enter(secured, one, "cam-01"), "cam-01 is let in")
    for topic in ("fleet/v1/device/cam-02/presence", "fleet/v1/device/cam-01/presence"):
        rogue = Client(secured, one, "cam-01", will=(topic, b"will"))
        rogue.connects()  # a broker may refuse such a will at once
        rogue.drop()
        rogue.stop()
    until(lambda: watcher.received, "the will of its own arrives")
    assert {topic for topic, _ in watcher.received} == {"fleet/v1/device/cam-01/presence"}


def test_nobody_enters_without_a_certificate_or_with_another_authoritys(secured, tmp_path):
    (tmp_path / "foreign").mkdir()
    foreign = Secured(secured.process.program, any_port(), tmp_path / "foreign")
    (files,) = foreign.admit("cam-01")
    ca = secured.pki.ca.certificate
    assert not can_enter(secured, TlsFiles(ca), "cam-01")
    assert not can_enter(secured, TlsFiles(ca, files.certificate, files.key), "cam-01")
    # Nor as a program, by a name that the foreign authority gave.
    program = foreign.program(CONTROLLER_NAME)
    assert not can_enter(secured, TlsFiles(ca, program.certificate, program.key), "controller")
    with socket.create_connection(("127.0.0.1", secured.port), timeout=10) as plain:
        plain.sendall(b"\x10\x10\x00\x04MQTT\x04\x02\x00\x05\x00\x04test")
        with contextlib.suppress(ConnectionResetError):
            assert plain.recv(4) != b"\x20\x02\x00\x00"


def test_a_device_cannot_take_anothers_session(secured, join):
    one, two = secured.admit("cam-01", "cam-02")
    victim = until_in(secured, join, one, "cam-01")
    until(lambda: can_enter(secured, two, "cam-02"), "cam-02 is let in")
    rogue = Client(secured, two, "cam-01")
    rogue.connects()
    rogue.subscribe("fleet/v1/device/cam-01/desired")
    controller = join(secured.program(CONTROLLER_NAME), "controller")
    controller.publish("fleet/v1/device/cam-01/desired", b"for cam-01")
    if secured.process.program.kind == "mosquitto":
        # NATS lets the client id go to whom it likes, though nothing of what is said to it.
        assert not victim.down.is_set()
        victim.subscribe("fleet/v1/device/cam-01/desired")
        until(lambda: victim.received, "the one whose it is gets it")
    assert rogue.received == []
    rogue.stop()


def test_a_revoked_certificate_is_refused_and_another_is_not(secured):
    one, two = secured.admit("cam-01", "cam-02")
    (newer,) = secured.admit("cam-01")
    until(lambda: can_enter(secured, newer, "cam-01"), "the newer is let in")
    assert can_enter(secured, one, "cam-01")
    secured.revoke("cam-01")
    until(lambda: not can_enter(secured, one, "cam-01"), "the old one is refused")
    assert not can_enter(secured, newer, "cam-01")
    assert can_enter(secured, two, "cam-02")
    (again,) = secured.admit("cam-01")
    until(lambda: can_enter(secured, again, "cam-01"), "a new one is let in")
    assert not can_enter(secured, one, "cam-01")


def test_a_link_reads_its_files_anew_at_each_connection(secured):
    one, two = secured.admit("cam-01", "cam-01")
    until(lambda: can_enter(secured, two, "cam-01"), "both are let in")
    events, chosen = [], [one]
    link = PahoLink(lambda: Endpoint(secured.url, chosen[0]), "cam-01")
    link.start(events.append, lambda: None)
    until(lambda: Connected() in events, "it is connected")
    chosen[0] = TlsFiles(one.ca, one.certificate.with_name("absent"), one.key)
    link.reconnect()
    until(lambda: any("certificates" in e.reason for e in events if isinstance(e, Disconnected)),
          "it says what is wrong")  # fmt: skip
    events.clear()
    chosen[0] = two
    until(lambda: Connected() in events, "it is connected again")
    link.stop()


def test_a_mosquitto_that_is_full_throws_off_who_fills_it_and_serves_the_others(tmp_path):
    try:
        program = find_broker("mosquitto")
    except ConfigError as exc:
        pytest.skip(f"NOT TESTED: {exc}")
    full = Secured(program, any_port(), tmp_path)
    full.start()
    # Started anew with what it was configured with, but for the limit: this machine is too large.
    config = tmp_path / "broker/mosquitto.conf"
    full.stop()
    text, count = re.subn(r"(?m)^memory_limit .*$", "memory_limit 6000000", config.read_text())
    assert count == 1
    config.write_text(text)
    broker = subprocess.Popen([program.path, "-c", config])
    try:
        (files,) = full.admit("cam-01")
        until(lambda: is_open(full.port), "it listens")
        rogue = Client(full, full.program(AUDITOR_NAME), "rogue")
        assert rogue.connects()
        for number in range(100):
            if rogue.down.is_set():
                break
            rogue.publish(f"fleet/v1/chunk/{number}", b"x" * 120_000)
        assert rogue.down.is_set(), "12 MB went into 6"
        assert number > 10, "it refused before it was full"
        device = Client(full, files, "cam-01")
        assert device.connects()
        device.publish("fleet/v1/device/cam-01/presence", b"here")
        assert device.subscribe("fleet/v1/device/cam-01/presence")
        until(lambda: device.received, "its word comes back")
        for client in (rogue, device):
            client.stop()
        assert broker.poll() is None
    finally:
        broker.terminate()
        broker.wait()


def is_open(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
