"""Alerts, silences, and the counts of requests that one of the rules looks at."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

from sqlalchemy import (
    Connection,
    bindparam,
    case,
    delete,
    exists,
    func,
    insert,
    literal,
    literal_column,
    or_,
    select,
    update,
)

from fleet.core import alerts as core
from fleet.core.alerts import Alert, News, Silence
from fleet.core.rights import Scope

from .devices import BATCH, Selection
from .schema import PRESENCE, TAGS
from .watch_schema import ALERTS, REQUEST_COUNTS, SILENCES

_FIELDS: Final = [f.name for f in fields(Alert)]
_OPEN: Final = ALERTS.c.resolved_unix_ms.is_(None)
_NEWS: Final = ALERTS.c.news != literal_column("''")
"""Word for word the condition of the index, without which SQLite does not use it."""


@dataclass(frozen=True, slots=True)
class AlertRow:
    """One alert as it is stored.

    Attributes:
        id: Its number, 0 until it is stored.
        alert: See there.
        text: One line for a person.
        device: The device that it is about, if it is one.
        due_unix_ms: When it is to be looked at again without new evidence.
        acknowledged_unix_ms: When somebody acknowledged it.
    """

    id: int
    alert: Alert
    text: str
    device: str | None = None
    due_unix_ms: int | None = None
    acknowledged_unix_ms: int | None = None


@dataclass(frozen=True, slots=True)
class SilenceRow:
    """One silence: who asked for it, and why."""

    id: int
    silence: Silence
    created_unix_ms: int
    created_by: str
    why: str


@dataclass(frozen=True, slots=True)
class Group:
    """Alerts of one rule that the receivers have yet to hear the same of, since `first_unix_ms`."""

    rule: str
    news: News
    first_unix_ms: int
    count: int


class Alerts:
    """The tables `alerts`, `silences` and `request_counts`, within one transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    # -- alerts

    def open_of(self, rule: str, subjects: Iterable[str] | None = None) -> dict[str, AlertRow]:
        """Return the open alerts of a rule by subject, of all subjects or of these."""
        query = select(ALERTS).where(_OPEN, ALERTS.c.rule == rule)
        if subjects is None:
            return {r.subject: _row(r) for r in self._connection.execute(query)}
        wanted = sorted(set(subjects))
        found = {}
        for start in range(0, len(wanted), BATCH):
            part = query.where(ALERTS.c.subject.in_(wanted[start : start + BATCH]))
            found.update({r.subject: _row(r) for r in self._connection.execute(part)})
        return found

    def get(self, number: int) -> AlertRow | None:
        """Return the alert of a number."""
        query = select(ALERTS).where(ALERTS.c.id == number)
        row = self._connection.execute(query).one_or_none()
        return _row(row) if row is not None else None

    def save(self, rows: Sequence[AlertRow]) -> None:
        """Store alerts, new ones (of id 0) and others."""
        new = [_values(row) for row in rows if row.id == 0]
        if new:
            self._connection.execute(insert(ALERTS), new)
        old = [_values(row) | {"number": row.id} for row in rows if row.id]
        if old:
            names = [name for name in old[0] if name != "number"]
            self._connection.execute(
                update(ALERTS)
                .where(ALERTS.c.id == bindparam("number"))
                .values({name: bindparam(name) for name in names}),
                old,
            )

    def drop(self, ids: Sequence[int]) -> None:
        """Forget alerts that were never told."""
        for start in range(0, len(ids), BATCH):
            part = ids[start : start + BATCH]
            self._connection.execute(delete(ALERTS).where(ALERTS.c.id.in_(part)))

    def due(self, now_unix_ms: int, *, but: Collection[str] = (), limit: int) -> list[AlertRow]:
        """Return the alerts that are to be looked at by now, those of the rules `but` left out."""
        query = select(ALERTS).where(ALERTS.c.due_unix_ms <= now_unix_ms)
        if but:
            query = query.where(ALERTS.c.rule.not_in(but))
        rows = self._connection.execute(query.order_by(ALERTS.c.due_unix_ms).limit(limit))
        return [_row(row) for row in rows]

    def note(
        self, rule: str, subject: str, text: str, now_unix_ms: int, *, is_breached: bool
    ) -> None:
        """Note evidence in the transaction that makes it; it is judged at the next tick."""
        row = self.open_of(rule, [subject]).get(subject)
        old = row.alert if row is not None else None
        new = core.noted(old, now_unix_ms, (rule, subject), is_breached=is_breached)
        if new is None or new is old:
            return
        number = row.id if row is not None else 0
        said = text if is_breached or row is None else row.text
        self.save([AlertRow(number, new, said, None, now_unix_ms)])

    def due_now(self, now_unix_ms: int, **where: object) -> None:
        """Have open alerts looked at again, those with these values in their columns."""
        query = update(ALERTS).where(_OPEN, *(ALERTS.c[k] == v for k, v in where.items()))
        self._connection.execute(query.values(due_unix_ms=now_unix_ms))

    def forget(self, device: str, now_unix_ms: int) -> None:
        """Have the open alerts of a device that is removed come to their end."""
        self._connection.execute(
            update(ALERTS)
            .where(_OPEN, ALERTS.c.device == device, ALERTS.c.is_breached)
            .values(is_breached=False, since_unix_ms=now_unix_ms, due_unix_ms=now_unix_ms)
        )

    def page(
        self, scope: Scope, *, is_all: bool, since_unix_ms: int, before: int | None, limit: int
    ) -> list[AlertRow]:
        """Return alerts, newest first: the open ones, with `is_all` those resolved since as well.

        Outside of the whole fleet these are of devices in the scope and of all rollouts: the
        caller leaves out those of others.
        """
        query = select(ALERTS).order_by(ALERTS.c.id.desc()).limit(limit)
        recent = ALERTS.c.resolved_unix_ms >= since_unix_ms
        query = query.where(or_(_OPEN, recent) if is_all else _OPEN)
        if before is not None:
            query = query.where(ALERTS.c.id < before)
        if scope:
            own = ALERTS.c.device.in_(Selection(scope=scope).ids())
            query = query.where(or_(own, ALERTS.c.rule == "rollout_stopped"))
        return [_row(row) for row in self._connection.execute(query)]

    def state_counts(self) -> dict[tuple[str, str], int]:
        """Return how many open alerts there are by rule and state."""
        query = (
            select(ALERTS.c.rule, ALERTS.c.state, func.count())
            .where(_OPEN)
            .group_by(ALERTS.c.rule, ALERTS.c.state)
        )
        return {(row[0], row[1]): row[2] for row in self._connection.execute(query)}

    def prune(self, before_unix_ms: int) -> None:
        """Forget what was over before an instant."""
        for ended in (ALERTS.c.resolved_unix_ms, SILENCES.c.until_unix_ms):
            self._connection.execute(delete(ended.table).where(ended < before_unix_ms))

    # -- presence, all of it at once

    def see_presence(self, rule: str, now_unix_ms: int, due_unix_ms: int) -> None:
        """Make the alerts of `rule` what the devices' presence says, silence counting from now on.

        For when devices are heard again: the time before proves nothing.
        """
        own = (ALERTS.c.rule == rule, _OPEN)
        gone = select(PRESENCE.c.device).where(PRESENCE.c.state == "offline")
        again = {"since_unix_ms": now_unix_ms, "due_unix_ms": due_unix_ms}
        self._connection.execute(
            update(ALERTS).where(*own, ALERTS.c.state == "pending").values(**again)
        )
        self._connection.execute(
            update(ALERTS)
            .where(*own, ALERTS.c.is_breached, ALERTS.c.device.not_in(gone))
            .values(is_breached=False, since_unix_ms=now_unix_ms, due_unix_ms=now_unix_ms)
        )
        is_known = exists().where(*own, ALERTS.c.subject == PRESENCE.c.device)
        columns = {
            "rule": literal(rule),
            "subject": PRESENCE.c.device,
            "device": PRESENCE.c.device,
            "text": PRESENCE.c.device.concat(" is offline"),
            "state": literal("pending"),
            "is_breached": literal(value=True),
            "since_unix_ms": literal(now_unix_ms),
            "began_unix_ms": PRESENCE.c.since_unix_ms,
            "news": literal(""),
            "acknowledged_by": literal(""),
            "due_unix_ms": literal(due_unix_ms),
        }
        missing = select(*columns.values()).where(PRESENCE.c.state == "offline", ~is_known)
        self._connection.execute(insert(ALERTS).from_select(list(columns), missing))

    # -- what receivers have yet to be told

    def groups(self) -> list[Group]:
        """Return what there is to tell, by rule."""
        query = (
            select(ALERTS.c.rule, ALERTS.c.news, func.min(ALERTS.c.news_unix_ms), func.count())
            .where(_NEWS)
            .group_by(ALERTS.c.rule, ALERTS.c.news)
            .order_by(ALERTS.c.rule, ALERTS.c.news)
        )
        return [Group(*row) for row in self._connection.execute(query)]

    def to_tell(self, rule: str, news: News, *, after: int = 0, limit: int) -> list[AlertRow]:
        """Return alerts of a group with an id above `after`, in the order of their ids."""
        query = (
            select(ALERTS)
            .where(_NEWS, ALERTS.c.rule == rule, ALERTS.c.news == news, ALERTS.c.id > after)
            .order_by(ALERTS.c.id)
            .limit(limit)
        )
        return [_row(row) for row in self._connection.execute(query)]

    def summary(self, rule: str, news: News) -> tuple[int, int]:
        """Return how many alerts are in a group, and when the first of their breaches began."""
        query = select(func.count(), func.coalesce(func.min(ALERTS.c.began_unix_ms), 0)).where(
            _NEWS, ALERTS.c.rule == rule, ALERTS.c.news == news
        )
        count, began = self._connection.execute(query).one()
        return count, began

    def set_told(self, rule: str, news: News, now_unix_ms: int, repeat_ms: int) -> None:
        """Note that a whole group was told; what goes on will be told again."""
        values: dict[str, Any] = {"news": "", "news_unix_ms": None}
        if news == "firing":
            again = case(
                (ALERTS.c.is_breached, now_unix_ms + repeat_ms), else_=ALERTS.c.due_unix_ms
            )
            values |= {"told_unix_ms": now_unix_ms, "due_unix_ms": again}
        self._connection.execute(
            update(ALERTS)
            .where(_NEWS, ALERTS.c.rule == rule, ALERTS.c.news == news)
            .values(**values)
        )

    def hold(self, ids: Sequence[int], until_unix_ms: int) -> None:
        """Tell nobody of these until then; what is still breached by then is told."""
        due = case((ALERTS.c.is_breached, until_unix_ms), else_=ALERTS.c.due_unix_ms)
        for start in range(0, len(ids), BATCH):
            part = ids[start : start + BATCH]
            self._connection.execute(
                update(ALERTS)
                .where(ALERTS.c.id.in_(part))
                .values(news="", news_unix_ms=None, due_unix_ms=due)
            )

    # -- silences

    def add_silence(self, silence: Silence, *, by: str, why: str, now_unix_ms: int) -> SilenceRow:
        """Store a silence; return it with its number."""
        row = insert(SILENCES).values(
            rule=silence.rule,
            subject=silence.subject,
            match=json.dumps(dict(silence.match)),
            until_unix_ms=silence.until_unix_ms,
            created_unix_ms=now_unix_ms,
            created_by=by,
            why=why,
        )
        number = self._connection.execute(row.returning(SILENCES.c.id)).scalar_one()
        return SilenceRow(number, silence, now_unix_ms, by, why)

    def silences(self, now_unix_ms: int) -> list[SilenceRow]:
        """Return the silences that hold now, oldest first."""
        query = (
            select(SILENCES).where(SILENCES.c.until_unix_ms > now_unix_ms).order_by(SILENCES.c.id)
        )
        return [
            SilenceRow(
                r.id,
                Silence(r.rule, r.subject, json.loads(r.match), r.until_unix_ms),
                r.created_unix_ms,
                r.created_by,
                r.why,
            )
            for r in self._connection.execute(query)
        ]

    def drop_silence(self, number: int) -> None:
        """Forget a silence."""
        self._connection.execute(delete(SILENCES).where(SILENCES.c.id == number))

    def tags_of(self, devices: Iterable[str]) -> dict[str, dict[str, str]]:
        """Return the tags of devices that have some."""
        wanted = sorted(set(devices))
        tags: dict[str, dict[str, str]] = {}
        for start in range(0, len(wanted), BATCH):
            query = select(TAGS).where(TAGS.c.device.in_(wanted[start : start + BATCH]))
            for row in self._connection.execute(query):
                tags.setdefault(row.device, {})[row.key] = row.value
        return tags

    # -- counts of requests

    def add_counts(self, counts: Mapping[tuple[str, int], tuple[int, int]]) -> None:
        """Add requests and errors, by manifest and minute."""
        for (manifest, minute), (requests, errors) in sorted(counts.items()):
            own = (REQUEST_COUNTS.c.manifest == manifest, REQUEST_COUNTS.c.minute == minute)
            changed = self._connection.execute(
                update(REQUEST_COUNTS)
                .where(*own)
                .values(
                    requests=REQUEST_COUNTS.c.requests + requests,
                    errors=REQUEST_COUNTS.c.errors + errors,
                )
            ).rowcount
            if not changed:
                row = {"manifest": manifest, "minute": minute}
                self._connection.execute(
                    insert(REQUEST_COUNTS).values(requests=requests, errors=errors, **row)
                )

    def counts(self, since_minute: int) -> dict[str, tuple[int, int]]:
        """Return requests and errors since a minute, by manifest."""
        query = (
            select(
                REQUEST_COUNTS.c.manifest,
                func.sum(REQUEST_COUNTS.c.requests),
                func.sum(REQUEST_COUNTS.c.errors),
            )
            .where(REQUEST_COUNTS.c.minute >= since_minute)
            .group_by(REQUEST_COUNTS.c.manifest)
        )
        return {row[0]: (int(row[1]), int(row[2])) for row in self._connection.execute(query)}

    def prune_counts(self, before_minute: int) -> None:
        """Forget the counts of before a minute."""
        self._connection.execute(
            delete(REQUEST_COUNTS).where(REQUEST_COUNTS.c.minute < before_minute)
        )


def _values(row: AlertRow) -> dict[str, Any]:
    return {name: getattr(row.alert, name) for name in _FIELDS} | {
        "text": row.text,
        "device": row.device,
        "due_unix_ms": row.due_unix_ms,
        "acknowledged_unix_ms": row.acknowledged_unix_ms,
    }


def _row(row: Any) -> AlertRow:
    return AlertRow(
        id=row.id,
        alert=Alert(**{name: getattr(row, name) for name in _FIELDS}),
        text=row.text,
        device=row.device,
        due_unix_ms=row.due_unix_ms,
        acknowledged_unix_ms=row.acknowledged_unix_ms,
    )
