"""`GET /v1/watch`: the store's events as server-sent events, resumable by id."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from fastapi.concurrency import run_in_threadpool

from fleet.controller import Controller
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

    async def stream(self, after: int | None) -> AsyncIterator[str]:
        """Return the events with an id above `after`, or from now on, without an end.

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
        return self._events(after)

    async def _events(self, after: int) -> AsyncIterator[str]:
        self._count += 1
        try:
            yield ": watching\n\n"
            idle_s = 0.0
            while not self._controller.is_stopping:
                page = await run_in_threadpool(self._page, after)
                for number, data in page:
                    yield f"id: {number}\ndata: {data}\n\n"
                    after = number
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

    def _page(self, after: int) -> list[tuple[int, str]]:
        with self._controller.store.read() as tx:
            rows = tx.journal.events(after, PAGE)
        return [(row.id, views.event(row).model_dump_json()) for row in rows]
