"""Windows of counts by device, release and slot, and what was found in them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select, update

from fleet.core.windows import ColumnSums, WindowSums, merged

from .devices import Selection
from .watch_schema import WINDOWS


@dataclass(frozen=True, slots=True)
class WindowRow:
    """The sums of one device and release over one slot; `length_ms` is the slot's."""

    device: str
    manifest: str
    start_unix_ms: int
    length_ms: int
    sums: WindowSums


@dataclass(frozen=True, slots=True)
class ServedRow:
    """How much one device was asked of a release: from the begin of its first window to the end of its last."""

    device: str
    window_count: int
    row_count: int
    first_unix_ms: int
    last_unix_ms: int


class Windows:
    """The table `windows`, within one transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def add(self, row: WindowRow) -> None:
        """Add sums to those of the same device, release and slot."""
        this = (
            (WINDOWS.c.device == row.device)
            & (WINDOWS.c.manifest == row.manifest)
            & (WINDOWS.c.length_ms == row.length_ms)
            & (WINDOWS.c.start_unix_ms == row.start_unix_ms)
        )
        body = self._connection.execute(select(WINDOWS.c.body).where(this)).scalar_one_or_none()
        if body is not None:
            sums = merged(_parse(body), row.sums)
            values = {"row_count": sums.row_count, "body": _text(sums)}
            self._connection.execute(update(WINDOWS).where(this).values(**values))
            return
        self._connection.execute(
            insert(WINDOWS).values(
                device=row.device,
                manifest=row.manifest,
                start_unix_ms=row.start_unix_ms,
                length_ms=row.length_ms,
                row_count=row.sums.row_count,
                body=_text(row.sums),
            )
        )

    def manifests(self, since_unix_ms: int, until_unix_ms: int) -> list[str]:
        """Return the releases that have windows which began in a span, its end left out."""
        query = (
            select(WINDOWS.c.manifest)
            .where(
                WINDOWS.c.start_unix_ms >= since_unix_ms, WINDOWS.c.start_unix_ms < until_unix_ms
            )
            .distinct()
            .order_by(WINDOWS.c.manifest)
        )
        return list(self._connection.execute(query).scalars())

    def rows(
        self, manifest: str, selection: Selection, *, since_unix_ms: int, until_unix_ms: int
    ) -> Iterator[WindowRow]:
        """Return the windows of a release on the selected devices, by device, oldest first.

        Those that began at `since_unix_ms` or later, and before `until_unix_ms`.
        """
        query = (
            select(WINDOWS)
            .where(
                WINDOWS.c.manifest == manifest,
                WINDOWS.c.start_unix_ms >= since_unix_ms,
                WINDOWS.c.start_unix_ms < until_unix_ms,
                WINDOWS.c.device.in_(selection.ids()),
            )
            .order_by(WINDOWS.c.device, WINDOWS.c.start_unix_ms)
        )
        for row in self._connection.execute(query):
            yield WindowRow(
                row.device, row.manifest, row.start_unix_ms, row.length_ms, _parse(row.body)
            )

    def served(self, manifest: str, selection: Selection, *, limit: int) -> list[ServedRow]:
        """Return how much the selected devices were asked of a release, most first."""
        rows = func.sum(WINDOWS.c.row_count)
        query = (
            select(
                WINDOWS.c.device,
                func.count(),
                rows,
                func.min(WINDOWS.c.start_unix_ms),
                func.max(WINDOWS.c.start_unix_ms + WINDOWS.c.length_ms),
            )
            .where(WINDOWS.c.manifest == manifest, WINDOWS.c.device.in_(selection.ids()))
            .group_by(WINDOWS.c.device)
            .order_by(rows.desc(), WINDOWS.c.device)
            .limit(limit)
        )
        return [
            ServedRow(device, count, int(total), first, last)
            for device, count, total, first, last in self._connection.execute(query)
        ]

    def roll_up(self, before_unix_ms: int, length_ms: int, *, limit: int) -> int:
        """Merge windows that are shorter than `length_ms` and began before a moment into longer ones.

        Args:
            before_unix_ms: The moment.
            length_ms: The longer slots'.
            limit: How many windows to merge at most, so that no transaction is long.

        Returns:
            How many were merged; fewer than `limit` when none is left.
        """
        query = (
            select(WINDOWS)
            .where(WINDOWS.c.length_ms < length_ms, WINDOWS.c.start_unix_ms < before_unix_ms)
            .order_by(WINDOWS.c.start_unix_ms)
            .limit(limit)
        )
        found = self._connection.execute(query).all()
        for row in found:
            start = row.start_unix_ms // length_ms * length_ms
            self._connection.execute(
                delete(WINDOWS).where(
                    WINDOWS.c.device == row.device,
                    WINDOWS.c.manifest == row.manifest,
                    WINDOWS.c.length_ms == row.length_ms,
                    WINDOWS.c.start_unix_ms == row.start_unix_ms,
                )
            )
            self.add(WindowRow(row.device, row.manifest, start, length_ms, _parse(row.body)))
        return len(found)

    def prune(self, before_unix_ms: int) -> None:
        """Drop the windows that began before a moment."""
        self._connection.execute(delete(WINDOWS).where(WINDOWS.c.start_unix_ms < before_unix_ms))


def _text(sums: WindowSums) -> str:
    columns = {
        str(position): [list(column.counts), *(float(f"{part:.6g}") for part in column.blocks)]
        for position, column in sums.columns.items()
    }
    said = {"rows": sums.row_count, "columns": columns, "scores": list(sums.scores)}
    return json.dumps(said, separators=(",", ":"))


def _parse(body: str) -> WindowSums:
    said: dict[str, Any] = json.loads(body)
    columns = {
        int(position): ColumnSums(tuple(counts), (a, b, c, d, e))
        for position, (counts, a, b, c, d, e) in said["columns"].items()
    }
    return WindowSums(said["rows"], columns, tuple(said["scores"]))
