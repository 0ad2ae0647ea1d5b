"""How releases were made: one record for each, which never changes."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, insert, select

from .lineage_schema import RUNS


@dataclass(frozen=True, slots=True)
class RunRow:
    """The run that made a release; `body` is JSON, see `fleet.api.run_schemas.RunRecord`."""

    manifest: str
    model: str
    version: str
    body: str
    stored_unix_ms: int
    stored_by: str


class Runs:
    """The table `runs`, within one transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def get(self, manifest: str) -> RunRow | None:
        """Return the run that made a release, None where nobody has said."""
        row = self._connection.execute(
            select(RUNS).where(RUNS.c.manifest == manifest)
        ).one_or_none()
        return RunRow(*row) if row is not None else None

    def add(self, row: RunRow) -> None:
        """Store a run; there is none of this release."""
        self._connection.execute(
            insert(RUNS).values(
                manifest=row.manifest,
                model=row.model,
                version=row.version,
                body=row.body,
                stored_unix_ms=row.stored_unix_ms,
                stored_by=row.stored_by,
            )
        )
