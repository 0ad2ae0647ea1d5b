"""Identifiers, parsed once at the border and safe afterwards in topics, file names and tables."""

from __future__ import annotations

import re
from typing import Annotated, Final, NamedTuple

from pydantic import Field

from .errors import PeerError

# MQTT levels of [A-Za-z0-9_-] pass every broker (NATS maps '.', refuses spaces; AWS counts bytes).
NAME_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$"
VERSION_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,63}$"
VERSION_OR_ALIAS_PATTERN: Final = (
    r"^(@[A-Za-z0-9][A-Za-z0-9_-]{0,63}|[A-Za-z0-9][A-Za-z0-9._+-]{0,63})$"
)
DIGEST_PATTERN: Final = r"^[0-9a-f]{64}$"
BOOT_PATTERN: Final = r"^[0-9a-f]{16}$"
FINGERPRINT_PATTERN: Final = r"^[a-f0-9]{16}$"

DeviceId = Annotated[str, Field(pattern=NAME_PATTERN)]
"""Name of one machine; also its MQTT client id, always."""
ModelName = Annotated[str, Field(pattern=NAME_PATTERN)]
"""Name of one line of models; versions of it replace each other."""
Version = Annotated[str, Field(pattern=VERSION_PATTERN)]
"""A release's name for people. It identifies nothing; the digest does."""
VersionOrAlias = Annotated[str, Field(pattern=VERSION_OR_ALIAS_PATTERN)]
"""A version, or `@` and an alias, which the controller resolves to one."""
AliasName = Annotated[str, Field(pattern=NAME_PATTERN)]
"""A name that is moved from release to release, such as `champion`."""
Digest = Annotated[str, Field(pattern=DIGEST_PATTERN)]
"""sha-256 of bytes, 64 lower-case hexadecimal digits: the identity of content."""
BootId = Annotated[str, Field(pattern=BOOT_PATTERN)]
"""Random 64 bits, new at each start of a program; names a series of records, orders nothing."""
RolloutId = Annotated[str, Field(pattern=NAME_PATTERN)]
CaptureId = Annotated[str, Field(pattern=NAME_PATTERN)]
"""Name of one request for captured rows."""
Fingerprint = Annotated[str, Field(pattern=FINGERPRINT_PATTERN)]
"""What Alertmanager calls an alert by: a hash of its labels, the same for ever."""


class ReleaseRef(NamedTuple):
    """What a person types to name a release: `digits:1.0.0`."""

    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.name}:{self.version}"


def parse_name(text: str, *, what: str) -> str:
    """Return `text` if it may name a device or a model.

    Args:
        text: What was given.
        what: The noun for the error, such as "device id".

    Raises:
        PeerError: `invalid_name`.
    """
    if not re.fullmatch(NAME_PATTERN, text):
        raise PeerError(
            f"{text[:80]!r} is not a valid {what}",
            code="invalid_name",
            hint="use 1 to 64 letters, digits, '_' or '-', beginning with a letter or digit",
        )
    return text


def parse_release(text: str) -> ReleaseRef:
    """Return the model and version that `name:version` names.

    Raises:
        PeerError: `invalid_release`.
    """
    name, separator, version = text.partition(":")
    if (
        not separator
        or not re.fullmatch(NAME_PATTERN, name)
        or not re.fullmatch(VERSION_PATTERN, version)
    ):
        raise PeerError(
            f"{text[:80]!r} does not name a release",
            code="invalid_release",
            hint="write it as NAME:VERSION, for example digits:1.0.0",
        )
    return ReleaseRef(name, version)


def parse_release_or_alias(text: str) -> ReleaseRef:
    """Return the model and version that `name:version` names, or `@alias` as version for `name@alias`.

    Raises:
        PeerError: `invalid_release` or `invalid_alias`.
    """
    name, separator, _ = text.partition("@")
    if not separator or ":" in name:
        return parse_release(text)
    name, alias = parse_alias(text)
    return ReleaseRef(name, f"@{alias}")


def parse_alias(text: str) -> tuple[str, str]:
    """Return the model and the alias that `name@alias` names.

    Raises:
        PeerError: `invalid_alias`.
    """
    name, separator, alias = text.partition("@")
    if (
        not separator
        or not re.fullmatch(NAME_PATTERN, name)
        or not re.fullmatch(NAME_PATTERN, alias)
    ):
        raise PeerError(
            f"{text[:80]!r} is no alias",
            code="invalid_alias",
            hint="write it as NAME@ALIAS, for example digits@champion",
        )
    return name, alias
