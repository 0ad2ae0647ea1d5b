"""The rows of an outbox's records: how they are written, found, and seen to be as they were."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from agent.core.records import RecordClass, class_of

_CLASS_SHIFT: Final = 56
"""A row's position is its class, and below these bits its turn: what goes first lies together in the file,
so that pages become free as it goes, and is found at once."""
_TURN_MASK: Final = (1 << _CLASS_SHIFT) - 1
_ROW_BYTES: Final = 160
"""Of a row beside topic and payload: boot, digest, headers, and its entry in the index of numbers."""
_SPLIT_PAGES: Final = 5
"""What one insertion takes at most beside the row: a new leaf and a new inner page of the table and of the
index of numbers, and a new leaf of the losses."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A record that has not been acknowledged."""

    boot: str
    seq: int
    topic: str
    payload: bytes

    @property
    def sha256(self) -> bytes:
        """The digest of all of it."""
        head = f"{self.boot}\n{self.seq}\n{self.topic}\n"
        return hashlib.sha256(head.encode() + self.payload).digest()


@dataclass(frozen=True, slots=True)
class Pages:
    """What the file consists of.

    Attributes:
        count: All pages.
        free_count: Those of them with nothing in them; they are used before the file grows.
        size_bytes: Of one.
    """

    count: int
    free_count: int
    size_bytes: int

    @classmethod
    def of(cls, db: sqlite3.Connection) -> Pages:
        """Return them as they are, what was not committed yet included."""
        names = ("page_count", "freelist_count", "page_size")
        return cls(*(db.execute(f"PRAGMA {name}").fetchone()[0] for name in names))

    def has_room(self, record: Waiting, cap_bytes: int) -> bool:
        """Whether a record can be inserted without more than the cap in use."""
        row_bytes = _ROW_BYTES + len(record.topic) + len(record.payload)
        more = _SPLIT_PAGES + row_bytes // self.size_bytes
        return (self.count - self.free_count + more) * self.size_bytes <= cap_bytes


def prepare(db: sqlite3.Connection) -> int:
    """Make the table, or bring that of an older agent into order; return the last turn.

    An older agent knows no classes: its rows are where they came in.
    """
    db.execute(
        "CREATE TABLE IF NOT EXISTS record (position INTEGER PRIMARY KEY AUTOINCREMENT,"
        " boot TEXT, seq INTEGER, topic TEXT, payload BLOB, sha256 BLOB, UNIQUE (boot, seq))"
    )
    if "sha256" not in {name for _, name, *_ in db.execute("PRAGMA table_info(record)")}:
        db.execute("ALTER TABLE record ADD COLUMN sha256 BLOB")  # a still older one has no digests
    rows = db.execute("SELECT position, topic FROM record ORDER BY position").fetchall()
    taken = {position for position, _ in rows}
    last = max((position & _TURN_MASK for position in taken), default=0)
    moves = []
    for position, topic in rows:
        kind = class_of(str(topic))
        if position >> _CLASS_SHIFT == kind:
            continue
        target = kind << _CLASS_SHIFT | position
        if position > _TURN_MASK or target in taken:  # written when this agent had been here before
            last += 1
            target = kind << _CLASS_SHIFT | last
        taken.add(target)
        moves.append((target, position))
    if moves:
        db.execute("BEGIN IMMEDIATE")
        db.executemany("UPDATE record SET position = ? WHERE position = ?", moves)
        db.execute("COMMIT")
    return last


def insert(db: sqlite3.Connection, record: Waiting, turn: int) -> None:
    """Write a record; `turn` is higher than that of all before it."""
    position = class_of(record.topic) << _CLASS_SHIFT | turn
    db.execute(
        "INSERT INTO record (position, boot, seq, topic, payload, sha256)"
        " VALUES (?, ?, ?, ?, ?, ?)",
        (position, record.boot, record.seq, record.topic, record.payload, record.sha256),
    )


def ahead(
    db: sqlite3.Connection, kind: RecordClass, after: int, until: int, limit: int
) -> list[tuple[int, Waiting]]:
    """Return the records of a class with turns above `after` and up to `until`, oldest first."""
    rows = db.execute(
        "SELECT position, boot, seq, topic, payload FROM record"
        " WHERE position > ? AND position <= ? ORDER BY position LIMIT ?",
        (kind << _CLASS_SHIFT | after, kind << _CLASS_SHIFT | until, limit),
    )
    return [(row[0] & _TURN_MASK, Waiting(*row[1:])) for row in rows]


def newest_turns(db: sqlite3.Connection, kind: RecordClass, limit: int) -> list[int]:
    """Return the turns of the newest records of a class, newest first."""
    rows = db.execute(
        "SELECT position FROM record WHERE position > ? AND position <= ?"
        " ORDER BY position DESC LIMIT ?",
        (kind << _CLASS_SHIFT, kind << _CLASS_SHIFT | _TURN_MASK, limit),
    )
    return [row[0] & _TURN_MASK for row in rows]


def drop_oldest(db: sqlite3.Connection, highest: RecordClass) -> tuple[str, int] | None:
    """Delete the oldest record of the lowest class; return its boot and number.

    Args:
        db: The database.
        highest: None of a higher class is touched.

    Returns:
        None if there is none.
    """
    row = db.execute(
        "SELECT position, boot, seq FROM record WHERE position <= ? ORDER BY position LIMIT 1",
        (highest << _CLASS_SHIFT | _TURN_MASK,),
    ).fetchone()
    if row is None:
        return None
    db.execute("DELETE FROM record WHERE position = ?", (row[0],))
    return row[1], row[2]


def all_of(db: sqlite3.Connection) -> Iterator[tuple[int, Waiting | None]]:
    """Return every record with its turn, as they lie in the file; None for one that has changed on disk.

    Those of an agent that wrote no digests are believed.
    """
    rows = db.execute(
        "SELECT position, boot, seq, topic, payload, sha256 FROM record ORDER BY position"
    )
    for position, boot, seq, topic, payload, sha256 in rows:
        record = Waiting(boot, seq, topic, payload) if isinstance(payload, bytes) else None
        is_sound = record is not None and sha256 in (None, record.sha256)
        yield position & _TURN_MASK, record if is_sound else None
