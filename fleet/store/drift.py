"""What was found in the windows of releases, and the alarms that last."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, delete, insert, or_, select, update

from .watch_schema import DRIFT_ALARMS, FINDINGS


@dataclass(frozen=True, slots=True)
class FindingRow:
    """One cause that drift was traced to; see `fleet.core.localise.Finding`.

    `id` is 0 until it is stored, `closed_unix_ms` None while it lasts.
    """

    model: str
    manifest: str
    level: str
    who: str
    features: tuple[str, ...]
    since_unix_ms: int
    drifted_count: int
    device_count: int
    opened_unix_ms: int
    closed_unix_ms: int | None = None
    id: int = 0


class Drift:
    """The tables `findings` and `drift_alarms`, within one transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def open(self, row: FindingRow) -> int:
        """Store a finding; return its id."""
        values = {
            "model": row.model,
            "manifest": row.manifest,
            "level": row.level,
            "who": row.who,
            "opened_unix_ms": row.opened_unix_ms,
            **_variable(row),
        }
        done = self._connection.execute(insert(FINDINGS).values(**values).returning(FINDINGS.c.id))
        return int(done.scalar_one())

    def change(self, row: FindingRow) -> None:
        """Store what changed of a finding that lasts."""
        values = _variable(row)
        self._connection.execute(update(FINDINGS).where(FINDINGS.c.id == row.id).values(**values))

    def close(self, number: int, now_unix_ms: int) -> None:
        """Note that a finding lasts no longer."""
        self._connection.execute(
            update(FINDINGS).where(FINDINGS.c.id == number).values(closed_unix_ms=now_unix_ms)
        )

    def findings(
        self, *, model: str | None = None, closed_since_unix_ms: int | None = None
    ) -> list[FindingRow]:
        """Return the findings that last, newest first; and those that closed since a moment."""
        query = select(FINDINGS).order_by(FINDINGS.c.id.desc())
        lasts = FINDINGS.c.closed_unix_ms.is_(None)
        if closed_since_unix_ms is None:
            query = query.where(lasts)
        else:
            query = query.where(or_(lasts, FINDINGS.c.closed_unix_ms >= closed_since_unix_ms))
        if model is not None:
            query = query.where(FINDINGS.c.model == model)
        return [
            FindingRow(
                row.model,
                row.manifest,
                row.level,
                row.who,
                tuple(json.loads(row.features)),
                row.since_unix_ms,
                row.drifted_count,
                row.device_count,
                row.opened_unix_ms,
                row.closed_unix_ms,
                row.id,
            )
            for row in self._connection.execute(query)
        ]

    def prune(self, before_unix_ms: int) -> None:
        """Drop the findings that closed before a moment."""
        self._connection.execute(delete(FINDINGS).where(FINDINGS.c.closed_unix_ms < before_unix_ms))

    def alarms(self) -> dict[str, list[list[object]]]:
        """Return the alarms that last, by manifest, as `set_alarms` got them."""
        rows = self._connection.execute(select(DRIFT_ALARMS.c.manifest, DRIFT_ALARMS.c.body))
        return {row.manifest: json.loads(row.body) for row in rows}

    def judged_unix_ms(self) -> int:
        """Return the end of the newest slot that was judged, 0 before the first."""
        query = select(DRIFT_ALARMS.c.judged_unix_ms).order_by(DRIFT_ALARMS.c.judged_unix_ms.desc())
        return self._connection.execute(query.limit(1)).scalar_one_or_none() or 0

    def set_alarms(
        self, manifest: str, alarms: Sequence[Sequence[object]], judged_unix_ms: int
    ) -> None:
        """Replace the alarms of a release; none of a release nobody answers with any more."""
        self.drop_alarms(manifest)
        self._connection.execute(
            insert(DRIFT_ALARMS).values(
                manifest=manifest, judged_unix_ms=judged_unix_ms, body=json.dumps(alarms)
            )
        )

    def drop_alarms(self, manifest: str) -> None:
        """Forget the alarms of a release."""
        self._connection.execute(delete(DRIFT_ALARMS).where(DRIFT_ALARMS.c.manifest == manifest))


def _variable(row: FindingRow) -> dict[str, object]:
    return {
        "features": json.dumps(row.features),
        "since_unix_ms": row.since_unix_ms,
        "drifted_count": row.drifted_count,
        "device_count": row.device_count,
    }
