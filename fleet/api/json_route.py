"""Every route: it takes a right, and bodies as strict as the wire's.

That is UTF-8, no key twice, no NaN, and said to be JSON.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from fastapi import HTTPException, Request, Response
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute

from wire.codec import parse_json
from wire.errors import PeerError

from .access import RIGHT_FIELD
from .device_access import admitted
from .gatekeeper import MAX_BODY_BYTES
from .notes import noted

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class JsonRoute(APIRoute):
    """A route that asks for the right it declares, and whose body is parsed by `wire.codec`.

    Left to itself the framework takes the last of two equal keys, and answers a body of another
    type with the complaint that it is no object.
    """

    def get_route_handler(self) -> Handler:
        """See the framework.

        Raises:
            RuntimeError: The route declares no right; what is not allowed is denied.
        """
        extra = self.openapi_extra or {}
        if RIGHT_FIELD not in extra:
            raise RuntimeError(f"{self.path}: a route without openapi_extra=needs(…) is refused")
        handle = super().get_route_handler()

        async def strict(request: Request) -> Response:
            request = _StrictRequest(request.scope, request.receive)
            async with noted(request, self.path_format), admitted(request, extra):
                if self.body_field is not None and not _is_json(request) and await request.body():
                    raise HTTPException(415, "the body is not said to be JSON")
                return await handle(request)

        return strict


def check_routes(routes: Sequence[BaseRoute]) -> None:
    """Refuse an app that has any other kind of route: nobody asked there for a right.

    Raises:
        RuntimeError: There is one.
    """
    for route in routes:
        if not isinstance(route, JsonRoute):
            raise RuntimeError(f"{route} declares no right")  # noqa: TRY004 - our bug, not a type


class _StrictRequest(Request):
    async def json(self) -> Any:
        try:
            return parse_json(await self.body(), max_bytes=MAX_BODY_BYTES)
        except PeerError as exc:
            raise HTTPException(400, str(exc).replace("payload", "the body", 1)) from exc


def _is_json(request: Request) -> bool:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    return kind == "application/json"
