"""Anomalies, against those that TFDV found in the same data with the same schema."""

from __future__ import annotations

import pytest
from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2

from fleet.pipeline.anomalies import Verdict, validate
from fleet.pipeline.statistics import statistics_of
from tests.fleet.pipeline.vectors import ANSWERS, CASES, columns_from

STRICTER = {"size_max": ["DATASET_HIGH_NUM_EXAMPLES"]}
"""TFDV 1.16 looks at max_examples_count only beside a min_examples_count."""


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


@pytest.mark.parametrize("name", sorted(CASES))
def test_distances_equal_tfdv(name):
    ours = {
        (m.feature, m.comparator, m.kind): (m.value, m.threshold) for m in run(name).measurements
    }
    theirs = {(f, c, kind): (v, t) for f, c, kind, v, t in ANSWERS[name]["measurements"]}
    assert ours.keys() == theirs.keys()
    for key, pair in ours.items():
        assert pair == pytest.approx(theirs[key], abs=1e-12)
