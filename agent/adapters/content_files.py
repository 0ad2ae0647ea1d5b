"""Content on disk: immutable files named by their sha-256, and the chunks on their way to files.

    content/<sha256>          one file of a bundle, or a manifest
    bundles/<manifest>.json   the index by which a bundle came; written last: with it, it is whole
    chunks/<sha256>           chunks of a bundle under way; a torn one fails its digest and is
                              fetched again, so they are not synced

Every other write is a temporary file in the same directory, synced, renamed, and the directory
synced.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import shutil
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Final

from wire.content import ChunkRef, Index, offsets, parse_index
from wire.errors import BundleError, PeerError, StorageError
from wire.lifecycle import Code
from wire.manifest import MANIFEST, Manifest, parse_manifest

from .durable import TEMPORARY, storage_error, sync_directory, sync_file, write_durably

log = logging.getLogger(__name__)

Beat = Callable[[], None]
"""Told that reading goes on."""

BUNDLES: Final = "bundles"
BLOCK_BYTES: Final = 1024 * 1024
DISK_FLOOR_BYTES: Final = 16 * 1024 * 1024
"""What an update must leave free, so that state and outbox can still be written."""


def has_bundles(root: Path) -> bool:
    """Return whether a state directory has a bundle that was fetched to its end, sound or not."""
    return any((root / BUNDLES).glob("*.json"))


class ContentStore:
    """The bundles on this device. Used by the fetcher's thread; reading is safe from any."""

    def __init__(self, root: Path, max_bytes: int | None = None) -> None:
        """Make the directories and sweep what a crash left half-written.

        Where bundles are already, a disk that is full, read-only or fails keeps nobody from loading them.

        Args:
            root: The state directory.
            max_bytes: What all content may take of the disk, an update under way included; None
                is as much as there is.

        Raises:
            StorageError: As `storage_error`, with no bundle there.
        """
        self.content = root / "content"
        self._bundles = root / BUNDLES
        self._chunks = root / "chunks"
        self._max_bytes = max_bytes
        try:
            self._make(root)
        except OSError as exc:
            if not has_bundles(root):
                raise storage_error(root, exc) from exc
            log.error("%s; loading what is there", storage_error(root, exc))  # noqa: TRY400 - the cause is in the message

    def _make(self, root: Path) -> None:
        for directory in (self.content, self._bundles, self._chunks):
            directory.mkdir(parents=True, exist_ok=True)
            for path in directory.glob(f"{TEMPORARY}*"):
                path.unlink()
        sync_directory(root)

    def has_chunk(self, chunk: ChunkRef) -> bool:
        """Return whether the whole chunk is on disk; a damaged one is deleted."""
        path = self._chunks / chunk.digest
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return False
        if hashlib.sha256(data).hexdigest() == chunk.digest:
            return True
        path.unlink(missing_ok=True)
        return False

    def put_chunk(self, digest: str, plain: bytes) -> None:
        """Keep a verified chunk.

        Raises:
            StorageError: `disk_full` or `storage_error`.
        """
        temporary = self._chunks / f"{TEMPORARY}{digest}"
        try:
            temporary.write_bytes(plain)
            temporary.rename(self._chunks / digest)
        except OSError as exc:
            raise storage_error(temporary, exc) from exc

    def read_chunk(self, chunk: ChunkRef) -> bytes:
        """Return a chunk that `has_chunk` has seen.

        Raises:
            PeerError: `digest_mismatch` when it is not as long as the index says: a few lengths
                of 1 would otherwise pass every cap and become gigabytes.
        """
        data = (self._chunks / chunk.digest).read_bytes()
        if chunk.bytes not in (0, len(data)):  # 0: the index itself, whose length nobody names
            raise PeerError(
                f"chunk {chunk.digest[:12]} is not as long as the index says",
                code="digest_mismatch",
            )
        return data

    def copy_known_chunks(self, wanted: Iterable[ChunkRef]) -> int:
        """Copy chunks that are part of bundles already here into `chunks/`; return how many."""
        missing = {c.digest for c in wanted if not (self._chunks / c.digest).exists()}
        count = 0
        for bundle in self._bundles.glob("*.json"):
            if not missing:
                break
            for path, position, chunk in self._places(bundle):
                if chunk.digest not in missing:
                    continue
                data = _read_range(path, position, chunk.bytes)
                if hashlib.sha256(data).hexdigest() == chunk.digest:
                    self.put_chunk(chunk.digest, data)
                    missing.discard(chunk.digest)
                    count += 1
        return count

    def assemble(self, sha256: str, chunks: Iterable[ChunkRef]) -> None:
        """Make the file `sha256` of its chunks, all of which are on disk.

        Raises:
            PeerError: `digest_mismatch` when the index does not lead to this file.
            StorageError: `disk_full` or `storage_error`.
        """
        target = self.content / sha256
        temporary = self.content / f"{TEMPORARY}{sha256}"
        digest = hashlib.sha256()
        try:
            with temporary.open("wb") as file:
                for chunk in chunks:
                    data = self.read_chunk(chunk)
                    digest.update(data)
                    file.write(data)
                if digest.hexdigest() != sha256:
                    raise PeerError(
                        f"the chunks of file {sha256[:12]} make something else",
                        code="digest_mismatch",
                    )
                sync_file(file)
            temporary.rename(target)
            sync_directory(self.content)
        except OSError as exc:
            raise storage_error(temporary, exc) from exc
        finally:
            temporary.unlink(missing_ok=True)

    def has_file(self, sha256: str) -> bool:
        """Return whether a whole file is here; a damaged one is deleted."""
        try:
            self._verify(sha256)
        except OSError:
            return False
        return True

    def seal(self, manifest: str, index: bytes) -> None:
        """Declare a bundle whole, and delete the chunks it came by.

        Raises:
            StorageError: `disk_full` or `storage_error`.
        """
        target = self._bundles / f"{manifest}.json"
        try:
            sync_directory(self.content)  # of files that an earlier try made, this may have failed
            write_durably(target, index)
            self.drop_chunks()
        except OSError as exc:
            raise storage_error(target, exc) from exc

    def drop_chunks(self, but: Collection[str] = ()) -> None:
        """Delete all chunks but those of the bundle under way."""
        for path in self._chunks.iterdir():
            if path.name not in but:
                path.unlink(missing_ok=True)

    def is_whole(self, manifest: str) -> bool:
        """Return whether a bundle was sealed here."""
        return (self._bundles / f"{manifest}.json").exists()

    def load(
        self, manifest: str, *, beat: Beat | None = None
    ) -> tuple[Manifest, Mapping[str, Path]]:
        """Return a bundle's manifest and its files, every byte of them verified.

        Args:
            manifest: The bundle's.
            beat: Called now and then while the bytes are read, which may take minutes.

        Raises:
            StorageError: `content_corrupt`; what is damaged was deleted, so that it can be
                fetched again. `storage_error` when a file cannot be read: it may be sound.
        """
        try:
            self._verify(manifest, beat)
            parsed = parse_manifest((self.content / manifest).read_bytes())
        except (OSError, BundleError) as exc:
            raise self._fault(manifest, "its manifest", exc) from exc
        files = {MANIFEST: self.content / manifest}
        for entry in parsed.files:
            try:
                self._verify(entry.sha256, beat)
            except OSError as exc:
                raise self._fault(manifest, entry.path, exc) from exc
            files[entry.path] = self.content / entry.sha256
        return parsed, files

    def collect(self, keep: frozenset[str]) -> None:
        """Delete every bundle but those of `keep`, and every file that only they had.

        While a manifest of those cannot be read, no file is deleted: it may be one that it names.
        """
        needed: set[str] = set()
        for bundle in list(self._bundles.glob("*.json")):
            if bundle.stem not in keep:
                bundle.unlink(missing_ok=True)
                continue
            needed.add(bundle.stem)
            try:
                parsed = parse_manifest((self.content / bundle.stem).read_bytes())
            except (FileNotFoundError, BundleError):
                continue  # damaged: to be fetched again with what it names
            except OSError as exc:
                log.warning(
                    "deleting nothing: bundle %s: its manifest: %s", bundle.stem[:12], exc.strerror
                )
                return
            needed.update(entry.sha256 for entry in parsed.files)
        for path in list(self.content.iterdir()):
            if path.name not in needed:
                path.unlink(missing_ok=True)
        self.drop_chunks()

    def require_free(self, needed_bytes: int) -> None:
        """Check that an update of this size fits beside what must stay: nothing makes way for it.

        Raises:
            StorageError: `disk_full` or `disk_budget`.
        """
        # Chunks are part of what is needed, those that are here already too.
        used = sum(
            _size(path) for folder in (self.content, self._bundles) for path in folder.iterdir()
        )
        if self._max_bytes is not None and used + needed_bytes > self._max_bytes:
            raise StorageError(
                f"{needed_bytes // 1024} kB are needed, {used // 1024} of {self._max_bytes // 1024} kB "
                "are taken by what serves and its fallbacks",
                code=Code.DISK_BUDGET,
                hint="raise [state] max_bytes, or release a smaller bundle",
            )
        free = shutil.disk_usage(self.content).free
        if free < needed_bytes + DISK_FLOOR_BYTES:
            raise StorageError(
                f"{needed_bytes // 1024} kB are needed and {free // 1024} kB are free",
                code="disk_full",
                hint=f"free some space on the file system of {self.content}",
            )

    def _verify(self, sha256: str, beat: Beat | None = None) -> None:
        if _digest_of_file(self.content / sha256, beat) != sha256:
            (self.content / sha256).unlink(missing_ok=True)
            raise FileNotFoundError(errno.ENOENT, "its bytes have changed on disk")

    def _fault(self, manifest: str, path: str, exc: OSError | BundleError) -> StorageError:
        """Return the typed form of what is wrong with a file of a bundle; a lost one unseals it."""
        why = exc.strerror if isinstance(exc, OSError) and exc.strerror else exc
        text = f"bundle {manifest[:12]}: {path}: {why}"
        if isinstance(exc, OSError) and not isinstance(exc, FileNotFoundError):
            return StorageError(text, code="storage_error")
        with contextlib.suppress(OSError):  # then the next start finds the damage again
            (self._bundles / f"{manifest}.json").unlink(missing_ok=True)
        return StorageError(text, code="content_corrupt")

    def _places(self, bundle: Path) -> Iterable[tuple[Path, int, ChunkRef]]:
        """Return where each chunk of a sealed bundle lies: file, offset in bytes, chunk."""
        try:
            index: Index = parse_index(bundle.read_bytes())
            parsed = parse_manifest((self.content / bundle.stem).read_bytes())
        except (OSError, PeerError, BundleError):
            return []
        places = [(self.content / bundle.stem, MANIFEST)]
        places += [(self.content / entry.sha256, entry.path) for entry in parsed.files]
        return [
            (path, position, chunk)
            for path, name in places
            for position, chunk in offsets(index.chunks_of(name))
        ]


def read_manifest(root: Path, manifest: str) -> Manifest | None:
    """Return a bundle's manifest as it lies on the disk, unverified; None where it cannot be read."""
    try:
        return parse_manifest((root / "content" / manifest).read_bytes())
    except (OSError, BundleError):
        return None


def find_damage(root: Path, manifest: str) -> str | None:
    """Return what is wrong with a bundle's bytes, or None; deletes nothing."""
    content = root / "content"
    try:
        if _digest_of_file(content / manifest) != manifest:
            return "its manifest has changed on disk"
        for entry in parse_manifest((content / manifest).read_bytes()).files:
            if _digest_of_file(content / entry.sha256) != entry.sha256:
                return f"its {entry.path} has changed on disk"
    except OSError as exc:
        return f"a file cannot be read: {exc.strerror}"
    except BundleError as exc:
        return str(exc)
    return None


def _digest_of_file(path: Path, beat: Beat | None = None) -> str:
    with path.open("rb") as file:
        digest, block = hashlib.sha256(), bytearray(BLOCK_BYTES)
        while n_bytes := file.readinto(block):
            digest.update(memoryview(block)[:n_bytes])
            if beat is not None:
                beat()
        return digest.hexdigest()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # collected meanwhile
        return 0


def _read_range(path: Path, position: int, length: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(position)
            return file.read(length)
    except OSError:
        return b""
