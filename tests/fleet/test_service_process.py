"""The controller as a process of its own: signals, ports, a real broker."""

from __future__ import annotations

import contextlib
import json
import queue
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fleet.service import ControllerSettings, run_controller
from wire import codec, topics
from wire import messages as m
from wire.errors import ConfigError
from wire.link import Connected, Delivered, LinkEvent
from wire.link_paho import PahoLink

pytestmark = pytest.mark.slow

DEADLINE_S = 30.0
MAIN = """
import sys
from pathlib import Path
from fleet import audit, tokens
from fleet.service import ControllerSettings, run_controller
from fleet.store.store import Store
url, port, folder = sys.argv[1:]
store = Store(Path(folder) / "fleet.db", Path(folder))
audit.found(Path(folder), Path(folder), store)
tokens.found(Path(folder), store)
store.close()
run_controller(ControllerSettings(
    broker_url=url, listen=("127.0.0.1", int(port)), database=Path(folder) / "fleet.db",
    data_dir=Path(folder), checkpoints_path=Path(folder) / "audit.checkpoints",
    on_ready=lambda: print("ready", flush=True),
))
print("ended", flush=True)
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


class Process:
    def __init__(self, folder: Path, broker_port: int) -> None:
        self.port = free_port()
        url = f"mqtt://127.0.0.1:{broker_port}"
        self._process = subprocess.Popen(
            [sys.executable, "-c", MAIN, url, str(self.port), str(folder)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self.out = self._process.stdout
        assert self.out.readline() == "ready\n"
        token = (folder / "admin.token").read_text().strip()
        self._headers = {"content-type": "application/json", "authorization": f"Bearer {token}"}

    def request(self, path: str, body: object = None) -> urllib.request.Request:
        data = None if body is None else json.dumps(body).encode()
        url = f"http://127.0.0.1:{self.port}{path}"
        return urllib.request.Request(url, data=data, headers=self._headers)

    def api(self, path: str, body: object = None) -> tuple[int, Any]:
        try:
            with urllib.request.urlopen(self.request(path, body), timeout=DEADLINE_S) as answer:  # noqa: S310 - same
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as exc:
            return exc.code, json.load(exc)

    def send(self, number: signal.Signals) -> None:
        if self._process.poll() is None:
            self._process.send_signal(number)

    def end(self, number: signal.Signals) -> int:
        self.send(number)
        return self.wait()

    def wait(self) -> int:
        return self._process.wait(DEADLINE_S)


@contextlib.contextmanager
def controller(folder: Path, broker_port: int) -> Iterator[Process]:
    process = Process(folder, broker_port)
    try:
        yield process
    finally:
        process.end(signal.SIGKILL)
        process.out.close()


def eventually(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_answers_without_a_broker_and_ends_in_good_order(
    tmp_path: Path, number: signal.Signals
) -> None:
    with controller(tmp_path, free_port()) as process:
        status, health = process.api("/v1/status")
        assert (status, health["broker"], health["store"]) == (503, "disconnected", "ok")
        assert process.api("/v1/devices", {"id": "cam"})[0] == 201
        # A watcher does not hold the end up.
        with urllib.request.urlopen(process.request("/v1/watch"), timeout=DEADLINE_S):  # noqa: S310
            process.send(number)
            assert process.out.readline() == "ended\n"
            assert process.wait() == 0
    with controller(tmp_path, free_port()) as process:
        assert [d["id"] for d in process.api("/v1/devices")[1]] == ["cam"]


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = taken.getsockname()
        settings = ControllerSettings(
            "mqtt://127.0.0.1:1", address, tmp_path / "db", tmp_path, tmp_path / "checkpoints"
        )
        with pytest.raises(ConfigError, match=str(address[1])) as caught:
            run_controller(settings)
    assert caught.value.code == "port_taken"


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[int]:
    program = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
    if program is None:
        pytest.skip("mosquitto is not installed")
    port = free_port()
    config = tmp_path / "mosquitto.conf"
    config.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\n")
    process = subprocess.Popen([program, "-c", str(config)], stderr=subprocess.DEVNULL)

    def is_up() -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return True
        return False

    eventually(is_up)
    yield port
    process.terminate()
    process.wait(DEADLINE_S)


class Cam:
    """A device on the real broker that only listens and sends what the test says."""

    def __init__(self, port: int) -> None:
        self.link = PahoLink(f"mqtt://127.0.0.1:{port}", "cam")
        self._inbox: queue.Queue[Delivered] = queue.Queue()
        self._is_up = False
        self.link.start(self._sink, lambda: None)
        eventually(lambda: self._is_up)

    def _sink(self, event: LinkEvent) -> None:
        if isinstance(event, Connected):
            self.link.subscribe(topics.device_filters("cam"), qos=1)
            self._is_up = True
        elif isinstance(event, Delivered):
            self._inbox.put(event)

    def wait_for(self, topic: str, text: bytes = b"") -> bytes:
        deadline = time.monotonic() + DEADLINE_S
        while True:
            event = self._inbox.get(timeout=max(0.01, deadline - time.monotonic()))
            if event.topic == topic and text in event.payload:
                return event.payload

    def send_record(self, seq: int) -> None:
        record = m.AlarmEvent(boot="0" * 16, seq=seq, at_unix_ms=1, code="disk_full")
        self.link.publish(
            topics.Event("cam", "alarm").text, codec.encode(record), qos=1, retain=False
        )


@pytest.mark.broker
def test_a_killed_controller_comes_back_on_a_real_broker(tmp_path: Path, mosquitto: int) -> None:
    cam = Cam(mosquitto)
    presence = topics.ControllerPresence().text
    try:
        with controller(tmp_path / "c", mosquitto) as process:
            cam.wait_for(presence, b'"online"')
            assert process.api("/v1/devices", {"id": "cam"})[0] == 201
            cam.send_record(1)
            first = codec.decode(m.Ack, cam.wait_for(topics.Ack("cam").text))
            assert [(r.first, r.last) for r in first.stored] == [(1, 1)]
            process.end(signal.SIGKILL)
            cam.wait_for(presence, b'"offline"')
        with controller(tmp_path / "c", mosquitto) as process:
            cam.wait_for(presence, b'"online"')
            eventually(lambda: process.api("/v1/status")[0] == 200)
            cam.send_record(1)
            cam.send_record(2)
            last = 0
            while last < 2:
                ack = codec.decode(m.Ack, cam.wait_for(topics.Ack("cam").text))
                last = ack.stored[-1].last
            records = process.api("/v1/devices/cam/records")[1]
            assert sorted(r["seq"] for r in records) == [1, 2]
            assert process.end(signal.SIGTERM) == 0
            cam.wait_for(presence, b'"offline"')
    finally:
        cam.link.stop()
