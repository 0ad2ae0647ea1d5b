"""Labelled answers: sums that add up, whatever a device says, and what follows from them."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from fleet.core.performance import (
    PerformanceSums,
    Refused,
    accuracy,
    calibration_error,
    confusion_rows,
    merged,
    of_record,
    regression,
    wilson,
)
from wire.performance import MAX_CLASSES, ErrorSums, PerformanceTelemetry, RefusedLabels
from wire.windows import SCORE_BINS

few = st.lists(st.integers(0, 10**6), max_size=SCORE_BINS).map(tuple)
# Whole numbers, so that sums of floats do not depend on their order.
whole = st.integers(-(10**6), 10**6).map(float)
sums = st.builds(
    PerformanceSums,
    labelled_count=st.integers(0, 10**9),
    correct_count=st.integers(0, 10**9),
    confusion=st.lists(st.integers(0, 10**6), max_size=30).map(tuple),
    scores=few,
    score_correct=few,
    score_sums=st.lists(whole, max_size=SCORE_BINS).map(tuple),
    error_count=st.integers(0, 10**9),
    errors=st.tuples(whole, whole, whole),
    refused=st.builds(Refused, *(st.integers(0, 10**6) for _ in range(4))),
)


@given(sums, sums, sums)
def test_merging_knows_no_order_and_nothing_is_its_neutral(one, two, three):
    assert merged(one, two) == merged(two, one)
    assert merged(merged(one, two), three) == merged(one, merged(two, three))
    assert merged(one, PerformanceSums()) == one


def record(**fields):
    head = {"boot": "0" * 16, "seq": 1, "start_unix_ms": 1, "duration_s": 1, "manifest": "a" * 64}
    return PerformanceTelemetry(model="m", version="1", **head, **fields)


counts = st.integers(0, 1000)


@given(
    st.builds(
        record,
        labelled_count=counts,
        correct_count=counts,
        confusion=st.lists(counts, max_size=MAX_CLASSES**2).map(tuple),
        scores=st.lists(counts, max_size=SCORE_BINS).map(tuple),
        score_correct=st.lists(counts, max_size=SCORE_BINS).map(tuple),
        score_sums=st.lists(st.floats(0, 1e6), max_size=SCORE_BINS).map(tuple),
        errors=st.none()
        | st.builds(
            ErrorSums,
            error=st.floats(-1e200, 1e200),
            absolute=st.floats(0, 1e200),
            squared=st.floats(0, 1e200),
        ),
    )
)
def test_whatever_a_device_says_of_labels_can_be_shown(said):
    found = of_record(said)
    assert found.correct_count <= found.labelled_count
    assert sum(found.scores) <= found.labelled_count
    both = merged(found, found)
    if (share := accuracy(both)) is not None:
        assert 0 <= share.low <= share.value <= share.high <= 1
    if (error := calibration_error(both)) is not None:
        assert 0 <= error <= 1
    if (told := regression(both)) is not None:
        assert math.isfinite(told.root_mean_square)
        assert told.mean.low <= told.mean.value <= told.mean.high
    for side in (0, 1, 3, 20):
        rows = confusion_rows(both, side)
        assert sum(map(sum, rows)) in (0, sum(both.confusion))


@pytest.mark.parametrize(
    ("hits", "rows"), [(0, 1), (1, 1), (5, 9), (38, 40), (0, 500), (970, 1000)]
)
def test_wilson_is_that_of_scipy(hits, rows):
    wanted = binomtest(hits, rows).proportion_ci(0.95, method="wilson")
    found = wilson(hits, rows)
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high), abs=1e-6)


def test_calibration_error_is_the_mean_gap_over_rows():
    found = PerformanceSums(
        labelled_count=14,
        correct_count=11,
        scores=(0,) * 10 + (4,) + (0,) * 8 + (10,),
        score_correct=(0,) * 10 + (2,) + (0,) * 8 + (9,),
        score_sums=(0.0,) * 10 + (2.1,) + (0.0,) * 8 + (9.8,),
    )
    assert calibration_error(found) == pytest.approx((0.1 + 0.8) / 14)
    assert calibration_error(dataclasses.replace(found, scores=())) is None


def test_errors_of_a_regression():
    random = np.random.default_rng(0)
    errors = random.normal(0.5, 2, 5000)
    sums = np.array([errors.sum(), np.abs(errors).sum(), (errors**2).sum()])
    said = of_record(
        record(
            labelled_count=5000,
            errors=ErrorSums(error=sums[0], absolute=sums[1], squared=sums[2]),
            refused=RefusedLabels(unknown_id=3),
        )
    )
    found = regression(said)
    assert accuracy(said) is None
    assert found.mean.low < 0.5 < found.mean.high
    assert found.absolute.value == pytest.approx(np.abs(errors).mean())
    assert found.root_mean_square == pytest.approx(np.sqrt((errors**2).mean()))
    assert found.mean.high - found.mean.value == pytest.approx(1.96 * 2 / 5000**0.5, rel=0.05)
    assert said.refused.unknown_id == 3
