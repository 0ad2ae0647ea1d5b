"""`GET /v1/watch`: the store's events as server-sent events, resumable by id."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from fastapi.concurrency import run_in_threadpool

from fleet.controller import Controller
from fleet.core.rights import Caller, Scope, is_within
from fleet.store.devices import Selection
from fleet.store.journal import EventRow
from fleet.store.store import Tx
from wire.errors import PeerError

from . import views

LOOK_EVERY_S: Final = 0.2
"""Below what a person notices; one indexed read of one row for each watcher."""
KEEPALIVE_S: Final = 15.0
"""A comment line this often, so that proxies and clients do not give up."""
MAX_WATCHERS: Final = 64
PAGE: Final = 500


class Watchers:
    """Hands out streams, at most `MAX_WATCHERS` at a time."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller
        self._count = 0

    async def stream(self, after: int | None, by: Caller) -> AsyncIterator[str]:
        """Return the events with an id above `after`, or from now on, that the caller may see.

        It ends when the caller's token does.

        Raises:
            PeerError: `too_many_watchers`.
        """
        if self._count >= MAX_WATCHERS:
            raise PeerError(
                f"{MAX_WATCHERS} watchers are connected",
                code="too_many_watchers",
                hint="close one of them",
            )
        if after is None:
            after = await run_in_threadpool(self._newest)
        return self._events(after, by)

    async def _events(self, after: int, by: Caller) -> AsyncIterator[str]:
        self._count += 1
        try:
            yield ": watching\n\n"
            idle_s = 0.0
            while not self._controller.is_stopping:
                page = await run_in_threadpool(self._page, after, by)
                if page is None:
                    return
                for number, data in page:
                    after = number
                    if data is not None:
                        yield f"id: {number}\ndata: {data}\n\n"
                if page:
                    idle_s = 0.0
                    continue
                await asyncio.sleep(LOOK_EVERY_S)
                idle_s += LOOK_EVERY_S
                if idle_s >= KEEPALIVE_S:
                    idle_s = 0.0
                    yield ": still here\n\n"
        finally:
            self._count -= 1

    def _newest(self) -> int:
        with self._controller.store.read() as tx:
            return tx.journal.newest_event()

    def _page(self, after: int, by: Caller) -> list[tuple[int, str | None]] | None:
        """Return the next events, without a text where they are out of scope; None is the end."""
        with self._controller.store.read() as tx:
            token = tx.tokens.get(by.name)
            if token is None or not token.is_live(self._controller.now_unix_ms()):
                return None
            rows = tx.journal.events(after, PAGE)
            seen = {row.id for row in rows if _is_seen(tx, row, by.scope)}
        return [
            (row.id, views.event(row).model_dump_json() if row.id in seen else None) for row in rows
        ]


def _is_seen(tx: Tx, event: EventRow, scope: Scope) -> bool:
    """Whether an event is about nothing outside a scope, as far as that can be told now."""
    if not scope:
        return True
    match = event.detail.get("match")
    if isinstance(match, dict) and is_within(match, scope):
        return True
    match event.kind:
        case "release":
            return True
        case "rollout":
            rollout = tx.rollouts.match_of(event.subject)
            return rollout is not None and is_within(rollout, scope)
        case "rollback" | "alert":
            return False
        case _:
            return bool(tx.devices.ids(Selection(device=event.subject, scope=scope)))
