"""The audit log's witness: it signs checkpoints of the rows, and `verify` holds the log against them.

Only rows are signed that came after what was signed before. Where that is gone, or the rows are
others, the witness says so and begins anew: it never signs old rows as if it had seen them.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from fleet.core.audit import (
    GENESIS,
    WITNESS_CHARS,
    Beginning,
    Checkpoint,
    Entry,
    Fault,
    Line,
    Row,
    coverage,
    first_fault,
    since_beginning,
)
from fleet.store.journal import EventRow
from fleet.store.store import Store
from wire.errors import ConfigError, StorageError

from .checkpoints import (
    DAMAGED,
    MEMORY_FILE,
    NOTHING_YET,
    CheckpointFile,
    Lines,
    Memory,
    read_lines,
    read_memory,
    write_memory,
)
from .tokens import LOCAL

log = logging.getLogger(__name__)

EVERY_ROWS: Final = 64
"""In one checkpoint at most, so that it fits into a line of the system's log, of 2 kB or more."""
OPEN_MS: Final = 60_000
"""The newest rows wait no longer than this for a checkpoint; until then they could be cut off."""
OLD_MS: Final = 5 * OPEN_MS
"""A row of this age has its checkpoint, or nobody writes them."""
ALIVE_MS: Final = 24 * 3_600_000
"""A checkpoint this often though nothing happened: a file that stands still is noticed."""
KEY_FILE: Final = "audit.key"
PUBLIC_FILE: Final = "audit.pub"
KEEP: Final = "keep this store and its checkpoints as they are, and restore a backup elsewhere"
ACKNOWLEDGE: Final = "if you know why and trust the rows, say so: `fleet audit begin --why …`"


class Verdict(NamedTuple):
    """What `verify` found; `open_count` rows are newer than the newest checkpoint.

    `beginning` is the one that a person acknowledged last: nothing before it is witnessed.
    """

    fault: Fault | None
    row_count: int
    checkpoint_count: int
    open_count: int
    beginning: Beginning | None = None


def found(fleet_dir: Path, store_dir: Path, store: Store) -> None:
    """Make the key that signs checkpoints, and its public half in the fleet's directory.

    Idempotent; a public half that is there is never replaced. Only with a log that has no row yet
    nothing has to be remembered: rows that are there were witnessed by another key, or by none.

    Raises:
        ConfigError: `audit_key`.
        StorageError: The store cannot be used.
    """
    private, public = store_dir / "trust" / KEY_FILE, fleet_dir / PUBLIC_FILE
    try:
        if not private.exists():
            private.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with store.read() as tx:
                is_new = tx.audit.newest() is None
            if is_new:
                write_memory(private.with_name(MEMORY_FILE), NOTHING_YET)
            _write_new(private, Ed25519PrivateKey.generate().private_bytes_raw().hex(), 0o600)
        if not public.exists():
            _write_new(public, _load(private).public_key().public_bytes_raw().hex(), 0o644)
    except OSError as exc:
        raise ConfigError(
            f"cannot keep the audit key: {exc.filename}: {exc.strerror}",
            code="audit_key",
            hint="run it as the user whose fleet it is",
        ) from exc


class Witness:
    """Writes checkpoints. For one thread, the controller's loop."""

    def __init__(self, store: Store, key: Path, path: Path) -> None:
        """Load the key, and what was written last.

        Raises:
            ConfigError: `audit_key` or `checkpoints_unreadable`.
        """
        self._store = store
        self._file = CheckpointFile(path, _load(key), key.with_name(MEMORY_FILE))
        self._has_failed = False
        self._newest: Line | Memory
        memory = self._file.memory()  # before the file, which may grow
        found = self._file.read()
        self._newest, self._break = _recalled(store, memory, found, path)
        if isinstance(self._newest, Checkpoint | Beginning) and self._break is None:
            sig = found.signatures[found.lines.index(self._newest)]
            newest = self._newest
            self._tried(lambda: self._file.remember(newest, sig))
        if memory is not None and memory.lost is not None:
            log.error(
                "the audit log is not vouched for up to row %d: %s (`fleet audit verify`)",
                memory.lost.seq,
                memory.lost.why,
            )

    def look(self, now_unix_ms: int, *, is_last: bool = False) -> None:
        """Write a checkpoint if one is due; with `is_last`, if there is anything to witness.

        Raises:
            StorageError: The store cannot be used.
        """
        seq, since = self._newest.seq, self._newest.at_unix_ms
        with self._store.read() as tx:
            last, here = tx.audit.newest(), tx.audit.at(seq)
            entries = list(tx.audit.after(seq))
        if self._break is None and seq and (here is None or here.digest != self._newest.digest):
            what = "is missing" if here is None else "is another than was witnessed"
            self._break = f"row {seq} {what}"
        if self._break is not None:
            self._begin_anew(last, self._break, now_unix_ms)
            return
        is_due = (
            len(entries) >= EVERY_ROWS
            or (entries and now_unix_ms - entries[0].at_unix_ms >= OPEN_MS)
            or (last is not None and not 0 <= now_unix_ms - since < ALIVE_MS)
            or (is_last and entries)
        )
        if last is None or not is_due:
            return
        for start in range(0, max(1, len(entries)), EVERY_ROWS):
            part = entries[start : start + EVERY_ROWS]
            end = part[-1] if part else last
            rows = tuple(entry.digest[:WITNESS_CHARS] for entry in part)
            first = end.seq - len(rows) + 1
            if not self._add(Checkpoint(first, end.seq, end.digest, rows, now_unix_ms)):
                return

    def _begin_anew(self, last: Entry | None, why: str, now_unix_ms: int) -> None:
        """Leave a mark that only a person takes away, and witness what comes from now on."""
        seq, digest = (last.seq, last.digest) if last else (0, GENESIS)
        if not self._add(
            Beginning(seq, digest, why, is_acknowledged=False, at_unix_ms=now_unix_ms)
        ):
            return
        self._break = None
        text = f"not vouched for up to row {seq}: {why}; `fleet audit verify` says what to do"
        log.error("the audit log is %s", text)
        with self._store.write() as tx:
            event = EventRow("alarm", "audit log", text, {"code": "audit_unwitnessed"})
            tx.journal.note([event], now_unix_ms)

    def _add(self, line: Line) -> bool:
        if not self._tried(lambda: self._file.add(lambda: line)):
            return False
        self._newest = line
        return True

    def _tried(self, write: Callable[[], object]) -> bool:
        try:
            write()
        except OSError as exc:
            if not self._has_failed:
                log.error(  # noqa: TRY400 - the sentence says all
                    "cannot write %s: %s; audit goes unwitnessed", self._file.path, exc.strerror
                )
            self._has_failed = True
            return False
        self._has_failed = False
        return True


def _recalled(
    store: Store, memory: Memory | None, found: Lines, path: Path
) -> tuple[Line | Memory, str | None]:
    """Return what was written last, and why what there is does not go on from it."""
    with store.read() as tx:
        has_rows = tx.audit.newest() is not None
    newest: Line | Memory = memory or NOTHING_YET
    why = None
    if memory is not None:
        if not found.has(memory):
            why = _unknown_last(memory, path)
    elif found.lines:  # of a program that remembered nothing
        newest = max(found.lines, key=lambda line: (line.seq, line.at_unix_ms))
    elif has_rows:
        why = f"there are rows, and no checkpoint in {path}"
    _, gap = coverage(since_beginning(found.lines))
    if why is None and gap is not None and (memory is None or memory.lost is None):
        why = f"rows {gap[0]} to {gap[1]} have no checkpoint in {path}"
    return newest, why


def begin(store: Store, checkpoints_path: Path, key: Path, why: str, now_unix_ms: int) -> Beginning:
    """Have the rows that are there count from now on as they are, without a witness of before.

    A row of the log says so too. What the rows swear of each other must be right.

    Raises:
        ConfigError: `audit_key` or `checkpoints_unwritable`.
        StorageError: `audit_broken`, or the store cannot be used.
    """
    file = CheckpointFile(checkpoints_path, _load(key), key.with_name(MEMORY_FILE))
    with store.read() as tx:
        fault = first_fault(tx.audit.after(0), ())
    if fault is not None:
        raise StorageError(fault.why, code="audit_broken", hint=KEEP)
    with store.write() as tx:
        tx.audit.append(Row(now_unix_ms, LOCAL, "audit begin", why, "done"))
    made: list[Beginning] = []

    def make() -> Beginning:
        with store.read() as tx:
            last = tx.audit.newest()
        assert last is not None  # noqa: S101 - one was added
        made.append(Beginning(last.seq, last.digest, why, True, now_unix_ms))
        return made[-1]

    try:
        file.add(make)
    except OSError as exc:
        raise ConfigError(
            f"cannot write {exc.filename or checkpoints_path}: {exc.strerror}",
            code="checkpoints_unwritable",
            hint="run it as the user whose fleet it is; `[audit] checkpoints` names the file",
        ) from exc
    return made[-1]


def verify(
    store: Store,
    checkpoints_path: Path,
    public: Path,
    now_unix_ms: int,
    *,
    memory_path: Path | None = None,
) -> Verdict:
    """Hold the whole log against its chain and against the checkpoints.

    Args:
        store: Holds the rows.
        checkpoints_path: The file, or a copy.
        public: The key's public half.
        now_unix_ms: The time: rows without a checkpoint may be some minutes old.
        memory_path: What the controller remembers; not for a copy, which may be older.

    Raises:
        ConfigError: `audit_key` or `checkpoints_unreadable`.
        StorageError: The store cannot be used.
    """
    # In this order: the file has at least what is remembered, and the store at least that.
    memory = read_memory(memory_path) if memory_path is not None else None
    found = read_lines(checkpoints_path, _load_public(public))
    lines = since_beginning(found.lines)
    covered, _ = coverage(lines)
    digests = [(memory.seq, memory.digest)] if memory is not None else []
    with store.read() as tx:
        fault = first_fault(tx.audit.after(0), lines, digests)
        last = tx.audit.newest()
        oldest = next(tx.audit.after(covered), None)
    if fault is None and found.bad_line is not None:
        why = f"{checkpoints_path} line {found.bad_line} is not of this fleet's key"
        fault = Fault(covered + 1, why, KEEP)
    if fault is None:
        fault = _unvouched(found, memory, oldest, checkpoints_path, now_unix_ms)
    rows = last.seq if last else 0
    beginning = lines[0] if lines else None
    return Verdict(
        fault,
        rows,
        sum(isinstance(line, Checkpoint) for line in found.lines),
        max(0, rows - covered),
        beginning if isinstance(beginning, Beginning) and beginning.is_acknowledged else None,
    )


def _unvouched(
    found: Lines, memory: Memory | None, oldest: Entry | None, path: Path, now_unix_ms: int
) -> Fault | None:
    """Return the first row that nothing speaks for, though nothing speaks against it.

    `oldest` is the first row that no checkpoint covers.
    """
    lines = since_beginning(found.lines)
    _, gap = coverage(lines)
    lost = [line for line in lines if isinstance(line, Beginning) and not line.is_acknowledged]
    if memory is not None and memory.lost is not None:
        lost.append(memory.lost)
    first = oldest.seq if oldest is not None else 1
    if memory is not None and not found.has(memory):
        hint = f"put the file back from where it went; {ACKNOWLEDGE}"
        return Fault(first, _unknown_last(memory, path), hint)
    if lost:
        why = (
            f"rows up to {lost[0].seq} are not vouched for: the controller found that {lost[0].why}"
        )
        return Fault(1, why, ACKNOWLEDGE)
    if gap is not None:
        why = f"rows {gap[0]} to {gap[1]} have no checkpoint in {path}, and later ones have"
        return Fault(gap[0], why, f"look for lines that were taken out of it; {ACKNOWLEDGE}")
    if oldest is None:
        return None
    is_young = -OLD_MS <= now_unix_ms - oldest.at_unix_ms <= OLD_MS
    if not found.lines and not (is_young and memory is not None):
        what = "no line of it is a checkpoint" if path.exists() else "there is no such file"
        hint = (
            f"`[audit] checkpoints` names it; a controller writes it within a minute; {ACKNOWLEDGE}"
        )
        return Fault(1, f"nothing witnesses the rows: {path}: {what}", hint)
    if not is_young:
        why = f"rows from {oldest.seq} on have no checkpoint in {path}, and are not new"
        hint = (
            "start the controller if it is down, read its log if it runs, and verify again; a copy"
        )
        return Fault(oldest.seq, why, f"{hint} of the file may be too old; {ACKNOWLEDGE}")
    return None


def _unknown_last(memory: Memory, path: Path) -> str:
    if memory.sig == DAMAGED:
        return f"what the controller remembers of {path} is damaged"
    return f"the line that was written last, of row {memory.seq}, is not in {path}"


def _write_new(path: Path, text: str, mode: int) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(handle, "w") as file:
        file.write(f"{text}\n")
        file.flush()
        os.fsync(file.fileno())


def _load(path: Path) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(_read_key(path))


def _load_public(path: Path) -> Ed25519PublicKey:
    return Ed25519PublicKey.from_public_bytes(_read_key(path))


def _read_key(path: Path) -> bytes:
    try:
        raw = bytes.fromhex(path.read_text("ascii"))
    except (OSError, ValueError) as exc:
        raise ConfigError(
            f"{path} is no key of an audit log: {exc}",
            code="audit_key",
            hint="it is made by `fleet init`; restore it from a backup",
        ) from exc
    if len(raw) != 32:
        raise ConfigError(f"{path} is no key of an audit log", code="audit_key")
    return raw
