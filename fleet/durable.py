"""Files that must not be torn or lost: temporary file, fsync, rename, fsync of the directory."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path


def write_durably(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Put `data` at `path`, all of it or none; on return it survives a power cut.

    Args:
        path: Its directory exists.
        data: The content.
        mode: Rights of the file from its first byte on.

    Raises:
        OSError: Nothing has changed, but for a temporary file that may stay behind.
    """
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with open(handle, "wb") as file:  # noqa: PTH123 - the descriptor carries the mode
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


@contextlib.contextmanager
def folder_durably(path: Path) -> Iterator[Path]:
    """Give an empty folder that becomes `path` at the end, with all that is in it by then, or never.

    Args:
        path: Where nothing is yet; its directory exists. Files in it are the caller's to write
            durably.

    Raises:
        OSError: Something is at `path`, or it cannot be written there. Nothing has changed, but for
            a temporary folder that may stay behind. What the caller raises passes through.
    """
    if path.is_symlink() or path.exists():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
    part = path.parent / f".{path.name}.{secrets.token_hex(4)}.part"
    part.mkdir()
    try:
        yield part
        sync_folder(part)
        part.rename(path)  # what came there meanwhile makes it fail, unless it is an empty folder
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Have the names in a folder survive a power cut.

    Raises:
        OSError: It cannot be read.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
