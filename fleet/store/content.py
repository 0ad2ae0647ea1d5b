"""Chunk payloads as files: `chunks/ab/<sha256 of the plain bytes>`, written once, never changed."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from pathlib import Path

from wire.content import decode_chunk, encode_chunk
from wire.errors import PeerError, StorageError


class ChunkFolder:
    """Content-addressed payloads (zstd frames, as they travel). Safe from any thread."""

    def __init__(self, root: Path) -> None:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._root = root

    def add(self, plain: Mapping[str, bytes]) -> dict[str, int]:
        """Write the chunks that are not there yet; return each one's payload length in bytes.

        On return all of them are on disk, names included. A crash in the middle leaves temporary
        files and whole chunks that nothing names yet; both are harmless and reused.

        Raises:
            StorageError: `chunk_write`.
        """
        lengths: dict[str, int] = {}
        folders: set[Path] = set()
        try:
            for digest, data in plain.items():
                path = self._path(digest)
                if not path.exists():
                    path.parent.mkdir(exist_ok=True)
                    self._write(path, encode_chunk(data))
                    folders.add(path.parent)
                lengths[digest] = path.stat().st_size
            for folder in (*folders, self._root):
                _sync_folder(folder)
        except OSError as exc:
            raise StorageError(
                f"cannot write a chunk: {exc.strerror}",
                code="chunk_write",
                hint=f"free space in {self._root}, then push again",
            ) from exc
        return lengths

    def read(self, digest: str) -> bytes:
        """Return the payload of a chunk, proven against its name.

        Raises:
            StorageError: `chunk_lost`: the file is missing or damaged.
        """
        try:
            payload = self._path(digest).read_bytes()
            decode_chunk(digest, payload)
        except (OSError, PeerError) as exc:
            raise StorageError(
                f"chunk {digest[:12]} is missing or damaged in {self._root}",
                code="chunk_lost",
                hint="push the bundle again",
            ) from exc
        return payload

    def discard(self, digest: str) -> None:
        """Forget a damaged chunk, so that the next push writes it again. Idempotent."""
        self._path(digest).unlink(missing_ok=True)

    def _path(self, digest: str) -> Path:
        return self._root / digest[:2] / digest

    @staticmethod
    def _write(path: Path, payload: bytes) -> None:
        temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
        with temporary.open("wb") as file:
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)


def _sync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
