"""The file that witnesses the audit log, and what the controller remembers of it beside its key.

The file is outside of the database, and may be on another disk; lines are only ever added. The
system's log is where a machine's logs are collected from, so a copy leaves the machine without a
connection of ours. The controller's retained presence was weighed and left: every device would be
sent each checkpoint, and none could do anything with it.

Whoever can write the file can take lines out of it. So the last one is remembered where the key is
that signs them: who can write there needs no more than that key anyway.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from logging.handlers import SysLogHandler
from pathlib import Path
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from fleet.core.audit import GENESIS, Beginning, Checkpoint, Line
from fleet.durable import sync_folder, write_durably
from wire.errors import ConfigError

DEVICE: Final = Path("/dev/log")
MEMORY_FILE: Final = "audit.last"
"""In the folder of the key."""


@dataclass(frozen=True, slots=True)
class Memory:
    """The line that was written last, and the beginning that nobody has acknowledged yet.

    `sig` is empty before the first line; it is `DAMAGED` where the memory could not be read.
    """

    seq: int
    digest: str
    at_unix_ms: int
    sig: str
    lost: Beginning | None = None


NOTHING_YET: Final = Memory(0, GENESIS, 0, "")
DAMAGED: Final = "damaged"


@dataclass(frozen=True, slots=True)
class Lines:
    """What a file of checkpoints holds: lines with a good signature, in order, and their signatures.

    `bad_line` is the first that has another's signature. A line that is no JSON is one that a crash
    tore: it witnesses nothing.
    """

    lines: tuple[Line, ...]
    signatures: tuple[str, ...]
    bad_line: int | None

    def has(self, memory: Memory) -> bool:
        """Whether the line is there that was written last."""
        return not memory.sig or memory.sig in self.signatures


def read_lines(path: Path, key: Ed25519PublicKey) -> Lines:
    """Read a file of checkpoints, or what a system's log has of it.

    Raises:
        ConfigError: `checkpoints_unreadable`.
    """
    found: list[Line] = []
    signatures: list[str] = []
    bad: int | None = None
    texts: list[str] = []
    try:
        texts = path.read_text("utf-8", "replace").splitlines()
    except FileNotFoundError:
        pass
    except OSError as exc:
        raise ConfigError(
            f"cannot read {path}: {exc.strerror}",
            code="checkpoints_unreadable",
            hint="`[audit] checkpoints` in fleet.toml names the file",
        ) from exc
    for number, text in enumerate(texts, start=1):
        try:
            raw = json.loads(text[max(0, text.find("{")) :])
        except (ValueError, RecursionError):
            continue
        try:
            line = _parse(raw)
            key.verify(bytes.fromhex(raw["sig"]), line.signed_bytes)
        except (InvalidSignature, ValueError, KeyError, TypeError, OverflowError):
            bad = bad or number
            continue
        found.append(line)
        signatures.append(raw["sig"])
    return Lines(tuple(found), tuple(signatures), bad)


class CheckpointFile:
    """Adds lines, from the controller and from `fleet audit begin`, one after the other."""

    def __init__(self, path: Path, key: Ed25519PrivateKey, memory: Path) -> None:
        self.path = path
        self.key = key
        self._memory = memory

    def read(self) -> Lines:
        """Return the lines that are there.

        Raises:
            ConfigError: As `read_lines`.
        """
        return read_lines(self.path, self.key.public_key())

    def memory(self) -> Memory | None:
        """Return what was written last, None where nobody remembered that yet."""
        return read_memory(self._memory)

    def add(self, make: Callable[[], Line]) -> Line:
        """Sign and add a line; it is on disk, remembered, and told to the system's log.

        Args:
            make: Returns the line; called while no other process adds one.

        Raises:
            OSError: It is not there, or is there and not remembered: then it is added again.
        """
        with self._locked() as handle:
            line = make()
            sig = self.key.sign(line.signed_bytes).hex()
            text = json.dumps({**fields(line), "sig": sig}, separators=(",", ":"))
            # A line that a crash tore must not take this one with it.
            os.write(handle, f"\n{text}\n".encode())
            os.fsync(handle)
            self.remember(line, sig)
        _to_syslog(f"audit checkpoint {text}")
        return line

    def remember(self, line: Line, sig: str) -> None:
        """Keep which line is the last; that nobody acknowledged a beginning stays so until somebody does.

        Raises:
            OSError: It cannot be written.
        """
        former = self.memory()
        lost = former.lost if former else None
        if isinstance(line, Beginning):
            lost = None if line.is_acknowledged else line
        write_memory(self._memory, Memory(line.seq, line.digest, line.at_unix_ms, sig, lost))

    @contextlib.contextmanager
    def _locked(self) -> Iterator[int]:
        is_new = not self.path.exists()
        handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            if is_new:
                sync_folder(self.path.parent)
            yield handle
        finally:
            os.close(handle)


def read_memory(path: Path) -> Memory | None:
    """Return what was written last; None where there is no memory.

    Raises:
        ConfigError: `audit_key`: this user may not read it.
    """
    try:
        raw = json.loads(path.read_text("utf-8", "replace"))
        lost = _beginning(raw["lost"]) if raw["lost"] is not None else None
        return Memory(
            int(raw["seq"]), str(raw["digest"]), int(raw["at_unix_ms"]), str(raw["sig"]), lost
        )
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise ConfigError(
            f"cannot read {path}: {exc.strerror}",
            code="audit_key",
            hint="run it as the user whose fleet it is",
        ) from exc
    except (ValueError, KeyError, TypeError, RecursionError):
        return Memory(0, GENESIS, 0, DAMAGED)


def write_memory(path: Path, memory: Memory) -> None:
    """Keep what was written last.

    Raises:
        OSError: It cannot be written.
    """
    raw = {
        "seq": memory.seq,
        "digest": memory.digest,
        "at_unix_ms": memory.at_unix_ms,
        "sig": memory.sig,
        "lost": fields(memory.lost) if memory.lost else None,
    }
    write_durably(path, json.dumps(raw).encode(), mode=0o600)


def fields(line: Line) -> dict[str, object]:
    """Return what a line says, for JSON."""
    if isinstance(line, Beginning):
        return {
            "begins_after": line.seq,
            "digest": line.digest,
            "why": line.why,
            "is_acknowledged": line.is_acknowledged,
            "at_unix_ms": line.at_unix_ms,
        }
    return {
        "first": line.first,
        "seq": line.seq,
        "digest": line.digest,
        "rows": list(line.rows),
        "at_unix_ms": line.at_unix_ms,
    }


def _parse(raw: Any) -> Line:
    if "begins_after" in raw:
        return _beginning(raw)
    rows = tuple(map(str, raw["rows"]))
    digest, at = str(raw["digest"]), int(raw["at_unix_ms"])
    return Checkpoint(int(raw["first"]), int(raw["seq"]), digest, rows, at)


def _beginning(raw: Any) -> Beginning:
    seq, digest, at = int(raw["begins_after"]), str(raw["digest"]), int(raw["at_unix_ms"])
    return Beginning(seq, digest, str(raw["why"]), raw["is_acknowledged"] is True, at)


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
