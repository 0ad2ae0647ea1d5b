"""Signed metadata as it was delivered over MQTT: kept for the next refresh, in bounded space.

A message is a document as it was signed; its version stands in it and is believed only as far as the
name under which python-tuf asks for it. What a refresh has taken is on disk, and is forgotten here; what
came before the document that leads to it is kept for that.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from wire import codec
from wire.errors import PeerError
from wire.lifecycle import Code
from wire.topics import ModelTrust, Trust
from wire.trust import MAX_METADATA_BYTES, model_role

MAX_DELIVERED_BYTES: Final = 1024 * 1024
"""Seventeen documents at their longest, or 256 roots at their usual 2 kB."""
TIMESTAMP: Final = "timestamp.json"


class DeliveredMetadata:
    """Documents by the name that python-tuf asks for; what was not delivered comes from the disk.

    Used by the loop's thread only.
    """

    def __init__(self, kept: Callable[[str], Iterator[bytes]]) -> None:
        """Begin with nothing.

        Args:
            kept: Gives what is on disk, or raises LookupError; see `TrustStore.kept`.
        """
        self._kept = kept
        self._documents: dict[str, bytes] = {}
        self._bytes = 0
        self._asked: set[str] = set()
        """Those of the documents that a refresh has been given."""

    def __call__(self, name: str) -> Iterator[bytes]:
        """Give a document.

        Raises:
            LookupError: It was not delivered, and is not on disk.
        """
        if name in self._documents:
            self._asked.add(name)
            return iter((self._documents[name],))
        return self._kept(name)

    def put(self, topic: Trust | ModelTrust, payload: bytes) -> None:
        """Keep a document; one of the same name gives way, and the oldest ones when they are too many.

        Raises:
            PeerError: `trust_too_large` or `trust_malformed`; it is not kept.
        """
        if len(payload) > MAX_METADATA_BYTES:
            raise PeerError(
                f"{len(payload)} bytes of metadata are over the cap of {MAX_METADATA_BYTES}",
                code=Code.TRUST_TOO_LARGE,
            )
        name = self._name(topic, payload)
        self._drop(name)
        self._documents[name] = payload
        self._bytes += len(payload)
        while self._bytes > MAX_DELIVERED_BYTES:
            self._drop(next(iter(self._documents)))

    def has_unasked(self) -> bool:
        """Return whether a document is here that no refresh has been given yet."""
        return len(self._asked) < len(self._documents)

    def forget(self, verified: Mapping[str, int]) -> None:
        """Forget what is of no use any more after a refresh that succeeded, by whatever source.

        That is what a refresh was given: it has been taken, or is no good, such as a root that a broker
        invented. And what is no newer than what is verified. A newer one that nothing has asked for
        yet came before the document that names it, and may come only once.

        Args:
            verified: Version of the verified document of each role.
        """
        for name, payload in tuple(self._documents.items()):
            if name in self._asked or _version(name, payload) <= verified.get(_role(name), 0):
                self._drop(name)

    def _drop(self, name: str) -> None:
        self._bytes -= len(self._documents.pop(name, b""))
        self._asked.discard(name)

    def _name(self, topic: Trust | ModelTrust, payload: bytes) -> str:
        role = topic.role if isinstance(topic, Trust) else model_role(topic.model)
        if role == "timestamp":
            return TIMESTAMP
        if role.startswith("root-"):
            return f"{role.removeprefix('root-')}.root.json"
        return f"{version_of(payload)}.{role}.json"


def _role(name: str) -> str:
    return "timestamp" if name == TIMESTAMP else name.partition(".")[2].removesuffix(".json")


def _version(name: str, payload: bytes) -> int:
    """Return the version of a kept document; 0 of a timestamp that says none."""
    if name != TIMESTAMP:
        return int(name.partition(".")[0])
    with contextlib.suppress(PeerError):
        return version_of(payload)
    return 0


def version_of(payload: bytes) -> int:
    """Return the version that a document gives itself; nothing of it is verified.

    Raises:
        PeerError: `trust_malformed`.
    """
    try:
        version = codec.parse_json(payload, max_bytes=MAX_METADATA_BYTES)["signed"]["version"]
    except (PeerError, LookupError, TypeError) as exc:
        raise PeerError(f"no signed metadata: {exc}"[:300], code=Code.TRUST_MALFORMED) from exc
    if type(version) is not int or not 0 < version < 10**9:
        raise PeerError("signed metadata without a version", code=Code.TRUST_MALFORMED)
    return version
