"""Accuracy and r2 of the converted model, where they mean anything."""

import numpy as np
import pytest

from converter.metrics import measure


@pytest.mark.parametrize(
    ("answer", "labels", "accuracy"),
    [
        ([0, 1, 1, 0], [0, 1, 0, 0], 0.75),
        ([0, 1, 1, 0], [0.0, 1.0, 1.0, 0.0], 1.0),
        ([0, 1, 1, 0], [False, True, True, True], 0.75),
        ([0, 1], [[0], [1]], 1.0),
        ([[0], [1]], [0, 1], 1.0),
        (["a", "b"], ["a", "a"], 0.5),
        ([0, 1], ["0", "1"], 1.0),
        ([[0, 1], [1, 1]], [[0, 1], [0, 1]], 0.5),
    ],
)
def test_accuracy_is_the_share_of_rows_that_are_right(answer, labels, accuracy):
    for kind in ("classifier", "onnx"):
        assert measure(kind, np.array(answer), np.array(labels)) == {"accuracy": accuracy}


def test_r2_compares_with_the_mean():
    truth = np.array([1.0, 2.0, 3.0, 4.0])
    assert measure("regressor", truth.reshape(-1, 1), truth) == {"r2": 1.0}
    assert measure("regressor", np.full(4, 2.5), truth) == {"r2": 0.0}
    two = np.stack([truth, truth * 100], axis=1)
    means = np.broadcast_to(two.mean(axis=0), two.shape)
    assert measure("regressor", means, two) == {"r2": 0.0}
    assert measure("regressor", two.astype(np.float32), two) == {"r2": 1.0}


@pytest.mark.parametrize(
    ("kind", "answer", "labels"),
    [
        ("classifier", np.array([0, 1]), None),
        ("classifier", np.array([0, 1]), np.array([0, 1, 0])),
        ("classifier", np.array([0.0, 1.0]), np.array([0, 1])),
        ("other", np.array([0, 1]), np.array([1, 0])),  # the numbers of clusters mean nothing
        ("onnx", np.array([0.5, 1.0]), np.array([0.5, 1.0])),
        ("regressor", np.array([0.5, 1.0]), np.array(["a", "b"])),
        ("regressor", np.array([1.0, 1.0]), np.array([2.0, 2.0])),
        ("regressor", np.array([np.nan, 1.0]), np.array([1.0, 2.0])),
        ("regressor", np.array([1.0, 1.0]), np.array([1e308, -1e308])),
    ],
)
def test_where_neither_means_anything_there_is_none(kind, answer, labels):
    assert measure(kind, answer, labels) == {}
