"""The measures that people know, against those whose definitions they are."""

import numpy as np
import pytest
from scipy import stats

from fleet.core import distances
from fleet.core.distances import Histogram

REFERENCE = np.array([812, 1190, 604, 41, 0, 353])
OBSERVED = np.array([75, 141, 66, 12, 3, 20])

# TFDV's own, of metrics_test.cc at 05117af84e02, each with the sum that its comment works out.
TFDV = {
    "different_edges": (
        Histogram((1, 2, 3), (2, 2)),
        Histogram((2, 4, 6), (2, 2)),
        0.65563906222,
    ),
    "no_overlap": (Histogram((0, 1, 2), (2, 2)), Histogram((3, 4, 6), (2, 2)), 1.0),
    "one_value": (Histogram((1, 1), (4,)), Histogram((2, 4, 6), (2, 2)), 1.0),
    "missing": (Histogram((1, 2), (3,), 1), Histogram((1, 2), (4,)), 0.13792538096),
    "same": (Histogram((1, 2.3, 5), (3, 1)), Histogram((1, 2.3, 5), (3, 1)), 0.0),
}


@pytest.mark.parametrize("name", TFDV)
def test_jensen_shannon_is_tfdvs(name):
    a, b, expected = TFDV[name]
    assert distances.jensen_shannon_bits_of(a, b) == pytest.approx(expected, abs=1e-10)
    assert distances.jensen_shannon_bits_of(b, a) == pytest.approx(expected, abs=1e-10)


def test_jensen_shannon_over_the_same_cells_is_scipys_distance_squared():
    from scipy.spatial.distance import jensenshannon

    expected = jensenshannon(REFERENCE, OBSERVED, base=2) ** 2
    assert distances.jensen_shannon_bits(REFERENCE, OBSERVED) == pytest.approx(expected, abs=1e-12)


def test_kolmogorov_smirnov_is_scipys():
    a, b = (np.repeat(np.arange(6), counts) for counts in (REFERENCE, OBSERVED))
    expected = stats.ks_2samp(a, b, method="asymp")
    found = distances.kolmogorov_smirnov(REFERENCE, OBSERVED)
    assert found.statistic == pytest.approx(expected.statistic, abs=1e-12)
    assert found.p_value == pytest.approx(expected.pvalue, rel=1e-9)


def test_chi_square_is_scipys():
    expected = stats.chi2_contingency(np.stack([REFERENCE, OBSERVED]), correction=False)
    found = distances.chi_square(REFERENCE, OBSERVED)
    assert found.statistic == pytest.approx(expected.statistic, rel=1e-9)
    assert found.p_value == pytest.approx(expected.pvalue, rel=1e-9)


def test_wasserstein_over_bins_is_scipys():
    places = np.arange(6)
    expected = stats.wasserstein_distance(places, places, REFERENCE, OBSERVED)
    assert distances.wasserstein_bins(REFERENCE, OBSERVED) == pytest.approx(expected, abs=1e-12)


def test_wasserstein_of_histograms_is_that_of_many_values_spread_over_their_bins():
    def values(histogram):
        sides = zip(histogram.edges, histogram.edges[1:], histogram.counts, strict=False)
        return np.concatenate(
            [
                np.linspace(a, b, 2 * 400 * n + 1)[1::2] if b > a else np.full(400 * n, a)
                for a, b, n in sides
            ]
        )

    a, b = Histogram((0, 1, 4, 5), (3, 4, 1)), Histogram((-1, 2, 2, 3), (2, 3, 3))
    expected = stats.wasserstein_distance(values(a), values(b))
    assert distances.wasserstein(a, b) == pytest.approx(expected, abs=1e-3)


def test_a_move_of_all_values_is_their_distance():
    a, b = Histogram((0, 1, 2), (5, 5)), Histogram((3, 4, 5), (1, 1))
    assert distances.wasserstein(a, b) == pytest.approx(3.0)


def test_nothing_is_no_distance():
    none = np.zeros(3)
    empty = Histogram((0, 1), (0,))
    assert distances.jensen_shannon_bits(none, none + 1) == 0
    assert distances.wasserstein_bins(none + 1, none) == 0
    assert distances.wasserstein(empty, Histogram((0, 1), (1,))) == 0
    assert distances.kolmogorov_smirnov(none, none).p_value == 1
    assert distances.chi_square(none, none + 1).p_value == 1
