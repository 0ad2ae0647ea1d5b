"""Anomalies, against those that TFDV found in the same data with the same schema."""

from __future__ import annotations

import numpy as np
import pytest
from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2

from fleet.pipeline.anomalies import Severity, Verdict, validate
from fleet.pipeline.statistics import column_of, statistics_of
from fleet.pipeline.tfdv import REASONS
from tests.fleet.pipeline.vectors import ANSWERS, CASES, columns_from
from wire.errors import ConfigError

STRICTER = {"size_max": ["DATASET_HIGH_NUM_EXAMPLES"]}
"""TFDV 1.16 looks at max_examples_count only beside a min_examples_count."""

FORGETFUL = {"drift_nan_other_edges"}
"""TFDV 1.16 forgets NaN where the edges of two histograms differ, see `fleet.pipeline.comparators`."""


def run(name):
    case = CASES[name]
    schema = text_format.Parse(case["schema"], schema_pb2.Schema())
    known = schema if case.get("is_schema_known") else None
    others = {
        key: statistics_of(columns_from(case[key]), known)
        for key in ("previous", "serving", "previous_version")
        if key in case
    }
    statistics = statistics_of(columns_from(case["table"]), known)
    return validate(statistics, schema, environment=case.get("environment"), **others)


def by_feature(found):
    reasons = {}
    for anomaly in found.anomalies:
        reasons.setdefault(anomaly.feature, []).append(anomaly.reason)
    return reasons


def plain(path):
    """Return the name that TFDV's serialised path stands for."""
    return path[1:-1].replace("''", "'") if path.startswith("'") else path


@pytest.mark.parametrize("name", sorted(CASES))
def test_codes_equal_tfdv(name):
    found, answer = run(name), ANSWERS[name]
    reasons = by_feature(found)
    dataset = reasons.pop("", [])
    theirs = {plain(path): sorted(told["reasons"]) for path, told in answer["features"].items()}
    assert {feature: sorted(codes) for feature, codes in reasons.items()} == theirs
    assert dataset == STRICTER.get(name, answer["dataset"])
    assert (found.verdict is Verdict.NO_DATA) == answer["is_data_missing"]
    assert {told["severity"] for told in answer["features"].values()} <= {"ERROR"}


@pytest.mark.parametrize("name", sorted(CASES.keys() - FORGETFUL))
def test_distances_equal_tfdv(name):
    ours = {
        (m.feature, m.comparator, m.kind): (m.value, m.threshold) for m in run(name).measurements
    }
    theirs = {(f, c, kind): (v, t) for f, c, kind, v, t in ANSWERS[name]["measurements"]}
    assert ours.keys() == theirs.keys()
    for key, pair in ours.items():
        assert pair == pytest.approx(theirs[key], abs=1e-12)


def test_nan_is_never_forgotten():
    (name,) = FORGETFUL
    case, (measured,) = CASES[name], ANSWERS[name]["measurements"]
    schema = text_format.Parse(case["schema"], schema_pb2.Schema())
    now, before = columns_from(case["table"])[0], columns_from(case["previous"])[0]

    def bits(*columns):
        counted = [statistics_of([column]) for column in columns]
        return validate(counted[0], schema, previous=counted[1]).measurements[0].value

    numbers = [column_of("nan", c.values[~np.isnan(c.values)]) for c in (now, before)]
    assert bits(*numbers) == pytest.approx(measured[3], abs=1e-12)
    assert bits(now, before) > measured[3] + 0.01


@pytest.mark.parametrize(
    ("name", "verdict", "features"),
    [
        ("drift_without_previous", Verdict.NO_BASELINE, {"normal", "empty", "constant"}),
        ("size_drift_without_previous", Verdict.NO_BASELINE, {""}),
        ("drift_numbers_infinity_norm", Verdict.NO_BASELINE, {"normal"}),
        ("drift_same", Verdict.NO_BASELINE, {"empty"}),
        ("drift_numbers", Verdict.ANOMALOUS, {"empty"}),
        ("drift_without_threshold", Verdict.VALID, set()),
        ("drift_column_new_type", Verdict.VALID, set()),
    ],
)
def test_a_comparison_that_is_not_made_is_no_pass(name, verdict, features):
    found = run(name)
    assert found.verdict is verdict
    assert {unmade.feature for unmade in found.unmade} >= features
    assert bool(found.unmade) == bool(features)
    assert all(unmade.sentence for unmade in found.unmade)


def test_a_warning_leaves_the_data_valid():
    case = CASES["range_int"]
    schema = text_format.Parse(case["schema"], schema_pb2.Schema())
    statistics = statistics_of(columns_from(case["table"]))
    codes = {anomaly.reason for anomaly in validate(statistics, schema).anomalies}
    some = dict.fromkeys(sorted(codes)[:1], Severity.WARNING)
    assert validate(statistics, schema, overrides=some).verdict is Verdict.ANOMALOUS
    found = validate(statistics, schema, overrides=dict.fromkeys(codes, Severity.WARNING))
    assert found.verdict is Verdict.VALID
    assert {anomaly.severity for anomaly in found.anomalies} == {Severity.WARNING}


def test_every_code_is_one_of_tfdv_s():
    found = {anomaly.reason for name in CASES for anomaly in run(name).anomalies}
    assert found <= REASONS
    assert len(found) > 30


def test_what_nobody_checks_is_told():
    schema = text_format.Parse(
        'feature { name: "value" type: BYTES url_domain { } } sparse_feature { name: "s" }',
        schema_pb2.Schema(),
    )
    told = validate(statistics_of(columns_from("single")), schema).unchecked
    assert told == (
        "sparse features are not checked: a table has none",
        "the url_domain of 'value' is not checked",
    )


def test_an_environment_that_the_schema_does_not_have_is_refused():
    with pytest.raises(ConfigError, match="'MOON'") as refused:
        validate(statistics_of(columns_from("single")), schema_pb2.Schema(), environment="MOON")
    assert refused.value.code == "environment_unknown"


def test_a_domain_that_is_not_there_is_the_schema_s_fault():
    schema = text_format.Parse(
        'feature { name: "colour" type: BYTES domain: "none" }', schema_pb2.Schema()
    )
    statistics = statistics_of(columns_from("strings")[:1])
    assert by_feature(validate(statistics, schema)) == {"colour": ["INVALID_SCHEMA_SPECIFICATION"]}
