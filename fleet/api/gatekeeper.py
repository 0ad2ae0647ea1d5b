"""What no route should have to think of: bodies without end, slow ones, and strange pages."""

from __future__ import annotations

import asyncio
from typing import Final
from urllib.parse import urlsplit

from fastapi import HTTPException
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .errors import answer
from .notes import Strangers

MAX_BODY_BYTES: Final = 16 * 1024 * 1024
"""Any body but a bundle; a list of 100,000 devices with tags is about 10 MB."""
UPLOAD_PATH: Final = "/v1/bundles"
PIECE_S: Final = 30.0
"""How long a body may pause."""
BODY_S: Final = 60.0
"""How long it may take in all."""
UPLOAD_S: Final = 3600.0
"""How long a bundle may: the largest one, 512 MiB, at 1.2 Mbit/s."""
HEADERS: Final = {
    # Answers are data: nothing in them is a page, whatever name a device gave itself.
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; sandbox",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
TLS_HEADERS: Final = {"Strict-Transport-Security": "max-age=31536000"}


class Gatekeeper:
    """ASGI middleware: caps bodies in size and time, and refuses what a foreign web page asks.

    Any page that the operator opens can reach the API through the browser; browsers name the page
    in `Origin`, programs send none.
    """

    def __init__(
        self,
        app: ASGIApp,
        max_body_bytes: int | None = None,
        strangers: Strangers | None = None,
    ) -> None:
        self._app = app
        self._strangers = strangers
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        send = _with_headers(send, is_tls=scope.get("scheme") == "https")
        headers = Headers(scope=scope)
        origin = headers.get("origin")
        if origin is not None and not _is_own(origin, scope.get("scheme"), headers.get("host")):
            if self._strangers is not None:
                await self._strangers.note(scope, "foreign_origin")
            response = answer(403, "foreign_origin", "requests of other web pages are refused")
            await response(scope, receive, send)
            return
        receive, send = _capped(
            receive,
            send,
            max_bytes=self._max_body_bytes or MAX_BODY_BYTES,
            is_upload=scope["path"] == UPLOAD_PATH,
        )
        await self._app(scope, receive, send)


def _is_own(origin: str, scheme: str | None, host: str | None) -> bool:
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    return (parts.scheme, parts.netloc) == (scheme, host)


def _with_headers(send: Send, *, is_tls: bool) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in (HEADERS | TLS_HEADERS if is_tls else HEADERS).items():
                headers[name] = value
        await send(message)

    return sending


def _capped(
    receive: Receive, send: Send, *, max_bytes: int, is_upload: bool
) -> tuple[Receive, Send]:
    received, is_answered, is_whole = 0, False, False
    end_s: float | None = None

    async def capped() -> Message:
        nonlocal received, is_whole, end_s
        if is_whole:
            return await receive()  # the end of the connection, whenever that comes
        now_s = asyncio.get_running_loop().time()
        end_s = end_s or now_s + (UPLOAD_S if is_upload else BODY_S)
        try:
            message = await asyncio.wait_for(receive(), min(PIECE_S, max(0.0, end_s - now_s)))
        except TimeoutError as exc:
            raise HTTPException(408, "the body comes too slowly") from exc
        is_whole = not message.get("more_body", False)
        received += len(message.get("body", b""))
        # A route that streams still listens, for the end of the connection only.
        if received > max_bytes and not is_upload and not is_answered:
            size = (
                f"{max_bytes // 2**20} MiB" if max_bytes >= 2**20 else f"{max_bytes // 2**10} KiB"
            )
            raise HTTPException(413, f"the body is over {size}")
        return message

    async def noted(message: Message) -> None:
        nonlocal is_answered
        is_answered = True
        await send(message)

    return capped, noted
