"""Keeps the device's certificate fresh, from a thread of its own; the agent serves whatever it does.

A new certificate is tried by a connection before the old one goes: the link asks `tls` for its files
at each connection, and is told to make a new one.
"""

from __future__ import annotations

import logging
import math
import secrets
import threading
import time
from collections.abc import Callable
from typing import Final

from wire.errors import ModelfleetError, PeerError
from wire.link import Connected, Disconnected, LinkEvent
from wire.link_paho import TlsFiles

from .adapters import door
from .adapters.identity import Identity
from .core.renewal import is_due

log = logging.getLogger(__name__)

CHECK_S: Final = 60.0
CHECK_SHARE: Final = 1 / 40
"""Of a certificate's life, for lives of less than an hour."""
RETRY_FIRST_S: Final = 2.0
RETRY_CAP_S: Final = 3600.0
TRIAL_FAILURES: Final = 5
"""Attempts to connect with a new certificate; then the one before has its turn again."""
JOIN_S: Final = 30.0


class Renewal:
    """See the module. `start` it before the link; tell it what the link says."""

    def __init__(self, identity: Identity, reconnect: Callable[[], None]) -> None:
        """Take note of what to keep fresh; `reconnect` makes the link connect anew."""
        self._identity = identity
        self._reconnect = reconnect
        self._chance = secrets.randbelow(10**6) / 10**6
        self._wake = threading.Event()
        self._is_stopping = False
        self._tried_new = False
        self._is_proven = False
        self._trial_failures = 0
        self._renewed_at_s = -math.inf
        self._offline_since_s: float | None = time.monotonic()
        self._thread = threading.Thread(target=self._keep, name="renewal", daemon=True)

    def tls(self) -> TlsFiles:
        """Return what the next connection is to be made with; for the link."""
        self._tried_new = self._identity.is_on_trial
        return self._identity.files()

    def on_link(self, event: LinkEvent) -> None:
        """Take note of the link's fate; from its thread, does nothing that takes time."""
        match event:
            case Connected():
                self._offline_since_s = None
                self._trial_failures = 0
                self._is_proven = self._tried_new
                self._wake.set()
            case Disconnected():
                if self._offline_since_s is None:
                    self._offline_since_s = time.monotonic()
                elif self._tried_new:
                    self._trial_failures += 1
                    self._wake.set()
            case _:
                pass

    def start(self) -> None:
        """Begin; a certificate that has expired meanwhile is renewed at once."""
        self._thread.start()

    def stop(self) -> None:
        """End; what is under way with the controller may take a moment."""
        self._is_stopping = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(JOIN_S)

    def _keep(self) -> None:
        failures = 0
        while not self._is_stopping:
            self._wake.clear()
            try:
                wait_s = self._round()
                failures = 0
            except ModelfleetError as exc:
                cap_s = min(RETRY_CAP_S, RETRY_FIRST_S * 2.0 ** min(failures, 16))
                wait_s = cap_s * (0.5 + secrets.randbelow(1000) / 2000)
                failures += 1
                level = logging.ERROR if isinstance(exc, PeerError) else logging.WARNING
                log.log(level, "certificate: %s; again in %.0f s", exc, wait_s)
            self._wake.wait(wait_s)

    def _round(self) -> float:
        """Do what is to be done now; return in how many seconds to look again."""
        identity = self._identity
        if identity.is_on_trial:
            if self._is_proven:
                identity.settle_trial()
                log.info("the new certificate works; the one before is gone")
            elif self._trial_failures >= TRIAL_FAILURES:
                identity.drop_trial()
                self._trial_failures = 0
                log.warning("the new certificate does not connect; going on with the one before")
            else:
                return CHECK_S
        offline_since_s = self._offline_since_s
        if identity.is_unconfirmed and offline_since_s is None:
            door.confirm(identity)
        span = identity.span()
        offline_s = 0.0 if offline_since_s is None else time.monotonic() - offline_since_s
        if is_due(
            time.time_ns() // 1_000_000,
            not_before_unix_ms=span.not_before_unix_ms,
            not_after_unix_ms=span.not_after_unix_ms,
            chance=self._chance,
            offline_s=offline_s,
            renewed_s=time.monotonic() - self._renewed_at_s,
        ):
            self._is_proven = False
            door.renew(identity)
            self._renewed_at_s = time.monotonic()
            log.info("a new certificate has come; connecting with it")
            self._reconnect()
        life_s = (span.not_after_unix_ms - span.not_before_unix_ms) / 1000
        return min(CHECK_S, life_s * CHECK_SHARE)
