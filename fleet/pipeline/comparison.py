"""Champion against challenger on the same rows, pair by pair.

Two models that are right on much the same rows differ by far less than their intervals overlap: only
the rows on which they differ say which is better.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import numpy as np
from scipy import stats

from .evaluation import (
    Figure,
    Spread,
    Sureness,
    check_metrics,
    fault_of,
    find,
    spread,
    with_intervals,
    worst_case_trials,
)
from .intervals import bootstrap, tango, widened
from .metrics import Statistic, bounds, names_of, needs_scores, statistic
from .predictions import BoolArray, FloatArray, Predictions

MAX_EXACT: Final = 25
"""Pairs that differ, below which McNemar's test is the exact one."""


@dataclass(frozen=True, slots=True)
class McNemar:
    """Rows by who was right, and how likely such a difference is between equals.

    Attributes:
        both: Rows that both had right.
        challenger_only: Rows that only the challenger had right.
        champion_only: Rows that only the champion had right.
        neither: Rows that neither had right.
        p_value: Two-sided.
        method: `exact`, or `mid_p` from `MAX_EXACT` differing rows on.
    """

    both: int
    challenger_only: int
    champion_only: int
    neither: int
    p_value: float
    method: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """Of two models.

    Attributes:
        row_count: Of all rows.
        changes: The challenger's metrics less the champion's, by slice, then by metric.
        mcnemar: Of a classifier, over all rows.
    """

    row_count: int
    changes: tuple[Figure, ...]
    mcnemar: McNemar | None = None

    def change(self, metric: str, slice_name: str = "") -> Figure | None:
        """Return a change, or None where it was not made."""
        return find(self.changes, metric, slice_name)

    def to_json(self) -> dict[str, Any]:
        """Return it as what `json.dumps` takes."""
        return asdict(self)


def compare(
    challenger: Predictions,
    champion: Predictions,
    slices: Mapping[str, BoolArray],
    *,
    metrics: Sequence[str] = (),
    sureness: Sureness = Sureness(),  # noqa: B008 - frozen
) -> Comparison:
    """Compare two models' answers to the same rows.

    Accuracy by the score interval of paired shares, everything else by a bootstrap that draws rows
    and asks both models of each.

    Args:
        challenger: Answers of the new model.
        champion: Answers of the one that is released, to the same rows.
        slices: From `cut_slices`.
        metrics: As in `evaluate`; none for all that both models' answers allow.
        sureness: How intervals are made.

    Raises:
        ConfigError: `metric_unknown`.
        ValueError: The rows are not the same: other kinds, other counts, or other truths.
    """
    if not _are_paired(challenger, champion):
        raise ValueError("the models were not asked on the same rows")
    check_metrics(metrics, challenger)
    has_scores = challenger.scores is not None and champion.scores is not None
    names = tuple(metrics) or tuple(
        m for m in names_of(challenger.kind) if has_scores or not needs_scores(m)
    )
    changes: list[Figure] = []
    for name, rows in slices.items():
        changes += _changes(challenger.of(rows), champion.of(rows), name, names, sureness)
    pairs = mcnemar(challenger, champion) if challenger.kind == "classifier" else None
    return Comparison(len(challenger.truth), tuple(changes), pairs)


def mcnemar(challenger: Predictions, champion: Predictions) -> McNemar:
    """Return McNemar's test of two classifiers on the same rows.

    Exact, that is binomial on the rows that only one had right, for few of them. Else its mid-p
    version, which is less timid and keeps its level, which the one by chi-square does not (Fagerland,
    Lydersen and Laake, BMC Medical Research Methodology 13:91, 2013).
    """
    new, old = challenger.truth == challenger.answers, champion.truth == champion.answers
    gained, lost = int((new & ~old).sum()), int((old & ~new).sum())
    differing, fewer = gained + lost, min(gained, lost)
    at_most = float(stats.binom.cdf(fewer, differing, 0.5))
    method = "exact" if differing < MAX_EXACT else "mid_p"
    if method == "exact":
        p_value = min(1.0, 2 * at_most)
    else:
        p_value = 2 * at_most - float(stats.binom.pmf(fewer, differing, 0.5))
    return McNemar(int((new & old).sum()), gained, lost, int((~new & ~old).sum()), p_value, method)


def _are_paired(one: Predictions, other: Predictions) -> bool:
    if one.kind != other.kind or len(one.truth) != len(other.truth):
        return False
    if one.kind == "regressor":
        return bool(np.array_equal(one.truth, other.truth))
    truth, same = (np.asarray(p.classes, dtype=object)[p.truth] for p in (one, other))
    return bool(np.array_equal(truth, same))


def _changes(
    new: Predictions, old: Predictions, name: str, metrics: Sequence[str], sureness: Sureness
) -> list[Figure]:
    faults = {
        m: fault_of(m, new, sureness.min_rows) or fault_of(m, old, sureness.min_rows)
        for m in metrics
    }
    resampled = {
        metric: _difference(statistic(metric, new), statistic(metric, old))
        for metric, fault in faults.items()
        if not fault and metric != "accuracy"
    }
    spreads = spread(resampled, len(new.truth), name, sureness)
    changes = []
    for metric, fault in faults.items():
        figure = Figure(metric, name, len(new.truth), fault=fault)
        if not fault:
            figure = (
                _accuracy(figure, new, old, sureness)
                if metric == "accuracy"
                else _change(figure, spreads[metric], new, old, sureness)
            )
        changes.append(figure)
    return changes


def _difference(new: Statistic, old: Statistic) -> Statistic:
    def values(weights: FloatArray) -> FloatArray:
        return new(weights) - old(weights)

    return values


def _accuracy(figure: Figure, new: Predictions, old: Predictions, sureness: Sureness) -> Figure:
    right, was_right = new.truth == new.answers, old.truth == old.answers
    gained, lost = int((right & ~was_right).sum()), int((was_right & ~right).sum())
    rows = len(right)
    plain, wide = (
        tango(gained, lost, rows, confidence)
        for confidence in (sureness.confidence, sureness.confidence_all)
    )
    figure = replace(figure, value=(gained - lost) / rows)
    return with_intervals(figure, plain, wide, "tango", (-1.0, 1.0))


def _change(
    figure: Figure, found: Spread, new: Predictions, old: Predictions, sureness: Sureness
) -> Figure:
    if not np.isfinite(found.value):
        return replace(figure, fault="undefined")
    figure = replace(figure, value=found.value)
    made = bootstrap(found.value, found.draws, found.left_out, sureness.confidence)
    smallest, largest = bounds(figure.metric)
    if made is not None:
        plain, method = made
        wide = widened(found.value, plain, sureness.confidence, sureness.confidence_all)
    elif found.value == 0 and _answer_alike(new, old):
        # Every score and value is equal: for these rows it is the same model.
        plain, wide, method = (0.0, 0.0), (0.0, 0.0), "equal"
    elif found.value == 0 and new.kind == "classifier" and (smallest, largest) == (0.0, 1.0):
        # They differ on no row that counts, which a model could also do by chance.
        trials = min(worst_case_trials(new), worst_case_trials(old))
        plain, wide = (
            tango(0, 0, trials, confidence)
            for confidence in (sureness.confidence, sureness.confidence_all)
        )
        method = "worst_case"
    else:
        return replace(figure, fault="not_resampled")
    return with_intervals(figure, plain, wide, method, (smallest - largest, largest - smallest))


def _answer_alike(new: Predictions, old: Predictions) -> bool:
    if new.scores is not None and old.scores is not None:
        return new.classes == old.classes and bool(np.array_equal(new.scores, old.scores))
    return new.kind == "regressor" and bool(np.array_equal(new.answers, old.answers))
