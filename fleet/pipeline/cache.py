"""What steps made, by the hash of what they were given: whole or not there, and checked when it is used."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fleet.durable import write_durably
from wire.errors import StorageError

KEY_CHARS: Final = 32
"""Of a key in a folder's name: 128 bits."""
_LIST: Final = "files.json"
_PART: Final = ".part-"


@dataclass(frozen=True, slots=True)
class Entry:
    """What one step made.

    Attributes:
        folder: Its files; nobody changes them.
        digest: sha-256 over their names and contents.
    """

    folder: Path
    digest: str


class Cache:
    """The entries in a folder. One process uses it at a time, in any of its threads."""

    def __init__(self, root: Path) -> None:
        """Use `root`, which is made where it is not there; what a killed process left half goes.

        Raises:
            StorageError: `cache_unwritable`.
        """
        self._root = root
        self._renaming = threading.Lock()
        with _as_storage(root):
            root.mkdir(parents=True, exist_ok=True)
            for part in root.glob(f"{_PART}*"):
                shutil.rmtree(part)

    def find(self, step: str, key: str) -> Entry | None:
        """Return what the step made of this, None where that is not there; what is damaged goes.

        Raises:
            StorageError: `cache_unwritable`.
        """
        folder = self._folder(step, key)
        with _as_storage(folder):
            if not folder.exists():
                return None
            digest = _whole(folder)
            if digest is None:
                shutil.rmtree(folder)
                return None
            return Entry(folder, digest)

    def make(self, step: str, key: str, produce: Callable[[Path], None]) -> Entry:
        """Have `produce` write files into an empty folder, and keep them under the key.

        A crash leaves nothing under the key; what was there before is replaced.

        Raises:
            StorageError: `cache_unwritable`. What `produce` raises passes through.
        """
        part = self._root / f"{_PART}{secrets.token_hex(8)}"
        folder = self._folder(step, key)
        with _as_storage(part):
            part.mkdir()
        try:
            produce(part)
            with _as_storage(part):
                listed = _list(part)
                for name in listed:
                    _sync(part / name)
                write_durably(part / _LIST, _encode(listed))
                with self._renaming:
                    if folder.exists():
                        shutil.rmtree(folder)
                    part.rename(folder)
                _sync(self._root)
        finally:
            shutil.rmtree(part, ignore_errors=True)
        return Entry(folder, _digest_of(listed))

    def _folder(self, step: str, key: str) -> Path:
        return self._root / f"{step}-{key[:KEY_CHARS]}"


def _list(folder: Path) -> dict[str, str]:
    listed = {}
    for path in sorted(folder.iterdir()):
        with path.open("rb") as file:
            listed[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return listed


def _encode(listed: dict[str, str]) -> bytes:
    return json.dumps(listed, sort_keys=True).encode()


def _digest_of(listed: dict[str, str]) -> str:
    return hashlib.sha256(_encode(listed)).hexdigest()


def _whole(folder: Path) -> str | None:
    """Return the digest of an entry, None where its files are not what was listed."""
    try:
        listed = json.loads((folder / _LIST).read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    found = _list(folder)
    found.pop(_LIST, None)
    return _digest_of(found) if found == listed else None


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def _as_storage(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise StorageError(
            f"cannot write {path}: {exc.strerror or exc}",
            code="cache_unwritable",
            hint="is the disk full? runs/cache may be removed, it is made again",
        ) from exc
