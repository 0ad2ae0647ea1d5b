"""The brokers that `fleet up` starts: the real programs, on loopback, with the worst handled."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path

import pytest

from fleet.broker import BrokerProcess, BrokerProgram, find_broker, free_port
from tests.spine.processes import free_port as any_port
from wire.errors import ConfigError
from wire.link import Connected, Delivered, Published
from wire.link_paho import PahoLink

HELLO = b"\x10\x10\x00\x04MQTT\x04\x02\x00\x05\x00\x04test"


def until(fact, what, timeout_s=120):
    deadline = time.monotonic() + timeout_s
    while not (answer := fact()):
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.02)
    return answer


def answers(port):
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2) as probe:
            probe.sendall(HELLO)
            return probe.recv(4) == b"\x20\x02\x00\x00"
    except OSError:
        return False


@pytest.fixture(params=["mosquitto", "nats"])
def program(request):
    try:
        return find_broker(request.param)
    except ConfigError as exc:
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI must have this broker: {exc}")
        pytest.skip(f"NOT TESTED: {exc}")


@pytest.fixture
def broker(program, tmp_path):
    process = BrokerProcess(program, any_port(), tmp_path / "a place with spaces")
    yield process
    process.stop()


@pytest.mark.broker
def test_it_answers_once_started_and_ends_when_stopped(broker):
    broker.start()
    assert answers(broker.port)
    pid = broker.pid
    broker.stop()
    broker.stop()
    assert broker.pid is None
    assert not Path(f"/proc/{pid}").exists()
    assert not answers(broker.port)


@pytest.mark.broker
def test_it_listens_on_loopback_only(broker):
    broker.start()
    own = open_files(broker.pid)
    listening = [
        fields[1]
        for table in ("tcp", "tcp6")
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]
        if (fields := line.split())[3] == "0A" and f"socket:[{fields[9]}]" in own
    ]
    assert f"0100007F:{broker.port:04X}" in listening
    assert all(address.startswith("0100007F:") for address in listening)


@pytest.mark.broker
def test_a_retained_message_outlives_a_restart(broker):
    topic, content = "fleet/v1/controller/presence", b'{"v":1}'
    broker.start()
    writer = Peer(broker.port, "writer")
    writer.retain(topic, content)
    writer.link.stop()
    broker.stop()
    broker.start()
    later = Peer(broker.port, "later", topic)
    until(lambda: content in later.received, "the message after the restart")
    later.link.stop()


@pytest.mark.broker
def test_a_payload_over_the_cap_ends_at_the_broker(broker):
    broker.start()
    with socket.create_connection(("127.0.0.1", broker.port), timeout=10) as link:
        link.sendall(HELLO)
        assert link.recv(4) == b"\x20\x02\x00\x00"
        # PUBLISH with a remaining length of 256 MB: the header alone must be enough.
        link.sendall(b"\x30\xff\xff\xff\x7f\x00\x01a")
        with_more = bytes(64 * 1024)
        try:
            for _ in range(64):
                link.sendall(with_more)
            assert link.recv(1) == b""
        except (ConnectionResetError, BrokenPipeError):
            pass
    assert answers(broker.port)


@pytest.mark.broker
def test_it_comes_back_after_it_died(broker):
    broker.start()
    first = broker.pid
    os.kill(first, signal.SIGKILL)
    until(lambda: not answers(broker.port), "the broker to be gone")
    now_s = time.monotonic()

    def is_back():
        nonlocal now_s
        now_s += 0.1  # a minute of waiting passes in no time
        broker.keep_alive(now_s)
        return broker.pid != first and answers(broker.port)

    until(is_back, "the broker to be back")


@pytest.mark.broker
def test_it_does_not_outlive_a_parent_that_was_killed(program, tmp_path):
    port = any_port()
    source = (
        "import sys, time; from pathlib import Path;"
        "from fleet.broker import BrokerProcess, find_broker;"
        f"b = BrokerProcess(find_broker({program.kind!r}), {port}, Path({str(tmp_path)!r}));"
        "b.start(); print(b.pid, flush=True); time.sleep(600)"
    )
    parent = subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE, text=True)
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    try:
        until(lambda: is_gone(pid), "the broker to end")
    finally:
        if not is_gone(pid):
            os.kill(pid, signal.SIGKILL)


def open_files(pid):
    targets = set()
    for handle in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # it was closed meanwhile
            targets.add(str(handle.readlink()))
    return targets


def is_gone(pid):
    try:
        # Where nobody reaps orphans, a zombie is as dead as it gets.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


@pytest.mark.broker
def test_a_taken_port_is_said_to_be_taken_even_by_another_broker(program, broker, tmp_path):
    broker.start()
    second = BrokerProcess(program, broker.port, tmp_path / "second")
    with pytest.raises(ConfigError) as caught:
        second.start()
    assert caught.value.code == "port_taken"
    assert str(broker.port) in str(caught.value)
    assert "fleet.toml" in caught.value.hint
    assert second.pid is None


def test_an_early_end_shows_what_it_printed(tmp_path):
    script = tmp_path / "mosquitto"
    script.write_text("#!/bin/sh\necho 'Error: no luck today' >&2\nexit 1\n")
    script.chmod(0o755)
    process = BrokerProcess(BrokerProgram("mosquitto", script), any_port(), tmp_path / "store")
    with pytest.raises(ConfigError, match="no luck today") as caught:
        process.start()
    assert caught.value.code == "broker_failed"
    assert "mosquitto.log" in caught.value.hint
    assert process.pid is None


def test_one_that_keeps_dying_is_started_ever_later(tmp_path):
    script = tmp_path / "mosquitto"
    count = tmp_path / "count"
    script.write_text(f"#!/bin/sh\necho >> {count}\nexit 1\n")
    script.chmod(0o755)
    process = BrokerProcess(BrokerProgram("mosquitto", script), any_port(), tmp_path / "store")
    process._launch()
    starts = []
    for tick in range(400):
        before = process.pid
        process._process.wait()
        process.keep_alive(tick * 0.1)
        if process.pid != before:
            starts.append(tick * 0.1)
    waits = [later - earlier for earlier, later in pairwise(starts)]
    assert len(starts) >= 4
    assert waits == sorted(waits)
    assert waits[-1] > 4 * waits[0]
    process.stop()


def test_none_at_all_says_what_to_install():
    with pytest.raises(ConfigError) as caught:
        find_broker("rabbit")
    assert caught.value.code == "broker_missing"
    assert "fleet init --broker URL" in caught.value.hint


def test_a_taken_port_is_passed_over():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        found = free_port(port)
    assert port < found < port + 100


class Peer:
    """A client of the broker, with what it received and what the broker took."""

    def __init__(self, port, name, *topics):
        self.received = []
        self.taken = []
        self._topics = topics
        self._up = threading.Event()
        self.link = PahoLink(f"mqtt://127.0.0.1:{port}", name)
        self.link.start(self._on_event, lambda: None)
        assert self._up.wait(30)

    def _on_event(self, event):
        match event:
            case Connected():
                self.link.subscribe(self._topics, qos=1)
                self._up.set()
            case Delivered():
                self.received.append(event.payload)
            case Published():
                self.taken.append(event.token)

    def retain(self, topic, payload):
        token = self.link.publish(topic, payload, qos=1, retain=True)
        until(lambda: token in self.taken, "the broker to take it")
