"""Signed metadata over HTTP, from a server that may be hostile, endless or as slow as it likes.

python-tuf caps the length of what it takes, and knows no time. Here each file has a deadline, from the first
byte of the connection to the last of the body, and a pace that the body must keep.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from typing import Final
from urllib.parse import urlsplit

from wire.errors import ConfigError, TransferError
from wire.lifecycle import Code

TOTAL_S: Final = 60.0
"""For one file; ours have 60 kB at most, so any usable way brings them in time."""
PACE_S: Final = 10.0
MIN_BYTES_PER_S: Final = 1000
"""Averaged over `PACE_S`; GPRS has five times that."""
PIECE_BYTES: Final = 16 * 1024
ABSENT: Final = (403, 404)
"""How a repository says that there is no such version; as python-tuf reads it."""


class HttpSource:
    """Files below one URL; used by one thread at a time."""

    def __init__(
        self,
        url: str,
        *,
        context: ssl.SSLContext | None = None,
        total_s: float = TOTAL_S,
        pace_s: float = PACE_S,
    ) -> None:
        """Know where files come from; nothing is asked yet.

        Args:
            url: `http` or `https`; names of files are added to its path.
            context: For TLS; None takes the machine's certificates.
            total_s: Longest time for one file.
            pace_s: Over which the least rate is averaged.

        Raises:
            ConfigError: `url_invalid`.
        """
        self._parts = urlsplit(url if url.endswith("/") else f"{url}/")
        if self._parts.scheme not in ("http", "https") or not self._parts.hostname:
            raise ConfigError(f"{url} is no URL of HTTP", code="url_invalid")
        self._context = context
        self._total_s = total_s
        self._pace_s = pace_s

    def __call__(self, name: str) -> Iterator[bytes]:
        """Give the bytes of a file, whose name is already quoted.

        Raises:
            LookupError: The server has none.
            TransferError: `trust_unavailable`.
        """
        connection = self._connection()
        timer = threading.Timer(self._total_s, _cut, (connection,))
        timer.daemon = True
        begun_s = time.monotonic()
        timer.start()
        try:
            connection.request("GET", f"{self._parts.path}{name}")
            response = connection.getresponse()
            if response.status in ABSENT:
                raise LookupError(name)
            if response.status != http.client.OK:
                raise TransferError(
                    f"{name}: the server answers {response.status}", code=Code.TRUST_UNAVAILABLE
                )
            yield from self._body(name, response, begun_s)
        except (OSError, http.client.HTTPException) as exc:
            is_late = time.monotonic() - begun_s >= self._total_s
            words = f"took longer than {self._total_s:g} s" if is_late else str(exc) or repr(exc)
            raise TransferError(f"{name}: {words}", code=Code.TRUST_UNAVAILABLE) from exc
        finally:
            timer.cancel()
            connection.close()

    def _body(
        self, name: str, response: http.client.HTTPResponse, begun_s: float
    ) -> Iterator[bytes]:
        paced_s, got_bytes = time.monotonic(), 0
        while piece := response.read1(PIECE_BYTES):
            got_bytes += len(piece)
            yield piece
            now_s = time.monotonic()
            if now_s - begun_s >= self._total_s:
                raise TimeoutError
            if now_s - paced_s >= self._pace_s:
                if got_bytes < MIN_BYTES_PER_S * self._pace_s:
                    raise TransferError(
                        f"{name}: {got_bytes} bytes in {now_s - paced_s:.0f} s are too slow",
                        code=Code.TRUST_UNAVAILABLE,
                    )
                paced_s, got_bytes = now_s, 0
        # A connection that was cut looks like one that has come to its end.
        if response.length or time.monotonic() - begun_s >= self._total_s:
            raise TimeoutError(f"{response.length} bytes are missing")

    def _connection(self) -> http.client.HTTPConnection:
        host, port = self._parts.hostname or "", self._parts.port
        if self._parts.scheme == "http":
            return http.client.HTTPConnection(host, port, timeout=self._pace_s)
        context = self._context or ssl.create_default_context()
        return http.client.HTTPSConnection(host, port, timeout=self._pace_s, context=context)


def _cut(connection: http.client.HTTPConnection) -> None:
    """End what a thread waits for on a connection."""
    with contextlib.suppress(OSError, AttributeError):
        connection.sock.shutdown(socket.SHUT_RDWR)
