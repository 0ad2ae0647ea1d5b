"""What receivers of alerts have yet to get."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, delete, func, insert, select, update

from .watch_schema import DELIVERIES

MQTT: Final = "mqtt"
"""The receiver that is the topic `controller/alert`."""
MAX_WAITING: Final = 1_000
"""Deliveries of one receiver that wait; beyond it the oldest go. At two a minute half a day's."""
_BATCH: Final = 500


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message for one receiver; `body` is JSON."""

    id: int
    receiver: str
    body: str
    created_unix_ms: int
    attempts: int
    next_unix_ms: int


class Deliveries:
    """The table `deliveries`, within one transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def add(self, bodies: Iterable[tuple[str, str]], now_unix_ms: int) -> list[int]:
        """Have receivers told, each by its body; return the ids, in order.

        Where too many wait for one, its oldest are dropped.
        """
        ids = []
        for receiver, body in bodies:
            row = insert(DELIVERIES).values(
                receiver=receiver,
                body=body,
                created_unix_ms=now_unix_ms,
                attempts=0,
                next_unix_ms=now_unix_ms,
            )
            ids.append(int(self._connection.execute(row.returning(DELIVERIES.c.id)).scalar_one()))
            own = DELIVERIES.c.receiver == receiver
            kept = (
                select(DELIVERIES.c.id)
                .where(own)
                .order_by(DELIVERIES.c.id.desc())
                .limit(MAX_WAITING)
            )
            oldest = select(func.min(kept.subquery().c.id)).scalar_subquery()
            self._connection.execute(delete(DELIVERIES).where(own, DELIVERIES.c.id < oldest))
        return ids

    def first(self, receiver: str) -> Delivery | None:
        """Return the oldest delivery that a receiver waits for."""
        found = self.waiting(receiver, limit=1)
        return found[0] if found else None

    def waiting(self, receiver: str, *, after: int = 0, limit: int = 100) -> list[Delivery]:
        """Return the deliveries of a receiver with an id above `after`, oldest first."""
        query = (
            select(DELIVERIES)
            .where(DELIVERIES.c.receiver == receiver, DELIVERIES.c.id > after)
            .order_by(DELIVERIES.c.id)
            .limit(limit)
        )
        return [
            Delivery(r.id, r.receiver, r.body, r.created_unix_ms, r.attempts, r.next_unix_ms)
            for r in self._connection.execute(query)
        ]

    def is_waiting(self, number: int) -> bool:
        """Whether a delivery is still to be made."""
        query = select(DELIVERIES.c.id).where(DELIVERIES.c.id == number)
        return self._connection.execute(query).scalar_one_or_none() is not None

    def done(self, ids: Sequence[int]) -> None:
        """Forget deliveries that were made, or given up."""
        for start in range(0, len(ids), _BATCH):
            part = ids[start : start + _BATCH]
            self._connection.execute(delete(DELIVERIES).where(DELIVERIES.c.id.in_(part)))

    def postpone(self, number: int, next_unix_ms: int) -> None:
        """Note that an attempt failed, and when the next shall be."""
        self._connection.execute(
            update(DELIVERIES)
            .where(DELIVERIES.c.id == number)
            .values(attempts=DELIVERIES.c.attempts + 1, next_unix_ms=next_unix_ms)
        )

    def drop_old(self, before_unix_ms: int) -> int:
        """Give up what was to be delivered before an instant; return how many."""
        old = DELIVERIES.c.created_unix_ms < before_unix_ms
        return self._connection.execute(delete(DELIVERIES).where(old)).rowcount

    def drop_others(self, receivers: Collection[str]) -> int:
        """Give up what waits for receivers that are no longer there; return how many."""
        gone = DELIVERIES.c.receiver.not_in(receivers)
        return self._connection.execute(delete(DELIVERIES).where(gone)).rowcount
