"""The rows of the capture ring as they lie in its file, each with a digest of what it was."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from agent.core.captured import CapturedRow, RowTensor
from wire.packs import MAX_LEFT_OUT, MAX_TENSORS

from .outbox_rows import Pages

ROW_BYTES: Final = 192
"""Of a row beside its look and its values: digests, numbers, names and headers."""
SPLIT_PAGES: Final = 5
"""What one insertion takes at most beside the row: a new leaf and a new inner page of the table and of the
index, and the page of the counts."""


class _Look(msgspec.Struct, frozen=True):
    tensors: tuple[RowTensor, ...]
    left_out: tuple[str, ...]


_encode: Final = msgspec.json.Encoder().encode
_decoder: Final = msgspec.json.Decoder(_Look)


def prepare(db: sqlite3.Connection) -> None:
    """Make the tables."""
    db.execute(
        "CREATE TABLE IF NOT EXISTS row (number INTEGER PRIMARY KEY AUTOINCREMENT, model TEXT,"
        " version TEXT, manifest TEXT, at_unix_ms INTEGER, id TEXT, score REAL, look BLOB, data BLOB,"
        " sha256 BLOB)"
    )
    db.execute("CREATE INDEX IF NOT EXISTS row_by_time ON row (at_unix_ms)")
    db.execute(
        "CREATE TABLE IF NOT EXISTS job (one INTEGER PRIMARY KEY CHECK (one = 1), request TEXT,"
        " last_number INTEGER, sent_count INTEGER, state TEXT)"
    )
    db.execute(
        "CREATE TABLE IF NOT EXISTS pack (one INTEGER PRIMARY KEY CHECK (one = 1), body BLOB, numbers TEXT)"
    )
    db.execute(
        "CREATE TABLE IF NOT EXISTS given (one INTEGER PRIMARY KEY CHECK (one = 1), row_count INTEGER,"
        " at_unix_ms INTEGER)"
    )


def cost_bytes(row: CapturedRow) -> int:
    """Return about how much a row takes of the file; no less."""
    return ROW_BYTES + len(row.model) + len(row.id) * 4 + len(_look(row)) + len(row.data)


def has_room(pages: Pages, size_bytes: int, cap_bytes: int) -> bool:
    """Whether so much can be inserted as one row without more than the cap in use."""
    more = SPLIT_PAGES + size_bytes // pages.size_bytes
    return (pages.count - pages.free_count + more) * pages.size_bytes <= cap_bytes


def insert(db: sqlite3.Connection, row: CapturedRow) -> None:
    """Write a row behind all others."""
    look = _look(row)
    values = (
        row.model,
        row.version,
        row.manifest,
        row.at_unix_ms,
        row.id,
        row.score,
        look,
        row.data,
    )
    db.execute(
        "INSERT INTO row (model, version, manifest, at_unix_ms, id, score, look, data, sha256)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (*values, _digest(values)),
    )


def chosen(
    db: sqlite3.Connection, model: str, last_number: int, limit: int, *, is_uncertain_first: bool
) -> Iterator[tuple[int, CapturedRow | None]]:
    """Yield a model's rows with their numbers; None for one that has changed on disk.

    Args:
        db: The database.
        model: Whose.
        last_number: None behind this one.
        limit: How many at most.
        is_uncertain_first: Whether those of the lowest score come first, else the oldest.
    """
    rows = db.execute(
        "SELECT number, model, version, manifest, at_unix_ms, id, score, look, data, sha256 FROM row"
        " WHERE model = ? AND number <= ?"
        " ORDER BY CASE WHEN ? THEN coalesce(score, 2) ELSE 0 END, number LIMIT ?",
        (model, last_number, is_uncertain_first, limit),
    )
    for number, *values, sha256 in rows:
        yield number, _row(tuple(values)) if sha256 == _digest(tuple(values)) else None


def _row(values: tuple[Any, ...]) -> CapturedRow | None:
    model, version, manifest, at_unix_ms, id_, score, look, data = values
    try:
        found = _decoder.decode(look)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    row = CapturedRow(
        model, version, manifest, at_unix_ms, id_, score, found.tensors, found.left_out, data
    )
    is_fit = len(found.tensors) <= 2 * MAX_TENSORS and len(found.left_out) <= MAX_LEFT_OUT
    return row if is_fit and row.is_whole else None


def _look(row: CapturedRow) -> bytes:
    return _encode(_Look(row.tensors, row.left_out))


def _digest(values: tuple[object, ...]) -> bytes:
    digest = hashlib.sha256()
    for value in values:
        data = value if isinstance(value, bytes) else repr(value).encode("utf-8", "replace")
        digest.update(len(data).to_bytes(8) + data)
    return digest.digest()
