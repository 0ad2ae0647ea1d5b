"""What was live where and when: spans, which are added and ended, never changed otherwise."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from sqlalchemy import Connection, Select, delete, func, insert, or_, select, update

from fleet.core.live import Span
from fleet.core.states import ReleaseKey

from .devices import Selection
from .lineage_schema import LIVE_GAPS, LIVE_SPANS
from .schema import DEVICES

MAX_SPANS: Final = 10_000
"""Of one device; the oldest beyond that go. A device that follows rollouts makes a few a week: only one that
lies, or fails without end, ever gets here."""


class Live:
    """The tables `live_spans` and `live_gaps`, within one transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def doubt(self, device: str | None = None) -> None:
        """Note that a device, or every one, may have changed unheard since it was heard last."""
        in_doubt = select(LIVE_GAPS.c.device)
        query = select(DEVICES.c.id, DEVICES.c.last_seen_unix_ms).where(
            DEVICES.c.id.not_in(in_doubt)
            if device is None
            else (DEVICES.c.id == device) & ~in_doubt.where(LIVE_GAPS.c.device == device).exists()
        )
        self._connection.execute(insert(LIVE_GAPS).from_select(["device", "heard_unix_ms"], query))

    def settle(self, device: str, *, is_over: bool) -> int | None:
        """Return when a device that says how it is was last known to be as it said before.

        None where that is now: it was heard all the time, or never. `is_over` says that it will be
        heard from now on.
        """
        query = select(LIVE_GAPS.c.heard_unix_ms).where(LIVE_GAPS.c.device == device)
        found = self._connection.execute(query).one_or_none()
        if found is None:
            return None
        if is_over:
            self._connection.execute(delete(LIVE_GAPS).where(LIVE_GAPS.c.device == device))
        heard: int | None = found.heard_unix_ms
        return heard

    def newest(self, device: str) -> dict[str, Span]:
        """Return the newest span of each model on a device, whether it lasts or not."""
        numbers = (
            select(func.max(LIVE_SPANS.c.id))
            .where(LIVE_SPANS.c.device == device)
            .group_by(LIVE_SPANS.c.model)
        )
        query = select(LIVE_SPANS).where(LIVE_SPANS.c.id.in_(numbers))
        return {row.model: _span(row) for row in self._connection.execute(query)}

    def save(self, ended: Iterable[Span], begun: Iterable[Span]) -> None:
        """Store the ends of spans that last, then new spans."""
        for span in ended:
            self._connection.execute(
                update(LIVE_SPANS)
                .where(LIVE_SPANS.c.id == span.id)
                .values(
                    last_known_unix_ms=span.last_known_unix_ms,
                    until_unix_ms=span.until_unix_ms,
                    ending=span.ending,
                    code=span.code,
                )
            )
        for span in begun:
            self._connection.execute(
                insert(LIVE_SPANS).values(
                    device=span.device,
                    model=span.model,
                    version=span.release.version,
                    manifest=span.release.manifest,
                    earliest_unix_ms=span.earliest_unix_ms,
                    since_unix_ms=span.since_unix_ms,
                    ending=span.ending,
                    code=span.code,
                )
            )
        for device in sorted({span.device for span in begun}):
            self._bound(device)

    def page(
        self,
        selection: Selection,
        *,
        model: str | None = None,
        manifest: str | None = None,
        at_unix_ms: int | None = None,
        before: int | None = None,
        limit: int,
    ) -> list[Span]:
        """Return the newest spans of the selected devices, newest first, those with a number below `before`.

        Of every device that ever was, where the selection leaves none out; with `at_unix_ms` only
        those that may have served then.
        """
        query = select(LIVE_SPANS).where(*self._where(selection, model, manifest))
        if at_unix_ms is not None:
            lasts = LIVE_SPANS.c.until_unix_ms.is_(None)
            query = query.where(
                LIVE_SPANS.c.earliest_unix_ms <= at_unix_ms,
                or_(lasts, LIVE_SPANS.c.until_unix_ms > at_unix_ms),
            )
        if before is not None:
            query = query.where(LIVE_SPANS.c.id < before)
        return [_span(row) for row in self._rows(query, limit)]

    def device_count(self, selection: Selection, manifest: str) -> int:
        """Return on how many of the selected devices a release ever was live."""
        query = select(func.count(LIVE_SPANS.c.device.distinct())).where(
            *self._where(selection, None, manifest)
        )
        return self._connection.execute(query).scalar_one()

    def _rows(self, query: Select[Any], limit: int) -> Iterable[Any]:
        return self._connection.execute(query.order_by(LIVE_SPANS.c.id.desc()).limit(limit))

    def _where(self, selection: Selection, model: str | None, manifest: str | None) -> list[Any]:
        where: list[Any] = []
        if model is not None:
            where.append(LIVE_SPANS.c.model == model)
        if manifest is not None:
            where.append(LIVE_SPANS.c.manifest == manifest)
        if selection == Selection(device=selection.device) and selection.device is not None:
            where.append(LIVE_SPANS.c.device == selection.device)
        elif selection != Selection():
            where.append(LIVE_SPANS.c.device.in_(selection.ids()))
        return where

    def _bound(self, device: str) -> None:
        mine = (LIVE_SPANS.c.device == device, LIVE_SPANS.c.until_unix_ms.is_not(None))
        oldest = (
            select(LIVE_SPANS.c.id)
            .where(LIVE_SPANS.c.device == device)
            .order_by(LIVE_SPANS.c.id.desc())
            .offset(MAX_SPANS)
            .limit(1)
        )
        last = self._connection.execute(oldest).scalar_one_or_none()
        if last is not None:
            self._connection.execute(delete(LIVE_SPANS).where(*mine, LIVE_SPANS.c.id <= last))


def _span(row: Any) -> Span:
    return Span(
        row.device,
        row.model,
        ReleaseKey(row.version, row.manifest),
        row.earliest_unix_ms,
        row.since_unix_ms,
        row.last_known_unix_ms,
        row.until_unix_ms,
        row.ending,
        row.code,
        row.id,
    )
