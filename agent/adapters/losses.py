"""The numbers of records that an outbox had to drop and has not told of yet, in its own file.

They are written in the transaction that drops the records, and kept as the fewest ranges: between two of
them is a record that was kept, or a boot. What has become one range costs one row however long it is.
"""

from __future__ import annotations

import itertools
import sqlite3
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Gap:
    """Records of one boot that were dropped for one reason.

    Attributes:
        boot: That had written them.
        ranges: First and last number of each series of them, both included, in order.
        reason: A code.
    """

    boot: str
    ranges: tuple[tuple[int, int], ...]
    reason: str

    @property
    def count(self) -> int:
        """How many they are."""
        return sum(last - first + 1 for first, last in self.ranges)


def prepare(db: sqlite3.Connection) -> None:
    """Make the table."""
    db.execute(
        "CREATE TABLE IF NOT EXISTS lost (boot TEXT, first INTEGER, last INTEGER, reason TEXT,"
        " PRIMARY KEY (boot, first)) WITHOUT ROWID"
    )


def count_rows(db: sqlite3.Connection) -> int:
    """Return how many ranges there are."""
    return int(db.execute("SELECT count(*) FROM lost").fetchone()[0])


def highest(db: sqlite3.Connection, boot: str) -> int:
    """Return the highest number of a boot that was lost, 0 without any."""
    (last,) = db.execute("SELECT max(last) FROM lost WHERE boot = ?", (boot,)).fetchone()
    return last or 0


def is_sound(db: sqlite3.Connection) -> bool:
    """Whether every row could have been written here."""
    rows = db.execute("SELECT boot, first, last, reason FROM lost")
    return all(
        isinstance(boot, str)
        and isinstance(reason, str)
        and isinstance(first, int)
        and isinstance(last, int)
        and 1 <= first <= last
        for boot, first, last, reason in rows
    )


def add(db: sqlite3.Connection, key: tuple[str, int], reason: str) -> int:
    """Note a lost record, by boot and number; return how many ranges there are more."""
    boot, seq = key
    return add_range(db, boot, seq, seq, reason)


def add_range(db: sqlite3.Connection, boot: str, first: int, last: int, reason: str) -> int:
    """Note a series of lost records; return how many ranges there are more."""
    start, end, growth = first, last, 1
    before = db.execute(
        "SELECT first, last, reason FROM lost WHERE boot = ? AND first < ?"
        " ORDER BY first DESC LIMIT 1",
        (boot, first),
    ).fetchone()
    if before is not None and before[1] == first - 1 and before[2] == reason:
        start = before[0]
        growth -= 1
    after = db.execute(
        "SELECT last, reason FROM lost WHERE boot = ? AND first = ?", (boot, last + 1)
    ).fetchone()
    if after is not None and after[1] == reason:
        end = after[0]
        db.execute("DELETE FROM lost WHERE boot = ? AND first = ?", (boot, last + 1))
        growth -= 1
    db.execute("INSERT OR REPLACE INTO lost VALUES (?, ?, ?, ?)", (boot, start, end, reason))
    return growth


def subtract(db: sqlite3.Connection, boot: str, first: int, last: int) -> int:
    """Forget what is stored after all: its acknowledgement came when it had been dropped.

    Returns:
        How many ranges there are more.
    """
    growth = 0
    for start, end, reason in _overlapping(db, boot, first, last):
        db.execute("DELETE FROM lost WHERE boot = ? AND first = ?", (boot, start))
        rests = [rest for rest in ((start, first - 1), (last + 1, end)) if rest[0] <= rest[1]]
        rows = [(boot, *rest, reason) for rest in rests]
        db.executemany("INSERT INTO lost VALUES (?, ?, ?, ?)", rows)
        growth += len(rows) - 1
    return growth


def _overlapping(
    db: sqlite3.Connection, boot: str, first: int, last: int
) -> list[tuple[int, int, str]]:
    """Return the rows that share a number with a range; as many steps as there are of them."""
    rows = db.execute(
        "SELECT first, last, reason FROM lost WHERE boot = ? AND first <= ? ORDER BY first DESC",
        (boot, last),
    )
    return list(itertools.takewhile(lambda row: row[1] >= first, rows))


def take(db: sqlite3.Connection, max_ranges: int) -> Gap | None:
    """Return losses of one boot, and forget them; None when there are none."""
    one = db.execute("SELECT boot, reason FROM lost LIMIT 1").fetchone()
    if one is None:
        return None
    rows = db.execute(
        "SELECT first, last FROM lost WHERE boot = ? AND reason = ? ORDER BY first LIMIT ?",
        (*one, max_ranges),
    ).fetchall()
    db.executemany(
        "DELETE FROM lost WHERE boot = ? AND first = ?", [(one[0], first) for first, _ in rows]
    )
    return Gap(one[0], tuple(rows), one[1])


def all_of(db: sqlite3.Connection) -> list[Gap]:
    """Return all losses that were not told of yet."""
    rows = db.execute("SELECT boot, reason, first, last FROM lost ORDER BY boot, reason, first")
    found: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for boot, reason, first, last in rows:
        found.setdefault((boot, reason), []).append((first, last))
    return [Gap(boot, tuple(ranges), reason) for (boot, reason), ranges in found.items()]
