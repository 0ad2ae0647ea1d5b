"""The audit log's rows of requests: of all that may change something, and of all that is denied."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from fastapi import HTTPException, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from starlette.types import Scope

from fleet.acts import Act, doing
from fleet.controller import Controller
from fleet.core.audit import Outcome
from fleet.ratelimit import RateLimit
from wire.errors import ModelfleetError, StorageError, TransferError

from .errors import FORBIDDEN

log = logging.getLogger(__name__)

NOTE_EVERY_MS: Final = 6_000
"""A row this often for requests of strangers, for each cause."""
SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})


@asynccontextmanager
async def noted(request: Request, path: str) -> AsyncIterator[None]:
    """Note how a request ends. What it changes is stored together with its row, by `fleet.acts`.

    Devices' requests, which nobody has logged in for, are not noted: anybody could fill the log. What
    they change is among the events.
    """
    controller: Controller | None = getattr(request.app.state, "controller", None)
    if controller is None:
        yield
        return
    caller = getattr(request.state, "caller", None)
    act = Act(
        who=caller.name if caller is not None else "",
        what=f"{request.method} {path}",
        at_unix_ms=controller.now_unix_ms(),
        subject=" ".join(map(str, request.path_params.values()))[:100],
    )
    is_change = request.method not in SAFE_METHODS
    try:
        if is_change:
            with doing(act):
                yield
        else:
            yield
    except Exception as exc:
        outcome, code = _end_of(exc)
        if (is_change and not act.is_noted) or outcome == "denied":
            await run_in_threadpool(write_note, controller, act, outcome, code)
        raise
    if is_change and not act.is_noted:
        await run_in_threadpool(write_note, controller, act, "done", "")


def write_note(controller: Controller, act: Act, outcome: Outcome, code: str) -> None:
    """Add a row of its own. A store that cannot take it is said in the log: nothing was changed."""
    try:
        with controller.store.write() as tx:
            tx.audit.append(act.row(outcome, code))
    except StorageError as exc:
        log.error(  # noqa: TRY400 - the sentence says all
            "no audit row for %s of %s (%s): %s", act.what, act.who, outcome, exc
        )


class Strangers:
    """Notes who was refused before it was known who asks.

    Anybody can be, at any rate, and a row costs a sync: of many alike one now and then, with their
    number.
    """

    def __init__(self, controller: Controller) -> None:
        self._controller = controller
        self._limit = RateLimit(NOTE_EVERY_MS)
        self._left_out: dict[str, int] = {}

    async def note(self, scope: Scope, code: str) -> None:
        """Note a request that was refused as `code`, or count it."""
        now = self._controller.now_unix_ms()
        more = self._left_out.get(code, 0)
        if not self._limit.allows(code, now):
            self._left_out[code] = more + 1
            return
        self._left_out.pop(code, None)
        client = (scope.get("client") or ("",))[0]
        subject = f"from {client}" + (f", and {more} more before" if more else "")
        act = Act("", f"{scope['method']} {scope['path'][:80]}"[:128], now, subject)
        await run_in_threadpool(write_note, self._controller, act, "denied", code)


def _end_of(exc: Exception) -> tuple[Outcome, str]:
    match exc:
        case ModelfleetError(code=code) if code in FORBIDDEN:
            return "denied", code
        case StorageError(code=code) | TransferError(code=code):
            return "failed", code
        case ModelfleetError(code=code):
            return "refused", code
        case HTTPException() | RequestValidationError():
            return "refused", "invalid_request"
        case _:
            return "failed", "internal_error"
