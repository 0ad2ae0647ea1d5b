"""Figures with their intervals, a comparison pair by pair, and what follows: each reason by itself."""

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from fleet.pipeline.comparison import compare, mcnemar
from fleet.pipeline.evaluation import Sureness, cut_slices, evaluate
from fleet.pipeline.intervals import wilson
from fleet.pipeline.verdict import Limit, decide, judged_count, metrics_of, read_limits
from tests.fleet.pipeline.answers import classifier, regressor, right_on
from wire.errors import ConfigError

FEW = Sureness(resamples=400)


def slices_of(n_rows, **columns):
    return cut_slices({name: np.asarray(c) for name, c in columns.items()}, list(columns), n_rows)


def judged(
    predictions, *limits, champion=None, slices=None, costs=None, champion_costs=None, **sure
):
    slices = slices or slices_of(len(predictions.truth))
    sureness = replace(FEW, judged_count=judged_count(limits, tuple(slices)), **sure)
    names = metrics_of(limits, is_change=False) or ("accuracy",) * (
        predictions.kind == "classifier"
    )
    evaluation = evaluate(predictions, slices, metrics=names or ("mae",), sureness=sureness)
    comparison = None
    if champion is not None:
        changes = metrics_of(limits, is_change=True)
        comparison = compare(predictions, champion, slices, metrics=changes, sureness=sureness)
    return decide(evaluation, comparison, limits, costs=costs, champion_costs=champion_costs)


# --- evaluation


def test_slices_are_all_rows_each_value_and_combinations():
    columns = {"site": np.array(["b", "a", "b"]), "shift": np.array(["d,=%", "n", "n"])}
    slices = cut_slices(columns, ["site", ("site", "shift")], 3)
    assert {name: rows.tolist() for name, rows in slices.items()} == {
        "": [True, True, True],
        "site=a": [False, True, False],
        "site=b": [True, False, True],
        "shift=d%2C%3D%25,site=b": [True, False, False],
        "shift=n,site=a": [False, True, False],
        "shift=n,site=b": [False, False, True],
    }


def test_a_column_to_slice_by_must_be_there_and_have_few_values():
    with pytest.raises(ConfigError) as caught:
        cut_slices({"site": np.array(["a"])}, ["room"], 1)
    assert caught.value.code == "slice_unknown"
    with pytest.raises(ConfigError) as caught:
        cut_slices({"id": np.arange(300).astype(str)}, ["id"], 300)
    assert caught.value.code == "too_many_slices"


def test_accuracy_has_wilsons_interval_and_a_wider_one_for_all():
    found = evaluate(
        right_on(200, 180), slices_of(200), metrics=["accuracy"], sureness=Sureness(judged_count=10)
    ).figure("accuracy")
    assert found.value == 0.9
    assert (found.low, found.high) == pytest.approx(wilson(180, 200, 0.95))
    assert (found.low_all, found.high_all) == pytest.approx(wilson(180, 200, 0.995))


def test_without_names_all_metrics_are_measured_and_of_all_rows_those_of_each_class():
    n = 240
    whole = evaluate(classifier(n), slices_of(n, site=["a", "b"] * 120), sureness=FEW)
    names = {(f.slice, f.metric) for f in whole.figures}
    assert ("site=a", "roc_auc") in names
    assert ("", "f1[c2]") in names
    assert ("site=a", "f1[c2]") not in names
    assert all(not f.fault for f in whole.figures)
    for f in whole.figures:
        assert f.low_all <= f.low <= f.high <= f.high_all
        assert f.low <= f.value <= f.high
    assert np.sum(whole.confusion) == n
    json.dumps(whole.to_json(), allow_nan=False)


def test_without_probabilities_their_metrics_are_left_out_or_told():
    figures = evaluate(right_on(100, 90), slices_of(100), sureness=FEW).figures
    assert not {f.metric for f in figures} & {"log_loss", "brier", "ece", "roc_auc"}
    asked = evaluate(
        right_on(100, 90), slices_of(100), metrics=["ece", "f1[perhaps]"], sureness=FEW
    )
    assert [f.fault for f in asked.figures] == ["no_scores", "unknown_class"]


def test_a_perfect_model_is_not_perfectly_sure():
    perfect = evaluate(right_on(60, 60), slices_of(60), metrics=["f1"], sureness=FEW).figure("f1")
    assert perfect.method == "worst_case"
    assert (perfect.low, perfect.high) == pytest.approx(wilson(30, 30, 0.95))
    assert perfect.high == 1


def test_the_same_seed_gives_the_same_figures_and_another_slice_changes_none():
    one = evaluate(classifier(200), slices_of(200), sureness=FEW)
    again = evaluate(classifier(200), slices_of(200), sureness=FEW)
    more = evaluate(classifier(200), slices_of(200, site=["a", "b"] * 100), sureness=FEW)
    other = evaluate(classifier(200), slices_of(200), sureness=replace(FEW, seed=1))
    assert one == again
    assert more.figures[: len(one.figures)] == one.figures
    assert other.figure("f1").low != one.figure("f1").low


def test_a_metric_must_be_there():
    for predictions, name in ((right_on(50, 40), "mae"), (regressor(50), "accuracy")):
        with pytest.raises(ConfigError) as caught:
            evaluate(predictions, slices_of(50), metrics=[name])
        assert caught.value.code == "metric_unknown"


def test_a_regressor_is_measured():
    figures = evaluate(regressor(300), slices_of(300), sureness=FEW)
    assert figures.figure("rmse").value == pytest.approx(1.0, abs=0.15)
    assert figures.figure("bias").low < 0.1 < figures.figure("bias").high
    assert figures.classes == figures.confusion == ()


def test_a_model_that_is_never_wrong_by_anything_has_no_interval():
    truth = regressor(50).truth
    exact = replace(regressor(50), answers=truth)
    assert (
        evaluate(exact, slices_of(50), metrics=["mae"], sureness=FEW).figure("mae").fault
        == "not_resampled"
    )


# --- comparison


@pytest.mark.parametrize(("gained", "lost"), [(3, 9), (0, 0), (12, 12), (20, 45), (30, 30)])
def test_mcnemar_is_binomial_on_the_rows_that_differ(gained, lost):
    n = 200
    old = right_on(n, n - gained)
    new = replace(old, answers=old.answers.copy())
    new.answers[:lost] = 1 - new.truth[:lost]
    new.answers[n - gained :] = new.truth[n - gained :]
    found = mcnemar(new, old)
    assert (found.challenger_only, found.champion_only) == (gained, lost)
    assert found.both + found.neither + gained + lost == n
    exact = stats.binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    if gained + lost < 25:
        assert found.method == "exact"
        assert found.p_value == pytest.approx(exact, abs=1e-12)
    else:
        assert found.method == "mid_p"
        point = stats.binom.pmf(min(gained, lost), gained + lost, 0.5)
        # Where both sides are equal the two tails share the middle.
        expected = exact - point if gained != lost else 1.0
        assert found.p_value == pytest.approx(expected, abs=1e-12)


def test_pairs_tell_what_two_intervals_do_not():
    n = 400
    old = right_on(n, 340)
    new = replace(old, answers=old.answers.copy())
    new.answers[340:360] = new.truth[340:360]  # right where the champion is, and on 20 rows more
    slices = slices_of(n)
    change = compare(new, old, slices, metrics=["accuracy", "f1"], sureness=FEW)
    assert change.change("accuracy").low > 0
    assert change.change("f1").low > 0
    apart = [evaluate(p, slices, metrics=["accuracy"]).figure("accuracy") for p in (new, old)]
    assert apart[0].low < apart[1].high


def test_what_is_paired_must_be_the_same_rows():
    one = classifier(100)
    for other in (classifier(99), classifier(100, truth_seed=1), regressor(100)):
        with pytest.raises(ValueError, match="same rows"):
            compare(one, other, slices_of(100))
    with pytest.raises(ValueError, match="same rows"):
        compare(regressor(50), regressor(50, truth_seed=1), slices_of(50))


def test_the_same_answers_are_the_same_model():
    both = compare(classifier(100), classifier(100), slices_of(100), sureness=FEW)
    assert both.change("log_loss").method == "equal"
    assert (both.change("f1").low, both.change("f1").high) == (0, 0)
    alike = compare(right_on(90, 80), right_on(90, 80), slices_of(90), sureness=FEW)
    assert alike.change("f1").method == "worst_case"
    assert alike.change("f1").low < 0 < alike.change("f1").high
    same = compare(regressor(60), regressor(60), slices_of(60), sureness=FEW)
    assert same.change("rmse").method == "equal"


def test_a_change_of_a_regressor_is_paired():
    new, old = regressor(200, 1.0, seed=5), regressor(200, 1.3, seed=5)
    change = compare(new, old, slices_of(200), metrics=["rmse"], sureness=FEW).change("rmse")
    assert change.high < 0


# --- verdict


def only(verdict, outcome, code):
    """The one reason that decided."""
    assert verdict.outcome == outcome, verdict.reasons
    (reason,) = verdict.deciding
    assert reason.code == code
    assert reason.sentence.endswith(".")
    assert verdict.reasons[0] == reason
    json.dumps(verdict.to_json(), allow_nan=False)
    return reason


def test_a_model_that_surely_is_good_is_blessed():
    reason = only(judged(right_on(1000, 950), Limit("accuracy", min=0.93)), "bless", "within")
    assert reason.low > 0.93
    assert "accuracy on all rows is 0.95" in reason.sentence
    assert "surely at least 0.93" in reason.sentence


def test_a_value_above_the_limit_is_not_enough():
    reason = only(judged(right_on(100, 95), Limit("accuracy", min=0.93)), "inconclusive", "unclear")
    assert reason.value == 0.95
    assert reason.low < 0.93
    assert "neither shown nor refuted" in reason.sentence


def test_a_value_below_the_limit_is_not_enough_to_refuse():
    only(judged(right_on(100, 91), Limit("accuracy", min=0.93)), "inconclusive", "unclear")


@pytest.mark.parametrize(
    ("predictions", "limit"),
    [
        (right_on(1000, 880), Limit("accuracy", min=0.93)),
        (right_on(1000, 880), Limit("f1[yes]", min=0.93)),
        (classifier(500, 0.2), Limit("log_loss", max=0.5)),
        (classifier(500, 0.2), Limit("brier", max=0.3)),
        (classifier(500, 0.2), Limit("roc_auc", min=0.9)),
        (classifier(500, 0.2), Limit("balanced_accuracy", min=0.9)),
        (regressor(500, 3.0), Limit("rmse", max=2.0)),
        (regressor(500, 3.0), Limit("r2", min=0.9)),
        (replace(regressor(500), answers=regressor(500).answers + 1), Limit("bias", max=0.5)),
        (replace(regressor(500), answers=regressor(500).answers - 1), Limit("bias", min=-0.5)),
        (regressor(500, 3.0), Limit("abs_error_p90", max=1.5)),
    ],
    ids=lambda value: value.metric if isinstance(value, Limit) else "",
)
def test_a_bad_model_is_refused_for_each_metric(predictions, limit):
    reason = only(judged(predictions, limit), "refuse", "broken")
    assert reason.metric == limit.metric
    assert reason.limit == (limit.min if limit.min is not None else limit.max)
    assert reason.low <= reason.value <= reason.high
    assert "surely not at" in reason.sentence


@pytest.mark.parametrize(
    ("new", "old", "limit"),
    [
        (right_on(500, 400), right_on(500, 450), Limit("accuracy", is_change=True, min=-0.02)),
        (right_on(500, 400), right_on(500, 450), Limit("f1", is_change=True, min=-0.02)),
        (classifier(600, 0.3), classifier(600, 0.9), Limit("log_loss", is_change=True, max=0.05)),
        (classifier(600, 0.3), classifier(600, 0.9), Limit("roc_auc", is_change=True, min=0.0)),
        (regressor(400, 1.5), regressor(400, 1.0), Limit("mae", is_change=True, max=0.1)),
        (regressor(400, 1.5), regressor(400, 1.0), Limit("r2", is_change=True, min=-0.01)),
    ],
    ids=lambda value: value.metric if isinstance(value, Limit) else "",
)  # fmt: skip
def test_a_worse_challenger_is_refused_for_each_metric(new, old, limit):
    reason = only(judged(new, limit, champion=old), "refuse", "broken")
    assert reason.is_change
    assert reason.sentence.startswith("the change of ")


def test_a_challenger_within_the_margin_is_blessed_and_one_that_may_be_worse_is_not():
    old = right_on(2000, 1800)
    new = replace(old, answers=old.answers.copy())
    new.answers[:2] = 1 - new.truth[:2]
    margin = Limit("accuracy", is_change=True, min=-0.01)
    assert only(judged(new, margin, champion=old), "bless", "within").value == -0.001
    no_margin = Limit("accuracy", is_change=True, min=0.0)
    only(judged(new, no_margin, champion=old), "inconclusive", "unclear")


def test_one_bad_slice_refuses_a_model_that_is_good_over_all():
    n, sites = 1000, np.where(np.arange(1000) < 900, "lab", "yard")
    limits = [Limit("accuracy", min=0.85), Limit("accuracy", "site", min=0.8)]
    verdict = judged(right_on(n, 930), *limits, slices=slices_of(n, site=sites))
    reason = only(verdict, "refuse", "broken")
    assert reason.slice == "site=yard"
    assert "on site=yard" in reason.sentence
    assert [r.outcome for r in verdict.reasons] == ["refuse", "bless", "bless", "note"]


def test_a_single_slice_can_have_a_limit_of_its_own():
    n, sites = 1000, np.where(np.arange(1000) < 900, "lab", "yard")
    limit = Limit("accuracy", "site=lab", min=0.9)
    reason = only(
        judged(right_on(n, 930), limit, slices=slices_of(n, site=sites)), "bless", "within"
    )
    assert reason.slice == "site=lab"


def test_a_worse_slice_refuses_the_challenger():
    n, sites = 1000, np.array(["lab", "yard"] * 500)
    old = right_on(n, 900)
    new = replace(old, answers=old.answers.copy())
    worse = np.flatnonzero(sites == "yard")[:100]
    new.answers[worse] = 1 - new.truth[worse]
    limit = Limit("accuracy", "site", is_change=True, min=-0.05)
    verdict = judged(new, limit, champion=old, slices=slices_of(n, site=sites))
    assert only(verdict, "refuse", "broken").slice == "site=yard"


def test_too_few_rows_are_a_verdict_and_no_number():
    n, sites = 500, np.where(np.arange(500) < 480, "lab", "yard")
    limit = Limit("accuracy", "site", min=0.5)
    verdict = judged(right_on(n, 470), limit, slices=slices_of(n, site=sites))
    reason = only(verdict, "inconclusive", "too_few_rows")
    assert (reason.slice, reason.value) == ("site=yard", None)
    assert "too few rows there (20)" in reason.sentence


def test_an_answer_that_is_no_number_refuses():
    bad = regressor(100)
    bad.answers[17] = np.nan
    only(judged(bad, Limit("mae", max=9.0)), "refuse", "not_finite")
    limit = Limit("mae", is_change=True, max=9.0)
    only(judged(bad, limit, champion=regressor(100)), "refuse", "not_finite")


@pytest.mark.parametrize(
    ("predictions", "limit", "code"),
    [
        (right_on(100, 90), Limit("ece", max=0.1), "no_scores"),
        (right_on(100, 90), Limit("recall[perhaps]", min=0.1), "unknown_class"),
        (classifier(100).of(classifier(100).truth == 0), Limit("roc_auc", min=0.5), "undefined"),
        (right_on(100, 90), Limit("accuracy", "room", min=0.1), "no_slice"),
    ],
)
def test_what_cannot_be_judged_is_inconclusive(predictions, limit, code):
    only(judged(predictions, limit), "inconclusive", code)


def test_what_was_not_measured_is_inconclusive():
    evaluation = evaluate(right_on(100, 90), slices_of(100), metrics=["f1"], sureness=FEW)
    verdict = decide(evaluation, None, [Limit("accuracy", min=0.1)])
    only(verdict, "inconclusive", "not_measured")


def test_without_a_champion_value_limits_alone_decide_and_that_is_said():
    limits = [Limit("accuracy", min=0.8), Limit("accuracy", is_change=True, min=0.0)]
    verdict = judged(right_on(500, 450), *limits)
    assert verdict.outcome == "bless"
    (note,) = [reason for reason in verdict.reasons if reason.outcome == "note"]
    assert note.code == "no_champion"
    assert "1 limits of change were not judged" in note.sentence
    alone = judged(right_on(500, 450), limits[1])
    only(alone, "inconclusive", "no_limits")


def test_without_limits_nothing_is_blessed():
    only(judged(right_on(500, 450), champion=right_on(500, 400)), "inconclusive", "no_limits")


def test_costs_are_judged_as_they_are():
    good, costs = right_on(100, 99), {"bytes": 2_000_000, "memory_mb": 12.5}
    reason = only(judged(good, Limit("bytes", max=1e6), costs=costs), "refuse", "broken")
    assert "is 2e+06 bytes, and must be at most 1e+06" in reason.sentence
    only(judged(good, Limit("memory_mb", max=13), costs=costs), "bless", "within")
    only(judged(good, Limit("p99_ms", max=13), costs=costs), "inconclusive", "not_measured")
    change = Limit("bytes", is_change=True, max=0)
    old = {"bytes": 1_900_000}
    verdict = judged(good, change, champion=good, costs=costs, champion_costs=old)
    assert only(verdict, "refuse", "broken").value == 100_000
    only(judged(good, change, champion=good, costs=costs), "inconclusive", "not_measured")


def test_many_slices_refuse_a_good_model_no_more_often_than_one():
    """Twenty slices, all exactly at the limit: one in forty may be refused, not one in two."""
    n, refused, random = 2000, 0, np.random.default_rng(7)
    sites = np.arange(n).astype(np.int64) % 20
    slices = slices_of(n, site=sites.astype(str))
    for _ in range(200):
        p = right_on(n, n)
        wrong = random.random(n) > 0.9
        p.answers[wrong] = 1 - p.truth[wrong]
        refused += judged(p, Limit("accuracy", "site", min=0.9), slices=slices).outcome == "refuse"
    assert refused / 200 < 0.06


def test_limits_are_read_from_the_project():
    limits = read_limits(
        {"accuracy": {"min": 0.9, "max": None}},
        {"accuracy": {"min": -0.01}},
        {"site": {"f1": {"min": 0.5, "max": 1}}},
        {"site=lab": {"f1": {"min": -0.1}}},
    )
    assert limits == (
        Limit("accuracy", min=0.9),
        Limit("accuracy", is_change=True, min=-0.01),
        Limit("f1", "site", min=0.5, max=1),
        Limit("f1", "site=lab", is_change=True, min=-0.1),
    )
    assert judged_count(limits, ("", "site=lab", "site=yard")) == 7
    assert metrics_of(limits, is_change=True) == ("accuracy", "f1")


@pytest.mark.parametrize(
    ("ends", "says"),
    [
        ({}, "give min, max or both"),
        ({"min": None}, "give min, max or both"),
        ({"least": 1}, "give min, max or both"),
        ({"min": 2, "max": 1}, "above"),
        ({"min": float("inf")}, "finite"),
    ],
)
def test_a_limit_that_makes_no_sense_names_its_key(ends, says):
    with pytest.raises(ConfigError) as caught:
        read_limits({}, {}, {"site": {"f1": ends}})
    assert caught.value.code == "limit_invalid"
    assert "slices.site.f1" in str(caught.value)
    assert says in str(caught.value)
