"""Who asks: every request but one bears a token, and every route says which right it takes.

A token comes in the header `Authorization: Bearer …` only: no cookie, so that no page of another
site can make a browser send it.
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Final

from fastapi import Depends, Request
from fastapi.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from fleet import tokens
from fleet.controller import Controller
from fleet.core.rights import Caller, Right
from fleet.ratelimit import Buckets, RateLimit
from wire.errors import ModelfleetError, PeerError

from .errors import UNPROVEN, answer_to
from .notes import Strangers

RIGHT_FIELD: Final = "x-right"
WHOLE_FIELD: Final = "x-whole-fleet"
OPEN: Final = "none"
OPEN_PATHS: Final = frozenset({"/v1/health"})
"""Answered without a token, so they say nothing that is worth one."""
USED_EVERY_MS: Final = 60_000
"""How exact `last used` is: each noting of it is a sync of the disk."""


BURST_S: Final = 5
"""So many seconds' worth of requests a token may send at once, after a rest."""


def needs(right: Right, *, is_whole_fleet: bool = False) -> dict[str, Any]:
    """Return the `openapi_extra` of a route that takes a right; the document then says so too.

    Args:
        right: What the caller's role must include.
        is_whole_fleet: Whether what it shows or changes cannot be cut to a scope, so that a token
            with one is refused.
    """
    extra: dict[str, Any] = {RIGHT_FIELD: right.value, "security": [{"token": []}]}
    return extra | {WHOLE_FIELD: True} if is_whole_fleet else extra


def open_to_all() -> dict[str, Any]:
    """Return the `openapi_extra` of a route that takes no token."""
    return {RIGHT_FIELD: OPEN, "security": []}


def check_right(caller: Caller | None, extra: dict[str, Any]) -> None:
    """Let a caller pass who may use the route that declared `extra`.

    Raises:
        PeerError: `no_token`, `no_right` or `out_of_scope`.
    """
    declared = extra[RIGHT_FIELD]
    if declared == OPEN:
        return
    if caller is None:
        raise no_token()
    if not caller.may(Right(declared)):
        raise PeerError(
            f"the token {caller.name} is for a {caller.role}, who may not {declared}",
            code="no_right",
            hint="an administrator can make one that may: `fleet token create`",
        )
    if extra.get(WHOLE_FIELD) and caller.scope:
        raise tokens.out_of_scope(caller.scope, "this is about the whole fleet")


def no_token() -> PeerError:
    """Return the refusal of a request without a token."""
    return PeerError(
        "the request bears no token",
        code="no_token",
        hint="the CLI takes it from --token-file, FLEET_TOKEN or admin.token beside fleet.toml;"
        " others send the header `Authorization: Bearer mft_…`",
    )


class Door:
    """ASGI middleware: asks every request for its token, before anything of it is read."""

    def __init__(
        self, app: ASGIApp, controller: Controller, rate_per_s: float, strangers: Strangers
    ) -> None:
        self._app = app
        self._controller = controller
        self._rate_per_s = rate_per_s
        self._buckets = Buckets(rate_per_s, int(rate_per_s * BURST_S) or 1)
        self._used = RateLimit(USED_EVERY_MS)
        self._strangers = strangers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on with its caller in its state, or answer it."""
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS:
            await self._app(scope, receive, send)
            return
        try:
            caller = await self._ask(Headers(scope=scope))
            self._slow_down(caller)
        except ModelfleetError as exc:
            if exc.code in UNPROVEN:
                await self._strangers.note(scope, exc.code)
            await answer_to(exc)(scope, receive, send)
            return
        scope.setdefault("state", {})["caller"] = caller
        await self._app(scope, receive, send)
        now = self._controller.now_unix_ms()
        if self._used.allows(caller.name, now):
            await run_in_threadpool(tokens.note_used, self._controller.store, caller.name, now)

    def _slow_down(self, caller: Caller) -> None:
        if not self._buckets.takes(caller.name, asyncio.get_running_loop().time()):
            raise PeerError(
                f"the token {caller.name} asks more than {self._rate_per_s:g} times a second",
                code="too_many_requests",
                hint="wait a second; fleet.toml may allow more: [api] requests_per_s",
            )

    async def _ask(self, headers: Headers) -> Caller:
        kind, _, token = headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer" or not token.strip():
            raise no_token()
        now = self._controller.now_unix_ms()
        return await run_in_threadpool(tokens.prove, self._controller.store, token.strip(), now)


def _caller(request: Request) -> Caller:
    caller = request.state.caller
    if not isinstance(caller, Caller):  # the door lets nobody else in
        raise no_token()
    return caller


By = Annotated[Caller, Depends(_caller)]
"""The caller, as a parameter of a route."""
