"""Keeps the device's identity whole and its certificate fresh, from a thread of its own.

The agent serves whatever it does. A new certificate is tried by a connection before the old one goes:
the link asks for its `endpoint` at each connection, and is told to make a new one. What is damaged is
put back from the second copy; where nothing is left, the device enrols with the token of its
configuration, or waits for `fleet-agent enroll`, which may run beside it.
"""

from __future__ import annotations

import logging
import math
import secrets
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from wire.endpoint import Endpoint
from wire.errors import ConfigError, ModelfleetError, PeerError, TransferError
from wire.lifecycle import Code
from wire.link import Connected, Disconnected, LinkEvent

from .adapters import door
from .adapters.identity import Identity
from .config import EnrollSection
from .core.renewal import is_due
from .membership import Tell

log = logging.getLogger(__name__)

CHECK_S: Final = 60.0
CHECK_SHARE: Final = 1 / 40
"""Of a certificate's life, for lives of less than an hour."""
RETRY_FIRST_S: Final = 2.0
RETRY_CAP_S: Final = 3600.0
TRIAL_FAILURES: Final = 5
"""Attempts to connect with a new certificate; then the one before has its turn again."""
JOIN_S: Final = 30.0
LOST_CHECK_S: Final = 2.0
"""A device without an identity looks this often whether somebody has enrolled it."""
ENROL_FIRST_S: Final = 5.0
ENROL_CAP_S: Final = 600.0
"""A token that was refused, or a controller that is away, is tried again ever more seldom."""


class Renewal:
    """See the module. `start` it before the link; tell it what the link says."""

    def __init__(
        self,
        identity: Identity,
        reconnect: Callable[[], None],
        tell: Tell,
        *,
        device: str,
        enroll: EnrollSection | None,
        named_root: Path | None,
    ) -> None:
        """Take note of what to keep.

        Args:
            identity: May be damaged, or not there.
            reconnect: Makes the link connect anew.
            tell: Records an alarm.
            device: Id of this device.
            enroll: How it may get in by itself.
            named_root: The file of `[trust] root`.
        """
        self._identity = identity
        self._reconnect = reconnect
        self._tell = tell
        self._device = device
        self._enroll = enroll
        self._named_root = named_root
        self._enrol_at_s = 0.0
        self._enrol_count = 0
        self._is_lost = identity.fault() is not None
        self._chance = secrets.randbelow(10**6) / 10**6
        self._wake = threading.Event()
        self._is_stopping = False
        self._tried_new = False
        self._is_proven = False
        self._trial_failures = 0
        self._renewed_at_s = -math.inf
        self._offline_since_s: float | None = time.monotonic()
        self._thread = threading.Thread(target=self._keep, name="renewal", daemon=True)

    def endpoint(self) -> Endpoint:
        """Return where the next connection goes to, and with what; for the link.

        Raises:
            StorageError: There is nothing that it could be made with.
        """
        if (fault := self._identity.fault()) is not None:
            raise fault
        self._tried_new = self._identity.is_on_trial
        return Endpoint(self._identity.place().broker_url, self._identity.files())

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
                with self._identity.held():
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
        if not self._is_whole():
            return self._get_in()
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

    def _is_whole(self) -> bool:
        """Put back what is damaged; return whether the device can go to its fleet."""
        if (restored := self._identity.heal()) is not None:
            log.error("%s", restored)
            self._tell(Code.IDENTITY_DAMAGED, restored)
        was_lost, fault = self._is_lost, self._identity.fault()
        self._is_lost = fault is not None
        if fault is not None and not was_lost:
            log.error("%s; %s", fault, fault.hint)
            self._tell(Code.IDENTITY_LOST, str(fault))
        if fault is None and (was_lost or restored) and self._offline_since_s is not None:
            self._reconnect()
        return fault is None

    def _get_in(self) -> float:
        """Enrol with the configuration's token, if it is time; return when to look again, in seconds."""
        if self._enroll is None or time.monotonic() < self._enrol_at_s:
            return LOST_CHECK_S
        try:
            door.enrol(
                self._identity,
                self._device,
                self._enroll.url,
                self._enroll.token,
                named_root=self._named_root,
            )
        except (ConfigError, PeerError, TransferError) as exc:
            wait_s = min(ENROL_CAP_S, ENROL_FIRST_S * 2.0 ** min(self._enrol_count, 16))
            self._enrol_count += 1
            self._enrol_at_s = time.monotonic() + wait_s
            log.warning("cannot enrol with the token of [enroll]: %s; again in %.0f s", exc, wait_s)
            return LOST_CHECK_S
        return 0.0
