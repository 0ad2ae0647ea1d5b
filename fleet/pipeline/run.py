"""Running a pipeline: each step once, kept by the hash of its inputs, so that a killed run goes on."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from pydantic import JsonValue

from fleet.lease import hold_lease
from wire.errors import ConfigError, ModelfleetError, StorageError

from . import steps
from .cache import Cache, Entry
from .record import (
    LOCK,
    FailureRecord,
    RunRecord,
    RunState,
    StepRecord,
    read_record,
    write_record,
)

CACHE: Final = "cache"


class Listener(Protocol):
    """Who is told how a run goes."""

    def began(self, step: str) -> None:
        """A step that is not cached is being run."""

    def told(self, text: str) -> None:
        """A step says how it goes, in a line."""

    def ended(self, step: StepRecord, detail: str) -> None:
        """A step is there, or has failed."""


@dataclass(frozen=True, slots=True)
class Options:
    """How to run.

    Attributes:
        until: The last step to do, None for all.
        is_forced: Run every step, whatever is kept.
        push: Push the bundle, None for what `[release] push` says.
        roll_out: Start the rollout too, None for what `[rollout] auto` says.
        trigger: Evidence of what started the run, None for a person.
        is_kept_only: Make nothing: a step whose outcome is not kept is refused, so that none of the
            user's code runs.
    """

    until: str | None = None
    is_forced: bool = False
    push: bool | None = None
    roll_out: bool | None = None
    trigger: JsonValue = None
    is_kept_only: bool = False


@dataclass(frozen=True, slots=True)
class Recipe:
    """A step that can be done: all that its outcome depends on, and what writes it into a folder."""

    name: str
    inputs: steps.Inputs
    produce: Callable[[Path], None]


@dataclass(slots=True)
class Run:
    """A run that is going on: its record, its cache, and who is told.

    Attributes:
        folder: `runs/<id>`.
        record: As it was written last.
        cache: What steps made.
        listener: Who is told.
        options: How to run.
    """

    folder: Path
    record: RunRecord
    cache: Cache
    listener: Listener
    options: Options
    _now: str = field(default="start", init=False)

    def note(self, **changes: object) -> None:
        """Change the record, and write it.

        Raises:
            StorageError: `run_unwritable`.
        """
        self.record = self.record.model_copy(update=changes)
        write_record(self.folder, self.record)

    def step(
        self,
        name: str,
        inputs: steps.Inputs,
        produce: Callable[[Path], None],
        detail: Callable[[Path], str] = lambda _: "",
    ) -> Entry:
        """Return what a step made of its inputs, now or before.

        Args:
            name: One of `steps.ORDER`.
            inputs: All that its outcome depends on.
            produce: Writes files into an empty folder.
            detail: A few words on what is in the folder then, for people.

        Raises:
            ConfigError: `step_not_kept`: it would have to be made, and `is_kept_only` forbids that.
        """
        key = steps.key_of(name, inputs)
        began_s = time.monotonic()
        self._now = name
        entry = None if self.options.is_forced else self.cache.find(name, key)
        is_cached = entry is not None
        if entry is None:
            self._require_making(name)
            self.listener.began(name)
            entry = self.cache.make(name, key, produce)
        done = StepRecord(
            name=name,
            state="cached" if is_cached else "ran",
            seconds=round(time.monotonic() - began_s, 3),
            key=key,
            output=entry.digest,
        )
        self.note(steps=(*self.record.steps, done))
        self.listener.ended(done, detail(entry.folder))
        return entry

    def follow(self, recipe: Recipe, detail: Callable[[Path], str] = lambda _: "") -> Entry:
        """Do a step as `step`, by its recipe."""
        return self.step(recipe.name, recipe.inputs, recipe.produce, detail)

    def keep(self, recipe: Recipe) -> Entry:
        """Return what a recipe makes, now or before, as part of a step; in any thread."""
        key = steps.key_of(recipe.name, recipe.inputs)
        entry = self.cache.find(recipe.name, key)
        if entry is None:
            self._require_making(recipe.name)
            entry = self.cache.make(recipe.name, key, recipe.produce)
        return entry

    def _require_making(self, name: str) -> None:
        if self.options.is_kept_only:
            raise ConfigError(
                f"{name} of this run is not kept here, and was not to be done again",
                code="step_not_kept",
                hint="bring runs/ of the same commit, data and libraries; or leave --kept out",
            )

    def act(self, name: str, do: Callable[[], str]) -> None:
        """Do what changes the fleet: it is never kept, and tells in a few words what it did."""
        began_s = time.monotonic()
        self._now = name
        self.listener.began(name)
        detail = do()
        done = StepRecord(name=name, state="ran", seconds=round(time.monotonic() - began_s, 3))
        self.note(steps=(*self.record.steps, done))
        self.listener.ended(done, detail)

    def is_over_after(self, *names: str) -> bool:
        """Whether the last step that was asked for is among these."""
        return self.options.until in names

    def settle(self, run_id: str) -> None:
        """Take the id that the run has now that all of its inputs are there; its folder moves.

        Raises:
            StorageError: `run_unwritable`.
        """
        if run_id == self.record.id:
            return
        folder = self.folder.with_name(run_id)
        before = _before(folder)
        try:
            if folder.exists():
                shutil.rmtree(folder)
            self.folder.rename(folder)
        except OSError as exc:
            raise StorageError(
                f"cannot write {folder}: {exc.strerror}", code="run_unwritable"
            ) from exc
        self.folder = folder
        self.note(id=run_id, release=before.release if before is not None else None)

    def end(self, state: RunState, error: Exception | None = None) -> None:
        """Write how the run ended."""
        failure = _failure(self._now, error) if error is not None else None
        self.note(state=state, failure=failure, ended_unix_ms=_now_ms())
        if error is not None:
            self.listener.ended(StepRecord(name=self._now, state="failed", seconds=0), "")

    def publish(self, source: Path, name: str) -> Path:
        """Put a file that a step made into the run's folder; return it there.

        Raises:
            StorageError: `run_unwritable`.
        """
        path = self.folder / name
        part = path.with_name(f".{name}.part")
        try:
            part.unlink(missing_ok=True)
            try:
                os.link(source, part)
            except OSError:  # a file system without links
                shutil.copyfile(source, part)
            part.replace(path)
            part.unlink(missing_ok=True)  # a rename between two links of one file does nothing
        except OSError as exc:
            raise StorageError(
                f"cannot write {path}: {exc.strerror}", code="run_unwritable"
            ) from exc
        return path


@contextlib.contextmanager
def hold_runs(runs: Path) -> Iterator[Cache]:
    """Be the only run in a folder until the block ends; give its cache.

    Raises:
        ConfigError: `run_going_on`.
        StorageError: `lease_unwritable` or `cache_unwritable`.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(hold_lease(runs / LOCK))
        except ConfigError as exc:
            raise ConfigError(
                f"another run is going on in {runs.parent}",
                code="run_going_on",
                hint=f"wait for it; {runs / LOCK} has the id of its process",
            ) from exc
        yield Cache(runs / CACHE)


@contextlib.contextmanager
def going_on(run: Run) -> Iterator[None]:
    """Have the record say how the block ended; what a kill leaves says that it was running."""
    try:
        yield
    except Exception as exc:
        run.end("failed", exc)
        raise
    except BaseException:
        run.end("interrupted")
        raise
    run.end("done")


def begin(runs: Path, record: RunRecord, cache: Cache, listener: Listener, options: Options) -> Run:
    """Return a run with its record written; what it released before is kept.

    Raises:
        StorageError: `run_unwritable`.
    """
    folder = runs / record.id
    run = Run(folder, record, cache, listener, options)
    before = _before(folder)
    trigger = record.trigger
    if trigger is None and before is not None:
        trigger = before.trigger  # whoever goes on with a run did not start it
    run.note(
        started_unix_ms=_now_ms(),
        trigger=trigger,
        release=before.release if before is not None else None,
    )
    return run


def _failure(step: str, error: Exception) -> FailureRecord:
    if isinstance(error, ModelfleetError):
        return FailureRecord(step=step, code=error.code, message=str(error), hint=error.hint)
    why = f"{type(error).__name__}: {error}"
    return FailureRecord(
        step=step,
        code="unforeseen",
        message=why,
        hint="a fault of the program: report it, with what it printed",
    )


def _before(folder: Path) -> RunRecord | None:
    """Return the record of a run that was made before, if it can be read."""
    try:
        return read_record(folder)
    except ConfigError:
        return None


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
