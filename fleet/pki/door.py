"""The door for devices: an HTTPS listener of its own, beside the operators' API."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

from fastapi import FastAPI

from fleet.server import make_server
from wire.errors import ModelfleetError

from .access import Access
from .authority import CertificateAuthority
from .enrolment import Enrolment

log = logging.getLogger(__name__)

UPKEEP_S: Final = 3600.0
"""How often the files of the broker and the dates of our own certificates are looked at."""
MAKE_GOOD_S: Final = 60.0
"""How often it is looked whether the broker was told of everybody who was put out."""
MAX_CONCURRENT: Final = 256
JOIN_S: Final = 10.0


class Door:
    """Serves devices from a thread of its own, and keeps certificates in order."""

    def __init__(
        self,
        app: FastAPI,
        listener: socket.socket,
        *,
        authority: CertificateAuthority,
        enrolment: Enrolment,
        access: Access,
        hosts: Sequence[str],
        clock: Callable[[], int],
    ) -> None:
        """Take over a socket that listens; the authority has its certificates already."""
        self._listener = listener
        self._authority = authority
        self._enrolment = enrolment
        self._access = access
        self._hosts = hosts
        self._clock = clock
        self._ended = threading.Event()
        pair = authority.folder.server
        self._server = make_server(
            app,
            tls=(pair.certificate, pair.key),
            max_connections=MAX_CONCURRENT,
            grace_s=1,
            client_ca=authority.folder.ca.certificate,
        )
        self._threads = [
            threading.Thread(target=self._serve, name="device-door"),
            threading.Thread(target=self._keep_up, name="certificates"),
        ]

    def start(self) -> None:
        """Begin to serve."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End; requests under way have a second."""
        self._ended.set()
        self._server.should_exit = True
        for thread in self._threads:
            thread.join(JOIN_S)
        self._listener.close()

    def _serve(self) -> None:
        try:
            self._server.run(sockets=[self._listener])
        except Exception:  # the thread's end must be told: nobody waits for it
            log.exception("the listener for devices failed: nobody can enrol until a restart")

    def _keep_up(self) -> None:
        next_upkeep_s = time.monotonic()
        while not self._ended.is_set():
            try:
                if time.monotonic() >= next_upkeep_s:
                    next_upkeep_s = time.monotonic() + UPKEEP_S
                    self._look_after_files()
                self._enrolment.make_good(self._ended.is_set)
            except ModelfleetError as exc:
                log.error("certificates: %s (%s)", exc, exc.hint)  # noqa: TRY400 - its text says it
            self._ended.wait(MAKE_GOOD_S)

    def _look_after_files(self) -> None:
        self._enrolment.tidy()
        if self._authority.renew_programs(self._hosts, self._clock()):
            pair = self._authority.folder.server
            config = self._server.config
            if config.loaded and config.ssl:
                config.ssl.load_cert_chain(pair.certificate, pair.key)
            self._access.reload()
