"""Latency in log-scaled bins: what a quantile of them is worth, and how they merge."""

from bisect import bisect_right

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wire.latency import (
    LATENCY_BINS,
    LATENCY_EDGES_MS,
    count_above,
    latency_quantile,
    merged,
    padded,
    since,
    trimmed,
)

ROUNDING_MS = 5e-5  # edges are told to four places

latencies = st.lists(st.floats(0, 2e5), min_size=1, max_size=200)


def latency_counts(values):
    counts = [0] * LATENCY_BINS
    for value in values:
        counts[bisect_right(LATENCY_EDGES_MS, value)] += 1
    return tuple(counts)


def test_latency_edges_are_twenty_a_decade_from_ten_microseconds_to_a_hundred_seconds():
    edges = np.array(LATENCY_EDGES_MS)
    assert edges[0] == pytest.approx(0.01)
    assert edges[-1] == pytest.approx(100_000)
    assert edges[1:] / edges[:-1] == pytest.approx(10 ** (1 / 20))


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


@given(latencies)
def test_counts_lose_no_more_than_zeros_on_the_wire(values):
    counts = latency_counts(values)
    sent = trimmed(counts)
    assert sent[-1] > 0
    assert padded(sent) == counts


def test_of_nothing_nothing_is_sent():
    assert trimmed(latency_counts([])) == padded(()) == ()


def test_no_requests_have_no_latency():
    assert latency_quantile(latency_counts([]), 0.5) is None


@given(latencies, latencies)
def test_latencies_of_many_devices_merge_by_addition(one, two):
    both = merged(latency_counts(one), latency_counts(two))
    assert both == latency_counts(one + two)
    assert since(both, latency_counts(one)) == latency_counts(two)
    assert merged((), both) == merged(both, ()) == since(both, ()) == both


@given(latencies, st.floats(0, 2e5))
def test_what_is_counted_as_slow_is_slow(values, limit_ms):
    counted = count_above(latency_counts(values), limit_ms)
    assert counted <= sum(value >= limit_ms for value in values)
    assert counted >= sum(value >= limit_ms * 1.13 for value in values if 0.01 < value < 1e5) or (
        limit_ms > 1e5 / 1.13 or limit_ms < 0.01
    )


def test_counts_that_go_back_count_nothing():
    assert since((1, 5), (3, 2)) == (0, 3)
