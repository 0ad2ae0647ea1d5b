"""One controller per fleet directory: a pid file that is locked for as long as its writer lives.

The lock, not the file, says that somebody is there: the kernel drops it however the process ends,
and no other process can be mistaken for it after its id was given away again. Of two hosts that have
one store on PostgreSQL, a lock in the database lets one in (`fleet.store.postgres`).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from wire.errors import ConfigError, StorageError

_PATIENCE_S: Final = 0.5
"""How long a moment may last in which the lock is held only to look, or the id is being written."""
_POLL_S: Final = 0.02


@contextlib.contextmanager
def hold_lease(path: Path) -> Iterator[None]:
    """Be the one holder of `path` until the block ends.

    The file stays behind, empty and unlocked: removing it would let two hold one path.

    Raises:
        ConfigError: `already_up`.
        StorageError: `lease_unwritable`.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as exc:
        raise _unwritable(path, exc) from exc
    try:
        _lock(handle, path)
        try:
            os.ftruncate(handle, 0)
            os.write(handle, f"{os.getpid()}\n".encode())
        except OSError as exc:
            raise _unwritable(path, exc) from exc
        yield
        os.ftruncate(handle, 0)
    finally:
        os.close(handle)


def lease_holder(path: Path) -> int | None:
    """Return the process id of the holder of `path`, or None when nobody holds it."""
    deadline_s = time.monotonic() + _PATIENCE_S
    while True:
        try:
            handle = os.open(path, os.O_RDONLY)
        except OSError:
            return None
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            text = os.read(handle, 32).strip()
            if text.isdigit():
                return int(text)
        else:
            return None
        finally:
            os.close(handle)
        if time.monotonic() > deadline_s:
            return None
        time.sleep(_POLL_S)


def already_up(pid: int | None) -> ConfigError:
    """Return the error that says so."""
    return ConfigError(
        f"this fleet is already up (process {pid})" if pid else "this fleet is already up",
        code="already_up",
        hint="`fleet down` ends it",
    )


def _unwritable(path: Path, exc: OSError) -> StorageError:
    return StorageError(
        f"cannot write {path}: {exc.strerror}",
        code="lease_unwritable",
        hint="is the disk full, or does the fleet belong to another user?",
    )


def _lock(handle: int, path: Path) -> None:
    deadline_s = time.monotonic() + _PATIENCE_S
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline_s:
                raise already_up(lease_holder(path)) from None
            time.sleep(_POLL_S)
        else:
            return
