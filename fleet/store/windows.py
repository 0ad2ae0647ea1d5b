"""Windows of counts by device, release and slot, and how much was asked in them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, func, select

from fleet.core.windows import ColumnSums, WindowSums, merged

from .devices import Selection
from .slots import Kind, Slots
from .watch_schema import WINDOWS


@dataclass(frozen=True, slots=True)
class ServedRow:
    """How much one device was asked of a release: from the begin of its first window to the end of its last."""

    device: str
    window_count: int
    row_count: int
    first_unix_ms: int
    last_unix_ms: int


class Windows(Slots[WindowSums]):
    """The table `windows`, within one transaction."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection, KIND)

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


def _values(sums: WindowSums) -> Mapping[str, Any]:
    return {"row_count": sums.row_count, "body": _text(sums)}


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


KIND: Final = Kind(WINDOWS, merged, _parse, _values)
