"""Every metric is scikit-learn's, of all rows and of any resample of them."""

import numpy as np
import pytest
from sklearn import metrics as sk

from fleet.pipeline import metrics
from fleet.pipeline.predictions import Predictions
from tests.fleet.pipeline.answers import classifier, regressor

EXACT = 1e-12


def repeated(predictions, counts):
    """The rows of a resample, one by one."""
    rows = np.repeat(np.arange(len(predictions.truth)), counts)
    scores = predictions.scores[rows] if predictions.scores is not None else None
    return Predictions(
        predictions.kind, predictions.truth[rows], predictions.answers[rows],
        predictions.classes, scores,
    )  # fmt: skip


def resamples(n_rows, count=5):
    random = np.random.default_rng(4)
    yield np.ones(n_rows, int)
    for _ in range(count):
        yield np.bincount(random.integers(0, n_rows, n_rows), minlength=n_rows)


def ours(name, predictions, counts):
    weights = np.stack([counts, counts]).astype(float)
    values = metrics.statistic(name, predictions)(weights)
    assert values.shape == (2,)
    assert np.array_equal(values[:1], values[1:], equal_nan=True)
    return values[0]


def calibration(p):
    """The definition, bin by bin (Guo et al., 2017)."""
    confidence, right = p.scores.max(axis=1), p.scores.argmax(axis=1) == p.truth
    total = 0.0
    for i in range(15):
        inside = (confidence > i / 15) & (confidence <= (i + 1) / 15)
        if inside.any():
            total += inside.sum() * abs(confidence[inside].mean() - right[inside].mean())
    return total / len(p.truth)


def area(p):
    if len(p.classes) == 2:
        return sk.roc_auc_score(p.truth, p.scores[:, 1])
    return sk.roc_auc_score(p.truth, p.scores, multi_class="ovr", average="macro")


MACRO = {"average": "macro", "zero_division": 0}
THEIRS = {
    "accuracy": lambda p: sk.accuracy_score(p.truth, p.answers),
    "balanced_accuracy": lambda p: sk.balanced_accuracy_score(p.truth, p.answers),
    "precision": lambda p: sk.precision_score(p.truth, p.answers, **MACRO),
    "recall": lambda p: sk.recall_score(p.truth, p.answers, **MACRO),
    "f1": lambda p: sk.f1_score(p.truth, p.answers, **MACRO),
    "log_loss": lambda p: sk.log_loss(p.truth, p.scores, labels=range(len(p.classes))),
    "brier": lambda p: (
        sk.brier_score_loss(p.truth, p.scores[:, 1])
        if len(p.classes) == 2
        else sk.brier_score_loss(p.truth, p.scores, labels=range(len(p.classes)))
    ),
    "ece": calibration,
    "roc_auc": area,
    "mae": lambda p: sk.mean_absolute_error(p.truth, p.answers),
    "rmse": lambda p: sk.root_mean_squared_error(p.truth, p.answers),
    "r2": lambda p: sk.r2_score(p.truth, p.answers),
    "bias": lambda p: (p.answers - p.truth).mean(),
    "abs_error_p50": lambda p: sk.median_absolute_error(p.truth, p.answers),
    "abs_error_p90": lambda p: np.quantile(np.abs(p.answers - p.truth), 0.9),
    "abs_error_p99": lambda p: np.quantile(np.abs(p.answers - p.truth), 0.99),
}


def test_every_metric_is_held_against_one():
    assert {*metrics.CLASSIFIER, *metrics.REGRESSOR} == set(THEIRS)


@pytest.mark.parametrize("name", metrics.CLASSIFIER)
@pytest.mark.parametrize("n_classes", [2, 3, 7])
def test_a_classifiers_metrics_are_scikit_learns(name, n_classes):
    predictions = classifier(211, 0.5, n_classes)
    for counts in resamples(211):
        expected = THEIRS[name](repeated(predictions, counts))
        assert ours(name, predictions, counts) == pytest.approx(expected, rel=EXACT, abs=EXACT)


@pytest.mark.parametrize("name", metrics.REGRESSOR)
def test_a_regressors_metrics_are_scikit_learns(name):
    predictions = regressor(173)
    for counts in resamples(173):
        expected = THEIRS[name](repeated(predictions, counts))
        assert ours(name, predictions, counts) == pytest.approx(expected, rel=EXACT, abs=EXACT)


@pytest.mark.parametrize("at", range(4))
def test_the_metrics_of_a_class_are_scikit_learns(at):
    predictions = classifier(150, 0.5, 4)
    for counts in resamples(150):
        p = repeated(predictions, counts)
        is_true, is_answered = p.truth == at, p.answers == at
        for name, theirs in (
            ("precision", sk.precision_score), ("recall", sk.recall_score), ("f1", sk.f1_score),
        ):  # fmt: skip
            expected = theirs(is_true, is_answered)
            found = ours(f"{name}[c{at}]", predictions, counts)
            assert found == pytest.approx(expected, abs=EXACT)
        expected = sk.roc_auc_score(is_true, p.scores[:, at])
        assert ours(f"roc_auc[c{at}]", predictions, counts) == pytest.approx(expected, abs=EXACT)


def test_scores_that_tie_count_half():
    scores = np.array([[0.4, 0.6], [0.4, 0.6], [0.9, 0.1], [0.5, 0.5]])
    predictions = Predictions(
        "classifier", np.array([0, 1, 0, 1]), scores.argmax(1), ("a", "b"), scores
    )
    expected = sk.roc_auc_score(predictions.truth, scores[:, 1])
    assert ours("roc_auc", predictions, np.ones(4, int)) == expected == 0.625


def test_a_class_that_is_never_answered_has_no_precision_and_counts_as_nothing():
    predictions = Predictions("classifier", np.array([0, 0, 1]), np.array([0, 0, 0]), ("a", "b"))
    counts = np.ones(3, int)
    assert np.isnan(ours("precision[b]", predictions, counts))
    assert ours("precision", predictions, counts) == pytest.approx(1 / 3)
    assert ours("f1[b]", predictions, counts) == 0


def test_what_is_undefined_is_nan():
    one_class = classifier(20, n_classes=2)
    one_class = one_class.of(one_class.truth == 1)
    counts = np.ones(len(one_class.truth), int)
    assert np.isnan(ours("roc_auc", one_class, counts))
    flat = Predictions("regressor", np.full(9, 3.0), np.arange(9.0))
    assert np.isnan(ours("r2", flat, np.ones(9, int)))


def test_the_r2_of_large_values_does_not_cancel():
    truth = 1e9 + np.random.default_rng(0).normal(size=300)
    predictions = Predictions("regressor", truth, truth + 0.5)
    expected = sk.r2_score(truth, truth + 0.5)
    assert ours("r2", predictions, np.ones(300, int)) == pytest.approx(expected, rel=1e-9)


def test_a_probability_of_zero_costs_as_much_as_scikit_learn_says():
    scores = np.array([[1.0, 0.0], [0.3, 0.7]])
    predictions = Predictions("classifier", np.array([1, 1]), scores.argmax(1), ("a", "b"), scores)
    expected = sk.log_loss([1, 1], scores, labels=[0, 1])
    assert ours("log_loss", predictions, np.ones(2, int)) == pytest.approx(expected, rel=EXACT)


@pytest.mark.parametrize("name", ["precision[c1]", "recall[c1]", "f1[c1]", "accuracy"])
def test_a_share_is_the_metric(name):
    predictions = classifier(90, 0.4)
    share = metrics.proportion(name, predictions)
    assert share.map(share.successes / share.trials) == pytest.approx(
        ours(name, predictions, np.ones(90, int)), abs=EXACT
    )
    assert share.map(0.0) == 0
    assert share.map(1.0) == 1


def test_confusion_is_scikit_learns():
    predictions = classifier(90, 0.4)
    expected = sk.confusion_matrix(predictions.truth, predictions.answers)
    assert np.array_equal(metrics.confusion(predictions), expected)
