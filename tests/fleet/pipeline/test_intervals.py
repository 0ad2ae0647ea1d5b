"""Intervals against SciPy's, their own definition, and how often they hold the truth."""

import numpy as np
import pytest
from scipy import optimize, stats

from fleet.pipeline import intervals, metrics
from tests.fleet.pipeline.answers import classifier, regressor


@pytest.mark.parametrize(("k", "n"), [(0, 10), (3, 10), (10, 10), (480, 500), (1, 1)])
@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.999])
def test_wilson_is_scipys(k, n, confidence):
    expected = stats.binomtest(k, n).proportion_ci(confidence, method="wilson")
    assert intervals.wilson(k, n, confidence) == pytest.approx(tuple(expected), abs=1e-12)


def likelihood_score(b, c, n, difference):
    """The score statistic with the nuisance share found by search, not by formula."""

    def loss(share):
        # shares of: first only, second only, neither differs
        cells = np.array([share + difference, share, 1 - 2 * share - difference])
        counts = np.array([b, c, n - b - c])
        if (cells < 0).any() or ((cells == 0) & (counts > 0)).any():
            return np.inf
        return -float((counts[counts > 0] * np.log(cells[counts > 0])).sum())

    low, high = max(0.0, -difference), (1 - difference) / 2
    share = optimize.minimize_scalar(
        loss, bounds=(low, high), method="bounded", options={"xatol": 1e-13}
    ).x
    return (b - c - n * difference) / np.sqrt(n * (2 * share + difference - difference**2))


@pytest.mark.parametrize(("b", "c", "n"), [(12, 2, 50), (1, 4, 80), (30, 30, 100), (5, 0, 40)])
def test_tango_ends_where_the_likelihood_says(b, c, n):
    low, high = intervals.tango(b, c, n, 0.95)
    assert low < (b - c) / n < high
    z = stats.norm.ppf(0.975)
    assert likelihood_score(b, c, n, low) == pytest.approx(z, abs=1e-4)
    assert likelihood_score(b, c, n, high) == pytest.approx(-z, abs=1e-4)


@pytest.mark.parametrize("n", [1, 30, 5000])
def test_tango_without_a_difference_is_as_wide_as_its_paper_says(n):
    z2 = stats.norm.ppf(0.975) ** 2
    low, high = intervals.tango(0, 0, n, 0.95)
    assert (low, high) == pytest.approx((-z2 / (n + z2), z2 / (n + z2)), rel=1e-6)


def test_tango_is_odd_and_reaches_the_ends():
    low, high = intervals.tango(3, 9, 60, 0.9)
    assert intervals.tango(9, 3, 60, 0.9) == pytest.approx((-high, -low), abs=1e-9)
    assert intervals.tango(20, 0, 20, 0.9)[1] == 1
    assert intervals.tango(0, 20, 20, 0.9)[0] == -1


@pytest.mark.parametrize("shares", [(0.04, 0.04), (0.1, 0.02), (0.01, 0.0)])
def test_tango_holds_the_truth_as_often_as_it_says(shares):
    n, first, second = 120, *shares
    draws = np.random.default_rng(1).multinomial(n, [first, second, 1 - first - second], 2000)
    held = sum(
        low <= first - second <= high
        for b, c, _ in draws
        for low, high in [intervals.tango(int(b), int(c), n, 0.95)]
    )
    assert held / 2000 > 0.935  # 3 standard errors below 0.95


@pytest.mark.parametrize("name", ["balanced_accuracy", "f1", "log_loss", "ece", "roc_auc"])
def test_the_bootstrap_is_scipys_bca_on_the_same_draws(name):
    predictions = classifier(120, 0.6)
    statistic = metrics.statistic(name, predictions)
    hold_against_scipy(statistic, 120)


@pytest.mark.parametrize("name", ["mae", "rmse", "r2", "bias"])
def test_the_bootstrap_of_a_regressor_is_scipys_too(name):
    hold_against_scipy(metrics.statistic(name, regressor(150)), 150)


def hold_against_scipy(statistic, n):
    draws = intervals.gather(
        statistic, intervals.resampled_weights(n, 999, np.random.default_rng(3))
    )
    left_out = intervals.gather(statistic, intervals.jackknife_weights(n))
    value = float(statistic(np.ones((1, n)))[0])

    def of_rows(rows, axis=-1):
        counts = np.apply_along_axis(lambda r: np.bincount(r, minlength=n), axis, rows)
        return statistic(counts.reshape(-1, n).astype(float)).reshape(rows.shape[:-1])

    given = stats.bootstrap(
        (np.arange(n),), of_rows, n_resamples=2, method="percentile", vectorized=True, rng=0
    )
    given.bootstrap_distribution = draws
    expected = stats.bootstrap(
        (np.arange(n),), of_rows, n_resamples=0, bootstrap_result=given, method="BCa",
        vectorized=True,
    ).confidence_interval  # fmt: skip
    found, method = intervals.bootstrap(value, draws, left_out, 0.95)
    assert method == "bca"
    assert found == pytest.approx(tuple(expected), rel=1e-9)


def test_the_bootstrap_holds_the_truth_about_as_often_as_it_says():
    held = 0
    for seed in range(200):
        sample = regressor(80, seed=seed, truth_seed=seed)
        statistic = metrics.statistic("mae", sample)
        draws = intervals.gather(
            statistic, intervals.resampled_weights(80, 500, np.random.default_rng(seed))
        )
        left_out = intervals.gather(statistic, intervals.jackknife_weights(80))
        value = float(statistic(np.ones((1, 80)))[0])
        (low, high), _ = intervals.bootstrap(value, draws, left_out, 0.95)
        held += low <= stats.foldnorm.mean(0.1) <= high
    assert held / 200 > 0.90


def test_resampled_rows_are_as_many_as_there_are():
    parts = list(intervals.resampled_weights(1000, 3000, np.random.default_rng(0)))
    assert [len(part) for part in parts] == [1000, 1000, 1000]
    assert all((part.sum(axis=1) == 1000).all() for part in parts)
    assert np.concatenate(parts).mean() == 1


def test_the_jackknife_leaves_each_row_out_once():
    for n in (1, 7, 200, 1234):
        weights = np.concatenate(list(intervals.jackknife_weights(n)))
        assert len(weights) == min(n, 200)
        assert ((1 - weights).sum(axis=0) == 1).all()


def test_without_a_spread_there_is_no_interval():
    assert intervals.bootstrap(1.0, np.ones(500), np.ones(20), 0.95) is None
    half = np.where(np.arange(500) % 2, np.nan, np.arange(500))
    assert intervals.bootstrap(1.0, half, np.ones(20), 0.95) is None
    assert intervals.bootstrap(np.nan, np.arange(500.0), np.ones(20), 0.95) is None


def test_where_bca_has_no_answer_the_percentiles_are_taken():
    draws = np.arange(1.0, 1001.0)
    found, method = intervals.bootstrap(0.0, draws, np.arange(10.0), 0.9)
    assert method == "percentile"
    assert found == pytest.approx((50.95, 950.05))


def test_more_confidence_is_wider_by_the_normals_ratio():
    low, high = intervals.widened(0.5, (0.4, 0.7), 0.95, 0.99)
    ratio = stats.norm.ppf(0.995) / stats.norm.ppf(0.975)
    assert (low, high) == pytest.approx((0.5 - 0.1 * ratio, 0.5 + 0.2 * ratio))
    assert intervals.widened(0.5, (0.4, 0.7), 0.95, 0.95) == pytest.approx((0.4, 0.7))


def test_bonferroni_shares_out_the_error():
    assert intervals.for_all(0.95, 1) == pytest.approx(0.95)
    assert intervals.for_all(0.95, 0) == pytest.approx(0.95)
    assert 1 - intervals.for_all(0.95, 20) == pytest.approx(0.05 / 20)
