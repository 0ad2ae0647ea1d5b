"""How this device reaches its fleet: as it enrolled, or as its configuration says by hand."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import Final

from wire.errors import ConfigError, TransferError
from wire.link_paho import TlsFiles

from .adapters.door import enrol
from .adapters.identity import Identity
from .config import AgentConfig

log = logging.getLogger(__name__)

PATIENCE_S: Final = 60.0
"""How long a first start waits for a controller that is not there yet; the unit's own limit is 120 s."""
RETRY_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class Membership:
    """Where the broker is, and what to show it.

    Attributes:
        broker_url: The broker's.
        tls: For connections to it as they are now.
        identity: Of a device that has enrolled; None where the configuration says all.
    """

    broker_url: str
    tls: TlsFiles
    identity: Identity | None


def membership(config: AgentConfig) -> Membership:
    """Return how the device reaches its fleet.

    Raises:
        ConfigError: `not_enrolled`.
        StorageError: `identity_unreadable`.
    """
    if config.broker is not None:
        broker = config.broker
        return Membership(broker.url, TlsFiles(broker.ca, broker.certificate, broker.key), None)
    identity = Identity(config.state.dir)
    if not identity.is_enrolled:
        raise ConfigError(
            f"{config.device.id} has not enrolled: there is no certificate in {identity.folder}",
            code="not_enrolled",
            hint="`fleet device token NAME` prints what to run here",
        )
    place = identity.place()
    if place.device != config.device.id:
        raise ConfigError(
            f"[device] id is {config.device.id!r}, but the identity in {identity.folder} is of "
            f"{place.device!r}",
            code="wrong_device",
            hint="each device needs a state directory of its own; or remove the identity, and enrol",
        )
    return Membership(place.broker_url, identity.files(), identity)


def join(config: AgentConfig) -> None:
    """Enrol with the token of the configuration, if this is a first start.

    Raises:
        PeerError: The controller refuses the token.
        TransferError: The controller was not there for a minute.
        StorageError: The disk failed.
    """
    identity = Identity(config.state.dir)
    if config.broker is not None or config.enroll is None or identity.is_enrolled:
        return
    deadline_s = time.monotonic() + PATIENCE_S
    while True:
        try:
            enrol(identity, config.device.id, config.enroll.url, config.enroll.token)
        except TransferError as exc:
            if time.monotonic() > deadline_s:
                raise
            log.warning("%s; again in %g s", exc, RETRY_S)
            time.sleep(RETRY_S)
        else:
            return
