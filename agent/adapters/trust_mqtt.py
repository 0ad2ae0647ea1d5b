"""Signed metadata as it was delivered over MQTT: kept for the next refresh, in bounded space.

A message is a document as it was signed; its version stands in it and is believed only as far as the
name under which python-tuf asks for it. What a refresh has taken is on disk, and is forgotten here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
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

    def __call__(self, name: str) -> Iterator[bytes]:
        """Give a document.

        Raises:
            LookupError: It was not delivered, and is not on disk.
        """
        if name in self._documents:
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
        self._bytes += len(payload) - len(self._documents.pop(name, b""))
        self._documents[name] = payload
        while self._bytes > MAX_DELIVERED_BYTES:
            self._bytes -= len(self._documents.pop(next(iter(self._documents))))

    def clear(self) -> None:
        """Forget what was delivered: a refresh has taken it, or none of it is of use."""
        self._documents.clear()
        self._bytes = 0

    def _name(self, topic: Trust | ModelTrust, payload: bytes) -> str:
        role = topic.role if isinstance(topic, Trust) else model_role(topic.model)
        if role == "timestamp":
            return TIMESTAMP
        if role.startswith("root-"):
            return f"{role.removeprefix('root-')}.root.json"
        return f"{version_of(payload)}.{role}.json"


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
