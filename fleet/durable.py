"""Files that must not be torn or lost: temporary file, fsync, rename, fsync of the directory."""

from __future__ import annotations

import os
import secrets
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
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
