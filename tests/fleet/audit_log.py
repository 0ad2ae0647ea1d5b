"""An audit log to tamper with, and ways to do it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

from fleet import audit
from fleet.checkpoints import MEMORY_FILE
from fleet.core.audit import Beginning, Entry, Row, sealed
from fleet.store.store import Store

COUNT = 12
Tamper = Callable[[list[Entry]], list[Entry]]


class Log:
    """A log of `COUNT` rows, with checkpoints after the 5th and the last."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.checkpoints = folder / "audit.checkpoints"
        self.memory = folder / "trust" / MEMORY_FILE
        self.store = Store(folder / "fleet.db", folder)
        audit.found(folder, folder, self.store)
        for count, now in ((5, 0), (COUNT - 5, 1)):
            self.add(count)
            self.witness().look(now, is_last=True)

    def add(self, count: int) -> None:
        for number in range(count):
            with self.store.write() as tx:
                tx.audit.append(Row(number, "ann", "POST /v1/rollouts", f"r-{number}", "done"))

    @property
    def key(self) -> Path:
        return self.folder / "trust" / audit.KEY_FILE

    def witness(self) -> audit.Witness:
        return audit.Witness(self.store, self.key, self.checkpoints)

    def verify(self, now: int = COUNT) -> audit.Verdict:
        public = self.folder / audit.PUBLIC_FILE
        return audit.verify(self.store, self.checkpoints, public, now, memory_path=self.memory)

    def elsewhere(self, now: int = COUNT) -> audit.Verdict:
        """Verify as where nothing is but the rows, the checkpoints and the public key."""
        public = self.folder / audit.PUBLIC_FILE
        return audit.verify(self.store, self.checkpoints, public, now)

    def begin(self, why: str = "a disk was lost", now: int = COUNT) -> Beginning:
        return audit.begin(self.store, self.checkpoints, self.key, why, now)

    def alarms(self) -> list[str]:
        with self.store.read() as tx:
            return [event.text for event in tx.journal.events(0, 100) if event.kind == "alarm"]

    def entries(self) -> list[Entry]:
        with self.store.read() as tx:
            return list(tx.audit.after(0))

    def write(self, entries: list[Entry]) -> None:
        """Put these rows in the place of all that are there, as who holds the file can."""
        with sqlite3.connect(self.folder / "fleet.db") as raw:
            raw.execute("DELETE FROM audit")
            for e in entries:
                row = (e.seq, *e.act, e.previous, e.digest)
                raw.execute("INSERT INTO audit VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)


def chained(acts: list[Row]) -> list[Entry]:
    """Return these acts as a log of their own, with all sums done right."""
    entries: list[Entry] = []
    for act in acts:
        entries.append(sealed(entries[-1] if entries else None, act))
    return entries


def edit(entries: list[Entry]) -> list[Entry]:
    other = sealed(entries[5], entries[6].act._replace(who="bob"))
    forged = Entry(7, *other.act, other.previous, entries[6].digest)
    return [*entries[:6], forged, *entries[7:]]


def edit_and_sum(entries: list[Entry]) -> list[Entry]:
    return [*entries[:6], sealed(entries[5], entries[6].act._replace(who="bob")), *entries[7:]]


def delete(entries: list[Entry]) -> list[Entry]:
    return [*entries[:6], *entries[7:]]


def delete_first(entries: list[Entry]) -> list[Entry]:
    return entries[1:]


def insert(entries: list[Entry]) -> list[Entry]:
    new = sealed(entries[5], entries[2].act)
    later = [Entry(e.seq + 1, *e.act, e.previous, e.digest) for e in entries[6:]]
    return [*entries[:6], new, *later]


def reorder(entries: list[Entry]) -> list[Entry]:
    one, two = entries[6], entries[7]
    swapped = [
        Entry(7, *two.act, two.previous, two.digest),
        Entry(8, *one.act, one.previous, one.digest),
    ]
    return [*entries[:6], *swapped, *entries[8:]]


def truncate(entries: list[Entry]) -> list[Entry]:
    return entries[:6]


def empty(_entries: list[Entry]) -> list[Entry]:
    return []


def rewrite(entries: list[Entry]) -> list[Entry]:
    """Everything from row 7 on without the deed in it, and every sum done right."""
    return chained([e.act for e in entries[:6]] + [e.act for e in entries[7:]])


def edit_and_sum_all(entries: list[Entry]) -> list[Entry]:
    """Everything from row 7 on with another name in it, and every sum done right."""
    acts = [e.act for e in entries]
    return chained([*acts[:6], acts[6]._replace(who="bob"), *acts[7:]])


def rewrite_and_grow(entries: list[Entry]) -> list[Entry]:
    acts = [e.act for e in entries]
    return chained([*acts[:6], acts[6]._replace(subject="r-99"), *acts[7:], *acts])
