from __future__ import annotations

import http.client
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn

from fleet.api.app import build_app
from fleet.api.schemas import DeviceIn, QuarantineLiftIn, RollbackIn, WatchEvent
from tests.fleet.peers import Fleet


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path)
    fleet.settle()
    yield fleet
    fleet.controller.stop()
    fleet.store.close()


@pytest.fixture
def port(fleet: Fleet) -> Iterator[int]:
    """A real socket, because the stream has no end."""
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(build_app(fleet.controller), log_config=None, lifespan="off", ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    yield listener.getsockname()[1]
    fleet.controller.ask_to_stop()
    server.should_exit = True
    thread.join(30)
    assert not thread.is_alive()  # open watchers do not hold the end up
    listener.close()


class Watcher:
    def __init__(self, port: int, path: str, headers: dict[str, str]) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        self._connection.request("GET", path, headers=headers)
        self._response = self._connection.getresponse()
        assert self._response.status == 200
        assert self._response.getheader("content-type", "").startswith("text/event-stream")
        assert self._response.readline() == b": watching\n"

    def rest(self) -> bytes:
        """Return all that comes until the end of the stream."""
        return self._response.read()

    def next(self) -> WatchEvent:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            line = self._response.readline()
            if line.startswith(b"data: "):
                return WatchEvent.model_validate_json(line[6:])
        raise AssertionError("no event came")


def test_watching_starts_now_or_after_an_id(fleet: Fleet, port: int) -> None:
    fleet.add("before")
    bearer = fleet.bearer()
    now = Watcher(port, "/v1/watch", bearer)
    fleet.add("after")
    assert now.next().subject == "after"
    everything = Watcher(port, "/v1/watch?since=0", bearer)
    founded, first, second = everything.next(), everything.next(), everything.next()
    assert founded.kind == "trust"
    assert (first.text, second.text) == ("added", "online")
    assert second.id > first.id
    headers = {"Last-Event-ID": str(second.id)}
    assert Watcher(port, "/v1/watch", bearer | headers).next().subject == "after"


def test_a_scoped_watcher_sees_its_own_devices_and_rollouts_only(fleet: Fleet, port: int) -> None:
    scoped = Watcher(port, "/v1/watch?since=0", fleet.bearer("lab", site="lab"))
    everything = Watcher(port, "/v1/watch?since=0", fleet.bearer("all"))
    fleet.release("1.0.0")
    for site in ("hall", "lab"):
        fleet.controller.add_devices([DeviceIn(id=f"{site}-1", tags={"site": site})])
        fleet.roll_out("1.0.0", match={"site": site})
        fleet.controller.rollback(RollbackIn(model="digits", match={"site": site}))
        fleet.controller.lift_quarantine(QuarantineLiftIn(match={"site": site}))
    fleet.controller.set_tags("lab-1", {"site": "lab", "last": "yes"})
    seen = told(scoped)
    assert {"lab-1", "r-2", "digits", "1 devices"} == {subject for subject, _ in seen}
    assert "hall" not in str(seen)
    assert {"hall-1", "r-1"} < {subject for subject, _ in told(everything)}


def told(watcher: Watcher) -> list[tuple[str, str]]:
    """Return what a watcher is told, to the last tag."""
    events: list[tuple[str, str]] = []
    while not events or "last=yes" not in events[-1][1]:
        event = watcher.next()
        events.append((event.subject, event.text))
    return events


def test_a_stream_ends_when_its_token_does(fleet: Fleet, port: int) -> None:
    watcher = Watcher(port, "/v1/watch", fleet.bearer("guest"))
    with fleet.store.write() as tx:
        tx.tokens.revoke("guest", fleet.now_unix_ms)
    assert watcher.rest() == b"\n"
