"""What device and controller agree on when a device is let in: join token, requests, answers.

The first contact needs no trust on first use: the token carries the fingerprint of the authority that
the controller must show before it gets to see the token. What the operator's command hands on carries the
digest of the fleet's root of trust as well, which no controller can choose.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Annotated, Final

from pydantic import Field

from .errors import PeerError
from .ids import DeviceId
from .messages import Part

TOKEN_PREFIX: Final = "mfjoin"  # noqa: S105 - for scanners that look for secrets in the wrong place
SECRET_BYTES: Final = 32
TOKEN_PATTERN: Final = rf"{TOKEN_PREFIX}(_[0-9a-f]{{64}}){{2,3}}"
RENEW_CONTEXT: Final = b"modelfleet renew 1\n"
"""Stands before a signing request that the key before it signs."""
CONFIRM_CONTEXT: Final = b"modelfleet confirm 1\n"
"""Stands before a certificate that its own key signs, to say that it works."""
MAX_PEM: Final = 8_192
MAX_ROOT: Final = 65_536
MAX_ANSWER_BYTES: Final = 128 * 1024

Pem = Annotated[str, Field(max_length=MAX_PEM)]
SignatureHex = Annotated[str, Field(pattern=r"^([0-9a-f]{2}){8,80}$")]
"""An ECDSA signature over SHA-256, DER in hexadecimal."""


@dataclass(frozen=True, slots=True)
class JoinToken:
    """A one-time token: a secret, and the fingerprint of who may be told it.

    Attributes:
        secret: 256 bits in hexadecimal.
        fingerprint: sha-256 of the authority's certificate (DER).
        root: sha-256 of the fleet's root of trust (its file), as the operator's side has it; empty
            where it had none. The controller makes tokens without.
    """

    secret: str
    fingerprint: str
    root: str = ""

    @property
    def digest(self) -> str:
        """What the controller keeps of it."""
        return hashlib.sha256(self.secret.encode()).hexdigest()

    @property
    def for_controller(self) -> str:
        """The text that the controller gets: it has no use for the rest."""
        return f"{TOKEN_PREFIX}_{self.secret}_{self.fingerprint}"

    def __str__(self) -> str:
        return f"{self.for_controller}_{self.root}" if self.root else self.for_controller


def parse_token(text: str) -> JoinToken:
    """Return the parts of a join token.

    Raises:
        PeerError: `token_invalid`.
    """
    if not re.fullmatch(TOKEN_PATTERN, text):
        raise PeerError(
            "this is no join token",
            code="token_invalid",
            hint="copy the whole of it, as `fleet device token NAME` prints it",
        )
    return JoinToken(*text.split("_")[1:])


class EnrollRequest(Part):
    """A device asks to be let in."""

    token: Annotated[str, Field(max_length=256)]
    csr: Pem


class UnknownDevice(Part):
    """Whether the controller heard something lately in the name of a device that is not in the fleet."""

    is_heard: bool


class RenewRequest(Part):
    """A device asks for its next certificate; the key of the one before signs."""

    certificate: Pem
    csr: Pem
    signature: SignatureHex


class ConfirmRequest(Part):
    """A device says that its newest certificate works: the ones before it may go."""

    certificate: Pem
    signature: SignatureHex


class Welcome(Part):
    """What a device needs to be one of the fleet."""

    device: DeviceId
    certificate: Pem
    ca: Pem
    root: Annotated[str, Field(max_length=MAX_ROOT)] = ""
    """The root of trust (TUF) that the device begins with, as its file is; empty where there is none."""
    broker_url: Annotated[str, Field(max_length=512)]


class Confirmed(Part):
    """The answer to a confirmation."""

    retired_count: Annotated[int, Field(ge=0)]
