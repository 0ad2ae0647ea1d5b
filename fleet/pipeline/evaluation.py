"""How good a model is, on all rows and slice by slice, and how sure that is.

Every figure has an interval, and where there are too few rows it has a fault and no value. Limits are
judged by the interval, never by the value (`fleet.pipeline.verdict`). A figure has two: one at the
confidence asked for, and a wider one that holds for all judged figures at once. Who blesses needs all
of them to be good, which errs no more often than a single one (an intersection-union test: Berger,
Technometrics 24, 1982); who refuses needs only one to be bad, which errs more often the more there
are, so that the wider one is for that (Bonferroni).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import numpy as np

from wire.errors import ConfigError

from .intervals import (
    Interval,
    bootstrap,
    for_all,
    gather,
    jackknife_weights,
    resampled_weights,
    widened,
    wilson,
)
from .metrics import (
    Proportion,
    Statistic,
    bounds,
    class_of,
    confusion,
    is_known,
    names_of,
    needs_scores,
    proportion,
    statistic,
)
from .predictions import Array, BoolArray, FloatArray, Predictions

ALL: Final = ""
"""The slice of all rows."""
MIN_ROWS: Final = 30
"""In a slice, for a figure. Below it a share's interval is a third of its range wide."""
MAX_SLICES: Final = 256
MAX_CLASSES_LISTED: Final = 32
"""Of a model with more classes, figures of single classes are only made where they are asked for."""
RESAMPLES: Final = 2000
"""Efron and Tibshirani (1993, 19.3) ask for 1000 for the ends of an interval, and more for BCa."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One metric of one slice; of a comparison, the challenger's less the champion's.

    Attributes:
        metric: Its name.
        slice: As in `cut_slices`.
        row_count: Rows of the slice.
        value: Or None, and then `fault` says why.
        low: Lower end of the interval at the confidence asked for; None without an interval.
        high: Its upper end.
        low_all: Lower end of the interval that holds for all judged figures at once.
        high_all: Its upper end.
        method: Of the interval: `wilson`, `tango`, `bca`, `percentile`, `worst_case` or `equal`.
        fault: Empty; `too_few_rows`, `not_finite` (an answer is no number), `undefined` (as the ROC
            of one class), `no_scores`, `unknown_class` or `not_resampled` (a value without interval).
    """

    metric: str
    slice: str
    row_count: int
    value: float | None = None
    low: float | None = None
    high: float | None = None
    low_all: float | None = None
    high_all: float | None = None
    method: str = ""
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Of one model.

    Attributes:
        kind: Of the model.
        row_count: Of all rows.
        confidence: Of each interval.
        judged_count: Figures at once that the wider intervals hold for.
        figures: By slice, then by metric.
        classes: Of a classifier.
        confusion: Rows by true and by answered class, of all rows; empty for a regressor.
    """

    kind: str
    row_count: int
    confidence: float
    judged_count: int
    figures: tuple[Figure, ...]
    classes: tuple[str, ...] = ()
    confusion: tuple[tuple[int, ...], ...] = ()

    def figure(self, metric: str, slice_name: str = ALL) -> Figure | None:
        """Return a figure, or None where it was not made."""
        return find(self.figures, metric, slice_name)

    def to_json(self) -> dict[str, Any]:
        """Return it as what `json.dumps` takes."""
        return asdict(self)


def find(figures: Sequence[Figure], metric: str, slice_name: str) -> Figure | None:
    """Return the figure of a metric in a slice, or None."""
    return next((f for f in figures if f.metric == metric and f.slice == slice_name), None)


@dataclass(frozen=True, slots=True)
class Sureness:
    """How intervals are made.

    Attributes:
        confidence: Of each alone, two-sided.
        judged_count: Figures that are judged together.
        min_rows: Of a slice, for a figure.
        seed: Of the resamples.
        resamples: How many.
    """

    confidence: float = 0.95
    judged_count: int = 1
    min_rows: int = MIN_ROWS
    seed: int = 0
    resamples: int = RESAMPLES

    def generator(self, slice_name: str) -> np.random.Generator:
        """Return the chance of a slice: the same whatever else is evaluated."""
        name = hashlib.sha256(slice_name.encode(errors="surrogatepass")).digest()
        return np.random.default_rng([self.seed, int.from_bytes(name[:8], "big")])

    @property
    def confidence_all(self) -> float:
        """Of one interval among those that hold at once."""
        return for_all(self.confidence, self.judged_count)


def cut_slices(
    columns: Mapping[str, Array], by: Sequence[str | Sequence[str]], row_count: int
) -> dict[str, BoolArray]:
    """Return which rows each slice has: all of them, then those of each value of each column.

    Args:
        columns: By name, each of shape (n_rows,), strings.
        by: Names of columns, or several of them for each combination that there is.
        row_count: Of all rows.

    Returns:
        By name, such as `site=lab` or `shift=night,site=lab`; all rows as the empty name. In values
        `%`, `,` and `=` stand as `%25`, `%2C` and `%3D`.

    Raises:
        ConfigError: `slice_unknown`, a column that there is not; `too_many_slices`.
    """
    slices: dict[str, BoolArray] = {ALL: np.ones(row_count, np.bool_)}
    for keys in by:
        names = sorted({keys} if isinstance(keys, str) else set(keys))
        if missing := [name for name in names if name not in columns]:
            raise ConfigError(
                f"there is no column {missing[0]!r} to slice by, but {', '.join(columns) or 'none'}",
                code="slice_unknown",
                hint="name it in [data] slices",
            )
        labels = [[f"{name}={_escaped(value)}" for value in columns[name]] for name in names]
        whole = np.array([",".join(parts) for parts in zip(*labels, strict=True)], dtype=object)
        for name in sorted(set(whole.tolist())):
            slices[name] = np.asarray(whole == name)
        if len(slices) > MAX_SLICES + 1:
            raise ConfigError(
                f"{', '.join(names)} has over {MAX_SLICES} values to slice by",
                code="too_many_slices",
                hint="slice by a column with few values, such as a site or a group of devices",
            )
    return slices


def evaluate(
    predictions: Predictions,
    slices: Mapping[str, BoolArray],
    *,
    metrics: Sequence[str] = (),
    sureness: Sureness = Sureness(),
) -> Evaluation:
    """Measure a model on all rows and in each slice.

    Args:
        predictions: What it answered.
        slices: From `cut_slices`.
        metrics: Of `fleet.pipeline.metrics`; none for all that the answers allow, and of all rows
            those of each class too.
        sureness: How intervals are made.

    Raises:
        ConfigError: `metric_unknown`.
    """
    check_metrics(metrics, predictions)
    figures: list[Figure] = []
    for name, rows in slices.items():
        part = predictions.of(rows)
        wanted = tuple(metrics) or _default_metrics(predictions, each_class=name == ALL)
        figures += _figures(part, name, wanted, sureness)
    table = confusion(predictions) if predictions.kind == "classifier" else np.empty((0, 0), int)
    return Evaluation(
        kind=predictions.kind,
        row_count=len(predictions.truth),
        confidence=sureness.confidence,
        judged_count=sureness.judged_count,
        figures=tuple(figures),
        classes=predictions.classes,
        confusion=tuple(tuple(row) for row in table.tolist()),
    )


def check_metrics(metrics: Sequence[str], predictions: Predictions) -> None:
    """Refuse metrics that there are not.

    Raises:
        ConfigError: `metric_unknown`.
    """
    for name in metrics:
        if not is_known(name, predictions.kind):
            raise ConfigError(
                f"there is no metric {name!r} of a {predictions.kind}",
                code="metric_unknown",
                hint=f"there are {', '.join(names_of(predictions.kind))}; and precision[CLASS], "
                "recall[CLASS], f1[CLASS] and roc_auc[CLASS]"
                if predictions.kind == "classifier"
                else f"there are {', '.join(names_of(predictions.kind))}",
            )


def fault_of(metric: str, part: Predictions, min_rows: int) -> str:
    """Return why a metric of these rows has no value, or nothing."""
    if len(part.truth) < max(1, min_rows):
        return "too_few_rows"
    if not part.are_finite:
        return "not_finite"
    if needs_scores(metric) and part.scores is None:
        return "no_scores"
    label = class_of(metric)
    return "unknown_class" if label is not None and label not in part.classes else ""


def worst_case_trials(part: Predictions) -> int:
    """Return how many independent trials a metric between 0 and 1 is worth at least.

    As many as the rarest class has rows. No estimate of a mean of shares in [0, 1] has a variance
    above that of the worst of them, and none of an area under the ROC curve above A (1 - A) / min(m, n)
    (Birnbaum and Klose, Annals of Mathematical Statistics 28, 1957).
    """
    counts = np.bincount(part.truth)
    return int(counts[counts > 0].min())


def _escaped(value: object) -> str:
    return str(value).replace("%", "%25").replace(",", "%2C").replace("=", "%3D")


def _default_metrics(predictions: Predictions, *, each_class: bool) -> tuple[str, ...]:
    has_scores = predictions.scores is not None
    names = [m for m in names_of(predictions.kind) if has_scores or not needs_scores(m)]
    if each_class and 0 < len(predictions.classes) <= MAX_CLASSES_LISTED:
        kinds = ("precision", "recall", "f1", *(("roc_auc",) if has_scores else ()))
        names += [f"{kind}[{label}]" for label in predictions.classes for kind in kinds]
    return tuple(names)


def _figures(
    part: Predictions, name: str, metrics: Sequence[str], sureness: Sureness
) -> list[Figure]:
    row_count = len(part.truth)
    faults = {metric: fault_of(metric, part, sureness.min_rows) for metric in metrics}
    shares = {m: proportion(m, part) for m, fault in faults.items() if not fault}
    resampled = {m: statistic(m, part) for m, share in shares.items() if share is None}
    spreads = spread(resampled, row_count, name, sureness)
    figures = []
    for metric, fault in faults.items():
        figure = Figure(metric, name, row_count, fault=fault)
        if not fault:
            share = shares[metric]
            figure = (
                _resampled(figure, spreads[metric], part, sureness)
                if share is None
                else _of_share(figure, share, sureness)
            )
        figures.append(figure)
    return figures


def _of_share(figure: Figure, share: Proportion, sureness: Sureness) -> Figure:
    if not share.trials:
        return replace(figure, fault="undefined")
    plain, wide = (
        wilson(share.successes, share.trials, confidence)
        for confidence in (sureness.confidence, sureness.confidence_all)
    )
    return replace(
        figure,
        value=share.map(share.successes / share.trials),
        low=share.map(plain[0]),
        high=share.map(plain[1]),
        low_all=share.map(wide[0]),
        high_all=share.map(wide[1]),
        method="wilson",
    )


@dataclass(frozen=True, slots=True)
class Spread:
    """A statistic of all rows, of resamples of them, and with some left out."""

    value: float
    draws: FloatArray
    left_out: FloatArray


def spread(
    statistics: Mapping[str, Statistic], row_count: int, slice_name: str, sureness: Sureness
) -> dict[str, Spread]:
    """Return the spread of several statistics over the same resamples."""
    if not statistics:
        return {}
    draws: dict[str, list[FloatArray]] = {name: [] for name in statistics}
    for weights in resampled_weights(row_count, sureness.resamples, sureness.generator(slice_name)):
        for name, values in statistics.items():
            draws[name].append(values(weights))
    return {
        name: Spread(
            float(values(np.ones((1, row_count)))[0]),
            np.concatenate(draws[name]),
            gather(values, jackknife_weights(row_count)),
        )
        for name, values in statistics.items()
    }


def _resampled(figure: Figure, found: Spread, part: Predictions, sureness: Sureness) -> Figure:
    if not np.isfinite(found.value):
        return replace(figure, fault="undefined")
    figure = replace(figure, value=found.value)
    made = bootstrap(found.value, found.draws, found.left_out, sureness.confidence)
    if made is not None:
        plain, method = made
        wide = widened(found.value, plain, sureness.confidence, sureness.confidence_all)
    elif part.kind == "classifier" and bounds(figure.metric) == (0.0, 1.0):
        # Resamples of rows without a fault have none: they know no more than the rarest class does.
        trials = worst_case_trials(part)
        plain, wide = (
            wilson(found.value * trials, trials, confidence)
            for confidence in (sureness.confidence, sureness.confidence_all)
        )
        method = "worst_case"
    else:
        return replace(figure, fault="not_resampled")
    return with_intervals(figure, plain, wide, method, bounds(figure.metric))


def with_intervals(
    figure: Figure, plain: Interval, wide: Interval, method: str, ends: Interval
) -> Figure:
    """Return the figure with its intervals, cut at what the metric can be."""
    smallest, largest = ends
    return replace(
        figure,
        low=max(smallest, plain[0]),
        high=min(largest, plain[1]),
        low_all=max(smallest, wide[0]),
        high_all=min(largest, wide[1]),
        method=method,
    )
