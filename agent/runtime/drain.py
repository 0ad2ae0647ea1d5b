"""Moving connections from one runtime to the next without losing a request.

uvicorn's own shutdown closes keep-alive connections, and each client that is just sending loses a
request. Here a draining runtime keeps serving; each connection that is exactly idle is given to
the next runtime as a file descriptor.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

log = logging.getLogger(__name__)

SWEEP_S: Final = 0.005
LINGER_S: Final = 1.0
"""A connection that nobody takes over is idle for this long at least before it is closed: the request
may be on its way."""

GiveAway = Callable[[int], bool]
"""Sends a descriptor to the next runtime; returns False when that is impossible."""


class TrackedProtocol(HttpToolsProtocol):
    """uvicorn's protocol, with a mark for a request that is half read.

    Without it a client that sends a request in pieces could be moved in the middle of it.
    """

    is_mid_request = False

    def on_message_begin(self) -> None:
        """Mark the beginning of a request."""
        self.is_mid_request = True
        super().on_message_begin()

    def on_message_complete(self) -> None:
        """Take the mark away."""
        self.is_mid_request = False
        super().on_message_complete()

    def is_idle(self) -> bool:
        """Return whether nothing is under way in either direction."""
        cycle = self.cycle
        return (
            not self.is_mid_request
            and (cycle is None or cycle.response_complete)
            and not self.pipeline
            and not self.transport.is_closing()
            and self.transport.get_write_buffer_size() == 0
        )


class DrainableServer(uvicorn.Server):
    """A uvicorn server on given sockets, whose connections can be handed on and taken over."""

    def __init__(self, app: Any) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=TrackedProtocol,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                # The default of 5 s makes clients' idle connections race with the close all day.
                timeout_keep_alive=75,
                timeout_graceful_shutdown=5,
            )
        )
        self.config.load()
        self.lifespan = self.config.lifespan_class(self.config)
        self.servers = []

    async def accept(self, sockets: list[socket.socket]) -> None:
        """Begin to accept on these listening sockets."""
        await self.startup(sockets=sockets)

    def stop_accepting(self) -> None:
        """Leave the listening sockets to others; connections are served on."""
        for server in self.servers:
            server.close()
        self.servers = []

    async def adopt(self, descriptor: int) -> None:
        """Serve a connection that another runtime handed over."""
        connection = socket.socket(fileno=descriptor)
        connection.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.connect_accepted_socket(self._protocol, connection)

    async def hand_over(self, give_away: GiveAway, drain_s: float) -> tuple[int, int]:
        """Give every connection away as it becomes idle; return how many moved, how many remain.

        Args:
            give_away: Takes the descriptor of an idle connection.
            drain_s: When to stop waiting for connections that are at work.
        """
        moved = 0
        deadline_s = time.monotonic() + drain_s
        async for idle in self._sweeps(deadline_s):
            moved += sum(self._move(protocol, give_away) for protocol in idle)
        return moved, len(self.server_state.connections)

    async def let_end(self, drain_s: float) -> int:
        """Close every connection after its next answer, or when none is asked for; return how many remain.

        Args:
            drain_s: When to stop waiting for connections that are at work.
        """
        self._close_after_answers()
        now_s = time.monotonic()
        lingers_until_s, deadline_s = now_s + min(LINGER_S, drain_s), now_s + drain_s
        async for idle in self._sweeps(deadline_s):
            if time.monotonic() >= lingers_until_s:
                for protocol in idle:
                    protocol.transport.close()
        return len(self.server_state.connections)

    async def _sweeps(self, deadline_s: float) -> AsyncIterator[list[TrackedProtocol]]:
        """Yield the idle connections again and again, until none is left at all or it is late."""
        # asyncio takes a connection from the queue some turns before it is one of these.
        await asyncio.sleep(SWEEP_S)
        while self.server_state.connections and time.monotonic() < deadline_s:
            yield [
                protocol
                for protocol in list(self.server_state.connections)
                if isinstance(protocol, TrackedProtocol) and protocol.is_idle()
            ]
            await asyncio.sleep(SWEEP_S)

    async def run_ticks(self) -> None:
        """Keep the Date header current, as uvicorn's own main loop does."""
        while True:
            # Ten of uvicorn's ticks at once, those of a second: an idle device sleeps meanwhile.
            await self.on_tick(0)
            await asyncio.sleep(1.0)

    def _move(self, protocol: TrackedProtocol, give_away: GiveAway) -> int:
        transport = protocol.transport
        transport.pause_reading()
        connection = transport.get_extra_info("socket")
        if give_away(connection.fileno()):
            transport.abort()
            return 1
        # Nobody takes it: ask the client to close after its next answer, which loses nothing.
        transport.resume_reading()
        self._close_after_answers()
        return 0

    def _close_after_answers(self) -> None:
        close = (b"connection", b"close")
        for headers in (self.config.encoded_headers, self.server_state.default_headers):
            if close not in headers:
                headers.append(close)

    def _protocol(self) -> TrackedProtocol:
        return TrackedProtocol(
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
