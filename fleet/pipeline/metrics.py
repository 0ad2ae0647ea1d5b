"""Metrics of a model's answers, each as a function of how often every row counts.

A metric at equal weights is its value; at the weights of a resample it is one draw of the bootstrap,
and with some rows at zero one value of the jackknife. So there is one definition of each, and the
resampled ones are as exact as the first. The values are those of scikit-learn's functions of the same
names, with their defaults, on the rows repeated.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from scipy import sparse

from .predictions import Array, FloatArray, Kind, Predictions

Statistic = Callable[[FloatArray], FloatArray]
"""From weights, shape (n_draws, n_rows), to values, shape (n_draws,); NaN where there is none."""

BIN_COUNT: Final = 15
"""Of equal width, for the calibration error (Guo et al., On Calibration of Modern Neural Networks,
2017)."""

_PER_CLASS: Final = re.compile(r"^(precision|recall|f1|roc_auc)\[(.*)\]$", re.DOTALL)
_QUANTILES: Final = {"abs_error_p50": 0.5, "abs_error_p90": 0.9, "abs_error_p99": 0.99}
_COUNTED: Final = ("accuracy", "balanced_accuracy", "precision", "recall", "f1")
_SCORED: Final = ("log_loss", "brier", "ece", "roc_auc")
CLASSIFIER: Final = (*_COUNTED, *_SCORED)
REGRESSOR: Final = ("mae", "rmse", "r2", "bias", *_QUANTILES)


@dataclass(frozen=True, slots=True)
class Proportion:
    """A metric that is a share of rows, or follows from one.

    Attributes:
        successes: Rows of those.
        trials: Rows that it is a share of.
        map: From the share to the metric, rising.
    """

    successes: int
    trials: int
    map: Callable[[float], float]


def names_of(kind: Kind) -> tuple[str, ...]:
    """Return the metrics of a kind of model; those of a single class are left out."""
    return CLASSIFIER if kind == "classifier" else REGRESSOR


def is_known(name: str, kind: Kind) -> bool:
    """Return whether there is such a metric, whatever the classes are."""
    return name in names_of(kind) or (kind == "classifier" and bool(_PER_CLASS.match(name)))


def needs_scores(name: str) -> bool:
    """Return whether a metric is of probabilities."""
    return name.partition("[")[0] in _SCORED


def class_of(name: str) -> str | None:
    """Return the class that a metric is about, or None where it is about all."""
    found = _PER_CLASS.match(name)
    return found[2] if found else None


def bounds(name: str) -> tuple[float, float]:
    """Return the smallest and the largest value that a metric can have."""
    if needs_scores(name) and name.partition("[")[0] in ("log_loss", "brier"):
        return 0.0, 2.0 if name == "brier" else np.inf
    if name.partition("[")[0] in CLASSIFIER:
        return 0.0, 1.0
    return (-np.inf, 1.0) if name == "r2" else (-np.inf if name == "bias" else 0.0, np.inf)


def statistic(name: str, predictions: Predictions) -> Statistic:
    """Return a metric as a function of weights.

    Args:
        name: One that `is_known`; of probabilities only where `predictions` has some, and of a class
            only where `predictions.classes` has it.
        predictions: All rows that weights are for.
    """
    if predictions.kind == "regressor":
        return _regression(name, predictions)
    if needs_scores(name):
        return _scored(name, predictions)
    return _counted(name, predictions)


def proportion(name: str, predictions: Predictions) -> Proportion | None:
    """Return the share that a metric is, or None for one that is no share.

    Precision and recall are shares among the rows that the model or the truth gives to the class.
    F1 follows from the share of right ones, J, among the rows that either gives to it:
    F1 = 2 J / (1 + J).
    """
    if name == "accuracy":
        right = predictions.truth == predictions.answers
        return Proportion(int(right.sum()), len(right), _same)
    label = class_of(name)
    if label is None or needs_scores(name):
        return None
    at = predictions.classes.index(label)
    true, given = predictions.truth == at, predictions.answers == at
    among = {"precision": given, "recall": true, "f1": true | given}[name.partition("[")[0]]
    back = (lambda j: 2 * j / (1 + j)) if name.startswith("f1") else _same
    return Proportion(int((true & given).sum()), int(among.sum()), back)


def confusion(predictions: Predictions) -> Array:
    """Return how often each class was answered for each, shape (n_classes, n_classes): truth first."""
    count = len(predictions.classes)
    cells = np.bincount(predictions.truth * count + predictions.answers, minlength=count * count)
    return cells.reshape(count, count)


def _same(value: float) -> float:
    return value


def _counted(name: str, predictions: Predictions) -> Statistic:
    right = predictions.truth == predictions.answers
    if name == "accuracy":
        return _mean(right.astype(np.float64))
    count = len(predictions.classes)
    of_truth = _sums(predictions.truth, count)
    of_answers = _sums(predictions.answers, count)
    kind, label = name.partition("[")[0], class_of(name)

    def values(weights: FloatArray) -> FloatArray:
        true, given = of_truth(weights), of_answers(weights)
        hits = of_truth(weights * right)
        if kind in ("recall", "balanced_accuracy"):
            each, over = hits, true
        elif kind == "precision":
            each, over = hits, given
        else:
            each, over = 2 * hits, true + given
        # Without a row to share scikit-learn says 0 for a class that the other side has.
        shares = np.divide(each, over, out=np.zeros_like(each), where=over > 0)
        if label is not None:
            at = predictions.classes.index(label)
            return np.where(over[:, at] > 0, shares[:, at], np.nan)
        present = true > 0 if kind == "balanced_accuracy" else true + given > 0
        return _ratio((shares * present).sum(axis=1), present.sum(axis=1))

    return values


def _scored(name: str, predictions: Predictions) -> Statistic:
    scores, truth = predictions.scores, predictions.truth
    if scores is None:
        raise ValueError(f"{name} is of probabilities, and there are none")
    kind, label = name.partition("[")[0], class_of(name)
    rows = np.arange(len(truth))
    if kind == "log_loss":
        smallest = float(np.finfo(np.float64).eps)  # scikit-learn's, of probabilities that are 0
        return _mean(-np.log(np.clip(scores[rows, truth], smallest, 1 - smallest)))
    if kind == "brier":
        errors = scores.copy()
        errors[rows, truth] -= 1
        # Of two classes half of it, the square of one error, as it was first defined.
        return _mean((errors**2).sum(axis=1) / (2 if scores.shape[1] == 2 else 1))
    if kind == "ece":
        return _calibration(scores, truth)
    if label is not None:
        return _area(scores[:, (at := predictions.classes.index(label))], truth == at)
    if len(predictions.classes) == 2:
        return _area(scores[:, 1], truth == 1)
    areas = [_area(scores[:, at], truth == at) for at in range(len(predictions.classes))]

    def mean_area(weights: FloatArray) -> FloatArray:
        each = np.stack([area(weights) for area in areas])
        defined = np.isfinite(each)
        return _ratio(np.where(defined, each, 0.0).sum(axis=0), defined.sum(axis=0))

    return mean_area


def _calibration(scores: FloatArray, truth: Array) -> Statistic:
    """Expected calibration error: |confidence - accuracy| of each bin, weighted by its rows."""
    confidence = scores.max(axis=1)
    gaps = (scores.argmax(axis=1) == truth) - confidence
    bins = np.clip(np.ceil(confidence * BIN_COUNT).astype(np.int64) - 1, 0, BIN_COUNT - 1)
    of_bins = _sums(bins, BIN_COUNT)
    return lambda weights: _ratio(np.abs(of_bins(weights * gaps)).sum(axis=1), weights.sum(axis=1))


def _area(scores: FloatArray, is_positive: Array) -> Statistic:
    """Area under the ROC curve: the chance that a positive scores above a negative, ties half."""
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=-np.inf))
    positive = is_positive[order].astype(np.float64)

    def values(weights: FloatArray) -> FloatArray:
        ordered = weights[:, order]
        hits = np.add.reduceat(ordered * positive, starts, axis=1)
        misses = np.add.reduceat(ordered * (1 - positive), starts, axis=1)
        below = np.cumsum(misses, axis=1) - misses / 2
        return _ratio((hits * below).sum(axis=1), hits.sum(axis=1) * misses.sum(axis=1))

    return values


def _regression(name: str, predictions: Predictions) -> Statistic:
    errors = predictions.answers - predictions.truth
    if name == "mae":
        return _mean(np.abs(errors))
    if name == "bias":
        return _mean(errors)
    if name == "rmse":
        square = _mean(errors**2)
        return lambda weights: np.sqrt(square(weights))
    if name == "r2":
        return _determination(errors, predictions.truth)
    return _quantile(np.abs(errors), _QUANTILES[name])


def _determination(errors: FloatArray, truth: FloatArray) -> Statistic:
    """One less the share of the truth's variance that the errors have."""
    middle = truth - truth.mean()  # so that squares of large values do not cancel
    mean, square, error = _mean(middle), _mean(middle**2), _mean(errors**2)
    return lambda weights: 1 - _ratio(error(weights), square(weights) - mean(weights) ** 2)


def _quantile(sizes: FloatArray, share: float) -> Statistic:
    """A quantile, between two rows linear, as `numpy.quantile` has it."""
    order = np.argsort(sizes, kind="stable")
    ordered = sizes[order]

    def values(weights: FloatArray) -> FloatArray:
        ends = np.cumsum(weights[:, order], axis=1)
        place = (ends[:, -1:] - 1) * share
        low = np.floor(place)
        at_low = (ends <= low).sum(axis=1)
        at_high = (ends <= np.minimum(low + 1, ends[:, -1:] - 1)).sum(axis=1)
        part = (place - low)[:, 0]
        return np.asarray(ordered[at_low] + part * (ordered[at_high] - ordered[at_low]))

    return values


def _mean(values: FloatArray) -> Statistic:
    return lambda weights: np.asarray(_ratio(weights @ values, weights.sum(axis=1)))


def _sums(groups: Array, count: int) -> Callable[[FloatArray], FloatArray]:
    """Return a function from (n_draws, n_rows) to the sums of each group, (n_draws, n_groups)."""
    rows = np.arange(len(groups))
    which: Any = sparse.csr_array((np.ones(len(groups)), (groups, rows)), (count, len(groups)))
    return lambda weights: np.asarray((which @ weights.T).T)


def _ratio(over: Array, under: Array) -> FloatArray:
    over, under = np.asarray(over, np.float64), np.asarray(under, np.float64)
    found: FloatArray = np.full(over.shape, np.nan)
    return np.divide(over, under, out=found, where=under > 0)
