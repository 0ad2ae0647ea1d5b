"""Signed metadata on this device's disk: crash-safe, with a memory that outlives its files.

    <directory>/root.json, timestamp.json, snapshot.json, targets.json, model-<m>.json     what is trusted
    <directory>/root_history/<N>.root.json                                                the chain to it
    <directory>/scratch/                                                                  of python-tuf

python-tuf's client neither syncs what it writes nor replaces its root in one step, so it works in a
scratch copy. What it accepted is then put in place durably: the chain of roots one after the other, then the
rest together, of which a power cut may leave any of the old and any of the new. From each such
mixture the next refresh goes on. The chain of trust begins at the bootstrap root each time.

Beside the files, the highest version of everything that was ever accepted is kept as *marks*: a cache
that is lost, zeroed or set back opens no way back. A mark is of

    root                    whatever signs it: roots only follow each other
    timestamp, snapshot     by what a timestamp says, as long as its signers are still the timestamp's
    <role>.json             by what a snapshot says, as long as its signers are still the snapshot's
    floor/<model>           by what the model's role says, as long as its signers are still its keys
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from agent.core.trust import Marks, TrustView
from wire.errors import ConfigError, PeerError
from wire.trust import MAX_METADATA_BYTES, target_path

from .durable import (
    TEMPORARY,
    storage_error,
    sync_directory,
    write_durably,
    write_together,
)
from .trust_mqtt import version_of

if TYPE_CHECKING:
    from .ngclient import Fetch, Run

TRUST: Final = "trust"
"""Where an agent keeps all this, below its state directory."""
ROOT: Final = "root.json"
HISTORY: Final = "root_history"
SCRATCH: Final = "scratch"
ANY_VERSION: Final = "0"
"""A release that leads to a model's role; whether there is such a one does not matter."""
LAST_UNIX_MS: Final = 253_402_300_799_000
"""The end of the year 9999, which is as far as Python's time goes."""


class MarkStore(Protocol):
    """Keeps marks across power cuts."""

    def load_marks(self) -> Marks:
        """Return what was saved, or nothing; raises StorageError."""

    def save_marks(self, marks: Marks) -> None:
        """Put `marks` on disk before returning; raises StorageError."""


class TrustStore:
    """The trusted metadata of one device; used by one thread only."""

    def __init__(
        self,
        directory: Path,
        bootstrap: Callable[[], bytes],
        marks: MarkStore,
        *,
        device: str,
        max_bytes: int = MAX_METADATA_BYTES,
    ) -> None:
        """Use a directory, which is made when it is first needed.

        Args:
            directory: For this alone.
            bootstrap: Gives the root that this device was given when it was let in, as it is now;
                may raise ConfigError, which then every use of this store raises.
            marks: The memory that outlives the directory.
            device: Id of this device, whose director is looked for.
            max_bytes: Cap of one document.
        """
        self._directory = directory
        self._bootstrap = bootstrap
        self._marks = marks
        self._device = device
        self._max_bytes = max_bytes

    def load(self, models: Collection[str]) -> TrustView:
        """Return what is on disk, verified anew, however old it is.

        Raises:
            PeerError, TransferError, StorageError, ConfigError: As `refresh`; `trust_unavailable`
                before a first refresh was whole.
        """
        return self._viewed(self.kept, models, now_unix_ms=0)

    def refresh(self, fetch: Fetch, models: Collection[str], *, now_unix_ms: int) -> TrustView:
        """Bring the metadata up to date, and return what is verified.

        A kill at any instant leaves the old or the new, or a mixture from which the next refresh goes on.

        Args:
            fetch: Where newer files come from.
            models: Whose signed releases matter here.
            now_unix_ms: The time to judge expiry by.

        Raises:
            PeerError: `trust_signature`, `trust_rollback`, `trust_expired`, `trust_mismatch`,
                `trust_malformed` or `trust_too_large`. What was verified before that stays in place.
            TransferError: `trust_unavailable`.
            StorageError: This disk does not work.
            ConfigError: There is no root of trust to begin with.
        """
        return self._viewed(fetch, models, now_unix_ms=now_unix_ms)

    def run(self, fetch: Fetch, paths: Collection[str], *, now_unix_ms: int) -> Run:
        """Refresh, and look targets up by their paths; return all that was verified.

        Raises:
            PeerError, TransferError, StorageError, ConfigError: As `refresh`.
        """
        from . import ngclient

        bootstrap = self._bootstrap()
        now = datetime.fromtimestamp(min(now_unix_ms, LAST_UNIX_MS) / 1000, UTC)
        scratch = self._scratch(f"{_version(bootstrap)}.{ROOT}")
        result = ngclient.run(
            scratch, bootstrap, fetch, now=now, paths=paths, max_bytes=self._max_bytes
        )
        self._accept(scratch, result)
        if result.error is not None:
            raise result.error
        return result

    def _viewed(self, fetch: Fetch, models: Collection[str], *, now_unix_ms: int) -> TrustView:
        paths = {model: target_path(model, ANY_VERSION) for model in models}
        result = self.run(fetch, paths.values(), now_unix_ms=now_unix_ms)
        from .trust_view import view_of

        return view_of(result, paths, device=self._device, marks=self._marks.load_marks())

    def _accept(self, scratch: Path, result: Run) -> None:
        """Put in place what a run has verified, unless this device knew better once.

        Raises:
            PeerError: `trust_rollback`. The chain of roots is put in place all the same.
            StorageError: The disk does not work.
        """
        from .trust_view import marks_of

        known = self._marks.load_marks()
        fresh, fallen = marks_of(result, known)
        try:
            self._put_roots(scratch, result.root.signed.version)
            if fallen is not None:
                raise PeerError(fallen.detail, code=fallen.code)
            if fresh != known:
                self._marks.save_marks(fresh)
            self._put(scratch)
        except OSError as exc:
            raise storage_error(self._directory, exc) from exc

    def _put_roots(self, scratch: Path, newest: int) -> None:
        history = self._directory / HISTORY
        if not history.is_dir():
            history.mkdir(parents=True, exist_ok=True)
            sync_directory(self._directory)
        names = (f"{HISTORY}/{number}.{ROOT}" for number in range(1, newest + 1))
        for name in (*names, ROOT):
            data = _read(scratch / name)
            if data is not None and data != _read(self._directory / name):
                write_durably(self._directory / name, data)

    def _put(self, scratch: Path) -> None:
        found = {path.name: path.read_bytes() for path in sorted(scratch.glob("*.json"))}
        new = {name: data for name, data in found.items() if data != _read(self._directory / name)}
        if new:
            write_together(self._directory, new)

    def kept(self, name: str) -> Iterator[bytes]:
        """Give a file as a repository would that has nothing newer than this disk.

        Raises:
            LookupError: There is none, or only another version of it.
        """
        version, _, role = name.partition(".")
        path = self._directory / (role if version.isdecimal() else name)
        if version.isdecimal() and role == ROOT:
            path = self._directory / HISTORY / name
        data = _read(path)
        if data is None or (version.isdecimal() and _version(data) != int(version)):
            raise LookupError(name)
        return iter((data,))

    def root_version(self) -> int:
        """Return the version that the newest root here gives itself; 0 if there is none to be read."""
        with contextlib.suppress(OSError, ConfigError):
            return _version(_read(self._directory / ROOT) or self._bootstrap()) or 0
        return 0

    def _scratch(self, first: str) -> Path:
        """Return a directory that is equal to what is in place, but for the root of the beginning.

        ngclient writes `first` each time, and to replace a file makes ext4 write it out, which costs a
        fifth of a refresh. The directory is kept between refreshes, since to make and remove one costs half of a refresh; what a
        kill or a power cut has left in it is compared byte by byte.

        Raises:
            StorageError: The disk does not work.
        """
        scratch = self._directory / SCRATCH
        try:
            (scratch / HISTORY).mkdir(parents=True, exist_ok=True)
            for path in (*scratch.glob("*"), *scratch.glob(f"{HISTORY}/*")):
                is_known = (self._directory / path.relative_to(scratch)).exists()
                if path.name != HISTORY and (path.name == first or not is_known):
                    path.unlink()
            for path in (*self._directory.glob("*"), *self._directory.glob(f"{HISTORY}/*")):
                if path.name.startswith(TEMPORARY):
                    path.unlink()
                elif path.suffix == ".json" and path.name != first:
                    copy, data = scratch / path.relative_to(self._directory), path.read_bytes()
                    if data != _read(copy):
                        copy.unlink(missing_ok=True)  # it may be a link
                        copy.write_bytes(data)
        except OSError as exc:
            raise storage_error(self._directory, exc) from exc
        return scratch


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _version(data: bytes) -> int | None:
    try:
        return version_of(data)
    except PeerError:
        return None
