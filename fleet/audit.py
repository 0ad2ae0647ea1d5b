"""The audit log's witness: checkpoints, signed, in a file and in the system's log.

The file is outside of the database, and may be on another disk; lines are only ever added. The
system's log is where a machine's logs are collected from, so a copy leaves the machine without a
connection of ours. The controller's retained presence was weighed and left: every device would be
sent each checkpoint, and none could do anything with it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from logging.handlers import SysLogHandler
from pathlib import Path
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from fleet.core.audit import WITNESS_CHARS, Checkpoint, Fault, first_fault
from fleet.store.store import Store
from wire.errors import ConfigError

log = logging.getLogger(__name__)

EVERY_ROWS: Final = 64
OPEN_MS: Final = 60_000
"""The newest rows wait no longer than this for a checkpoint; until then they could be cut off."""
ALIVE_MS: Final = 24 * 3_600_000
"""A checkpoint this often though nothing happened: a file that stands still is noticed."""
KEY_FILE: Final = "audit.key"
PUBLIC_FILE: Final = "audit.pub"
DEVICE: Final = Path("/dev/log")


class Verdict(NamedTuple):
    """What `verify` found; `open_count` rows are newer than the newest checkpoint."""

    fault: Fault | None
    row_count: int
    checkpoint_count: int
    open_count: int


def found(fleet_dir: Path, store_dir: Path) -> None:
    """Make the key that signs checkpoints, and its public half in the fleet's directory.

    Idempotent; a public half that is there is never replaced.

    Raises:
        ConfigError: `audit_key`.
    """
    private, public = store_dir / "trust" / KEY_FILE, fleet_dir / PUBLIC_FILE
    try:
        if not private.exists():
            private.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
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
        """Load the key.

        Raises:
            ConfigError: `audit_key`.
        """
        self._store = store
        self._key = _load(key)
        self._path = path
        self._newest: Checkpoint | None = None
        self._has_failed = False
        checkpoints, _ = read_checkpoints(path, self._key.public_key())
        if checkpoints:
            self._newest = max(checkpoints, key=lambda c: (c.seq, c.at_unix_ms))
        with store.read() as tx:
            last = tx.audit.newest()
        if self._newest is not None and (last is None or last.seq < self._newest.seq):
            log.error(
                "the audit log ends at row %d, a checkpoint has row %d: `fleet audit verify`",
                last.seq if last else 0,
                self._newest.seq,
            )

    def look(self, now_unix_ms: int, *, is_last: bool = False) -> None:
        """Write a checkpoint if one is due; with `is_last`, if there is anything to witness."""
        seq = self._newest.seq if self._newest else 0
        with self._store.read() as tx:
            last = tx.audit.newest()
            count = (last.seq if last else 0) - seq
            since = self._newest.at_unix_ms if self._newest else 0
            first = next(tx.audit.after(seq), None) if count > 0 else None
            is_due = (
                count >= EVERY_ROWS
                or (first is not None and now_unix_ms - first.at_unix_ms >= OPEN_MS)
                or (last is not None and not 0 <= now_unix_ms - since < ALIVE_MS)
                or (is_last and count > 0)
            )
            if last is None or count < 0 or not is_due:
                return
            rows = tuple(entry.digest[:WITNESS_CHARS] for entry in tx.audit.after(seq))
        checkpoint = Checkpoint(seq + 1, last.seq, last.digest, rows, now_unix_ms)
        self._write(checkpoint)

    def _write(self, checkpoint: Checkpoint) -> None:
        signature = self._key.sign(checkpoint.signed_bytes).hex()
        line = json.dumps({**_fields(checkpoint), "sig": signature}, separators=(",", ":"))
        try:
            handle = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            try:
                # A line that a crash tore must not take this one with it.
                os.write(handle, f"\n{line}\n".encode())
                os.fsync(handle)
            finally:
                os.close(handle)
        except OSError as exc:
            if not self._has_failed:
                log.error(  # noqa: TRY400 - the sentence says all
                    "cannot write %s: %s; audit goes unwitnessed", self._path, exc.strerror
                )
            self._has_failed = True
            return
        self._has_failed = False
        self._newest = checkpoint
        _to_syslog(f"audit checkpoint {checkpoint.seq} {checkpoint.digest} {signature}")


def verify(store: Store, checkpoints_path: Path, public: Path) -> Verdict:
    """Hold the whole log against its chain and against the checkpoints.

    Raises:
        ConfigError: `audit_key`.
    """
    checkpoints, bad_line = read_checkpoints(checkpoints_path, _load_public(public))
    newest = max((c.seq for c in checkpoints), default=0)
    with store.read() as tx:
        fault = first_fault(tx.audit.after(0), checkpoints)
        last = tx.audit.newest()
    if fault is None and bad_line is not None:
        fault = Fault(newest + 1, f"{checkpoints_path} line {bad_line} is not of this fleet's key")
    rows = last.seq if last else 0
    return Verdict(fault, rows, len(checkpoints), max(0, rows - newest))


def read_checkpoints(path: Path, key: Ed25519PublicKey) -> tuple[list[Checkpoint], int | None]:
    """Return the checkpoints with a good signature, and the first line that has none.

    A line that is no JSON is one that a crash tore: it witnesses nothing, and is no fault.
    """
    checkpoints: list[Checkpoint] = []
    bad: int | None = None
    lines: list[str] = []
    with contextlib.suppress(FileNotFoundError):
        lines = path.read_text("utf-8", "replace").splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            raw = json.loads(line)
        except (ValueError, RecursionError):
            continue
        try:
            checkpoint = Checkpoint(
                int(raw["first"]),
                int(raw["seq"]),
                str(raw["digest"]),
                tuple(map(str, raw["rows"])),
                int(raw["at_unix_ms"]),
            )
            key.verify(bytes.fromhex(raw["sig"]), checkpoint.signed_bytes)
        except (InvalidSignature, ValueError, KeyError, TypeError, OverflowError):
            bad = bad or number
            continue
        checkpoints.append(checkpoint)
    return checkpoints, bad


def _fields(checkpoint: Checkpoint) -> dict[str, object]:
    return {
        "first": checkpoint.first,
        "seq": checkpoint.seq,
        "digest": checkpoint.digest,
        "rows": list(checkpoint.rows),
        "at_unix_ms": checkpoint.at_unix_ms,
    }


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


def _to_syslog(text: str) -> None:
    if not DEVICE.exists():
        return
    with contextlib.suppress(OSError):
        handler = SysLogHandler(str(DEVICE), facility=SysLogHandler.LOG_AUTHPRIV)
        handler.ident = "modelfleet: "
        try:
            handler.emit(logging.LogRecord("audit", logging.INFO, "", 0, text, None, None))
        finally:
            handler.close()
