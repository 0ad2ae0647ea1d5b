"""Is the model good enough? The converted one, on rows that nothing was chosen by, beside the champion."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from pydantic import JsonValue

from converter import answer, measure
from wire.bundle import read_bundle
from wire.errors import BundleError, ConfigError, ModelfleetError
from wire.manifest import MODEL

from .cache import Entry
from .comparison import compare
from .evaluation import Sureness, cut_slices, evaluate
from .making import BUNDLE_FILE
from .predictions import Array, Predictions, read_predictions
from .project import PARTS, Project, Threshold
from .record import VerdictRecord, all_records
from .run import Run
from .snapshot import load_part
from .verdict import COSTS, Bounds, Limit, decide, judged_count, metrics_of, read_limits

EVALUATION: Final = "evaluation.json"
TEST: Final = PARTS[2]
NO_CHAMPION: Final = Path("none")
CALIBRATION_BINS: Final = 10
MAX_POINTS: Final = 1500
"""Of a regressor's answers that the report shows."""


@dataclass(frozen=True, slots=True)
class Champion:
    """What a new model is compared with."""

    bundle: Path
    model: str
    """Digest of its ONNX file."""


def judge(
    run: Run, project: Project, rows: Entry, bundle: Path, libraries: Mapping[str, str]
) -> Entry:
    """Do the step `evaluate`: measure, compare and decide; the record gets figures and verdict.

    Raises:
        ConfigError: A limit or a metric that there is not, or `champion_missing`.
        BundleError: `champion_unusable`, or what the model fails with on the rows.
    """
    limits = limits_of(project)
    champion = find_champion(run, project)
    model = _model_digest(bundle)

    def produce(folder: Path) -> None:
        found = _judge(project, rows, bundle, champion, limits)
        (folder / EVALUATION).write_text(json.dumps(found, sort_keys=True))

    inputs: dict[str, JsonValue] = {
        "model": model,
        "kind": project.model.kind,
        "data": rows.digest,
        "evaluate": project.evaluate.model_dump(mode="json", exclude={"champion"}),
        "champion": champion.model if champion is not None else None,
        "libraries": dict(libraries),
    }
    entry = run.step("evaluate", inputs, produce, _tell)
    run.publish(entry.folder / EVALUATION, EVALUATION)
    found = json.loads((entry.folder / EVALUATION).read_bytes())
    run.note(
        metrics={
            figure["metric"]: figure["value"]
            for figure in found["evaluation"]["figures"]
            if not figure["slice"] and figure["value"] is not None and "[" not in figure["metric"]
        },
        verdict=VerdictRecord(
            outcome=found["verdict"]["outcome"],
            reasons=tuple(reason["sentence"] for reason in found["verdict"]["reasons"]),
            champion=champion.model if champion is not None else None,
        ),
    )
    return entry


def limits_of(project: Project) -> tuple[Limit, ...]:
    """Return what `[evaluate]` asks for.

    Raises:
        ConfigError: `limit_invalid`.
    """
    wanted = project.evaluate
    return read_limits(
        _bounds(wanted.thresholds),
        _bounds(wanted.change),
        {name: _bounds(limits.thresholds) for name, limits in wanted.slices.items()},
        {name: _bounds(limits.change) for name, limits in wanted.slices.items()},
    )


def find_champion(run: Run, project: Project) -> Champion | None:
    """Return the bundle of `[evaluate] champion`, else that of the newest other run that was released.

    Of a run that was released itself it is the newest before that: what was released stays as it is.

    Raises:
        ConfigError: `champion_missing`.
    """
    given = project.evaluate.champion
    if given == NO_CHAMPION:
        return None
    if given is not None:
        path = project.root / given
        try:
            return Champion(path, _model_digest(path))
        except BundleError as exc:
            raise ConfigError(
                f"[evaluate] champion: {path}: {exc}", code="champion_missing", hint=exc.hint
            ) from exc
    mine = run.record.release
    released = [
        (record.release.pushed_unix_ms, record.id)
        for record in all_records(project.runs)
        if record.release is not None
        and record.id != run.record.id
        and (mine is None or record.release.pushed_unix_ms < mine.pushed_unix_ms)
        and (project.runs / record.id / BUNDLE_FILE).is_file()
    ]
    if not released:
        return None
    path = project.runs / max(released)[1] / BUNDLE_FILE
    return Champion(path, _model_digest(path))


def predict(project: Project, rows: Entry, bundle: Path, part: str) -> Predictions:
    """Return what the converted model answers to a part of the rows.

    Raises:
        BundleError: It does not answer them, or not in a form that can be judged.
    """
    table = load_part(rows.folder, part)
    trained = load_part(rows.folder, PARTS[0]).labels
    assert table.labels is not None and trained is not None  # noqa: S101, PT018 - a snapshot has
    return read_predictions(
        answer(bundle, table.values, timeout_s=project.train.timeout_s),
        table.labels,
        kind=project.model.kind,
        classes=np.unique(trained) if project.model.kind == "classifier" else None,
    )


def _judge(
    project: Project,
    rows: Entry,
    bundle: Path,
    champion: Champion | None,
    limits: tuple[Limit, ...],
) -> dict[str, Any]:
    table = load_part(rows.folder, TEST)
    slices = cut_slices(table.slices, project.data.slices, len(table.values))
    sureness = Sureness(
        confidence=project.evaluate.confidence,
        judged_count=judged_count(limits, tuple(slices)),
        seed=project.train.seed,
    )
    given = project.evaluate.metrics
    predictions = predict(project, rows, bundle, TEST)
    wanted = tuple(dict.fromkeys((*given, *metrics_of(limits, is_change=False)))) if given else ()
    evaluation = evaluate(predictions, slices, metrics=wanted, sureness=sureness)
    comparison = None
    if champion is not None:
        changes = metrics_of(limits, is_change=True)
        wanted = tuple(dict.fromkeys((*given, *changes))) if given else ()
        try:
            theirs = predict(project, rows, champion.bundle, TEST)
            comparison = compare(predictions, theirs, slices, metrics=wanted, sureness=sureness)
        except ModelfleetError as exc:
            raise BundleError(
                f"the champion {champion.bundle} cannot be compared with: {exc}",
                code="champion_unusable",
                hint='name another in [evaluate] champion, or none by champion = "none"',
            ) from exc
    costs = _costs(project, table.values, bundle, limits)
    theirs_costs = _costs(project, table.values, champion.bundle, limits) if champion else {}
    verdict = decide(evaluation, comparison, limits, costs=costs, champion_costs=theirs_costs)
    return {
        "evaluation": evaluation.to_json(),
        "comparison": comparison.to_json() if comparison is not None else None,
        "verdict": verdict.to_json(),
        "costs": costs,
        **_picture(predictions),
    }


def _costs(
    project: Project, values: Array, bundle: Path, limits: tuple[Limit, ...]
) -> dict[str, float]:
    """Return what the model takes, where a limit asks: it is measured, and never twice the same."""
    if not any(limit.metric in COSTS for limit in limits):
        return {}
    cost = measure(bundle, values, timeout_s=project.train.timeout_s)
    return {name: float(getattr(cost, name)) for name in COSTS}


def _picture(predictions: Predictions) -> dict[str, Any]:
    """Return the points of the report's picture: of a classifier, how sure and how right it is."""
    if predictions.kind == "regressor":
        chosen = np.linspace(0, len(predictions.truth) - 1, MAX_POINTS).astype(int)
        rows = np.unique(chosen)
        return {
            "points": {
                "true": predictions.truth[rows].astype(float).tolist(),
                "answered": predictions.answers[rows].astype(float).tolist(),
            }
        }
    if predictions.scores is None:
        return {}
    said = predictions.scores.max(axis=1)
    is_right = predictions.answers == predictions.truth
    places = np.minimum((said * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    bins = [places == place for place in range(CALIBRATION_BINS) if (places == place).any()]
    return {
        "calibration": {
            "said": [float(said[rows].mean()) for rows in bins],
            "true": [float(is_right[rows].mean()) for rows in bins],
            "row_counts": [int(rows.sum()) for rows in bins],
        }
    }


def _bounds(limits: Mapping[str, Threshold]) -> dict[str, Bounds]:
    return {name: limit.model_dump(exclude_none=True) for name, limit in limits.items()}


def _model_digest(bundle: Path) -> str:
    return read_bundle(bundle).manifest.file(MODEL).sha256


def _tell(folder: Path) -> str:
    verdict = json.loads((folder / EVALUATION).read_bytes())["verdict"]
    return f"{verdict['outcome']}: {verdict['reasons'][0]['sentence']}"
