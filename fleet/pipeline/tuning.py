"""The search for parameters, by Optuna, in trials that can be resumed.

Everything is told to a journal in the project's folder before it is used, so that a search that was
killed goes on where it was. Each trial's chance comes from the plan's seed and from how many trials
came before it: the same plan proposes the same, in one go or in several, on any machine. Trials at
once are proposed together and told together, in the order of their numbers, so that the order in
which they end changes nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from wire.errors import ConfigError, ModelfleetError, StorageError

from .objectives import Objective, State, Trial, choose, front_of, rule_of
from .search import Choice, Parameters, Range, Space

STARTUP_TRIALS: Final = 10
"""Drawn at random before the search learns from them; Optuna's default."""
MIN_TRIALS_TO_PRUNE: Final = 5
"""Complete ones, before any is stopped for being below their median; Optuna's default."""
_INTERRUPTED: Final = "interrupted"
_REASON: Final = "reason"
_STATES: Final[Mapping[TrialState, State]] = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}

Report = Callable[[int, float], None]
Evaluate = Callable[[Parameters, Report], Mapping[str, float]]
"""Called with parameters and a function to report the mean of the first objective after each fold but the
last, by the fold's number from 0; returns all objectives by metric. `Pruned` must pass through. It trains, converts and asks in
child processes; where trials run at once it is called in threads, which only wait for them."""


class Pruned(Exception):  # noqa: N818 - no error: the trial fell behind
    """Raised by `Report`: this trial is below the median of those before it, and ends here."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A search.

    Attributes:
        space: What is searched.
        objectives: What for; with more than one, nothing is pruned.
        trials: How many, failed and pruned ones among them.
        jobs: How many at once.
        seed: Of the proposals.
        key: Digest of whatever else decides a trial's values, such as data and code: trials of another
            key are not taken for this search's.
    """

    space: Space
    objectives: tuple[Objective, ...]
    trials: int
    jobs: int = 1
    seed: int = 0
    key: str = ""

    def name(self) -> str:
        """Return the name of this search in the journal; the counts of trials and jobs are not in it."""
        parts = [
            {name: asdict(parameter) for name, parameter in self.space.items()},
            [(objective.metric, objective.direction) for objective in self.objectives],
            self.seed,
            self.key,
        ]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Tuned:
    """A finished search.

    Attributes:
        best: The trial to take.
        front: The trials that none beats; with one objective the best ones.
        trials: All, by number.
        rule: How the best was taken, in a sentence.
    """

    best: Trial
    front: tuple[Trial, ...]
    trials: tuple[Trial, ...]
    rule: str

    def to_json(self) -> dict[str, Any]:
        """Return it as what `json.dumps` takes."""
        return asdict(self)


def tune(plan: Plan, evaluate: Evaluate, journal: Path, progress: Callable[[str], None]) -> Tuned:
    """Search, or go on searching, until the plan's trials are made.

    Args:
        plan: The search.
        evaluate: Makes one trial. A `ModelfleetError` from it fails the trial, and the search goes on;
            anything else ends the search, and the trial is made again when it is resumed.
        journal: Optuna's, made if it is not there; may hold other searches too.
        progress: Takes one line a trial, for a person.

    Raises:
        ConfigError: `tuning_failed`, when no trial is complete.
        StorageError: `study_unreadable`.
    """
    distributions = {name: _distribution(parameter) for name, parameter in plan.space.items()}
    with _quiet():
        with _stored(journal):
            study = _open(plan, journal)
            _give_up_running(study)
        with _pool(plan.jobs) as run_all:
            while (made := len(_made(study))) < plan.trials:
                count = min(plan.jobs, plan.trials - made)
                study.sampler = _sampler(plan, made)
                with _stored(journal):
                    asked = [study.ask(distributions) for _ in range(count)]
                known = _values_known(study)
                jobs = [
                    _job(trial, plan, evaluate, known.get(_key(trial.params))) for trial in asked
                ]
                ended = run_all(jobs)
                with _stored(journal):
                    _tell(study, asked, ended)
                for number, end in enumerate(ended, made + 1):
                    progress(f"trial {number} of {plan.trials}: {_said(plan, end)}")
        trials = tuple(
            _trial(frozen, number) for number, frozen in enumerate(_made(study)[: plan.trials])
        )
    best = choose(trials, plan.objectives)
    if best is None:
        reasons = [trial.reason for trial in trials if trial.reason]
        raise ConfigError(
            f"none of {len(trials)} trials is complete; the last one: {reasons[-1]}"
            if reasons
            else f"none of {len(trials)} trials is complete",
            code="tuning_failed",
            hint="search other values, or train once with the parameters of one trial",
        )
    return Tuned(best, front_of(trials, plan.objectives), trials, rule_of(plan.objectives))


_Job = Callable[[], "_Ended"]
_RunAll = Callable[[Sequence[_Job]], "list[_Ended]"]


@dataclass(frozen=True, slots=True)
class _Ended:
    state: TrialState
    values: tuple[float, ...] = ()
    reason: str = ""


def _tell(study: optuna.Study, asked: Sequence[optuna.Trial], ended: Sequence[_Ended]) -> None:
    for trial, end in zip(asked, ended, strict=True):
        if end.reason:
            trial.set_user_attr(_REASON, end.reason)
        study.tell(trial, end.values or None, end.state)


def _said(plan: Plan, end: _Ended) -> str:
    pairs = zip(plan.objectives, end.values, strict=False)
    values = ", ".join(f"{objective.metric} {value:.6g}" for objective, value in pairs)
    return values or end.reason or _STATES[end.state]


def _values_known(study: optuna.Study) -> dict[str, tuple[float, ...]]:
    """Return the values of complete trials by their parameters."""
    return {
        _key(frozen.params): tuple(frozen.values)
        for frozen in _made(study)
        if frozen.state == TrialState.COMPLETE
    }


def _job(
    trial: optuna.Trial, plan: Plan, evaluate: Evaluate, known: tuple[float, ...] | None
) -> _Job:
    def report(fold: int, value: float) -> None:
        if len(plan.objectives) > 1:
            return  # Optuna prunes by one objective only
        trial.report(value, fold)
        if trial.should_prune():
            raise Pruned

    def run() -> _Ended:
        if known is not None:  # the same parameters: a trial is a function of them
            return _Ended(TrialState.COMPLETE, known)
        try:
            found = evaluate(dict(trial.params), report)
        except Pruned:
            return _Ended(TrialState.PRUNED)
        except ModelfleetError as exc:
            return _Ended(TrialState.FAIL, reason=str(exc)[:500])
        values = tuple(float(found.get(o.metric, math.nan)) for o in plan.objectives)
        for objective, value in zip(plan.objectives, values, strict=True):
            if not math.isfinite(value):
                return _Ended(TrialState.FAIL, reason=f"{objective.metric} is no finite number")
        return _Ended(TrialState.COMPLETE, values)

    return run


@contextlib.contextmanager
def _pool(jobs: int) -> Iterator[_RunAll]:
    """Give a function that makes trials at once; one at a time in this thread, so that Ctrl-C ends it."""
    if jobs == 1:
        yield lambda todo: [job() for job in todo]
        return
    with ThreadPoolExecutor(jobs, thread_name_prefix="trial") as executor:
        yield lambda todo: [future.result() for future in [executor.submit(job) for job in todo]]


def _open(plan: Plan, journal: Path) -> optuna.Study:
    journal.parent.mkdir(parents=True, exist_ok=True)
    _drop_torn_line(journal)
    # An absolute path: Optuna's lock is a link to it, in whatever directory is the current one.
    backend = JournalFileBackend(str(journal.resolve()))
    return optuna.create_study(
        storage=optuna.storages.JournalStorage(backend),
        study_name=plan.name(),
        directions=[objective.direction for objective in plan.objectives],
        pruner=optuna.pruners.MedianPruner(n_startup_trials=MIN_TRIALS_TO_PRUNE),
        load_if_exists=True,
    )


def _drop_torn_line(journal: Path) -> None:
    """Cut off what a kill left of a line: Optuna would write the next one behind it, and read neither."""
    with contextlib.suppress(FileNotFoundError), journal.open("rb+") as file:
        content = file.read()
        whole = content.rfind(b"\n") + 1
        if whole != len(content):
            file.truncate(whole)
            os.fsync(file.fileno())


def _give_up_running(study: optuna.Study) -> None:
    """Put an end to the trials that an earlier search had begun; they are made anew."""
    for frozen in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.set_user_attr(f"{_INTERRUPTED}.{frozen.number}", value=True)
        study.tell(frozen.number, state=TrialState.FAIL)


def _made(study: optuna.Study) -> list[FrozenTrial]:
    """Return the trials that count, by number."""
    interrupted = study.user_attrs
    return [
        frozen
        for frozen in study.get_trials(deepcopy=False, states=tuple(_STATES))
        if f"{_INTERRUPTED}.{frozen.number}" not in interrupted
    ]


def _sampler(plan: Plan, made: int) -> optuna.samplers.BaseSampler:
    chance = hashlib.sha256(f"{plan.seed} {made}".encode()).digest()
    return optuna.samplers.TPESampler(
        seed=int.from_bytes(chance[:4], "big"), n_startup_trials=STARTUP_TRIALS
    )


def _distribution(parameter: Range | Choice) -> BaseDistribution:
    if isinstance(parameter, Choice):
        return CategoricalDistribution(parameter.values)
    if parameter.is_whole:
        step = int(parameter.step or 1)
        return IntDistribution(int(parameter.low), int(parameter.high), parameter.is_log, step)
    return FloatDistribution(parameter.low, parameter.high, parameter.is_log, parameter.step)


def _trial(frozen: FrozenTrial, number: int) -> Trial:
    state = _STATES[frozen.state]
    values = tuple(frozen.values) if state == "complete" else ()
    reported = tuple(value for _, value in sorted(frozen.intermediate_values.items()))
    reason = frozen.user_attrs.get(_REASON, "")
    return Trial(number, state, dict(frozen.params), values, reason, reported)


def _key(parameters: Mapping[str, Any]) -> str:
    return json.dumps(dict(parameters), sort_keys=True)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)


@contextlib.contextmanager
def _stored(journal: Path) -> Iterator[None]:
    """Say what is wrong with the journal, in place of what Optuna meets in it."""
    try:
        yield
    except OSError as exc:
        raise StorageError(
            f"cannot keep the search in {journal}: {exc.strerror or exc}", code="study_unreadable"
        ) from exc
    except (ValueError, KeyError, TypeError, AttributeError, AssertionError) as exc:
        raise StorageError(
            f"{journal} is no journal of a search, or is damaged",
            code="study_unreadable",
            hint="delete it, and search anew",
        ) from exc
