"""Chunks and signed metadata from the controller itself, over HTTPS: equal to the broker (decision 0008).

What comes this way is verified as what comes by the broker. The device shows its certificate, since models may
be secret; one that a person set up without enrolling has none, and only the broker.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from wire import codec
from wire.codec import MAX_MESSAGE_BYTES
from wire.enrolment import UnknownDevice
from wire.errors import ModelfleetError

from .https import Connection
from .identity import Identity

CONNECTIONS: Final = 2
"""Pulls under way at once. A chunk has 31 kB, so that over a way of 50 ms they bring 1.2 MB/s; the listener
takes 256 in all, and a whole fleet may come."""
IDLE_S: Final = 10.0
"""A connection that nobody needs is ended; the controller would do so after thirty."""
HAND_OVER_S: Final = 1.0


class SecondSource:
    """The controller's listener, over one connection. For one thread; `cut` is for any other."""

    def __init__(self, identity: Identity) -> None:
        """Know who asks; the identity's files are read anew for each connection."""
        self._identity = identity
        self._connection: Connection | None = None
        self._is_cut = False

    def begin(self) -> None:
        """Ask again after a cut. Whether what comes now is still wanted is to be looked at after this."""
        self._is_cut = False

    def chunk(self, digest: str) -> bytes:
        """Return the payload that the broker would have: one zstd frame, not yet verified.

        Raises:
            PeerError: `unknown_chunk`, `revoked` and what else the controller refuses.
            TransferError: `controller_unreachable`.
            StorageError, ConfigError: The identity is damaged.
        """
        return self._ask(f"/v1/chunks/{digest}")

    def document(self, name: str) -> bytes:
        """Return signed metadata, by its name among TUF's files; without a version, the newest.

        Raises:
            PeerError: `unknown_document`, or as `chunk`.
            TransferError, StorageError, ConfigError: As `chunk`.
        """
        return self._ask(f"/v1/trust/{name}")

    def is_heard(self, device: str) -> bool:
        """Return whether the controller heard something in the name of a device that it does not know.

        Raises:
            PeerError: As `chunk`; `not_found` from a controller that is older.
            TransferError, StorageError, ConfigError: As `chunk`.
        """
        answer = self._ask(f"/v1/unknown-devices/{device}")
        return codec.decode(UnknownDevice, answer).is_heard

    def close(self) -> None:
        """End the connection until it is needed again."""
        if self._connection is not None:
            self._connection.close()

    def cut(self) -> None:
        """Have what is under way, and what is asked for after it, fail at once; from any thread."""
        self._is_cut = True
        if self._connection is not None:
            self._connection.cut()

    def _ask(self, path: str) -> bytes:
        identity = self._identity
        if self._connection is None or not self._connection.is_open:
            url = identity.place().door_url  # it may have enrolled anew
            self._connection = Connection(
                url, lambda: identity.files().context(), lambda: self._is_cut
            )
        return self._connection.ask("GET", path, max_bytes=MAX_MESSAGE_BYTES)


@dataclass(frozen=True, slots=True)
class Pulled:
    """A payload that the controller gave; nothing of it is verified."""

    digest: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class PullFailed:
    """The controller did not give a chunk."""

    digest: str
    error: ModelfleetError


class ChunkPulls:
    """Pulls chunks in threads of their own, which begin when the first chunk is asked for.

    `ask`, `drop` and `stop` are for one thread.
    """

    def __init__(
        self, make: Callable[[], SecondSource], deliver: Callable[[Pulled | PullFailed], bool]
    ) -> None:
        """Take note of whom to ask and whom to tell.

        Args:
            make: Gives a source for each thread.
            deliver: Takes what came; waits a moment for a place, and says whether there was one.
        """
        self._make = make
        self._deliver = deliver
        self._wanted: queue.Queue[tuple[int, str]] = queue.Queue()
        self._round = 0
        self._is_stopping = False
        self._sources: list[SecondSource] = []
        self._threads: list[threading.Thread] = []

    def ask(self, digests: Iterable[str]) -> None:
        """Pull chunks; each is answered by one `Pulled` or `PullFailed`, unless it is dropped."""
        while len(self._threads) < CONNECTIONS:
            source = self._make()
            thread = threading.Thread(
                target=self._work, args=(source,), name="chunk-pull", daemon=True
            )
            self._sources.append(source)
            self._threads.append(thread)
            thread.start()
        for digest in digests:
            self._wanted.put((self._round, digest))

    def drop(self) -> None:
        """Forget what was asked for, and end what is under way; nothing of it is delivered."""
        self._round += 1
        for source in self._sources:
            source.cut()

    def stop(self) -> None:
        """End the threads."""
        self._is_stopping = True
        self.drop()
        for _ in self._threads:
            self._wanted.put((self._round, ""))
        for thread in self._threads:
            thread.join(2 * HAND_OVER_S)

    def is_alive(self) -> bool:
        """Return False if a thread has died."""
        return self._is_stopping or all(thread.is_alive() for thread in self._threads)

    def _work(self, source: SecondSource) -> None:
        while not self._is_stopping:
            try:
                number, digest = self._wanted.get(timeout=IDLE_S)
            except queue.Empty:
                source.close()
                continue
            source.begin()
            if number != self._round or self._is_stopping:
                continue
            result: Pulled | PullFailed
            try:
                result = Pulled(digest, source.chunk(digest))
            except ModelfleetError as exc:
                result = PullFailed(digest, exc)
            while number == self._round and not self._deliver(result):
                pass
        source.close()
