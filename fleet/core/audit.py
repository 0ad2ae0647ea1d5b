"""The audit log's chain: each row names the digest of the row before it.

A chain alone shows that a row was changed, not that its end was cut off or all of it written anew:
who can write the table can do the sums. So checkpoints, signed with a key that is not in the
database and kept outside of it, witness the digest of every row.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

Outcome = Literal["done", "denied", "refused", "failed"]
"""Done; not allowed; allowed and wrong; allowed and right, and the controller could not."""

GENESIS: Final = "0" * 64
"""What the first row names as the one before."""
WITNESS_CHARS: Final = 16
"""Of each row's digest in a checkpoint: 64 bits, which nobody hits who must also keep the chain."""
CONTEXT: Final = b"modelfleet audit 1\n"
"""Stands before the signed text, so that no signature over anything else can be taken for one."""


class Row(NamedTuple):
    """What is said of one act.

    Attributes:
        at_unix_ms: When, by the controller's clock.
        who: Name of the token; `local` for what was done on the controller's machine, empty for
            a request that bore none.
        what: Method and route, or the command.
        subject: What it was done to.
        outcome: How it ended.
        code: Of the error, or empty.
    """

    at_unix_ms: int
    who: str
    what: str
    subject: str
    outcome: Outcome
    code: str = ""


@dataclass(frozen=True, slots=True)
class Entry:
    """A row in its place: `seq` counts from 1 without gaps, `digest` is over all the rest."""

    seq: int
    at_unix_ms: int
    who: str
    what: str
    subject: str
    outcome: Outcome
    code: str
    previous: str
    digest: str

    @property
    def act(self) -> Row:
        """What is said, without the place."""
        return Row(self.at_unix_ms, self.who, self.what, self.subject, self.outcome, self.code)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What the controller swore to: rows `first` to `seq`, by the beginnings of their digests."""

    first: int
    seq: int
    digest: str
    rows: tuple[str, ...]
    at_unix_ms: int

    @property
    def signed_bytes(self) -> bytes:
        """What its signature is over."""
        body = [self.first, self.seq, self.digest, list(self.rows), self.at_unix_ms]
        return CONTEXT + json.dumps(body, separators=(",", ":")).encode()


@dataclass(frozen=True, slots=True)
class Fault:
    """The first row that is not as it was written, and what is wrong with it."""

    seq: int
    why: str


def sealed(previous: Entry | None, act: Row) -> Entry:
    """Return the entry that follows another one, or begins the log."""
    seq, before = (previous.seq + 1, previous.digest) if previous else (1, GENESIS)
    return Entry(seq, *act, before, _digest(seq, act, before))


def _digest(seq: int, act: Row, previous: str) -> str:
    """Return the digest of a row: sha-256 over its fields as a JSON array."""
    text = json.dumps([previous, seq, *act], separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def first_fault(entries: Iterable[Entry], checkpoints: Iterable[Checkpoint]) -> Fault | None:
    """Return the first row that was edited, removed, put in, moved, cut off or written anew.

    Args:
        entries: All rows, by their numbers.
        checkpoints: Those whose signatures are good.
    """
    witnessed: dict[int, str] = {}
    for checkpoint in checkpoints:
        witnessed |= dict(enumerate(checkpoint.rows, start=checkpoint.first))
    expected, previous = 1, GENESIS
    for entry in entries:
        if entry.seq != expected:
            return Fault(expected, f"row {expected} is missing: after it comes {entry.seq}")
        found = _digest(entry.seq, entry.act, entry.previous)
        if found != entry.digest:
            return Fault(expected, f"row {expected} was changed: its digest is of something else")
        if entry.previous != previous:
            return Fault(expected, f"row {expected} does not follow the row before it")
        if witnessed.get(expected, found[:WITNESS_CHARS]) != found[:WITNESS_CHARS]:
            return Fault(expected, f"row {expected} is not the one that a checkpoint witnessed")
        expected, previous = expected + 1, entry.digest
    newest = max(witnessed, default=0)
    if newest >= expected:
        return Fault(expected, f"rows {expected} to {newest} are missing: a checkpoint has them")
    return None
