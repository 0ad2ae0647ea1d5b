"""Windows of counts by device, release and slot."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import Connection

from fleet.core.windows import ColumnSums, WindowSums, merged

from .slots import Kind, Slots
from .watch_schema import WINDOWS


class Windows(Slots[WindowSums]):
    """The table `windows`, within one transaction."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection, KIND)


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
