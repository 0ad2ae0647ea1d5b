"""Sums by device, release and slot of time; slots that are old become longer ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sqlalchemy import ColumnElement, Connection, Table, delete, func, insert, select, update

from .devices import Selection

SumsT = TypeVar("SumsT")


@dataclass(frozen=True, slots=True)
class SlotRow(Generic[SumsT]):
    """The sums of one device and release over one slot; `length_ms` is the slot's."""

    device: str
    manifest: str
    start_unix_ms: int
    length_ms: int
    sums: SumsT


@dataclass(frozen=True, slots=True)
class Kind(Generic[SumsT]):
    """What is kept in a table of slots.

    Attributes:
        table: Its key is device, manifest, length and start; `body` has the sums as text.
        merged: Returns the sums of two.
        parse: Reads a body.
        values: Returns the columns beside the key, `body` among them.
    """

    table: Table
    merged: Callable[[SumsT, SumsT], SumsT]
    parse: Callable[[str], SumsT]
    values: Callable[[SumsT], Mapping[str, Any]]


class Slots(Generic[SumsT]):
    """One such table, within one transaction."""

    def __init__(self, connection: Connection, kind: Kind[SumsT]) -> None:
        self._connection = connection
        self._kind = kind
        self._table = kind.table

    def add(self, row: SlotRow[SumsT]) -> None:
        """Add sums to those of the same device, release and slot."""
        this = self._key(row.device, row.manifest, row.length_ms, row.start_unix_ms)
        body = self._connection.execute(select(self._table.c.body).where(this)).scalar_one_or_none()
        if body is not None:
            sums = self._kind.merged(self._kind.parse(body), row.sums)
            values = self._kind.values(sums)
            self._connection.execute(update(self._table).where(this).values(**values))
            return
        self._connection.execute(
            insert(self._table).values(
                device=row.device,
                manifest=row.manifest,
                start_unix_ms=row.start_unix_ms,
                length_ms=row.length_ms,
                **self._kind.values(row.sums),
            )
        )

    def manifests(self, since_unix_ms: int, until_unix_ms: int) -> list[str]:
        """Return the releases that have slots which began in a span, its end left out."""
        query = (
            select(self._table.c.manifest)
            .where(
                self._of_any_length(),
                self._table.c.start_unix_ms >= since_unix_ms,
                self._table.c.start_unix_ms < until_unix_ms,
            )
            .distinct()
            .order_by(self._table.c.manifest)
        )
        return list(self._connection.execute(query).scalars())

    def rows(
        self, manifest: str, selection: Selection, *, since_unix_ms: int, until_unix_ms: int
    ) -> Iterator[SlotRow[SumsT]]:
        """Return the slots of a release on the selected devices, by device, oldest first.

        Those that began at `since_unix_ms` or later, and before `until_unix_ms`.
        """
        query = (
            select(self._table)
            .where(
                self._table.c.manifest == manifest,
                self._table.c.start_unix_ms >= since_unix_ms,
                self._table.c.start_unix_ms < until_unix_ms,
                self._table.c.device.in_(selection.ids()),
            )
            .order_by(self._table.c.device, self._table.c.start_unix_ms)
        )
        for row in self._connection.execute(query):
            yield SlotRow(
                row.device,
                row.manifest,
                row.start_unix_ms,
                row.length_ms,
                self._kind.parse(row.body),
            )

    def roll_up(self, before_unix_ms: int, length_ms: int, *, limit: int) -> int:
        """Merge slots that are shorter than `length_ms` and began before a moment into longer ones.

        Args:
            before_unix_ms: The moment.
            length_ms: The longer slots'.
            limit: How many slots to merge at most, so that no transaction is long.

        Returns:
            How many were merged; fewer than `limit` when none is left.
        """
        merged = 0
        for shorter in self._lengths(length_ms):
            # One length at a time: over a range of them no index would find the oldest.
            query = (
                select(self._table)
                .where(
                    self._table.c.length_ms == shorter,
                    self._table.c.start_unix_ms < before_unix_ms,
                )
                .order_by(self._table.c.start_unix_ms)
                .limit(limit - merged)
            )
            found = self._connection.execute(query).all()
            for row in found:
                start = row.start_unix_ms // length_ms * length_ms
                this = self._key(row.device, row.manifest, row.length_ms, row.start_unix_ms)
                self._connection.execute(delete(self._table).where(this))
                sums = self._kind.parse(row.body)
                self.add(SlotRow(row.device, row.manifest, start, length_ms, sums))
            merged += len(found)
            if merged >= limit:
                break
        return merged

    def _lengths(self, below_ms: int | None = None) -> list[int]:
        """Return the lengths that slots have, those below one; each is a look into the index."""
        length = self._table.c.length_ms
        found: list[int] = []
        while True:
            query = select(func.min(length)).where(length > (found[-1] if found else 0))
            if below_ms is not None:
                query = query.where(length < below_ms)
            next_ms: int | None = self._connection.execute(query).scalar_one()
            if next_ms is None:
                return found
            found.append(next_ms)

    def prune(self, before_unix_ms: int) -> None:
        """Drop the slots that began before a moment."""
        old = self._table.c.start_unix_ms < before_unix_ms
        self._connection.execute(delete(self._table).where(self._of_any_length(), old))

    def _of_any_length(self) -> ColumnElement[bool]:
        """Return what is true of every slot, and lets the index by length find those of a time."""
        return self._table.c.length_ms.in_(self._lengths())

    def _key(self, device: str, manifest: str, length_ms: int, start: int) -> ColumnElement[bool]:
        columns = self._table.c
        return (
            (columns.device == device)
            & (columns.manifest == manifest)
            & (columns.length_ms == length_ms)
            & (columns.start_unix_ms == start)
        )
