"""Counts over fixed bins: exact, and where the bins come from."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from wire.histogram import (
    REFERENCE_BINS,
    Baseline,
    CategoryColumn,
    Column,
    count,
    psi,
    reference_edges,
)

anything = hnp.arrays(np.float64, st.integers(0, 60), elements=st.floats(width=64))
edges_of = st.lists(st.floats(-1e6, 1e6), max_size=12, unique=True).map(
    lambda edges: np.array(sorted(edges), dtype=np.float64)
)


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


numbers = st.sampled_from([np.float32, np.float64]).flatmap(
    lambda dtype: hnp.arrays(
        dtype,
        st.integers(0, 60),
        elements=st.sampled_from([0.0, 1.0, -2.5, 1e30, np.inf, np.nan])
        | st.floats(width=8 * dtype().itemsize),
    )
)


@given(numbers, st.integers(1, 20))
def test_reference_edges_ascend_and_are_values_of_the_column_or_the_next_above_them(values, bins):
    edges = reference_edges(values, bins)
    assert edges.size <= 2 * bins
    assert (np.diff(edges) > 0).all()
    assert np.isfinite(edges).all()
    beyond = edges[~np.isin(edges, values)]
    finite = values[np.isfinite(values)]
    assert beyond.tolist() == ([] if beyond.size == 0 else [edges[-1]])
    assert (beyond > finite.max(initial=-np.inf)).all()
    assert (edges.astype(values.dtype) == edges).all(), "a device compares with the same number"


@given(numbers, st.integers(1, 20))
def test_a_heavy_value_shares_its_bin_with_no_other(values, bins):
    finite = values[np.isfinite(values)]
    edges = reference_edges(values, bins)
    for value, rows in zip(*np.unique(finite, return_counts=True), strict=True):
        if rows * bins >= finite.size:
            (place,) = np.flatnonzero(edges == value)
            with np.errstate(over="ignore"):
                step = np.nextafter(value, values.dtype.type(np.inf))
            above = edges[place + 1] if place + 1 < edges.size else np.inf
            # None of the reference's others is in its bin, and nothing that is normal is above all.
            assert not ((values > value) & (values < above)).any()
            if value == finite.max() and np.isfinite(step):
                assert above <= max(step, np.finfo(values.dtype).tiny)


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
        ([3.0] * 50, [3.0, np.nextafter(3.0, 4.0)]),
        ([0.0] * 50, [0.0, np.finfo(np.float64).tiny]),
        ([-3.0] * 50, [-3.0, np.nextafter(-3.0, 0.0)]),
        ([0.0] * 50 + [1.0] * 50, [0.0, 1.0, np.nextafter(1.0, 2.0)]),
        ([0.0] * 92 + [1.0] * 8, [0.0, 1.0]),
        ([0.0] * 93 + [0.5, 3, 4, 5, 6, 7, 8], [0.0, 0.5]),
        ([np.finfo(np.float64).max] * 50, [np.finfo(np.float64).max]),
    ],
)
def test_reference_edges_of_a_column_with_few_values(values, edges):
    assert reference_edges(np.array(values, dtype=np.float64)).tolist() == edges


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


@pytest.mark.parametrize(
    ("reference", "observed", "index"),
    [
        ([50, 50], [5, 5], 0.0),
        ([50, 50], [25, 75], 0.2746531),  # 0.25 ln 3, by hand
        ([100, 0], [0, 100], 2 * (1 - 1e-4) * np.log(1e4)),  # the floor of a share
        ([10, 20, 70], [100, 200, 700], 0.0),
    ],
)
def test_psi_of_known_shares(reference, observed, index):
    assert psi(np.array(reference), np.array(observed)) == pytest.approx(index, abs=1e-6)


def test_psi_under_no_drift_is_a_chi_square_over_the_rows():
    # Yurdakul (2018): (B - 1)(1/n + 1/m) on average; here B = 10, n = m = 1000, 2,000 draws.
    random = np.random.default_rng(0)
    one, two = random.multinomial(1000, [0.1] * 10, (2, 2000))
    assert psi(one, two).mean() == pytest.approx(9 * 2 / 1000, rel=0.05)
