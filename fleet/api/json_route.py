"""Bodies as strict as the wire's: UTF-8, no key twice, no NaN, and said to be JSON."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import HTTPException, Request, Response
from fastapi.routing import APIRoute

from wire.codec import parse_json
from wire.errors import PeerError

from .gatekeeper import MAX_BODY_BYTES

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class JsonRoute(APIRoute):
    """A route whose body, where it takes one, is parsed by `wire.codec`.

    Left to itself the framework takes the last of two equal keys, and answers a body of another
    type with the complaint that it is no object.
    """

    def get_route_handler(self) -> Handler:
        """See the framework."""
        handle = super().get_route_handler()

        async def strict(request: Request) -> Response:
            request = _StrictRequest(request.scope, request.receive)
            if self.body_field is not None and not _is_json(request) and await request.body():
                raise HTTPException(415, "the body is not said to be JSON")
            return await handle(request)

        return strict


class _StrictRequest(Request):
    async def json(self) -> Any:
        try:
            return parse_json(await self.body(), max_bytes=MAX_BODY_BYTES)
        except PeerError as exc:
            raise HTTPException(400, str(exc).replace("payload", "the body", 1)) from exc


def _is_json(request: Request) -> bool:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    return kind == "application/json"
