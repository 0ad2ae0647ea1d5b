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
from fleet.api.schemas import WatchEvent
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
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        self._connection.request("GET", path, headers=headers)
        self._response = self._connection.getresponse()
        assert self._response.status == 200
        assert self._response.getheader("content-type", "").startswith("text/event-stream")
        assert self._response.readline() == b": watching\n"

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
