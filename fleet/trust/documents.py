"""Signed documents (TUF's metadata): parsed once at the border, kept as the bytes that were signed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Generic, TypeVar, cast

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root, Signed, Snapshot, Targets, Timestamp
from tuf.api.serialization import SerializationError

from wire import topics
from wire.codec import parse_json
from wire.errors import PeerError
from wire.ids import NAME_PATTERN
from wire.trust import MAX_METADATA_BYTES, MODEL_ROLE_PREFIX

SignedT_co = TypeVar("SignedT_co", bound=Signed, covariant=True)

ROOT: Final = "root"
TARGETS: Final = "targets"
SNAPSHOT: Final = "snapshot"
TIMESTAMP: Final = "timestamp"
KINDS: Final[dict[str, type[Signed]]] = {
    ROOT: Root,
    TARGETS: Targets,
    SNAPSHOT: Snapshot,
    TIMESTAMP: Timestamp,
}
OFFLINE_DAYS: Final = 365
"""How long root, targets and models are good for: one ceremony a year, and any push renews its
model's. A device past it keeps serving and installs nothing new."""
MAX_VERSION: Final = 999_999_999
"""What the topics of root versions have room for; at one a second it lasts 31 years."""
_FILE_NAME: Final = re.compile(r"(?:([1-9][0-9]{0,8})\.)?([A-Za-z0-9][A-Za-z0-9_-]{0,79})\.json")


@dataclass(frozen=True, slots=True)
class Document(Generic[SignedT_co]):
    """One version of one role's document. That its signatures are good is somebody else's word.

    Attributes:
        role: `root`, `targets`, `snapshot`, `timestamp` or `model-NAME`.
        body: The bytes as they travel.
        metadata: The same, parsed. Never changed: drafts are made from copies.
    """

    role: str
    body: bytes
    metadata: Metadata[Any]

    @property
    def signed(self) -> SignedT_co:
        """The signed part."""
        return cast("SignedT_co", self.metadata.signed)

    @property
    def version(self) -> int:
        """The version, from 1."""
        return int(self.metadata.signed.version)

    @property
    def file_name(self) -> str:
        """Its name in TUF's consistent snapshots; the timestamp's has no version."""
        if self.role == TIMESTAMP:
            return f"{TIMESTAMP}.json"
        return f"{self.version}.{self.role}.json"

    @property
    def topic(self) -> topics.Trust | topics.ModelTrust:
        """Where it is retained."""
        if (model := model_of(self.role)) is not None:
            return topics.ModelTrust(model)
        if self.role == ROOT:
            return topics.Trust(f"{ROOT}-{self.version}")
        return topics.Trust(self.role)

    def is_expired(self, now_unix_ms: int) -> bool:
        """Whether it may not be used for new installs any more."""
        return self.signed.is_expired(instant(now_unix_ms))


def model_of(role: str) -> str | None:
    """Return the model whose releases a role signs, None for other roles."""
    name = role.removeprefix(MODEL_ROLE_PREFIX)
    return name if name != role and re.fullmatch(NAME_PATTERN, name) else None


def is_role(role: str) -> bool:
    """Return whether documents of this role exist at all."""
    return role in KINDS or model_of(role) is not None


def parse_file_name(name: str) -> tuple[str, int | None] | None:
    """Return role and version that a file's name says, None when it is none of ours."""
    found = _FILE_NAME.fullmatch(name)
    if found is None or not is_role(found[2]):
        return None
    return found[2], int(found[1]) if found[1] else None


def parse_document(role: str, body: bytes) -> Document[Signed]:
    """Return a document of `role`; nothing is verified but its form and size.

    Raises:
        PeerError: `trust_too_large` or `trust_malformed`.
    """
    check_size(role, body)
    try:
        parse_json(body, max_bytes=MAX_METADATA_BYTES)
        metadata = Metadata[Any].from_bytes(body)
    except (PeerError, RepositoryError, SerializationError, ValueError, RecursionError) as exc:
        raise malformed(role, str(exc.__cause__ or exc)) from exc
    if type(metadata.signed) is not KINDS.get(role, Targets) or not is_role(role):
        raise malformed(role, f"it is of type {metadata.signed.type}")
    if not 1 <= metadata.signed.version <= MAX_VERSION:
        raise malformed(role, "its version is out of range")
    return Document(role, body, metadata)


def read_file(name: str, text: str) -> Document[Signed]:
    """Return a document that was handed in under a file's name.

    Raises:
        PeerError: `trust_malformed` or `trust_too_large`.
    """
    said = parse_file_name(name)
    if said is None:
        raise PeerError(
            f"{name[:80]!r} is no name of a document, such as 3.targets.json",
            code="trust_malformed",
        )
    role, version = said
    document = parse_document(role, text.encode("utf-8", "replace"))
    if version is not None and version != document.version:
        raise mismatch(f"{name} has version {document.version} in it")
    return document


def freeze(role: str, metadata: Metadata[Any]) -> Document[Any]:
    """Return signed metadata as a document.

    Raises:
        PeerError: `trust_too_large`.
    """
    body = metadata.to_bytes()
    check_size(role, body)
    return Document(role, body, metadata)


def check_size(role: str, body: bytes) -> None:
    """Refuse what does not fit into one message.

    Raises:
        PeerError: `trust_too_large`.
    """
    if len(body) <= MAX_METADATA_BYTES:
        return
    hint = ""
    if model_of(role) is not None:
        hint = "take old releases out with `fleet release retire NAME:VERSION`"
    elif role == TARGETS:
        hint = "let the models of one team share a key: `fleet keys team MODEL TEAM.pub`"
    raise PeerError(
        f"the document of {role} has {len(body)} bytes, the most is {MAX_METADATA_BYTES}",
        code="trust_too_large",
        hint=hint,
    )


def malformed(role: str, why: str) -> PeerError:
    """Return the error for a document that is none."""
    return PeerError(
        f"the document of {role[:80]} cannot be read: {why}"[:300], code="trust_malformed"
    )


def mismatch(why: str) -> PeerError:
    """Return the error for documents that do not belong together."""
    return PeerError(why[:300], code="trust_mismatch")


def instant(unix_ms: int) -> datetime:
    """Return a moment as TUF has them: UTC, whole seconds."""
    return datetime.fromtimestamp(unix_ms // 1000, UTC)


def expiry(now_unix_ms: int, days: int) -> datetime:
    """Return the moment that is this many days away."""
    return instant(now_unix_ms) + timedelta(days=days)


def to_unix_ms(moment: datetime) -> int:
    """Return a moment in milliseconds of the Unix epoch."""
    return int(moment.timestamp() * 1000)
