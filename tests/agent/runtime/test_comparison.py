"""When two answers to one request agree, row by row."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.runtime.comparison import IncomparableError, SampleError, compare, parse_sample

LABELS = np.array([1, 2, 3])


def rows(active, shadow, rtol=0.01, atol=0.0):
    return compare(active, shadow, rtol=rtol, atol=atol).agree.tolist()


def test_labels_decide_and_scores_do_not():
    active = {"label": LABELS, "p": np.float32([0.1, 0.2, 0.3])}
    shadow = {"label": np.array([1, 2, 4]), "p": np.float32([0.9, 0.9, 0.9])}
    compared = compare(active, shadow, rtol=0.01, atol=0)
    assert compared.agree.tolist() == [True, True, False]
    assert compared.labels == ("1", "2", "3")


def test_labels_of_another_type_are_equal_by_their_text():
    words = np.array(["1", "2", "x"], dtype=object)
    assert rows({"label": LABELS}, {"label": words}) == [True, True, False]


def test_numbers_agree_within_the_tolerance_and_nan_with_nan():
    active = {"y": np.float32([[100], [0], [np.nan], [1]])}
    shadow = {"y": np.float32([[100.9], [0.1], [np.nan], [np.nan]])}
    assert rows(active, shadow) == [True, False, True, False]
    assert rows(active, shadow, atol=0.2) == [True, True, True, False]


@pytest.mark.parametrize(
    ("active", "shadow"),
    [
        ({"a": LABELS}, {"b": LABELS}),
        ({"a": LABELS}, {"a": LABELS[:2]}),
        ({"a": LABELS}, {"a": np.float32([1, 2, 3])}),
        ({"a": LABELS, "b": LABELS[:1]}, {"a": LABELS, "b": LABELS[:1]}),
    ],
)
def test_what_has_nothing_in_common_is_no_row(active, shadow):
    with pytest.raises(IncomparableError):
        rows(active, shadow)


@given(st.binary(max_size=64))
def test_whatever_comes_is_a_sample_or_refused(frame):
    with pytest.raises(SampleError):
        parse_sample(frame)
