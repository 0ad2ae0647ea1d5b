"""Files that are whole or not there, whatever happens while they are written.

The recipe is a temporary file in the same directory, fsync, rename, fsync of the directory: of all that
was tried in power cuts the only one that neither tore a file nor lost an acknowledged one.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO, Final

from wire.errors import StorageError

TEMPORARY: Final = ".tmp-"
"""How the names of unfinished files begin; a start sweeps them."""


def write_durably(path: Path, data: bytes, *, mode: int = 0o666) -> None:
    """Put `data` at `path`; it survives a power cut once this returns, and is never there in part.

    `mode` is narrowed by the process's umask.

    Raises:
        OSError: The file that was there before is still there, whole; or, if only the last step
            failed, the new one.
    """
    write_together(path.parent, {path.name: data}, mode=mode)


def write_together(directory: Path, files: Mapping[str, bytes], *, mode: int = 0o666) -> None:
    """Put several files in one directory; all survive a power cut once this returns.

    A cut before that may leave any of them new and the others as they were, each whole. They share
    the sync of the directory, which costs as much as a file's.

    Raises:
        OSError: As `write_durably`, for each.
    """
    for name, data in files.items():
        temporary = directory / f"{TEMPORARY}{name}"
        temporary.unlink(missing_ok=True)  # its mode would stay
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            sync_file(file)
    for name in files:
        (directory / f"{TEMPORARY}{name}").rename(directory / name)
    sync_directory(directory)


def sync_file(file: BinaryIO) -> None:
    """Flush a file through to the disk."""
    file.flush()
    os.fsync(file.fileno())


def sync_directory(path: Path) -> None:
    """Make the names in a directory survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sealed(number: int, body: str) -> str:
    """Return a text that shows when a single bit of it changes.

    Args:
        number: Which writing this is; a higher one is newer.
        body: What is kept.
    """
    rest = f"{number}\n{body}"
    return f"{hashlib.sha256(rest.encode()).hexdigest()}\n{rest}"


def unsealed(text: str) -> tuple[int, str]:
    """Return number and body of a sealed text.

    Raises:
        ValueError: It is not as it was written.
    """
    digest, _, rest = text.partition("\n")
    if hashlib.sha256(rest.encode()).hexdigest() != digest:
        raise ValueError("its bytes have changed on disk")
    number, _, body = rest.partition("\n")
    return int(number), body


def storage_error(path: Path, exc: OSError) -> StorageError:
    """Return the typed form of a failed disk operation: `disk_full` or `storage_error`."""
    if exc.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return StorageError(
            f"the disk of {path.parent} is full",
            code="disk_full",
            hint="free some space; the update is tried again with the next assignment",
        )
    return StorageError(f"{path}: {exc.strerror or exc}", code="storage_error")
