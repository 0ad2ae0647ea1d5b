"""How this device reaches its fleet: as it enrolled, or as its configuration says by hand.

A device that has models serves them whatever is missing on that way; one that has none has no reason
to start without it, and refuses with a sentence that says what to do.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from wire.endpoint import Endpoint, TlsFiles
from wire.errors import ConfigError, StorageError, TransferError
from wire.lifecycle import Code

from .adapters.content_files import has_bundles
from .adapters.door import enrol
from .adapters.identity import Identity
from .config import AgentConfig, BrokerSection, check_certificates

log = logging.getLogger(__name__)

PATIENCE_S: Final = 60.0
"""How long a first start waits for a controller that is not there yet; the unit's own limit is 120 s."""
RETRY_S: Final = 2.0
LOCK_PATIENCE_S: Final = 10.0
"""A renewal of an agent before, or an enrolment by hand, is over by then; a start goes on without."""

Tell = Callable[[str, str], None]
"""Records an alarm by code and words; safe from any thread."""


@dataclass(frozen=True, slots=True)
class Membership:
    """Where the broker is, and what to show it.

    Attributes:
        endpoint: For connections to it as they are now.
        identity: Of a device that has enrolled; None where the configuration says all.
    """

    endpoint: Endpoint
    identity: Identity | None


def membership(config: AgentConfig) -> Membership:
    """Return how the device reaches its fleet.

    Raises:
        ConfigError: `not_enrolled` or `wrong_device`.
        StorageError: `identity_unreadable` or `identity_lost`.
    """
    if config.broker is not None:
        return Membership(by_hand(config.broker), None)
    identity = Identity(config.state.dir)
    if not identity.has_traces and not has_bundles(config.state.dir):
        raise ConfigError(
            f"{config.device.id} has not enrolled: there is no certificate in {identity.folder}",
            code="not_enrolled",
            hint="`fleet device token NAME` prints what to run here",
        )
    if (fault := identity.fault()) is not None:
        raise fault
    place = identity.place()
    if place.device != config.device.id:
        raise ConfigError(
            f"[device] id is {config.device.id!r}, but the identity in {identity.folder} is of "
            f"{place.device!r}",
            code="wrong_device",
            hint="each device needs a state directory of its own; or remove the identity, and enrol",
        )
    return Membership(Endpoint(place.broker_url, identity.files()), identity)


def by_hand(broker: BrokerSection) -> Endpoint:
    """Return what `[broker]` says."""
    return Endpoint(broker.url, TlsFiles(broker.ca, broker.certificate, broker.key))


def enter(config: AgentConfig, tell: Tell) -> None:
    """See that an enrolled device can reach its fleet, or at least serves what it has.

    Raises:
        ConfigError: `not_enrolled`, of a device with nothing to serve; `wrong_device`.
        PeerError, TransferError: As `join`, of such a device.
        StorageError: The disk failed, likewise.
    """
    if config.broker is not None:
        return
    identity = Identity(config.state.dir)
    is_serving = has_bundles(config.state.dir)
    try:
        with identity.held(LOCK_PATIENCE_S):
            if (restored := identity.heal()) is not None:
                log.error("%s", restored)
                tell(Code.IDENTITY_DAMAGED, restored)
            if not is_serving:
                join(config, identity)
            if identity.fault() is None:
                identity.keep()
    except StorageError as exc:
        if not is_serving and identity.fault() is not None:
            raise
        log.error("%s; going on with what is here; %s", exc, exc.hint)  # noqa: TRY400 - the cause is in the message
    try:
        membership(config)
    except (ConfigError, StorageError) as exc:
        if not is_serving or exc.code == "wrong_device":
            raise
        log.error("%s; %s", exc, exc.hint)  # noqa: TRY400 - the cause is in the message
        tell(Code.IDENTITY_LOST, str(exc))


def join(config: AgentConfig, identity: Identity) -> None:
    """Enrol with the token of the configuration, if this is a first start.

    Raises:
        PeerError: The controller refuses the token, or gives another root of trust than it may.
        ConfigError: `trust_root_unreadable`.
        TransferError: The controller was not there for a minute.
        StorageError: The disk failed.
    """
    if config.enroll is None or identity.fault() is None:
        return
    deadline_s = time.monotonic() + PATIENCE_S
    while True:
        try:
            enrol(
                identity,
                config.device.id,
                config.enroll.url,
                config.enroll.token,
                named_root=config.trust.root,
            )
        except TransferError as exc:
            if time.monotonic() > deadline_s:
                raise
            log.warning("%s; again in %g s", exc, RETRY_S)
            time.sleep(RETRY_S)
        else:
            return


def require_certificates(config: AgentConfig, path: Path) -> None:
    """See that the certificate files of `[broker]` can be used, or that there are models to serve.

    They are read anew at each attempt to connect: when they can be used again, they are.

    Raises:
        ConfigError: `config_invalid`, of a device with nothing to serve.
    """
    try:
        check_certificates(config, path)
    except ConfigError as exc:
        if not has_bundles(config.state.dir):
            raise
        log.error("%s; serving what is here; %s", exc, exc.hint)  # noqa: TRY400 - the cause is in the message
