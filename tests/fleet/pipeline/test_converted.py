"""From a trained model to a verdict in its bundle: what is judged is the converted model."""

from types import SimpleNamespace

import numpy as np
import pytest
import skops.io
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, log_loss, mean_absolute_error

from converter import ConvertRequest, add_card, answer, convert, measure
from fleet.pipeline.card import CardFacts, make_card
from fleet.pipeline.comparison import compare
from fleet.pipeline.evaluation import Sureness, cut_slices, evaluate
from fleet.pipeline.predictions import read_predictions
from fleet.pipeline.verdict import decide, judged_count, read_limits
from wire.bundle import read_bundle

pytestmark = pytest.mark.slow

FEW = 300


def bundle_of(folder, model, rows, labels):
    folder.mkdir()
    skops.io.dump(model, folder / "model.skops")
    np.savez(folder / "data.npz", X=rows, y=labels)
    source, data, output = (str(folder / "model.skops"), folder / "data.npz", folder / "m.bundle")
    convert(ConvertRequest(source, "digits", "1.0.0", data, output), [].append)
    return output


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A champion, a challenger as good, and one that was trained with half of the labels wrong."""
    rows, labels = load_digits(return_X_y=True)
    rows = rows.astype(np.float32) / 16
    train, test = np.arange(len(rows)) % 3 != 0, np.arange(len(rows)) % 3 == 0
    spoilt = labels.copy()
    spoilt[::2] = (spoilt[::2] + 1) % 10
    folder = tmp_path_factory.mktemp("digits")
    made = {}
    for name, strength, truth in (
        ("champion", 1.0, labels), ("good", 0.5, labels), ("bad", 1.0, spoilt),
    ):  # fmt: skip
        model = LogisticRegression(C=strength, max_iter=200).fit(rows[train], truth[train])
        path = bundle_of(folder / name, model, rows[train], labels[train])
        found = read_predictions(
            answer(path, rows[test]), labels[test], kind="classifier",
            classes=np.unique(labels[train]),
        )  # fmt: skip
        made[name] = SimpleNamespace(path=path, model=model, predictions=found)
    sites = np.where(np.arange(test.sum()) % 2, "lab", "yard")
    return SimpleNamespace(rows=rows[test], labels=labels[test], sites=sites, **made)


def judge(digits, name, **evaluate_section):
    limits = read_limits(
        evaluate_section.get("thresholds", {}),
        evaluate_section.get("change", {}),
        evaluate_section.get("slices", {}),
    )
    slices = cut_slices({"site": digits.sites}, ["site"], len(digits.labels))
    sureness = Sureness(judged_count=judged_count(limits, tuple(slices)), resamples=FEW)
    new = getattr(digits, name).predictions
    evaluation = evaluate(new, slices, sureness=sureness)
    comparison = compare(new, digits.champion.predictions, slices, sureness=sureness)
    return evaluation, comparison, decide(evaluation, comparison, limits)


def test_the_figures_are_those_of_the_converted_model(digits):
    evaluation, _, _ = judge(digits, "good")
    model = digits.good.model
    expected = accuracy_score(digits.labels, model.predict(digits.rows))
    assert evaluation.figure("accuracy").value == pytest.approx(expected, abs=1e-12)
    loss = log_loss(digits.labels, model.predict_proba(digits.rows))
    assert evaluation.figure("log_loss").value == pytest.approx(loss, rel=1e-4)
    assert evaluation.classes == tuple("0123456789")


def test_a_good_challenger_is_blessed_and_a_bad_one_refused(digits):
    section = {
        "thresholds": {"accuracy": {"min": 0.9}},
        "change": {"accuracy": {"min": -0.03}},
        "slices": {"site": {"f1": {"min": 0.85}}},
    }
    assert judge(digits, "good", **section)[2].outcome == "bless"
    verdict = judge(digits, "bad", **section)[2]
    assert verdict.outcome == "refuse"
    assert {(r.metric, r.slice, r.is_change) for r in verdict.deciding} == {
        ("accuracy", "", False), ("accuracy", "", True),
        ("f1", "site=lab", False), ("f1", "site=yard", False),
    }  # fmt: skip


def test_the_verdict_goes_into_the_bundle_that_it_is_about(digits, tmp_path):
    evaluation, comparison, verdict = judge(digits, "good", thresholds={"accuracy": {"min": 0.9}})
    opened = read_bundle(digits.good.path)
    entry = opened.manifest.file("model.onnx")
    facts = CardFacts(
        "digits", "1.0.0", entry.sha256, entry.bytes, evaluation, verdict, comparison, "0.9.0"
    )
    add_card(digits.good.path, make_card(facts), tmp_path / "released")
    released = read_bundle(tmp_path / "released")
    assert released.manifest.file("model.onnx") == entry
    assert entry.sha256 in released.files["model_card.md"].decode()
    assert "| verdict | blessed |" in released.files["model_card.md"].decode()


def test_what_the_model_takes_can_refuse_it(digits):
    costs = measure(digits.good.path, digits.rows).model_dump()
    evaluation = judge(digits, "good")[0]
    limits = read_limits({"bytes": {"max": 1000}, "p99_ms": {"max": 1e5}}, {}, {})
    verdict = decide(evaluation, None, limits, costs=costs)
    assert verdict.outcome == "refuse"
    assert [reason.metric for reason in verdict.deciding] == ["bytes"]


def test_a_regressor_is_judged_by_what_its_converted_form_answers(tmp_path):
    random = np.random.default_rng(0)
    rows = random.normal(size=(400, 3)).astype(np.float32)
    values = rows @ np.array([1.0, 2.0, 3.0]) + random.normal(size=400)
    model = RandomForestRegressor(20, random_state=0).fit(rows[:300], values[:300])
    path = bundle_of(tmp_path / "m", model, rows[:300], values[:300])
    found = read_predictions(answer(path, rows[300:]), values[300:], kind="regressor")
    evaluation = evaluate(found, cut_slices({}, [], 100), sureness=Sureness(resamples=FEW))
    expected = mean_absolute_error(values[300:], model.predict(rows[300:]))
    assert evaluation.figure("mae").value == pytest.approx(expected, rel=1e-5)
