"""The audit log's chain: each row names the digest of the row before it.

A chain alone shows that a row was changed, not that its end was cut off or all of it written anew:
who can write the table can do the sums. So checkpoints, signed with a key that is not in the
database and kept outside of it, witness the digest of every row.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
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
BEGINNING_CONTEXT: Final = b"modelfleet audit beginning 1\n"


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
class Beginning:
    """From where on rows are witnessed, where not from the first.

    Attributes:
        seq: The newest row of that moment, 0 without any; what comes after it is witnessed.
        digest: That row's.
        why: In a person's words, or the controller's.
        is_acknowledged: Whether a person said so. Then no checkpoint before counts, and the rows up
            to `seq` are as they are; else the controller found its checkpoints or its rows gone.
        at_unix_ms: When.
    """

    seq: int
    digest: str
    why: str
    is_acknowledged: bool
    at_unix_ms: int

    @property
    def signed_bytes(self) -> bytes:
        """What its signature is over."""
        body = [self.seq, self.digest, self.why, self.is_acknowledged, self.at_unix_ms]
        return BEGINNING_CONTEXT + json.dumps(body, separators=(",", ":")).encode()


Line = Checkpoint | Beginning
"""What is written outside of the database."""


@dataclass(frozen=True, slots=True)
class Fault:
    """The first row that is not as it was written, or not vouched for; what is wrong; what to do."""

    seq: int
    why: str
    hint: str = ""


def sealed(previous: Entry | None, act: Row) -> Entry:
    """Return the entry that follows another one, or begins the log."""
    seq, before = (previous.seq + 1, previous.digest) if previous else (1, GENESIS)
    return Entry(seq, *act, before, _digest(seq, act, before))


def _digest(seq: int, act: Row, previous: str) -> str:
    """Return the digest of a row: sha-256 over its fields as a JSON array."""
    text = json.dumps([previous, seq, *act], separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def first_fault(
    entries: Iterable[Entry], lines: Iterable[Line], digests: Iterable[tuple[int, str]] = ()
) -> Fault | None:
    """Return the first row that was edited, removed, put in, moved, cut off or written anew.

    Args:
        entries: All rows, by their numbers.
        lines: Those whose signatures are good, and that count.
        digests: Digests of rows that are known besides.
    """
    witnessed = _witnessed(lines, digests)
    expected, previous = 1, GENESIS
    for entry in entries:
        if entry.seq != expected:
            return Fault(expected, f"row {expected} is missing: after it comes {entry.seq}")
        found = _digest(entry.seq, entry.act, entry.previous)
        if found != entry.digest:
            return Fault(expected, f"row {expected} was changed: its digest is of something else")
        if entry.previous != previous:
            return Fault(expected, f"row {expected} does not follow the row before it")
        if witnessed.get(expected, short := {found[:WITNESS_CHARS]}) != short:
            return Fault(expected, f"row {expected} is not the one that a checkpoint witnessed")
        expected, previous = expected + 1, entry.digest
    newest = max(witnessed, default=0)
    if newest >= expected:
        return Fault(expected, f"rows {expected} to {newest} are missing: a checkpoint has them")
    return None


def _witnessed(lines: Iterable[Line], digests: Iterable[tuple[int, str]]) -> dict[int, set[str]]:
    """Return what was sworn of each row; two different things of one are both false."""
    found: dict[int, set[str]] = {}

    def swear(seq: int, digest: str) -> None:
        if seq > 0:
            found.setdefault(seq, set()).add(digest[:WITNESS_CHARS])

    for line in lines:
        swear(line.seq, line.digest)
        if isinstance(line, Checkpoint):
            for seq, digest in enumerate(line.rows, start=line.first):
                swear(seq, digest)
    for seq, digest in digests:
        swear(seq, digest)
    return found


def since_beginning(lines: Sequence[Line]) -> Sequence[Line]:
    """Return the lines that count: the newest beginning that a person acknowledged, and all after it."""
    for place in range(len(lines) - 1, -1, -1):
        line = lines[place]
        if isinstance(line, Beginning) and line.is_acknowledged:
            return lines[place:]
    return lines


def coverage(lines: Sequence[Line]) -> tuple[int, tuple[int, int] | None]:
    """Return the last row up to which all are witnessed, and the rows that are left out after it.

    Args:
        lines: As `since_beginning` gives them: rows up to an acknowledged beginning count.
    """
    covered = 0
    if lines and isinstance(lines[0], Beginning) and lines[0].is_acknowledged:
        covered = lines[0].seq
    checkpoints = [line for line in lines if isinstance(line, Checkpoint) and line.rows]
    for checkpoint in sorted(checkpoints, key=lambda c: c.first):
        if checkpoint.first > covered + 1:
            return covered, (covered + 1, checkpoint.first - 1)
        covered = max(covered, checkpoint.seq)
    return covered, None
