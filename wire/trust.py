"""What controller and device agree on about signatures: names of roles and targets, signed texts.

Which releases may run at all is said by TUF metadata, whose keys are offline; which device runs
which of them is said by desired states, which the controller signs with a key that the offline role
names (decision 0006). Nothing here checks a signature: that needs keys and a clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final

from pydantic import Field

from . import codec
from .errors import PeerError
from .ids import Digest
from .messages import MAX_DETAIL_BYTES, Part

DIRECTOR: Final = "director"
"""Delegated role whose keys sign desired states. It signs no file and has no metadata of its own."""
DIRECTOR_PATHS: Final = ("desired/*",)
MODEL_ROLE_PREFIX: Final = "model-"
MANIFEST_FILE: Final = "manifest.json"
NUMBER_FIELD: Final = "number"
"""In the `custom` of each target: counts the releases of a model as they were signed, from 1."""
FLOOR_FIELD: Final = "floor"
"""In the signed part of a model's role: releases with a lower number are dead for ever."""
MAX_METADATA_BYTES: Final = 60 * 1024
"""One signed document, so that it fits into one retained message of every broker."""
MAX_SIGNATURE_BYTES: Final = 256
SIGNING_CONTEXT: Final = b"modelfleet desired 1\n"
"""Stands before the signed text, so that no signature over anything else can be taken for one."""


def model_role(model: str) -> str:
    """Return the name of the delegated role whose keys sign a model's releases."""
    return f"{MODEL_ROLE_PREFIX}{model}"


def model_paths(model: str) -> tuple[str, ...]:
    """Return the path patterns that the role of a model may sign."""
    return (f"{model}/*/{MANIFEST_FILE}",)


def target_path(model: str, version: str) -> str:
    """Return the path of a release among TUF's targets; the target is its `manifest.json`."""
    return f"{model}/{version}/{MANIFEST_FILE}"


class Signature(Part):
    """The second line of a signed payload."""

    keyid: Digest
    """The key, as TUF names it: the digest of its canonical JSON."""
    sig: Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]
    """Ed25519, in hexadecimal, over the context line and the bytes of the first line."""


@dataclass(frozen=True, slots=True)
class SignedText:
    """A payload in two lines, not yet believed.

    Attributes:
        body: The first line: JSON, as it was signed.
        signature: The second.
    """

    body: bytes
    signature: Signature

    @property
    def signed_bytes(self) -> bytes:
        """What the signature is over."""
        return signing_bytes(self.body)


def signing_bytes(body: bytes) -> bytes:
    """Return what is signed for a desired state of these bytes."""
    return SIGNING_CONTEXT + body


def seal(body: bytes, signature: Signature) -> bytes:
    """Return the payload: two lines, each of them JSON."""
    if b"\n" in body:
        raise ValueError("a signed text is one line")
    return body + b"\n" + codec.encode(signature)


def open_sealed(payload: bytes, *, max_bytes: int = codec.MAX_CONTROL_BYTES) -> SignedText:
    """Return the two parts of a signed payload; nothing is verified but their form.

    Raises:
        PeerError: `payload_too_large`, `unsigned` or `payload_invalid`.
    """
    if len(payload) > max_bytes + 1 + MAX_SIGNATURE_BYTES:
        raise PeerError(
            f"payload of {len(payload)} bytes is over the cap of {max_bytes}",
            code="payload_too_large",
        )
    body, separator, line = payload.partition(b"\n")
    if not separator:
        raise PeerError("the payload has no signature", code="unsigned")
    if len(body) > max_bytes:
        raise PeerError(
            f"payload of {len(body)} bytes is over the cap of {max_bytes}", code="payload_too_large"
        )
    try:
        signature = codec.decode(Signature, line, max_bytes=MAX_SIGNATURE_BYTES)
    except PeerError as exc:
        raise PeerError(f"signature: {exc}"[:MAX_DETAIL_BYTES], code=exc.code) from exc
    return SignedText(body, signature)
