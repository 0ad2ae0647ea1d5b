"""What a converted model's outputs say, whatever their names and forms."""

import numpy as np
import pytest

from fleet.pipeline.predictions import as_text, read_predictions
from wire.errors import BundleError

LABELS = np.array([0, 1, 2, 1])
SCORES = np.float32([[0.8, 0.1, 0.1], [0.2, 0.5, 0.3], [0, 0.1, 0.9], [0.4, 0.3, 0.3]])
OUTPUTS = {"label": np.array([0, 1, 2, 0]), "probabilities": SCORES}


def refuse(says, *args, **options):
    with pytest.raises(BundleError) as caught:
        read_predictions(*args, **options)
    assert caught.value.code == "answers_invalid"
    assert says in str(caught.value)


def test_labels_and_probabilities_are_found():
    found = read_predictions(OUTPUTS, LABELS, kind="classifier", classes=[0, 1, 2])
    assert found.classes == ("0", "1", "2")
    assert found.truth.tolist() == [0, 1, 2, 1]
    assert found.answers.tolist() == [0, 1, 2, 0]
    assert found.scores == pytest.approx(SCORES)
    assert found.scores.dtype == np.float64


def test_the_order_of_the_scores_is_that_of_the_training_labels():
    truth = np.array(["b", "a"])
    outputs = {"label": np.array(["a", "a"]), "p": np.float32([[0.9, 0.1], [0.7, 0.3]])}
    found = read_predictions(outputs, truth, kind="classifier", classes=np.array(["a", "b"]))
    assert found.scores[found.truth == 1] == pytest.approx(np.array([[0.9, 0.1]]), abs=1e-6)


def test_numbers_are_sorted_as_numbers():
    truth = np.array([10, 9, 10])
    scores = np.float32([[0.1, 0.9], [0.9, 0.1], [0.2, 0.8]])
    found = read_predictions({"p": scores}, truth, kind="classifier")
    assert found.classes == ("9", "10")
    assert found.answers.tolist() == found.truth.tolist()


def test_a_label_that_the_model_does_not_know_scores_nothing():
    truth = np.array([0, 1, 2, 7])
    found = read_predictions(OUTPUTS, truth, kind="classifier", classes=[0, 1, 2])
    assert found.classes == ("0", "1", "2", "7")
    assert found.scores[:, 3].tolist() == [0, 0, 0, 0]
    assert found.truth.tolist() == [0, 1, 2, 3]


def test_without_all_classes_scores_are_left_out_and_not_guessed():
    found = read_predictions(OUTPUTS, np.array([0, 1, 2, 9]), kind="classifier")
    assert found.scores is None
    refuse("scores 3 classes, and knows 2", OUTPUTS, LABELS, kind="classifier", classes=[0, 1])


@pytest.mark.parametrize(
    "scores", [SCORES * 3, SCORES - 0.5, np.where(SCORES > 0.7, np.nan, SCORES)]
)
def test_what_is_no_probability_is_left_out(scores):
    outputs = {"label": LABELS, "scores": scores}
    assert read_predictions(outputs, LABELS, kind="classifier", classes=[0, 1, 2]).scores is None


def test_one_column_of_probabilities_is_that_of_the_second_class():
    outputs = {"p": np.float32([[0.2], [0.9]])}
    found = read_predictions(outputs, np.array([0, 1]), kind="classifier", classes=[0, 1])
    assert found.scores == pytest.approx(np.array([[0.8, 0.2], [0.1, 0.9]]), abs=1e-6)
    assert found.answers.tolist() == [0, 1]


def test_labels_that_are_floats_beside_a_table_are_labels():
    outputs = {"label": np.float32([0, 1, 2, 0]), "probabilities": SCORES}
    found = read_predictions(outputs, LABELS.astype(float), kind="classifier", classes=[0.0, 1, 2])
    assert found.answers.tolist() == [0, 1, 2, 0]


def test_a_regressor_answers_with_one_number():
    outputs = {"variable": np.float32([[1.5], [np.nan]])}
    found = read_predictions(outputs, np.array([1, 2]), kind="regressor")
    assert found.answers.shape == (2,)
    assert found.truth.dtype == np.float64
    assert not found.are_finite
    assert found.of(np.array([True, False])).are_finite


def test_equal_labels_are_equal_in_any_type():
    for labels in (np.array([True, False]), np.array([1.0, 0.0]), np.array([1, 0], np.uint8)):
        assert as_text(labels).tolist() == ["1", "0"]
    assert as_text(np.array(["x", "1"], dtype=object)).tolist() == ["x", "1"]
    assert as_text(np.array([0.5, np.inf, 1e300])).tolist() == ["0.5", "inf", "1e+300"]


@pytest.mark.parametrize(
    ("outputs", "truth", "kind", "says"),
    [
        ({"y": np.zeros(3)}, np.zeros(2), "regressor", "for 2 rows"),
        ({"y": np.zeros((2, 2))}, np.zeros(2), "regressor", "one number a row"),
        ({"y": np.array(["a", "b"])}, np.zeros(2), "regressor", "one number a row"),
        ({"y": np.zeros(2)}, np.array([0, np.nan]), "regressor", "finite"),
        ({"y": np.zeros(2)}, np.array(["a", "b"]), "regressor", "finite"),
        ({}, np.zeros(2), "regressor", "one number a row"),
        ({}, np.zeros(2), "classifier", "neither labels nor probabilities"),
        ({"y": np.zeros(0)}, np.zeros(0), "regressor", "must be (n_rows,)"),
    ],
)
def test_what_no_model_may_answer_is_refused(outputs, truth, kind, says):
    refuse(says, outputs, truth, kind=kind)


def test_classes_are_there_once():
    refuse("twice", OUTPUTS, LABELS, kind="classifier", classes=[1, 1.0, 2])
    refuse("none", OUTPUTS, LABELS, kind="classifier", classes=[])
