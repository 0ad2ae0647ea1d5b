"""Labelled answers by device, release and slot."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any, Final

from sqlalchemy import Connection, func, select

from fleet.core.performance import PerformanceSums, Refused, merged

from .slots import Kind, Slots
from .watch_schema import PERFORMANCE


class Performance(Slots[PerformanceSums]):
    """The table `performance`, within one transaction."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection, KIND)

    def totals(self, since_unix_ms: int) -> dict[str, tuple[int, int]]:
        """Return by release how many rows of classes got their label since a moment, and how many were right."""
        rows, correct = (
            func.sum(column) for column in (PERFORMANCE.c.row_count, PERFORMANCE.c.correct_count)
        )
        query = (
            select(PERFORMANCE.c.manifest, rows, correct)
            .where(self._of_any_length(), PERFORMANCE.c.start_unix_ms >= since_unix_ms)
            .group_by(PERFORMANCE.c.manifest)
            .order_by(PERFORMANCE.c.manifest)
        )
        found = self._connection.execute(query).all()
        return {manifest: (int(rows), int(right)) for manifest, rows, right in found}


def _values(sums: PerformanceSums) -> Mapping[str, Any]:
    return {
        "row_count": sums.labelled_count - sums.error_count,
        "correct_count": sums.correct_count,
        "body": json.dumps(asdict(sums), separators=(",", ":")),
    }


def _parse(body: str) -> PerformanceSums:
    said: dict[str, Any] = json.loads(body)
    refused = Refused(**said.pop("refused"))
    lists = {name: tuple(value) for name, value in said.items() if isinstance(value, list)}
    return replace(PerformanceSums(**(said | lists)), refused=refused)


KIND: Final = Kind(PERFORMANCE, merged, _parse, _values)
