"""A bundle's upload: the raw body, streamed to a file of its own, capped while it comes."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from wire.errors import PeerError, StorageError

MAX_BUNDLE_BYTES: Final = 512 * 1024 * 1024
"""A bundle is read into memory once to be checked and cut; two of these fit a small server."""


@asynccontextmanager
async def spooled(request: Request, folder: Path) -> AsyncIterator[Path]:
    """Give the path of a file that holds the request's body; it is removed at the end.

    Raises:
        PeerError: `bundle_too_large`, `bundle_empty` or `upload_broken`.
        StorageError: `upload_write`.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > MAX_BUNDLE_BYTES:
        raise _too_large()
    # A folder of its own, so that errors name the file by what it is.
    path = folder / secrets.token_hex(8) / "upload.bundle"
    try:
        await run_in_threadpool(path.parent.mkdir, parents=True, exist_ok=True)
        await _receive(request, path)
        yield path
    except OSError as exc:
        raise StorageError(
            f"cannot keep the upload: {exc.strerror}",
            code="upload_write",
            hint=f"free space in {folder}, then push again",
        ) from exc
    finally:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
            path.parent.rmdir()


async def _receive(request: Request, path: Path) -> None:
    received = 0
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        async for piece in request.stream():
            received += len(piece)
            if received > MAX_BUNDLE_BYTES:
                raise _too_large()
            await run_in_threadpool(_write_all, handle, piece)
    except ClientDisconnect as exc:
        raise PeerError("the upload ended early", code="upload_broken") from exc
    finally:
        os.close(handle)
    if received == 0:
        raise PeerError(
            "the request has no body",
            code="bundle_empty",
            hint="send the .bundle file as the raw body, not as a form",
        )


def _write_all(handle: int, piece: bytes) -> None:
    view = memoryview(piece)
    while view:
        view = view[os.write(handle, view) :]


def _too_large() -> PeerError:
    return PeerError(
        f"the bundle is over {MAX_BUNDLE_BYTES // 2**20} MiB",
        code="bundle_too_large",
        hint="quantise the model, or split it",
    )
