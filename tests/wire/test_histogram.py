"""Counts over fixed bins: exact, and what a quantile of them is worth."""

from bisect import bisect_right

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from wire.histogram import (
    LATENCY_EDGES_MS,
    REFERENCE_BINS,
    Baseline,
    CategoryColumn,
    Column,
    count,
    latency_quantile,
    reference_edges,
)

ROUNDING_MS = 5e-5  # edges are told to four places

anything = hnp.arrays(np.float64, st.integers(0, 60), elements=st.floats(width=64))
edges_of = st.lists(st.floats(-1e6, 1e6), max_size=12, unique=True).map(
    lambda edges: np.array(sorted(edges), dtype=np.float64)
)
latencies = st.lists(st.floats(0, 2e5), min_size=1, max_size=200)


def latency_counts(values):
    counts = np.zeros(len(LATENCY_EDGES_MS) + 1, dtype=np.int64)
    for value in values:
        counts[bisect_right(LATENCY_EDGES_MS, value)] += 1
    return counts


@settings(deadline=None)
@given(anything, edges_of)
def test_every_value_lands_in_exactly_one_bin_and_nan_apart(values, edges):
    counts, missing = count(values, edges)
    assert counts.shape == (edges.size + 1,)
    assert missing == np.isnan(values).sum()
    assert counts.sum() + missing == values.size
    bounds = [-np.inf, *edges, np.inf]
    for number, found in enumerate(counts):
        is_below = values < bounds[number + 1] if number < edges.size else ~np.isnan(values)
        assert found == (is_below & (values >= bounds[number])).sum()


@settings(deadline=None)
@given(anything, anything, edges_of)
def test_counts_merge_by_addition(one, two, edges):
    counts_1, missing_1 = count(one, edges)
    counts_2, missing_2 = count(two, edges)
    counts, missing = count(np.concatenate([one, two]), edges)
    assert (counts_1 + counts_2 == counts).all()
    assert missing_1 + missing_2 == missing


def test_a_value_on_an_edge_belongs_above_it():
    counts, _ = count(np.array([1.0, 2.0, 2.0]), np.array([1.0, 2.0]))
    assert counts.tolist() == [0, 1, 2]


def test_infinities_are_counted_at_the_ends_and_nan_is_not():
    counts, missing = count(np.array([-np.inf, np.inf, np.inf, np.nan, 0.5]), np.array([0.0, 1.0]))
    assert counts.tolist() == [1, 1, 2]
    assert missing == 1


@pytest.mark.parametrize("edges", [np.empty(0), np.array([1.0])])
def test_a_column_of_no_values_has_empty_bins(edges):
    counts, missing = count(np.empty(0), edges)
    assert counts.tolist() == [0] * (edges.size + 1)
    assert missing == 0


@settings(deadline=None)
@given(anything, st.integers(1, 20))
def test_reference_edges_ascend_and_are_values_of_the_column(values, bins):
    edges = reference_edges(values, bins)
    assert edges.size <= bins - 1
    assert (np.diff(edges) > 0).all()
    assert np.isfinite(edges).all()
    assert set(edges.tolist()) <= set(values.tolist())


def test_reference_bins_of_a_continuous_column_hold_equal_shares():
    values = np.random.default_rng(5).normal(size=10_000)
    counts, missing = count(values, reference_edges(values))
    assert counts.size == REFERENCE_BINS
    assert missing == 0
    assert abs(counts - 1000).max() <= 1


@pytest.mark.parametrize(
    ("values", "edges"),
    [
        ([], []),
        ([np.nan, np.inf, -np.inf], []),
        ([3.0] * 50, [3.0]),
        ([0.0] * 50 + [1.0] * 50, [0.0, 1.0]),
    ],
)
def test_reference_edges_of_a_column_with_few_values(values, edges):
    assert reference_edges(np.array(values, dtype=np.float64)).tolist() == edges


def test_latency_edges_are_twenty_a_decade_from_ten_microseconds_to_a_hundred_seconds():
    edges = np.array(LATENCY_EDGES_MS)
    assert edges[0] == pytest.approx(0.01)
    assert edges[-1] == pytest.approx(100_000)
    assert edges[1:] / edges[:-1] == pytest.approx(10 ** (1 / 20))


@settings(deadline=None)
@given(latencies, st.floats(0, 1) | st.sampled_from([0.5, 0.99, 0.07, 0.29, 0.57]))
def test_a_quantile_of_counts_is_off_by_one_bin_at_most(values, share):
    # numpy's own rank is the definition: the smallest value with at least this share at or below.
    rank = max(1, int(np.ceil(round(share * len(values), 9))))
    exact = sorted(values)[rank - 1]
    number = bisect_right(LATENCY_EDGES_MS, exact)
    told = latency_quantile(latency_counts(values), share)
    if number == len(LATENCY_EDGES_MS):
        assert told == pytest.approx(100_000)  # "at least"
    else:
        assert abs(told - LATENCY_EDGES_MS[number]) <= ROUNDING_MS
        assert told >= exact - ROUNDING_MS
        if exact >= LATENCY_EDGES_MS[0]:
            assert told <= exact * 10 ** (1 / 20) + ROUNDING_MS


@pytest.mark.parametrize(
    ("share", "total", "rank"), [(0.07, 100, 7), (0.56, 100, 56), (0.0, 100, 1)]
)
def test_a_rank_is_not_pushed_up_by_rounding(share, total, rank):
    assert share * total > rank or share == 0  # what makes it hard
    values = [0.02] * rank + [5000.0] * (total - rank)
    assert latency_quantile(latency_counts(values), share) < 0.03


def test_the_smallest_and_the_largest_share_are_the_ends():
    counts = latency_counts([1.0, 10.0, 100.0])
    assert latency_quantile(counts, 0.0) == pytest.approx(1.0, rel=0.13)
    assert latency_quantile(counts, 1.0) == pytest.approx(100.0, rel=0.13)


def test_no_requests_have_no_latency():
    assert latency_quantile(latency_counts([]), 0.5) is None


@given(latencies, latencies)
def test_latencies_of_many_devices_merge_by_addition(one, two):
    merged = latency_counts(one) + latency_counts(two)
    assert (merged == latency_counts(one + two)).all()


def test_a_baseline_survives_the_wire():
    values = np.array([1.0, 2.0, 2.0, 5.0, np.nan])
    edges = reference_edges(values)
    counts, missing = count(values, edges)
    baseline = Baseline(
        row_count=5,
        inputs=(
            Column(name="x", edges=tuple(edges), counts=tuple(counts.tolist()), missing=missing),
        ),
        outputs=(CategoryColumn(name="label", categories=("a", "b"), counts=(3, 2)),),
    )
    parsed = Baseline.model_validate_json(baseline.model_dump_json(), strict=True)
    assert parsed == baseline
    assert isinstance(parsed.outputs[0], CategoryColumn)
