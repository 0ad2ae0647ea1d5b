"""The controller's HTTP servers: they wait for nobody without end, and leave signals alone."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from .api.patience import IDLE_S, MAX_HEADER_BYTES, PatientProtocol


class Server(uvicorn.Server):
    """A server that tells when it accepts; signals are for whoever runs it."""

    on_ready: Callable[[], None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to accept, and say so."""
        await super().startup(sockets=sockets)
        if self.started and self.on_ready is not None:
            self.on_ready()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none: uvicorn's own raises them again when it is done, before the store is closed."""
        yield


def make_server(
    app: FastAPI,
    *,
    tls: tuple[Path, Path] | None,
    max_connections: int,
    grace_s: int,
    client_ca: Path | None = None,
) -> Server:
    """Return a server that has not begun.

    Args:
        app: What it serves.
        tls: Files of certificate and key; None is plain HTTP.
        max_connections: Further requests are answered with 503.
        grace_s: How long requests under way may take when it ends.
        client_ca: Whose certificates clients may show, none or a good one; see `PEER_CERTIFICATE`.
    """
    certificate, key = tls or (None, None)
    return Server(
        uvicorn.Config(
            app,
            # The other parser, where it is installed, has no deadline for headers.
            http=PatientProtocol,
            h11_max_incomplete_event_size=MAX_HEADER_BYTES,
            timeout_keep_alive=IDLE_S,
            limit_concurrency=max_connections,
            server_header=False,
            log_config=None,
            log_level="warning",
            access_log=False,
            lifespan="off",
            ws="none",
            timeout_graceful_shutdown=grace_s,
            ssl_certfile=certificate,
            ssl_keyfile=key and str(key),
            ssl_ca_certs=client_ca,
            ssl_cert_reqs=ssl.CERT_NONE if client_ca is None else ssl.CERT_OPTIONAL,
        )
    )
