"""HTTP/1.1 for the network: a connection that does not get to the point is closed.

The server's own limits begin once a request is whole: until then a client that sends a byte now and
then holds a connection for ever.
"""

from __future__ import annotations

import asyncio
from typing import Final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEADERS_S: Final = 10.0
"""From the first byte of a request, or from the connection, to the end of its headers; and from an
answer to the end of a body that it did not wait for."""
IDLE_S: Final = 30
"""Between two requests on one connection."""
MAX_HEADER_BYTES: Final = 64 * 1024
MAX_CONNECTIONS: Final = 512
"""Half of the files that a process may open by default; further requests are answered 503."""
PEER_CERTIFICATE: Final = "peer_certificate"
"""In the state of a request: what the client has shown (DER), where the listener asks for such.

The server has no such thing of its own. TLS has proven that the client has the key."""


class PatientProtocol(H11Protocol):
    """See the module."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to wait for the first request; note who is at the other end."""
        super().connection_made(transport)  # type: ignore[arg-type]
        tls = transport.get_extra_info("ssl_object")
        if tls is not None and (shown := tls.getpeercert(binary_form=True)) is not None:
            self.app_state = {**self.app_state, PEER_CERTIFICATE: shown}
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no longer."""
        self._wait_no_longer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes, and know by them whether headers are still on their way."""
        super().data_received(data)
        if self.conn.their_state is h11.IDLE or self._is_answered_early():
            self._wait()
        else:
            self._wait_no_longer()

    def on_response_complete(self) -> None:
        """Wait for the rest of a body that was not waited for, since the server does not."""
        super().on_response_complete()
        if self._is_answered_early() and not self.transport.is_closing():
            self._wait()

    def _is_answered_early(self) -> bool:
        return self.conn.our_state is h11.DONE and self.conn.their_state is h11.SEND_BODY

    def _wait(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(HEADERS_S, self.transport.abort)

    def _wait_no_longer(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
