"""A webhook's receiver over real HTTP, which answers as a test says."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

Answer = tuple[int, dict[str, str], bytes]
TAKEN: Answer = (200, {}, b"thanks")


class Hook:
    """Listens on loopback; `answer` is called with the number of the request, from 1."""

    def __init__(
        self,
        answer: Callable[[int], Answer] = lambda _: TAKEN,
        *,
        tls: tuple[Path, Path] | None = None,
        port: int = 0,
    ) -> None:
        self.requests: list[tuple[dict[str, str], Any]] = []
        self.changed = threading.Condition()
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                headers = {key.lower(): value for key, value in self.headers.items()}
                with hook.changed:
                    hook.requests.append((headers, body))
                    number = len(hook.requests)
                    hook.changed.notify_all()
                status, more, text = answer(number)
                self.send_response(status)
                for key, value in more.items():
                    self.send_header(key, value)
                self.send_header("content-length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name there
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        scheme = "http"
        if tls is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
            scheme = "https"
        self.port: int = self._server.server_address[1]
        self.url = f"{scheme}://127.0.0.1:{self.port}/hook?secret=1"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def wait_for(self, count: int, timeout_s: float = 60.0) -> list[Any]:
        """Return the bodies once there are so many."""
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.requests) >= count, timeout_s), (
                f"{len(self.requests)} of {count} came"
            )
            return [body for _, body in self.requests]
