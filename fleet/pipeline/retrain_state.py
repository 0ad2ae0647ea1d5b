"""What triggers have started so far: one file in the project's folder, written before each step."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fleet.core.retraining import Kind, PastRun, Verdict
from fleet.durable import write_durably
from wire.codec import first_fault
from wire.errors import ConfigError, StorageError

FOLDER: Final = "runs/retrain"
FILE_NAME: Final = "state.json"
LOCK_NAME: Final = "lock"
MAX_STATE_BYTES: Final = 4 * 1024 * 1024
MAX_KEPT: Final = 200
"""Runs that are remembered: years of any budget that makes sense."""
Moment = Annotated[int, Field(ge=0)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Entry(_Part):
    """One run that was started; its evidence, output and log are files with its number."""

    number: Annotated[int, Field(ge=1)]
    kind: Kind
    why: str
    causes: tuple[str, ...] = ()
    started_unix_ms: Moment
    attempts: Annotated[int, Field(ge=1)] = 1
    """How often it was started: one that was interrupted goes on."""
    ended_unix_ms: Moment | None = None
    verdict: Verdict | None = None
    reason: str = ""
    run: str = ""
    """Id of the pipeline's run."""
    rollout: str | None = None
    """The rollout that it started by itself."""
    is_settled: bool = True
    """Whether that rollout has ended; true where there is none."""

    def past(self) -> PastRun:
        """Return it as decisions see it."""
        return PastRun(
            self.kind,
            self.started_unix_ms,
            self.ended_unix_ms,
            self.verdict,
            frozenset(self.causes),
            self.run or f"run {self.number}",
        )


class State(_Part):
    """All that is remembered between two looks."""

    v: Literal[1] = 1
    watched_unix_ms: Moment
    resumed_unix_ms: Moment = 0
    resumed_why: str = ""
    is_told_stopped: bool = False
    """Whether the controller was told that the triggers are stopped."""
    entries: tuple[Entry, ...] = ()

    def with_entry(self, entry: Entry) -> State:
        """Return the state with an entry, in place of one of the same number; the oldest go."""
        others = [old for old in self.entries if old.number != entry.number]
        return self.model_copy(update={"entries": (*others, entry)[-MAX_KEPT:]})

    @property
    def next_number(self) -> int:
        """The number of the next run."""
        return max((entry.number for entry in self.entries), default=0) + 1


@contextlib.contextmanager
def locked(root: Path) -> Iterator[int]:
    """Be the one who trains this project by triggers until the block ends; gives the lock's descriptor.

    A child that inherits it holds the lock as well: a run whose watcher was killed lets no other in.

    Raises:
        ConfigError: `retrain_taken`.
        StorageError: `state_unwritable`.
    """
    folder = root / FOLDER
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as exc:
        raise _unwritable(folder, exc) from exc
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise ConfigError(
                f"{root} is being trained, or watched, by another process",
                code="retrain_taken",
                hint="`fleet retrain status` shows it; wait for its end",
            ) from exc
        yield handle
    finally:
        os.close(handle)


def read_state(root: Path) -> State | None:
    """Return the state of a project, None where nobody has watched it yet.

    Raises:
        ConfigError: `state_unreadable`; nothing is started from what cannot be read.
    """
    path = root / FOLDER / FILE_NAME
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_STATE_BYTES + 1)
        if len(raw) > MAX_STATE_BYTES:
            raise ConfigError(f"{path} is over 4 MiB", code="state_unreadable")
        return State.model_validate_json(raw)
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise ConfigError(f"cannot read {path}: {exc.strerror}", code="state_unreadable") from exc
    except ValidationError as exc:
        raise ConfigError(
            f"{path}: {first_fault(exc)}",
            code="state_unreadable",
            hint="move it away to begin anew: budget, cool-down and refusals are forgotten then",
        ) from exc


def write_state(root: Path, state: State) -> None:
    """Put the state on disk, all of it or none.

    Raises:
        StorageError: `state_unwritable`.
    """
    folder = root / FOLDER
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_durably(folder / FILE_NAME, state.model_dump_json(indent=2).encode() + b"\n")
    except OSError as exc:
        raise _unwritable(folder, exc) from exc


def _unwritable(folder: Path, exc: OSError) -> StorageError:
    return StorageError(f"cannot write to {folder}: {exc.strerror}", code="state_unwritable")
