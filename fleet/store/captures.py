"""Requests for captured rows, and the packs of rows that came."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, and_, delete, func, insert, select, true, update

from wire.capture import CaptureRequest

from .capture_schema import CAPTURE_DEVICES, CAPTURE_REQUESTS, CAPTURES
from .devices import Selection

MAX_LISTED = 100


@dataclass(frozen=True, slots=True)
class Wish:
    """What was asked for; `limit` is the rows of each device."""

    number: int
    model: str
    limit: int
    is_uncertain_first: bool
    created_unix_ms: int
    created_by: str
    until_unix_ms: int

    @property
    def id(self) -> str:
        """Its name, on the wire too."""
        return f"c-{self.number}"


@dataclass(frozen=True, slots=True)
class Asked:
    """What one device was asked for last, and how many rows came for it."""

    device: str
    wish: Wish
    row_count: int
    is_open: bool


@dataclass(frozen=True, slots=True)
class PackRow:
    """A pack that came, without its content; the first and last instant are by the device's clock."""

    device: str
    digest: str
    request: int
    model: str
    row_count: int
    size_bytes: int
    first_unix_ms: int
    last_unix_ms: int
    received_unix_ms: int


@dataclass(frozen=True, slots=True)
class Held:
    """All packs of one model from one device."""

    device: str
    model: str
    row_count: int
    size_bytes: int
    first_unix_ms: int
    last_unix_ms: int
    received_unix_ms: int


@dataclass(frozen=True, slots=True)
class PackFilter:
    """Which packs are meant: of a model, from some devices, received in a span."""

    model: str
    selection: Selection
    since_unix_ms: int = 0
    before_unix_ms: int | None = None

    def clause(self) -> ColumnElement[bool]:
        """Return it as a condition; of use within this package only."""
        before: ColumnElement[bool] = true()
        if self.before_unix_ms is not None:
            before = CAPTURES.c.received_unix_ms < self.before_unix_ms
        return and_(
            CAPTURES.c.model == self.model,
            CAPTURES.c.device.in_(self.selection.ids()),
            CAPTURES.c.received_unix_ms >= self.since_unix_ms,
            before,
        )


_FIELDS = [CAPTURES.c[name] for name in PackRow.__dataclass_fields__]
_WISH = list(CAPTURE_REQUESTS.c)


class Captures:
    """The tables of captured rows, within one transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    # -- requests

    def add_wish(self, wish: Wish, devices: Iterable[str]) -> Wish:
        """Store a request to devices, in the place of what they were asked before; return it numbered."""
        number = self._connection.execute(
            insert(CAPTURE_REQUESTS)
            .values(
                model=wish.model,
                row_limit=wish.limit,
                is_uncertain_first=wish.is_uncertain_first,
                created_unix_ms=wish.created_unix_ms,
                created_by=wish.created_by,
                until_unix_ms=wish.until_unix_ms,
            )
            .returning(CAPTURE_REQUESTS.c.number)
        ).scalar_one()
        rows = [
            {"device": device, "request": number, "row_count": 0, "is_open": True}
            for device in devices
        ]
        for row in rows:
            self._connection.execute(
                delete(CAPTURE_DEVICES).where(CAPTURE_DEVICES.c.device == row["device"])
            )
        if rows:
            self._connection.execute(insert(CAPTURE_DEVICES), rows)
        return Wish(number, *(getattr(wish, name) for name in Wish.__slots__[1:]))

    def asked(self, selection: Selection) -> list[Asked]:
        """Return what the selected devices were asked for last, newest first, at most `MAX_LISTED`."""
        query = (
            select(
                CAPTURE_DEVICES.c.device,
                CAPTURE_DEVICES.c.row_count,
                CAPTURE_DEVICES.c.is_open,
                *_WISH,
            )
            .join(CAPTURE_REQUESTS, CAPTURE_REQUESTS.c.number == CAPTURE_DEVICES.c.request)
            .where(CAPTURE_DEVICES.c.device.in_(selection.ids()))
            .order_by(CAPTURE_REQUESTS.c.number.desc(), CAPTURE_DEVICES.c.device)
            .limit(MAX_LISTED)
        )
        return [
            Asked(device, Wish(*wish), count, is_open)
            for device, count, is_open, *wish in self._connection.execute(query)
        ]

    def asked_of(self, device: str) -> Asked | None:
        """Return what a device was asked for last."""
        found = self.asked(Selection(device=device))
        return found[0] if found else None

    def open_message(self, device: str) -> CaptureRequest | None:
        """Return what a device is still to give, as it is told."""
        asked = self.asked_of(device)
        if asked is None or not asked.is_open:
            return None
        return CaptureRequest(
            id=asked.wish.id,
            model=asked.wish.model,
            limit=asked.wish.limit,
            first="uncertain" if asked.wish.is_uncertain_first else "oldest",
            until_unix_ms=asked.wish.until_unix_ms,
        )

    def note_rows(self, device: str, row_count: int, *, is_open: bool) -> None:
        """Count rows that a device gave for what it was asked for last."""
        self._connection.execute(
            update(CAPTURE_DEVICES)
            .where(CAPTURE_DEVICES.c.device == device)
            .values(row_count=CAPTURE_DEVICES.c.row_count + row_count, is_open=is_open)
        )

    # -- packs

    def has(self, device: str, digest: str) -> bool:
        """Whether a device's pack is here."""
        query = select(CAPTURES.c.digest).where(
            CAPTURES.c.device == device, CAPTURES.c.digest == digest
        )
        return self._connection.execute(query).first() is not None

    def add(self, row: PackRow, body: bytes) -> None:
        """Store a pack."""
        values = {name: getattr(row, name) for name in PackRow.__slots__}
        self._connection.execute(insert(CAPTURES).values(**values, body=body))

    def size_bytes(self, device: str | None = None) -> int:
        """Return what all packs take, or those of one device."""
        query = select(func.coalesce(func.sum(CAPTURES.c.size_bytes), 0))
        if device is not None:
            query = query.where(CAPTURES.c.device == device)
        return int(self._connection.execute(query).scalar_one())

    def held(self, selection: Selection, model: str | None) -> list[Held]:
        """Return what is here from the selected devices, by model and device."""
        query = (
            select(
                CAPTURES.c.device,
                CAPTURES.c.model,
                func.sum(CAPTURES.c.row_count),
                func.sum(CAPTURES.c.size_bytes),
                func.min(CAPTURES.c.first_unix_ms),
                func.max(CAPTURES.c.last_unix_ms),
                func.max(CAPTURES.c.received_unix_ms),
            )
            .where(CAPTURES.c.device.in_(selection.ids()), CAPTURES.c.row_count > 0)
            .group_by(CAPTURES.c.model, CAPTURES.c.device)
            .order_by(CAPTURES.c.model, CAPTURES.c.device)
        )
        if model is not None:
            query = query.where(CAPTURES.c.model == model)
        return [
            Held(device, model, int(rows), int(size), *times)
            for device, model, rows, size, *times in self._connection.execute(query)
        ]

    def packs(self, wanted: PackFilter) -> list[PackRow]:
        """Return the packs meant that have rows, in the order in which they came."""
        query = select(*_FIELDS).where(wanted.clause(), CAPTURES.c.row_count > 0)
        order = (CAPTURES.c.received_unix_ms, CAPTURES.c.device, CAPTURES.c.digest)
        return [PackRow(*row) for row in self._connection.execute(query.order_by(*order))]

    def body(self, device: str, digest: str) -> bytes | None:
        """Return a pack as it came, None if it is gone."""
        query = select(CAPTURES.c.body).where(
            CAPTURES.c.device == device, CAPTURES.c.digest == digest
        )
        return self._connection.execute(query).scalar_one_or_none()

    def delete(self, wanted: PackFilter) -> int:
        """Delete the packs meant; return how many rows they had."""
        query = select(func.coalesce(func.sum(CAPTURES.c.row_count), 0)).where(wanted.clause())
        count = int(self._connection.execute(query).scalar_one())
        self._connection.execute(delete(CAPTURES).where(wanted.clause()))
        return count

    def prune(self, before_unix_ms: int) -> None:
        """Delete packs that came before an instant."""
        self._connection.execute(
            delete(CAPTURES).where(CAPTURES.c.received_unix_ms < before_unix_ms)
        )
