"""Answers of models that never were: drawn from a seed, so good or bad as a test wants."""

import numpy as np

from fleet.pipeline.predictions import Predictions


def classifier(n_rows, skill=1.0, n_classes=3, seed=0, truth_seed=0):
    """Return predictions of a classifier; the truth depends on `truth_seed` alone."""
    truth = np.random.default_rng([truth_seed, n_classes]).integers(0, n_classes, n_rows)
    random = np.random.default_rng([seed, 1])
    logits = random.normal(size=(n_rows, n_classes))
    logits[np.arange(n_rows), truth] += 3 * skill
    scores = np.exp(logits)
    scores /= scores.sum(axis=1, keepdims=True)
    names = tuple(f"c{i}" for i in range(n_classes))
    return Predictions("classifier", truth, scores.argmax(axis=1), names, scores)


def regressor(n_rows, noise=1.0, seed=0, truth_seed=0):
    """Return predictions of a regressor; the truth depends on `truth_seed` alone."""
    truth = np.random.default_rng(truth_seed).normal(10, 3, n_rows)
    return Predictions(
        "regressor", truth, truth + np.random.default_rng([seed, 2]).normal(0.1, noise, n_rows)
    )


def right_on(n_rows, right_count, *, wrong_first=False):
    """Return predictions of a classifier of two classes without scores, with so many right."""
    truth = np.arange(n_rows) % 2
    is_right = np.arange(n_rows) < right_count
    if wrong_first:
        is_right = is_right[::-1]
    return Predictions("classifier", truth, np.where(is_right, truth, 1 - truth), ("no", "yes"))
