"""The part of a report that is about how good a model is: figures with intervals, pictures, the champion."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import numpy as np

from . import charts
from .page import Page

MAX_ROWS: Final = 60
MAIN: Final = ("accuracy", "mae")
"""The figure that is drawn slice by slice."""


def add_figures(page: Page, found: dict[str, Any]) -> None:
    """Add what `evaluate` found, as `fleet.pipeline.judging` writes it."""
    evaluation, comparison = found["evaluation"], found["comparison"]
    page.section("Figures of the converted model")
    page.text(
        f"On {evaluation['row_count']:,} rows of the test part, by which nothing was chosen. In brackets the"
        f" interval of {evaluation['confidence']:.0%} confidence.",
        "quiet",
    )
    _table(page, evaluation["figures"])
    if charts.has_matplotlib():
        _pictures(page, found)
    page.section("Beside the champion")
    if comparison is None:
        page.text(
            "There is no champion: only the limits of the figures themselves decided.", "quiet"
        )
        return
    page.text(
        "The difference of each figure, this model's less the champion's, on the same rows.",
        "quiet",
    )
    _table(page, comparison["changes"], sign="+")
    if (test := comparison["mcnemar"]) is not None:
        page.text(
            f"Of {comparison['row_count']:,} rows both have {test['both']:,} right, this model alone"
            f" {test['challenger_only']:,}, the champion alone {test['champion_only']:,}. Between equals, such a"
            f" difference has the probability {test['p_value']:.3g} (McNemar)."
        )


def _table(page: Page, figures: Iterable[dict[str, Any]], sign: str = "") -> None:
    """Add a row a metric, a column a slice."""
    listed = [figure for figure in figures if "[" not in figure["metric"]]
    slices = list(dict.fromkeys(figure["slice"] for figure in listed))[:6]
    metrics = list(dict.fromkeys(figure["metric"] for figure in listed))
    by_place = {(figure["metric"], figure["slice"]): figure for figure in listed}
    page.table(
        ("", *(name or "all rows" for name in slices)),
        [
            (metric, *(_cell(by_place.get((metric, name)), sign) for name in slices))
            for metric in metrics[:MAX_ROWS]
        ],
        numbers=range(1, len(slices) + 1),
    )


def _cell(figure: dict[str, Any] | None, sign: str) -> str:
    if figure is None:
        return ""
    if figure["value"] is None:
        return str(figure["fault"]).replace("_", " ")
    value = f"{figure['value']:{sign}.4f}"
    if figure["low"] is None:
        return value
    return f"{value} ({figure['low']:{sign}.3f} to {figure['high']:{sign}.3f})"


def _pictures(page: Page, found: dict[str, Any]) -> None:
    evaluation = found["evaluation"]
    drawn = [
        (figure["slice"] or "all rows", figure["value"], figure["low"], figure["high"])
        for figure in evaluation["figures"]
        if figure["metric"] in MAIN and figure["value"] is not None and figure["low"] is not None
    ]
    if drawn:
        metric = next(f["metric"] for f in evaluation["figures"] if f["metric"] in MAIN)
        page.picture(charts.intervals(drawn, metric))
    if evaluation["confusion"]:
        page.picture(
            charts.confusion(np.array(evaluation["confusion"]), evaluation["classes"]),
            "How often which label was answered for which.",
        )
    if (points := found.get("calibration")) is not None:
        said, true, counts = (np.array(points[name]) for name in ("said", "true", "row_counts"))
        page.picture(
            charts.calibration(said, true, counts),
            "How often the model is right, by how sure it says it is. On the line its probabilities are"
            " what they say; the larger a point, the more rows.",
        )
    if (points := found.get("points")) is not None:
        page.picture(charts.scatter(np.array(points["true"]), np.array(points["answered"])))


def add_search(page: Page, found: dict[str, Any]) -> None:
    """Add what `tune` found, as `fleet.pipeline.searching` writes it."""
    page.heading(f"Search over {len(found['trials'])} trials")
    page.text(found["rule"], "quiet")
    folds = found["folds"]
    if folds > 1:
        page.text(
            f"Each figure is a mean over {folds} folds of the train rows. A trial is pruned when its mean"
            " over the folds so far is behind the median of those before it.",
            "quiet",
        )
    values = [trial["values"][0] if trial["values"] else None for trial in found["trials"]]
    if charts.has_matplotlib() and any(value is not None for value in values):
        page.picture(
            charts.search(values, _best_until(values, found["direction"]), found["metric"])
        )
    page.table(
        ("trial", "", *found["objectives"], *(["folds"] if folds > 1 else []), "parameters"),
        [
            (
                trial["number"] + 1,
                trial["state"],
                *(trial["values"] or [None] * len(found["objectives"])),
                *([_folds(trial, folds)] if folds > 1 else []),
                trial["reason"] or _parameters(trial["parameters"]),
            )
            for trial in found["trials"][:MAX_ROWS]
        ],
    )


def _folds(trial: dict[str, Any], count: int) -> str:
    """Return how far a trial came: what it had reached tells why it was pruned."""
    if trial["state"] != "pruned":
        return f"{count}" if trial["values"] else ""
    return f"{len(trial['reported'])} of {count}, mean {trial['reported'][-1]:.4g}"


def _best_until(values: list[float | None], direction: str) -> list[float]:
    """Return the best of the first 1, 2, … trials; NaN before there is one."""
    better = np.fmax if direction == "maximize" else np.fmin
    known = np.array([np.nan if value is None else value for value in values])
    found: list[float] = better.accumulate(known).tolist()
    return found


def _parameters(parameters: dict[str, Any]) -> str:
    return ", ".join(
        f"{name} = {value:.4g}" if isinstance(value, float) else f"{name} = {value}"
        for name, value in parameters.items()
    )
