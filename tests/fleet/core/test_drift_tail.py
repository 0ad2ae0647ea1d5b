"""The test's far tail against its claim. `make soak` asks for more draws, and plain ones."""

import os

import numpy as np
import pytest
from scipy import stats

from benchmarks import drift_tail
from fleet.core.shift_test import statistic, tail

DRAWS = int(os.environ.get("DRIFT_DRAWS", "20000"))
CLAIMS = (1e-2, 1e-4, 1e-6, 1e-9)
ZIPF = 1 / np.arange(1, 31) ** 1.5
SOURCES = {
    "deciles": (np.full(10, 0.1), np.eye(10)[0]),
    "seldom_missing": (np.append(np.full(10, 0.09999), 1e-4), np.eye(11)[10]),
    "rare_categories": (np.array([0.9, 0.09, 0.009, 0.0009, 0.0001]), np.eye(5)[3]),
    "long_tail": (ZIPF / ZIPF.sum(), np.append(np.zeros(20), np.full(10, 0.1))),
    "rare_flag": (np.array([0.999, 0.001]), np.eye(2)[1]),
}
SIZES = ((10_000, 500), (10_000, 50), (10_000, 8000), (1000, 500))


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize(("reference_rows", "rows"), SIZES)
def test_no_drift_is_far_rarer_than_claimed(name, reference_rows, rows):
    found = drift_tail.tails(
        np.random.default_rng(1),
        SOURCES[name][0],
        reference_rows=reference_rows,
        rows=rows,
        claims=CLAIMS,
        draws=DRAWS,
    )
    assert all(t.upper <= 1 for t in found), found


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize(("reference_rows", "rows"), SIZES)
def test_a_shift_just_within_the_tolerance_is_about_as_rare_as_claimed(name, reference_rows, rows):
    truth, toward = SOURCES[name]
    found = drift_tail.tails(
        np.random.default_rng(2),
        truth,
        reference_rows=reference_rows,
        rows=rows,
        claims=CLAIMS,
        draws=DRAWS,
        toward=toward,
    )
    # Within a factor, where the errors of the plain chi-square are of many powers of ten (below).
    assert all(t.ratio - 3 * t.error <= 2 for t in found), found


def test_this_measure_sees_what_pearsons_test_gets_wrong():
    generator = np.random.default_rng(3)
    shares = np.array([0.9999, 0.0001])
    counts = generator.multinomial(500, shares, 200_000)
    expected = 500 * shares
    pearson = ((counts - expected) ** 2 / expected).sum(axis=1)
    beyond = (pearson > stats.chi2.isf(1e-4, 1)).mean() / 1e-4
    ours = statistic(10_000 * shares, counts.astype(float), 10_000, 500)
    assert beyond > 10
    assert (ours > stats.chi2.isf(1e-4, 1)).mean() / 1e-4 <= 1


@pytest.mark.parametrize(
    ("value", "degrees", "shift"),
    [(85, 10, 9.5), (60, 10, 0), (300, 10, 200), (5000, 100, 2000), (1, 1, 0.1), (22_000, 10, 2e4)],
)
@pytest.mark.parametrize("spread", [3.5, 60.0, 1440.0, np.inf])
def test_the_tail_is_scipys(value, degrees, shift, spread):
    if np.isinf(spread):
        expected = stats.ncx2.sf(value, degrees, shift) if shift else stats.chi2.sf(value, degrees)
    elif shift:
        expected = stats.ncf.sf(value / degrees, degrees, spread, shift)
    else:
        expected = stats.f.sf(value / degrees, degrees, spread)
    assert tail(value, degrees, shift, spread) == pytest.approx(expected, rel=1e-9, abs=1e-300)
