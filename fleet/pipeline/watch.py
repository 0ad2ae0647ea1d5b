"""Trains a project again when something calls for it: looks, decides, starts the pipeline, tells.

What is decided is `fleet.core.retraining`'s. What is started is on disk first; a watcher that is killed in
the middle finds its run again, and starts it anew with the same evidence: the pipeline goes on
where it was. A run ends before the rollout, unless the project says `auto`; then its rollout
counts too, and a halt is a refusal.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from fleet.core import retraining as core
from fleet.core.retraining import AccuracySeen, DriftSeen, Seen, Start, Stopped, Verdict, Wait
from fleet.durable import write_durably
from wire.errors import StorageError

from .record import FILE_NAME as RECORD_NAME
from .record import MAX_RECORD_BYTES, RunRecord, parse_record
from .retrain_state import FOLDER, Entry, State, locked, read_state, write_state
from .triggers import Watched

COMMAND: Final = (sys.executable, "-m", "fleet", "pipeline", "run")
MAX_ATTEMPTS: Final = 3
"""Starts of one run, the first included; one that is interrupted more often has failed."""
MAX_EVIDENCE_BYTES: Final = 60 * 1024
"""Of what a trigger saw; the pipeline takes 64 KiB with the rest."""
GRACE_S: Final = 20.0
"""How long a run may take to end in order."""


class Fleet(Protocol):
    """A controller, as triggers see it."""

    def findings(self, model: str) -> Sequence[DriftSeen]:
        """Return the drift findings of a model that last."""

    def accuracies(self, model: str) -> Sequence[AccuracySeen]:
        """Return the measured accuracies of releases that serve."""

    def rollout_state(self, rollout: str) -> tuple[str, str]:
        """Return the state of a rollout, and why."""

    def tell(self, model: str, *, is_stopped: bool, why: str) -> None:
        """Say whether the triggers are stopped."""


@dataclass(frozen=True, slots=True)
class _End:
    verdict: Verdict
    reason: str
    run: str = ""
    rollout: str | None = None


class Watcher:
    """See the module. `look` is one round."""

    def __init__(
        self,
        watched: Watched,
        fleet: Fleet,
        clock: Callable[[], int],
        say: Callable[[str], None],
        *,
        command: Sequence[str] = COMMAND,
        options: Sequence[str] = (),
    ) -> None:
        """Prepare, read nothing.

        Args:
            watched: The project.
            fleet: The controller.
            clock: Milliseconds of the Unix epoch.
            say: Tells a person.
            command: What runs the pipeline; the project's folder and options follow.
            options: More of these, such as whose keys to sign with.
        """
        self._watched = watched
        self._fleet = fleet
        self._clock = clock
        self._say = say
        self._command = tuple(command)
        self._options = tuple(options)

    def look(self, *, by_hand: str | None = None) -> core.Decision:
        """Bring an interrupted run to its end, decide, and run what was decided; return the decision.

        Args:
            by_hand: Why a person starts a run now; without it the triggers decide.

        Raises:
            ConfigError: `retrain_taken` or `state_unreadable`.
            StorageError: `state_unwritable`; nothing was started.
            TransferError: The controller does not answer; nothing was started.
        """
        with locked(self._watched.root) as lock:
            state = self._state()
            for entry in state.entries:
                if entry.ended_unix_ms is None:
                    state = self._run(state, self._again(entry), lock)
            state = self._follow(state)
            seen = self._seen(state, with_fleet=by_hand is None)
            if by_hand is not None:
                decision = core.by_hand(seen, by_hand)
            else:
                decision = core.decide(self._watched.policy, seen, self._clock())
            state = self._tell_stopped(state, decision)
            if isinstance(decision, Start):
                self._run(state, self._prepared(state, decision), lock)
            return decision

    def resume(self, why: str) -> State:
        """Let triggers start runs again after refusals.

        Raises:
            ConfigError: `retrain_taken` or `state_unreadable`.
            StorageError: `state_unwritable`.
            TransferError: The controller does not answer; the triggers are resumed all the same.
        """
        with locked(self._watched.root):
            changes = {"resumed_unix_ms": self._clock() + 1, "resumed_why": why}
            state = self._state().model_copy(update=changes)
            write_state(self._watched.root, state)
            if state.is_told_stopped:
                self._fleet.tell(self._watched.model, is_stopped=False, why=why)
                state = state.model_copy(update={"is_told_stopped": False})
                write_state(self._watched.root, state)
            return state

    # -- what is known

    def _state(self) -> State:
        """Return the state, with no instant that is still to come; a new one is written at once."""
        now = self._clock()
        state = read_state(self._watched.root)
        if state is None:
            state = State(watched_unix_ms=now)
            write_state(self._watched.root, state)
        entries = []
        for entry in state.entries:
            (past,) = core.settled([entry.past()], now)
            times = {
                "started_unix_ms": past.started_unix_ms,
                "ended_unix_ms": past.ended_unix_ms,
            }
            entries.append(entry.model_copy(update=times))
        changes = {
            "entries": tuple(entries),
            "watched_unix_ms": min(state.watched_unix_ms, now),
            "resumed_unix_ms": min(state.resumed_unix_ms, now + 1),
        }
        settled = state.model_copy(update=changes)
        if settled != state:  # or each look would begin the cool-down anew
            write_state(self._watched.root, settled)
        return settled

    def _seen(self, state: State, *, with_fleet: bool) -> Seen:
        model, on = self._watched.model, self._watched.policy.on
        return Seen(
            findings=self._fleet.findings(model) if with_fleet and "drift" in on else (),
            accuracies=self._fleet.accuracies(model) if with_fleet and "accuracy" in on else (),
            runs=[entry.past() for entry in state.entries],
            watched_unix_ms=state.watched_unix_ms,
            resumed_unix_ms=state.resumed_unix_ms,
        )

    def _follow(self, state: State) -> State:
        """Take in how rollouts ended that runs have started by themselves."""
        for entry in state.entries:
            if entry.is_settled or entry.rollout is None:
                continue
            said, why = self._fleet.rollout_state(entry.rollout)
            verdict: Verdict | None = entry.verdict
            if said in ("halted", "inconclusive"):
                verdict = "halted" if said == "halted" else "inconclusive"
            if said in ("running", "paused", "proposed"):
                continue
            reason = f"{entry.rollout} is {said}: {why}"
            changes = {"is_settled": True, "verdict": verdict, "reason": reason}
            state = state.with_entry(entry.model_copy(update=changes))
            write_state(self._watched.root, state)
            self._say(f"run {entry.number}: {reason}")
        return state

    # -- runs

    def _prepared(self, state: State, start: Start) -> Entry:
        """Return a new entry; its evidence is on disk."""
        entry = Entry(
            number=state.next_number,
            kind=start.kind,
            why=start.why,
            causes=tuple(sorted(start.causes)),
            started_unix_ms=self._clock(),
        )
        evidence: Mapping[str, object] = start.evidence
        if len(json.dumps(evidence).encode()) > MAX_EVIDENCE_BYTES:
            evidence = {"causes": entry.causes[:1000], "is_cut": True}
        told = {
            "kind": start.kind,
            "why": start.why[:2000],
            "at_unix_ms": entry.started_unix_ms,
            "by": "fleet retrain",
            "evidence": evidence,
        }
        path = self._path(entry, "evidence.json")
        try:
            write_durably(path, json.dumps(told, indent=2).encode() + b"\n")
        except OSError as exc:
            raise StorageError(
                f"cannot write {path}: {exc.strerror}", code="state_unwritable"
            ) from exc
        return entry

    def _again(self, entry: Entry) -> Entry:
        return entry.model_copy(update={"attempts": entry.attempts + 1})

    def _run(self, state: State, entry: Entry, lock: int) -> State:
        """Run the pipeline to its end; the entry is on disk before it starts, and its end after."""
        root = self._watched.root
        if entry.attempts > MAX_ATTEMPTS:
            end = _End("failed", f"was interrupted {MAX_ATTEMPTS} times")
        else:
            state = state.with_entry(entry)
            write_state(root, state)
            again = f", attempt {entry.attempts}" if entry.attempts > 1 else ""
            self._say(f"run {entry.number} starts{again}: {entry.kind}, {entry.why}")
            end = self._end_of(entry, self._child(entry, lock))
        ended = entry.model_copy(
            update={
                "ended_unix_ms": max(self._clock(), entry.started_unix_ms),
                "verdict": end.verdict,
                "reason": end.reason[:2000],
                "run": end.run[:64],
                "rollout": end.rollout,
                "is_settled": end.rollout is None,
            }
        )
        state = state.with_entry(ended)
        write_state(root, state)
        what = " ".join(filter(None, (f"run {entry.number}", end.run)))
        self._say(f"{what} ended: {end.verdict}{f', {end.reason}' if end.reason else ''}")
        if end.verdict == "bless" and not self._watched.is_auto:
            self._say("it waits for a person: `fleet rollout start` begins its rollout")
        return state

    def _child(self, entry: Entry, lock: int) -> int:
        """Run the pipeline; return its exit code. It ends in order where this is interrupted."""
        argv = [
            *self._command,
            str(self._watched.root),
            *("--trigger", str(self._path(entry, "evidence.json")), "--json"),
            "--rollout" if self._watched.is_auto else "--no-rollout",
            *self._options,
        ]
        with (
            self._path(entry, "output.json").open("wb") as output,
            self._path(entry, "log").open("ab") as log,
            subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=output, stderr=log, pass_fds=(lock,)
            ) as child,
        ):
            try:
                return child.wait()
            except BaseException:
                child.send_signal(signal.SIGTERM)
                try:
                    child.wait(GRACE_S)
                except subprocess.TimeoutExpired:
                    child.kill()
                raise

    def _end_of(self, entry: Entry, code: int) -> _End:
        """Return how a run ended, by what it printed, else by the record that it left; and its exit code."""
        with self._path(entry, "output.json").open("rb") as file:
            record = parse_record(file.read(MAX_RECORD_BYTES))
        record = record or self._left(entry)
        why = f"the pipeline ended with code {code}; see {self._path(entry, 'log')}"
        if record is None:
            return _End("failed", why if code else "the pipeline left no record")
        if record.failure is not None:
            why = record.failure.message
        rollout = record.release.rollout if record.release is not None else None
        if record.verdict is None:
            verdict: Verdict = "failed" if code else "inconclusive"
            return _End(verdict, why if code else "nothing was evaluated", record.id, rollout)
        outcome, reasons = record.verdict.outcome, " ".join(record.verdict.reasons)
        if outcome == "bless" and code:  # good, and then its release failed
            return _End("inconclusive", why, record.id, rollout)
        return _End(outcome, reasons, record.id, rollout)

    def _left(self, entry: Entry) -> RunRecord | None:
        """Return the record in the folder of the run that was started with this evidence."""
        try:
            evidence = json.loads(self._path(entry, "evidence.json").read_bytes())
            paths = sorted((self._watched.root / "runs").glob(f"*/{RECORD_NAME}"))
            for path in paths:
                with path.open("rb") as file:
                    record = parse_record(file.read(MAX_RECORD_BYTES))
                if record is not None and record.trigger == evidence:
                    return record
        except (OSError, ValueError):
            return None
        return None

    def _path(self, entry: Entry, what: str) -> Path:
        return self._watched.root / FOLDER / f"{entry.number}.{what}"

    # -- telling

    def _tell_stopped(self, state: State, decision: core.Decision) -> State:
        """Tell the controller when the triggers stop, and when they are stopped no longer; once each."""
        is_stopped = isinstance(decision, Stopped)
        if is_stopped == state.is_told_stopped or decision == Wait("a run is under way"):
            return state
        if isinstance(decision, Start) and decision.kind == "hand":
            return state
        why = decision.why[:300] if isinstance(decision, Stopped) else ""
        self._fleet.tell(self._watched.model, is_stopped=is_stopped, why=why)
        state = state.model_copy(update={"is_told_stopped": is_stopped})
        write_state(self._watched.root, state)
        return state
