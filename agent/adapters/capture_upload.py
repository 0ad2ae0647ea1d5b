"""Packs of captured rows to the controller, over HTTPS with the device's certificate.

Not by the broker, whose observers read everything (decision 0014): a device that was set up by hand, and
has the broker alone, keeps its rows.
"""

from __future__ import annotations

from wire import codec
from wire.packs import PackTaken

from .https import Connection
from .identity import Identity

MAX_ANSWER_BYTES = 8 * 1024


class PackUpload:
    """The controller's listener for packs. For one thread."""

    def __init__(self, identity: Identity) -> None:
        """Know who gives; the identity's files are read anew for each connection."""
        self._identity = identity
        self._connection: Connection | None = None

    def send(self, body: bytes) -> PackTaken:
        """Give the controller a pack; it has it on disk when this returns.

        Raises:
            PeerError: `capture_not_wanted`, `capture_invalid`, `capture_full`, `revoked` and what else the
                controller refuses; or its answer is none.
            TransferError: `controller_unreachable`.
            StorageError, ConfigError: The identity is damaged.
        """
        identity = self._identity
        if self._connection is None or not self._connection.is_open:
            url = identity.place().door_url  # it may have enrolled anew
            self._connection = Connection(url, lambda: identity.files().context())
        answer = self._connection.ask(
            "POST", "/v1/captures", body, max_bytes=MAX_ANSWER_BYTES, kind="application/zip"
        )
        taken = codec.decode(PackTaken, answer)
        if not taken.is_wanted:
            self._connection.close()
        return taken
