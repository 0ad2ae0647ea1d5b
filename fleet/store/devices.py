"""Devices, their tags and their presence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from sqlalchemy import Connection, Select, delete, func, insert, select, update

from wire.errors import PeerError

from .schema import DEVICES, MEMBERS, PRESENCE, TAGS

BATCH = 500
"""Values in one IN list; SQLite before 3.32 takes at most 999."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which devices a query speaks of: those that fulfil every part that is given.

    Attributes:
        match: Tags that they carry.
        device: The one with this id.
        rollout: The members of this rollout.
        among: Those in this set, at most `BATCH`.
        scope: Tags that they carry as well; for those who may not see more.
    """

    match: Mapping[str, str] = field(default_factory=dict)
    device: str | None = None
    rollout: str | None = None
    among: frozenset[str] | None = None
    scope: Mapping[str, str] = field(default_factory=dict)

    def ids(self) -> Select[str]:
        """Return the query for the ids; of use within this package only."""
        query = select(DEVICES.c.id)
        if self.device is not None:
            query = query.where(DEVICES.c.id == self.device)
        if self.rollout is not None:
            members = select(MEMBERS.c.device).where(MEMBERS.c.rollout == self.rollout)
            query = query.where(DEVICES.c.id.in_(members))
        if self.among is not None:
            query = query.where(DEVICES.c.id.in_(sorted(self.among)))
        for key, value in (*self.match.items(), *self.scope.items()):
            carriers = select(TAGS.c.device).where(TAGS.c.key == key, TAGS.c.value == value)
            query = query.where(DEVICES.c.id.in_(carriers))
        return query


@dataclass(frozen=True, slots=True)
class PresenceRow:
    """What is known of a device's connection; `former_boot` is the boot before `boot`."""

    state: str
    boot: str
    birth: int
    former_boot: str
    agent: str
    since_unix_ms: int


@dataclass(frozen=True, slots=True)
class DeviceRow:
    """A device with its tags; `presence` is None until it was seen."""

    id: str
    tags: dict[str, str]
    last_seen_unix_ms: int | None
    presence: PresenceRow | None


class Devices:
    """The tables `devices`, `tags` and `presence`, within one transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def add(self, devices: Sequence[tuple[str, Mapping[str, str]]], now_unix_ms: int) -> None:
        """Add devices with their tags, all of them or none.

        Raises:
            PeerError: `device_exists` or `device_twice`.
        """
        ids = [device for device, _ in devices]
        twice = sorted({device for device in ids if ids.count(device) > 1}) if _repeat(ids) else []
        if twice:
            raise PeerError(f"named twice: {_named(twice)}", code="device_twice")
        taken = sorted(self.known(ids))
        if taken:
            raise PeerError(
                f"already there: {_named(taken)}; nothing was added",
                code="device_exists",
                hint="choose other ids, or remove these devices first",
            )
        self._connection.execute(
            insert(DEVICES), [{"id": device, "created_unix_ms": now_unix_ms} for device in ids]
        )
        for device, tags in devices:
            self._insert_tags(device, tags)

    def known(self, ids: Iterable[str]) -> set[str]:
        """Return those of `ids` that are devices."""
        wanted = sorted(set(ids))
        found: set[str] = set()
        for start in range(0, len(wanted), BATCH):
            part = wanted[start : start + BATCH]
            query = select(DEVICES.c.id).where(DEVICES.c.id.in_(part))
            found.update(self._connection.execute(query).scalars())
        return found

    def ids(self, selection: Selection) -> list[str]:
        """Return the ids of the selected devices, sorted."""
        query = selection.ids().order_by(DEVICES.c.id)
        return list(self._connection.execute(query).scalars())

    def rows(self, selection: Selection) -> list[DeviceRow]:
        """Return the selected devices, sorted by id."""
        ids = selection.ids()
        tags = self.tags(selection)
        presence = self.presence(selection)
        query = select(DEVICES).where(DEVICES.c.id.in_(ids)).order_by(DEVICES.c.id)
        return [
            DeviceRow(
                row.id,
                tags.get(row.id, {}),
                row.last_seen_unix_ms,
                presence.get(row.id),
            )
            for row in self._connection.execute(query)
        ]

    def tags(self, selection: Selection) -> dict[str, dict[str, str]]:
        """Return the tags of the selected devices; those without any are left out."""
        found: dict[str, dict[str, str]] = {}
        query = select(TAGS).where(TAGS.c.device.in_(selection.ids()))
        for row in self._connection.execute(query.order_by(TAGS.c.device, TAGS.c.key)):
            found.setdefault(row.device, {})[row.key] = row.value
        return found

    def set_tags(self, device: str, tags: Mapping[str, str]) -> None:
        """Replace all tags of a device."""
        self._connection.execute(delete(TAGS).where(TAGS.c.device == device))
        self._insert_tags(device, tags)

    def remove(self, device: str) -> None:
        """Remove a device and all that is stored of it, its records included."""
        self._connection.execute(delete(DEVICES).where(DEVICES.c.id == device))

    def touch(self, ids: Iterable[str], now_unix_ms: int) -> None:
        """Note that these devices have just been heard."""
        wanted = sorted(set(ids))
        for start in range(0, len(wanted), BATCH):
            part = wanted[start : start + BATCH]
            self._connection.execute(
                update(DEVICES).where(DEVICES.c.id.in_(part)).values(last_seen_unix_ms=now_unix_ms)
            )

    def last_seen(self, selection: Selection) -> dict[str, int | None]:
        """Return when each selected device was heard last; the keys are all that exist."""
        query = select(DEVICES.c.id, DEVICES.c.last_seen_unix_ms).where(
            DEVICES.c.id.in_(selection.ids())
        )
        return {row.id: row.last_seen_unix_ms for row in self._connection.execute(query)}

    def presence(self, selection: Selection) -> dict[str, PresenceRow]:
        """Return the presence of the selected devices that were ever seen."""
        query = select(PRESENCE).where(PRESENCE.c.device.in_(selection.ids()))
        return {
            row.device: PresenceRow(
                row.state, row.boot, row.birth, row.former_boot, row.agent, row.since_unix_ms
            )
            for row in self._connection.execute(query)
        }

    def set_presence(self, device: str, presence: PresenceRow) -> None:
        """Replace what is known of a device's connection."""
        self._connection.execute(delete(PRESENCE).where(PRESENCE.c.device == device))
        self._connection.execute(
            insert(PRESENCE).values(
                device=device,
                state=presence.state,
                boot=presence.boot,
                birth=presence.birth,
                former_boot=presence.former_boot,
                agent=presence.agent,
                since_unix_ms=presence.since_unix_ms,
            )
        )

    def page(self, selection: Selection, *, after: str, limit: int) -> frozenset[str]:
        """Return the first ids of the selected devices above `after`."""
        query = selection.ids().where(DEVICES.c.id > after).order_by(DEVICES.c.id).limit(limit)
        return frozenset(self._connection.execute(query).scalars())

    def state_counts(self) -> dict[str, int]:
        """Return how many devices are in each state of connection, `never_seen` included."""
        state = func.coalesce(PRESENCE.c.state, "never_seen")
        query = (
            select(state, func.count())
            .select_from(DEVICES.outerjoin(PRESENCE, PRESENCE.c.device == DEVICES.c.id))
            .group_by(state)
        )
        return {row[0]: row[1] for row in self._connection.execute(query)}

    def counts(self, selection: Selection) -> tuple[int, int]:
        """Return how many devices are selected, and how many of them are online."""
        ids = selection.ids()
        total = self._connection.execute(
            select(func.count()).select_from(ids.subquery())
        ).scalar_one()
        online = self._connection.execute(
            select(func.count())
            .select_from(PRESENCE)
            .where(PRESENCE.c.state == "online", PRESENCE.c.device.in_(ids))
        ).scalar_one()
        return total, online

    def _insert_tags(self, device: str, tags: Mapping[str, str]) -> None:
        if tags:
            rows = [{"device": device, "key": key, "value": value} for key, value in tags.items()]
            self._connection.execute(insert(TAGS), rows)


def _repeat(ids: Sequence[str]) -> bool:
    return len(set(ids)) != len(ids)


def _named(ids: Sequence[str]) -> str:
    shown = ", ".join(ids[:10])
    return shown if len(ids) <= 10 else f"{shown} and {len(ids) - 10} more"
