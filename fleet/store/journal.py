"""What was received (records), what shall be sent (publications), what happened (events)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    delete,
    func,
    insert,
    select,
)

from . import record_keys
from .record_ranges import RecordRanges
from .schema import EVENTS, PRESENCE, PUBLICATIONS, RECORDS

MAX_EVENTS = 20_000
"""Events that a watcher can go back over; older ones are dropped."""
RECORD_DAYS = 30
"""How long records are kept, but for their numbers. 1,000 devices at two records a minute write about 40 GB in it."""
_KEY_BATCH = 250


class RecordKey(NamedTuple):
    """What makes a record unique."""

    device: str
    boot: str
    seq: int


@dataclass(frozen=True, slots=True)
class RecordRow:
    """One record; `body` is JSON."""

    key: RecordKey
    channel: str
    received_unix_ms: int
    body: str


@dataclass(frozen=True, slots=True)
class Publication:
    """A retained message that the broker does not have yet."""

    id: int
    topic: str
    payload: str


@dataclass(frozen=True, slots=True)
class EventRow:
    """Something that happened to `subject`, in one line for a person that does not repeat it.

    `id` is 0 until it is stored.
    """

    kind: str
    subject: str
    text: str
    detail: dict[str, object] = field(default_factory=dict)
    at_unix_ms: int = 0
    id: int = 0


class Journal:
    """The tables `records`, `publications` and `events`, within one transaction.

    Attributes:
        ranges: The numbers of records that are no longer kept.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.ranges = RecordRanges(connection)

    def add_records(self, rows: Iterable[RecordRow]) -> list[RecordRow]:
        """Store records, each once; return those that never were there before."""
        by_key = {row.key: row for row in reversed(list(rows))}
        known = record_keys.found(self._connection, by_key, record_keys.STORED)
        for key in known | self.ranges.covered(by_key):
            del by_key[RecordKey(*key)]
        fresh = list(reversed(by_key.values()))
        if fresh:
            self._connection.execute(
                insert(RECORDS),
                [
                    {
                        **row.key._asdict(),
                        "channel": row.channel,
                        "received_unix_ms": row.received_unix_ms,
                        "body": row.body,
                    }
                    for row in fresh
                ],
            )
        return fresh

    def records(self, device: str, *, channel: str | None, limit: int) -> list[RecordRow]:
        """Return a device's newest records, newest first; `channel` may end in `/` for all below.

        Within a boot by number, whatever came when: a device sends what is new before what has waited.
        """
        where = [RECORDS.c.device == device]
        if channel is not None and "/" in channel.rstrip("/"):
            where.append(RECORDS.c.channel == channel)
        elif channel is not None:
            where.append(RECORDS.c.channel.startswith(f"{channel.rstrip('/')}/"))
        found: list[RecordRow] = []
        for boot in self._boots(device, where):
            query = (
                select(RECORDS)
                .where(*where, RECORDS.c.boot == boot)
                .order_by(RECORDS.c.seq.desc())
                .limit(limit - len(found))
            )
            found += self._rows(query)
            if len(found) >= limit:
                break
        return found

    def of_boot(
        self, device: str, boot: str, *, channel: str, below_seq: int | None = None, limit: int
    ) -> list[RecordRow]:
        """Return a device's newest records of one boot and channel, newest first.

        By the key from the newest down: what is read does not grow with the history.

        Args:
            device: Whose.
            boot: Which of its boots.
            channel: One, in full.
            below_seq: Only those with a smaller number.
            limit: How many at most.
        """
        where = [RECORDS.c.device == device, RECORDS.c.boot == boot, RECORDS.c.channel == channel]
        if below_seq is not None:
            where.append(RECORDS.c.seq < below_seq)
        query = select(RECORDS).where(*where).order_by(RECORDS.c.seq.desc()).limit(limit)
        return self._rows(query)

    def _rows(self, query: Select[Any]) -> list[RecordRow]:
        return [
            RecordRow(RecordKey(r.device, r.boot, r.seq), r.channel, r.received_unix_ms, r.body)
            for r in self._connection.execute(query)
        ]

    def _boots(self, device: str, where: Sequence[ColumnElement[bool]]) -> list[str]:
        """Return the boots of a device with such records, newest first: its current one, then as they came.

        The numbers of a boot say nothing about another; and the backlog of an earlier one may come
        after the first records of the current one, so that its arrival alone would put it in front.
        """
        newest = (
            select(RECORDS.c.boot, func.max(RECORDS.c.seq).label("seq"))
            .where(*where)
            .group_by(RECORDS.c.boot)
            .subquery()
        )
        is_current = (
            select(PRESENCE.c.boot)
            .where(PRESENCE.c.device == device, PRESENCE.c.boot == RECORDS.c.boot)
            .exists()
        )
        query = (
            select(RECORDS.c.boot)
            .join(newest, (newest.c.boot == RECORDS.c.boot) & (newest.c.seq == RECORDS.c.seq))
            .where(RECORDS.c.device == device)
            .order_by(is_current.desc(), RECORDS.c.received_unix_ms.desc(), RECORDS.c.boot)
        )
        return list(self._connection.execute(query).scalars())

    def prune_records(self, before_unix_ms: int) -> int:
        """Drop records received before an instant, and keep their numbers; return how many."""
        self.ranges.take_over(before_unix_ms)
        return self._connection.execute(
            delete(RECORDS).where(RECORDS.c.received_unix_ms < before_unix_ms)
        ).rowcount

    def publish(self, topic: str, payload: str) -> None:
        """Have a retained message sent; it replaces an unsent one on the same topic."""
        self._connection.execute(delete(PUBLICATIONS).where(PUBLICATIONS.c.topic == topic))
        self._connection.execute(insert(PUBLICATIONS).values(topic=topic, payload=payload))

    def unsent(self, after: int = 0) -> list[Publication]:
        """Return the publications with an id above `after`, oldest first."""
        query = select(PUBLICATIONS).where(PUBLICATIONS.c.id > after).order_by(PUBLICATIONS.c.id)
        return [Publication(r.id, r.topic, r.payload) for r in self._connection.execute(query)]

    def unsent_count(self) -> int:
        """Return how many publications the broker does not have yet."""
        query = select(func.count()).select_from(PUBLICATIONS)
        return self._connection.execute(query).scalar_one()

    def set_sent(self, ids: Sequence[int]) -> None:
        """Note that the broker has these publications. A newer one of a topic is not touched."""
        for start in range(0, len(ids), _KEY_BATCH):
            part = ids[start : start + _KEY_BATCH]
            self._connection.execute(delete(PUBLICATIONS).where(PUBLICATIONS.c.id.in_(part)))

    def note(self, events: Iterable[EventRow], now_unix_ms: int) -> None:
        """Store events for watchers; the oldest beyond `MAX_EVENTS` are dropped."""
        rows = [
            {
                "at_unix_ms": now_unix_ms,
                "kind": event.kind,
                "subject": event.subject,
                "text": event.text,
                "detail": json.dumps(event.detail),
            }
            for event in events
        ]
        if not rows:
            return
        self._connection.execute(insert(EVENTS), rows)
        newest = self.newest_event()
        self._connection.execute(delete(EVENTS).where(EVENTS.c.id <= newest - MAX_EVENTS))

    def newest_event(self) -> int:
        """Return the id of the newest event, 0 without any."""
        return self._connection.execute(select(func.max(EVENTS.c.id))).scalar_one() or 0

    def events(self, after: int, limit: int) -> list[EventRow]:
        """Return events with an id above `after`, oldest first."""
        query = select(EVENTS).where(EVENTS.c.id > after).order_by(EVENTS.c.id).limit(limit)
        return [
            EventRow(r.kind, r.subject, r.text, json.loads(r.detail), r.at_unix_ms, r.id)
            for r in self._connection.execute(query)
        ]
