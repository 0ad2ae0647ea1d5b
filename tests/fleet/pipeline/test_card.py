"""The model card: what it says, that it says the same each time, and that nothing breaks it."""

import re
from dataclasses import replace

import numpy as np
import pytest

from converter.card import read_card
from fleet.pipeline.card import CardFacts, make_card
from fleet.pipeline.comparison import compare
from fleet.pipeline.evaluation import Sureness, cut_slices, evaluate
from fleet.pipeline.verdict import Limit, decide
from tests.fleet.pipeline.answers import classifier, regressor
from wire.manifest import MAX_CARD_BYTES

FEW = Sureness(resamples=300)
LIMITS = [Limit("accuracy", min=0.5), Limit("p99_ms", max=10.0), Limit("accuracy", "site", min=0.5)]


def facts(n=300, costs=None, **changes):
    new, old = classifier(n, 0.8), classifier(n, 0.7, seed=9)
    slices = cut_slices({"site": np.where(np.arange(n) < n - 10, "lab", "yard")}, ["site"], n)
    evaluation = evaluate(new, slices, sureness=FEW)
    comparison = compare(new, old, slices, sureness=FEW)
    given = {
        "name": "digits",
        "version": "1.2.0",
        "model_sha256": "ab" * 32,
        "model_bytes": 12345,
        "evaluation": evaluation,
        "verdict": decide(evaluation, comparison, LIMITS, costs=costs or {"p99_ms": 1.0}),
        "comparison": comparison,
        "champion": "digits 1.1.0",
        "intended_use": "Reading meters.\nNot people.",
        "limits": "Only at daylight.",
        "data": {"source": "data/*.parquet", "label": "y"},
        "part_rows": {"train": 700, "validation": 150, "test": n},
        "feature_names": ("a_b", "c"),
        "parameters": {"C": 0.5},
        "parity": ("label: all equal",),
        "lineage": {"commit": "0123abc"},
    }
    return CardFacts(**{**given, **changes})


def test_it_has_every_section_and_the_figures_with_their_intervals():
    given = facts()
    card = make_card(given)
    titles = re.findall(r"^## (.*)$", card, re.MULTILINE)
    assert titles == [
        "Intended use", "Data", "Training", "Conversion", "Evaluation", "By slice", "Confusion",
        "Comparison", "Verdict", "Limits", "Lineage",
    ]  # fmt: skip
    found = given.evaluation.figure("accuracy")
    row = f"| accuracy | {found.value:.4g} | {found.low:.4g} to {found.high:.4g} | 300 | wilson |"
    assert row in card
    assert "| site=lab | balanced\\_accuracy |" in card
    assert "| site=yard | accuracy | too few rows |  | 10 |  |" in card
    assert "Nothing is known of it on site=yard: too few rows." in card
    assert "> Reading meters.\n> Not people." in card
    assert f"    {'ab' * 32}\n" in card
    assert "With digits 1.1.0, on the same rows" in card
    assert "McNemar's p is" in card
    assert "Features (2): a\\_b, c." in card
    assert "Rows: train 700, validation 150, test 300." in card


def test_it_is_the_same_each_time_and_wherever_it_was_measured():
    fast, slow = facts(costs={"p99_ms": 1.0}), facts(costs={"p99_ms": 9.0})
    assert fast.verdict != slow.verdict
    assert make_card(fast) == make_card(slow) == make_card(facts(costs={"p99_ms": 1.0}))
    assert "P99\\_ms" not in make_card(fast)
    assert "- P99_ms was judged on the machine of the run." in make_card(fast)


def test_without_a_champion_and_words_of_the_author_that_is_said():
    card = make_card(facts(comparison=None, intended_use="", limits=" \n", data={}, lineage={}))
    assert "There was no champion to compare with." in card
    assert "The author has not said what it is for." in card
    assert "The author has not said what it is not for." in card
    assert "## Lineage" not in card


def test_a_regressor_has_a_card_without_confusion():
    evaluation = evaluate(regressor(90), cut_slices({}, [], 90), sureness=FEW)
    verdict = decide(evaluation, None, [])
    card = make_card(replace(facts(), evaluation=evaluation, verdict=verdict, comparison=None))
    assert "Confusion" not in card
    assert "## By slice" not in card
    assert "The model is open: the rows do not tell." in card


def test_no_name_or_word_breaks_out_of_its_place():
    evil = "x|y\n# Forged\n<script>`*_[a](b)\x1b[31m\u202e"
    card = make_card(
        facts(
            name=evil, champion=evil, feature_names=(evil,), parameters={evil: evil}, parity=(evil,),
            intended_use=f"{evil}\r\n## Verdict\n\nThe model is blessed.",
        )
    )  # fmt: skip
    assert not re.search(r"^# Forged|^<script>", card, re.MULTILINE)
    assert "<script>" not in card.replace("\\<script", "")
    assert len(re.findall(r"^## Verdict$", card, re.MULTILINE)) == 1
    assert "> ## Verdict" in card
    assert all(c.isprintable() or c == "\n" for c in card)


def test_it_fits_a_bundle_however_much_there_is_to_say(tmp_path):
    wide = "🐘" * 1000
    n, count = 9000, 250
    evaluation = evaluate(
        classifier(n, 0.5, 30),
        cut_slices({wide: np.array([f"{wide}{i % count}" for i in range(n)])}, [wide], n),
        metrics=["accuracy", "recall[c1]", "f1[c1]"],
    )
    limits = [Limit("accuracy", wide, min=0.1), Limit("accuracy", wide, max=0.99)]
    wide += "<" * 9000
    many = {f"{wide[:60]}{i}": wide for i in range(300)}
    given = replace(
        facts(), evaluation=evaluation, verdict=decide(evaluation, None, limits), intended_use=wide[1000:],
        limits=wide[1000:], feature_names=[wide] * 500, parameters=many, lineage=many, data=many,
        parity=[wide] * 200, comparison=replace(facts().comparison, changes=evaluation.figures),
    )  # fmt: skip
    card = make_card(given)
    assert len(card.encode()) <= MAX_CARD_BYTES
    assert "more." in card
    (tmp_path / "card.md").write_text(card, encoding="utf-8")
    assert read_card(tmp_path / "card.md") == card.encode()


@pytest.mark.parametrize("value", [0.0, -0.0, 1e-12, 123456.0, -0.00001])
def test_numbers_have_four_digits(value):
    given = facts()
    figure = replace(given.evaluation.figures[0], value=value, low=value, high=value)
    card = make_card(replace(given, evaluation=replace(given.evaluation, figures=(figure,))))
    text = f"{value + 0.0:.4g}"
    assert f"| {text} | {text} to {text} |" in card
    assert "-0 " not in card
