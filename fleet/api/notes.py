"""The audit log's rows of requests: of all that may change something, and of all that is denied."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from fastapi import HTTPException, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError

from fleet.acts import Act, doing
from fleet.controller import Controller
from fleet.core.audit import Outcome
from wire.errors import ModelfleetError, StorageError, TransferError

from .errors import FORBIDDEN

log = logging.getLogger(__name__)

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
