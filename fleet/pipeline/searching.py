"""The step `tune`: each trial is trained, converted and asked, in child processes.

It is asked on the validation rows, or, with `[tune] folds`, on each fold of the train rows by a model of
the other folds; a trial whose mean falls behind is stopped between two folds.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Final

from pydantic import JsonValue

from converter import measure
from wire.errors import ConfigError

from . import steps
from .evaluation import ALL, Sureness, cut_slices, evaluate
from .folds import fold_rows
from .judging import predict
from .katib import MAX_KATIB_BYTES, read_katib
from .making import BUNDLE_FILE, TUNING, Maker
from .objectives import Objective
from .project import PARTS, Project, Tune
from .run import Run
from .search import Parameters, Space, read_space
from .snapshot import load_part
from .tuning import Plan, Report, Tuned, tune
from .verdict import COSTS

JOURNAL: Final = "tuning.journal"
LOGS: Final = "trials"
VALIDATION: Final = PARTS[1]
TRIAL_VERSION: Final = "0.0.0"


def search_parameters(run: Run, maker: Maker, wanted: Tune) -> dict[str, JsonValue]:
    """Do the step `tune`; return the parameters to train with.

    Raises:
        ConfigError: `search_invalid`, `tuning_failed`, or no rows to search by.
        StorageError: `study_unreadable`.
    """
    # A trial is never released: its version is the same whatever the run's will be.
    maker = replace(maker, version=TRIAL_VERSION)
    project = maker.project
    if wanted.folds == 1 and not project.data.split.validation:
        raise ConfigError(
            "[tune] judges trials by the validation rows, and [data] split gives them no share",
            code="project_invalid",
            hint="give them one, or judge by folds of the train rows: [tune] folds = 5",
        )
    plan = _plan(project, wanted, run.listener.told)
    inputs: dict[str, JsonValue] = {
        "train": steps.key_of("train", maker.estimator(project.train.params, run.folder).inputs),
        "schema": maker.schema.digest if maker.schema is not None else "",
        "space": repr(sorted(plan.space.items())),
        "objectives": [[o.metric, o.direction] for o in plan.objectives],
    }
    if wanted.folds > 1:
        inputs["folds"] = wanted.folds
    # A search that is made longer goes on with the trials that it has.
    plan = replace(plan, key=steps.key_of("tune", inputs))
    inputs |= {"trials": plan.trials, "jobs": plan.jobs}

    def produce(folder: Path) -> None:
        journal = project.runs / JOURNAL
        makers = [replace(maker, rows=rows) for rows in fold_rows(run, maker, wanted.folds)]
        found = tune(plan, _Trials(run, makers, plan).evaluate, journal, run.listener.told)
        (folder / TUNING).write_text(json.dumps(_told(found, plan, wanted.folds)))

    entry = run.step("tune", inputs, produce, _tell)
    run.publish(entry.folder / TUNING, TUNING)
    best: Mapping[str, JsonValue] = json.loads((entry.folder / TUNING).read_bytes())["best"]
    tuned = {**project.train.params, **best}
    run.note(tuned=tuned)
    return tuned


class _Trials:
    """Makes one trial after the other, or several at once."""

    def __init__(self, run: Run, makers: Sequence[Maker], plan: Plan) -> None:
        self._run, self._makers, self._plan = run, makers, plan
        (run.folder / LOGS).mkdir(exist_ok=True)

    def evaluate(self, parameters: Parameters, report: Report) -> dict[str, float]:
        """Return all objectives of a model that is made with these parameters: their means over the folds."""
        found: list[dict[str, float]] = []
        first = self._plan.objectives[0].metric
        for number, maker in enumerate(self._makers):
            found.append(self._judged(maker, parameters, number))
            means = {name: fmean(values[name] for values in found) for name in found[0]}
            if not math.isfinite(means[first]):
                break  # no further fold makes a number of it
            if number + 1 < len(self._makers):
                report(number, means[first])
        return means

    def _judged(self, maker: Maker, parameters: Parameters, fold: int) -> dict[str, float]:
        params: dict[str, JsonValue] = {**maker.project.train.params, **parameters}
        name = steps.key_of("train", {"params": params})[:12]
        if len(self._makers) > 1:
            name += f"-{fold + 1}"
        trained = self._run.keep(maker.estimator(params, self._run.folder / LOGS / f"{name}.log"))
        bundle = self._run.keep(maker.bundle(trained)).folder / BUNDLE_FILE
        metrics = [o.metric for o in self._plan.objectives if o.metric not in COSTS]
        values: dict[str, float] = {}
        if metrics:
            predictions = predict(maker.project, maker.rows, bundle, VALIDATION)
            # No interval is needed: one resample is as good as none.
            found = evaluate(
                predictions,
                cut_slices({}, (), len(predictions.truth)),
                metrics=metrics,
                sureness=Sureness(min_rows=1, resamples=1),
            )
            for metric in metrics:
                figure = found.figure(metric, ALL)
                values[metric] = float("nan") if figure is None else _known(figure.value)
        if len(metrics) < len(self._plan.objectives):
            rows = load_part(maker.rows.folder, VALIDATION).values
            cost = measure(bundle, rows, timeout_s=maker.project.train.timeout_s)
            values |= {name: float(getattr(cost, name)) for name in COSTS}
        return {o.metric: values[o.metric] for o in self._plan.objectives}


def _plan(project: Project, wanted: Tune, told: Callable[[str], None]) -> Plan:
    space: Space = read_space(wanted.search) if wanted.search or wanted.katib is None else {}
    objective, trials, jobs = Objective(wanted.metric, wanted.direction), wanted.trials, wanted.jobs
    if wanted.katib is not None:
        path = project.root / wanted.katib
        try:
            with path.open("rb") as file:
                text = file.read(MAX_KATIB_BYTES + 1).decode("utf-8", "replace")
        except OSError as exc:
            raise ConfigError(
                f"[tune] katib: cannot read {path}: {exc.strerror}", code="search_invalid"
            ) from exc
        katib = read_katib(text)
        for note in katib.notes:
            told(note)
        space = {**katib.space, **space}
        given = wanted.model_fields_set
        objective = objective if "metric" in given else katib.objective
        trials = trials if "trials" in given else katib.trials or trials
        jobs = jobs if "jobs" in given else katib.jobs or jobs
    costs = tuple(Objective(name, "minimize") for name in wanted.objectives)
    return Plan(space, (objective, *costs), trials, jobs, project.train.seed)


def _told(found: Tuned, plan: Plan, folds: int) -> dict[str, JsonValue]:
    """Return what the report and the record need."""
    return {
        "metric": plan.objectives[0].metric,
        "direction": plan.objectives[0].direction,
        "objectives": [objective.metric for objective in plan.objectives],
        "rule": found.rule,
        "folds": folds,
        "best": dict(found.best.parameters),
        "values": list(found.best.values),
        "trials": [
            {
                "number": trial.number,
                "state": trial.state,
                "parameters": dict(trial.parameters),
                "values": list(trial.values),
                "reason": trial.reason,
                "reported": list(trial.reported),
            }
            for trial in found.trials
        ],
    }


def _known(value: float | None) -> float:
    return float("nan") if value is None else value


def _tell(folder: Path) -> str:
    found = json.loads((folder / TUNING).read_bytes())
    best = ", ".join(f"{name} = {value:.4g}" if isinstance(value, float) else f"{name} = {value}"
                     for name, value in found["best"].items())  # fmt: skip
    pruned = sum(trial["state"] == "pruned" for trial in found["trials"])
    stopped = f", {pruned} of them pruned" if pruned else ""
    mean = f" over {found['folds']} folds" if found["folds"] > 1 else ""
    return (
        f"{len(found['trials'])} trials{stopped}, {found['metric']} {found['values'][0]:.4f}{mean}"
        f" by {best}"
    )
