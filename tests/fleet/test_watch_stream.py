"""The stream of `fleet watch` when the controller goes away and comes back."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from fleet.api.schemas import WatchEvent
from fleet.cli.client import Client
from fleet.cli.events import stream

EVENT = WatchEvent(id=7, at_unix_ms=1, kind="presence", subject="cam", text="online", detail={})
PATIENCE_S = 60


class Controller:
    """Breaks its first stream off; in its second only says that it is there, until `seen` is set."""

    def __init__(self) -> None:
        self.seen = threading.Event()
        self.was_seen: bool | None = None
        self._count = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer._count += 1
                self.send_response(200)
                self.send_header("content-type", "text/event-stream")
                self.send_header("content-length", "1000000")  # more than comes: it breaks off
                self.end_headers()
                self._write(": watching\n\n")
                if outer._count > 1:
                    outer.was_seen = outer.seen.wait(PATIENCE_S)
                    self._write(f"data: {EVENT.model_dump_json()}\n\n")

            def _write(self, text: str) -> None:
                self.wfile.write(text.encode())
                self.wfile.flush()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self._thread = threading.Thread(target=self.server.serve_forever)
        self._thread.start()

    def stop(self) -> None:
        self.seen.set()
        self.server.shutdown()
        self._thread.join()
        self.server.server_close()


@pytest.fixture
def controller() -> Iterator[Controller]:
    controller = Controller()
    yield controller
    controller.stop()


def test_recovery_is_told_at_the_first_line_not_at_the_first_event(controller: Controller) -> None:
    said: list[str] = []

    def recover() -> None:
        said.append("recovered")
        controller.seen.set()

    def fail(why: str) -> None:
        said.append(f"failed: {why}")

    with Client(controller.url) as client:
        event = next(stream(client, told=fail, recovered=recover))
    assert event == EVENT
    assert [word.partition(":")[0] for word in said] == ["failed", "recovered"]
    assert controller.was_seen, "the event came only after the recovery was told"
