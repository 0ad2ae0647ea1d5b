"""HTTPS to the controller: each answer has a deadline as a whole, and a cap.

`http.client` has a timeout for each read only: who sends a byte a second would be listened to for ever, and
who hangs up in the middle would seem to have come to an end.
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import io
import json
import socket
import ssl
import time
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import urlsplit

from wire.errors import ConfigError, PeerError, TransferError

CONNECT_S: Final = 10.0
"""For the connection, and for its handshake."""
TIMEOUT_S: Final = 20.0
"""For one answer as a whole, 64 kB at most: who is slower than 3 kB/s is of no use."""
READ_BYTES: Final = 16 * 1024
"""What TLS brings at once."""
HINTS: Final = {
    "token_used": "`fleet device token NAME` makes a new one",
    "token_expired": "`fleet device token NAME` makes a new one",
    "token_invalid": "`fleet device token NAME` makes a new one",
}
KEPT: Final = (http.HTTPStatus.OK, http.HTTPStatus.NOT_FOUND)
"""After other answers the next request goes over a connection of its own, perhaps as somebody else."""
GONE: Final = (ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError)
"""What a connection that was kept shows when the other side has ended it meanwhile."""


class Connection:
    """One connection, made when it is needed and kept. For one thread; `cut` is for any other."""

    def __init__(
        self,
        url: str,
        context: Callable[[], ssl.SSLContext],
        is_cut: Callable[[], bool] = lambda: False,
    ) -> None:
        """Know where to connect; nothing is done yet.

        Args:
            url: Of the controller's listener for devices.
            context: Gives the certificates, anew for each connection.
            is_cut: Says whether requests shall fail; to be true before `cut` is called.

        Raises:
            ConfigError: `enroll_url`.
        """
        parts = urlsplit(url)
        if parts.scheme != "https" or not parts.hostname:
            raise ConfigError(
                f"{url!r} is not the address of a controller",
                code="enroll_url",
                hint="write it as https://HOST:PORT, as `fleet device add` prints it",
            )
        self._url = url
        self._host, self._port = parts.hostname, parts.port
        self._context = context
        self._http: http.client.HTTPSConnection | None = None
        self._is_cut = is_cut

    @property
    def is_open(self) -> bool:
        """Whether a connection is kept for the next request."""
        return self._http is not None

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        max_bytes: int,
        kind: str = "application/json",
    ) -> bytes:
        """Return the body of a good answer; `kind` says what is sent.

        Raises:
            PeerError: The controller refuses; with the code that it gives.
            TransferError: `controller_unreachable`: it does not answer, or too much or too slowly.
        """
        is_kept = self._http is not None
        try:
            status, data = self._exchange(method, path, body, max_bytes, kind)
        except (OSError, http.client.HTTPException) as exc:
            self.close()
            if is_kept and method == "GET" and isinstance(exc, GONE) and not self._is_cut():
                return self.ask(method, path, max_bytes=max_bytes)  # once: nothing is kept now
            raise TransferError(
                f"{self._url} cannot be reached: {exc}"[:300],
                code="controller_unreachable",
                hint="is the controller up, and is its port for devices open to this one?",
            ) from exc
        if status not in KEPT:
            self.close()
        if status == http.HTTPStatus.OK:
            return data
        raise _refusal(self._url, status, data)

    def close(self) -> None:
        """End the connection; the next request makes another. Idempotent."""
        if self._http is not None:
            self._http.close()
            self._http = None

    def cut(self) -> None:
        """End what a request waits for, from any thread; one that does not wait yet asks `is_cut`."""
        connection = self._http
        if connection is not None and (sock := connection.sock) is not None:
            with contextlib.suppress(OSError):
                # Not the TLS socket's own, which would pull the state from under its reader.
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def _exchange(
        self, method: str, path: str, body: bytes | None, max_bytes: int, kind: str
    ) -> tuple[int, bytes]:
        self._check_cut()
        if self._http is None:
            self._http = http.client.HTTPSConnection(
                self._host, self._port, timeout=CONNECT_S, context=self._context()
            )
        end_s = time.monotonic() + TIMEOUT_S
        self._http.response_class = functools.partial(_Response, end_s=end_s)  # type: ignore[assignment]
        headers = {} if body is None else {"Content-Type": kind}
        self._http.request(method, path, body, headers)
        self._check_cut()
        response = self._http.getresponse()
        if response.length is None and not response.chunked:
            raise http.client.HTTPException("its end could not be told from a cut")
        data = bytearray()
        while part := response.read1(READ_BYTES):
            data += part
            if len(data) > max_bytes:
                raise http.client.HTTPException(f"it answers more than {max_bytes} bytes")
        if response.length:
            raise http.client.IncompleteRead(bytes(data), response.length)
        response.close()  # it does not know by itself that it was read to its end
        return response.status, bytes(data)

    def _check_cut(self) -> None:
        if self._is_cut():
            raise ConnectionAbortedError("it was cut")


class _Response(http.client.HTTPResponse):
    """A response that is read until an instant, whatever drips in between."""

    def __init__(self, sock: socket.socket, *args: Any, end_s: float, **more: Any) -> None:
        super().__init__(sock, *args, **more)
        self.fp.close()
        self.fp = io.BufferedReader(_Reader(sock, end_s), READ_BYTES)


class _Reader(io.RawIOBase):
    def __init__(self, sock: socket.socket, end_s: float) -> None:
        self._sock = sock
        # A reader of the socket's own keeps it open while the connection is given up already.
        self._raw = sock.makefile("rb", buffering=0)
        self._end_s = end_s

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left_s = self._end_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError(f"no whole answer within {TIMEOUT_S:g} s")
        self._sock.settimeout(left_s)
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


def _refusal(url: str, status: int, data: bytes) -> PeerError | TransferError:
    if status >= http.HTTPStatus.INTERNAL_SERVER_ERROR:
        return TransferError(f"{url} answered {status}", code="controller_unreachable")
    try:
        told = json.loads(data)
        message, code = str(told["message"])[:300], str(told["code"])[:64]
    except (ValueError, KeyError, TypeError, RecursionError):
        message, code = f"{url} answered {status}: this is no controller", "not_a_controller"
    return PeerError(message, code=code, hint=HINTS.get(code, ""))
