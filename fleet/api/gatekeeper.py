"""What no route should have to think of: bodies without end, and browsers sent by strange pages."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

from fastapi import HTTPException
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .errors import answer

MAX_BODY_BYTES: Final = 16 * 1024 * 1024
"""Any body but a bundle; a list of 100,000 devices with tags is about 10 MB."""
UPLOAD_PATH: Final = "/v1/bundles"
LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})


class Gatekeeper:
    """ASGI middleware: caps bodies, and refuses requests that a foreign web page makes.

    Any page that the operator opens can reach the API through the browser; browsers name the page
    in `Origin`, programs send none.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        origin = headers.get("origin")
        if origin is not None and not _is_loopback(origin):
            response = answer(403, "foreign_origin", "requests of other web pages are refused")
            await response(scope, receive, send)
            return
        if scope["path"] != UPLOAD_PATH:
            receive, send = _capped(receive, send)
        await self._app(scope, receive, send)


def _is_loopback(origin: str) -> bool:
    try:
        return urlsplit(origin).hostname in LOOPBACK
    except ValueError:
        return False


def _capped(receive: Receive, send: Send) -> tuple[Receive, Send]:
    received, is_answered = 0, False

    async def capped() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        # A route that streams still listens, for the end of the connection only.
        if received > MAX_BODY_BYTES and not is_answered:
            raise HTTPException(413, f"the body is over {MAX_BODY_BYTES // 2**20} MiB")
        return message

    async def noted(message: Message) -> None:
        nonlocal is_answered
        is_answered = True
        await send(message)

    return capped, noted
