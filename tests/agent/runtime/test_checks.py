"""What a request may hold, on the real server and by itself."""

import json
import math

import numpy as np
import pytest

from agent.ports import CandidateFailed, ColumnsClosed, Heartbeat
from agent.runtime.checks import InputChecks
from wire.lifecycle import Code
from wire.manifest import BASELINE, SCHEMA, TensorSpec
from wire.schema import FeatureCheck, Schema
from wire.windows import CheckCounts

BAD = {"missing": math.nan, "infinite": -math.inf, "range": 200.0}


def checks_of(*checks, nan_policy="pass", shape=(-1, 2), datatype="FP32", names=()):
    tensor = TensorSpec(name="X", datatype=datatype, shape=shape, feature_names=names)
    return InputChecks((tensor,), nan_policy, Schema(features=checks) if checks else None)


def refused(found, rows, dtype=np.float32):
    array = np.array(rows, object if dtype is object else dtype)
    refusal = found.refuse({"X": array})
    return refusal and (refusal.reason, refusal.sentence)


@pytest.mark.parametrize(
    ("check", "row", "reason", "words"),
    [
        ({"low": 0, "high": 120, "range": "reject"}, 121, "range", "takes 0 to 120"),
        ({"low": 0, "range": "reject"}, -0.5, "range", "takes 0 to inf"),
        ({"missing": "reject"}, math.nan, "missing", "refuses missing values"),
        ({"infinite": "reject"}, math.inf, "infinite", "refuses infinite values"),
    ],
)
def test_a_refusal_names_feature_and_row(check, row, reason, words):
    found = checks_of(FeatureCheck(name="age", **check), names=("height", "age"))
    assert refused(found, [[0, 1], [1, 2]]) is None
    why, sentence = refused(found, [[0, 1], [1, row]])
    assert why == reason
    assert words in sentence
    assert "feature 'age', row 1" in sentence
    assert "[1, 1]" in sentence
    assert refused(found, [[row, 1]]) is None, "the check is of the other feature"


@pytest.mark.parametrize("value", BAD.values())
@pytest.mark.parametrize("action", ["flag", "pass"])
def test_what_is_flagged_or_passed_is_answered(value, action):
    check = FeatureCheck(name="X[0]", low=0, high=9, range=action, missing=action, infinite=action)
    found = checks_of(check, nan_policy="reject")
    assert refused(found, [[value, 1]]) is None
    expected = {reason: int(action == "flag") for reason, bad in BAD.items() if bad is value}
    assert +found.flag("X", np.float32([[value, 1]])) == {r: n for r, n in expected.items() if n}


def test_nan_policy_is_the_rule_where_no_feature_says_otherwise():
    loose = FeatureCheck(name="X[0]", missing="pass")
    assert refused(checks_of(nan_policy="reject"), [[math.nan, 1]])[0] == "missing"
    assert refused(checks_of(nan_policy="pass"), [[math.nan, math.inf]]) is None
    assert refused(checks_of(loose, nan_policy="reject"), [[math.nan, 1]]) is None
    assert refused(checks_of(loose, nan_policy="reject"), [[1, math.nan]])[0] == "missing"
    assert refused(checks_of(loose, nan_policy="reject"), [[math.inf, 1]])[0] == "infinite"
    assert (
        refused(checks_of(nan_policy="reject", shape=(-1, -1)), [[1, 1, math.nan]])[0] == "missing"
    )
    assert refused(checks_of(nan_policy="reject", shape=(-1,)), [1, math.nan])[0] == "missing"


def test_a_limit_is_what_the_tensors_type_makes_of_it():
    found = checks_of(FeatureCheck(name="X[0]", low=-0.1, high=0.1, range="reject"))
    assert refused(found, [[0.1, 0], [-0.1, 0]]) is None
    assert refused(found, [[np.nextafter(np.float32(0.1), np.float32(1)), 0]])[0] == "range"


def test_whole_numbers_and_strings_are_checked():
    found = checks_of(FeatureCheck(name="X[0]", high=9, range="reject"), datatype="INT64")
    assert refused(found, [[9, 10]], np.int64) is None
    assert "X' is 10 at [0, 0]" in refused(found, [[10, 1]], np.int64)[1]
    check = FeatureCheck(name="X[1]", categories=("a", "b"), category="reject")
    found = checks_of(check, datatype="BYTES")
    assert refused(found, [["?", "a"]], object) is None
    why, sentence = refused(found, [["a", "b"], ["a", "c" * 9999]], object)
    assert why == "category"
    assert len(sentence) < 300
    flags = checks_of(check.model_copy(update={"category": "flag"}), datatype="BYTES")
    assert +flags.flag("X", np.array([["?", "?"], ["?", "a"]], object)) == {"category": 1}


# -- the real server


def with_schema(model, *features):
    """Put a schema into a bundle; the runtime is not the one who checks digests."""
    path = model.files[BASELINE].with_name(SCHEMA)
    path.write_text(json.dumps({"v": 1, "features": list(features)}))
    model.files[SCHEMA] = path
    return model


def closed(bench, requests):
    """Return the window's counts once so many requests were counted."""
    while bench.wait(Heartbeat).models["m"].request_count < requests:
        pass
    bench.host.close_columns()
    return bench.wait(ColumnsClosed).stats


def test_odd_requests_are_refused_or_counted_by_reason_and_none_becomes_an_answer(
    bench, make_model
):
    features = [
        {"name": "X[0]", "low": 0, "high": 9, "range": "reject"},
        {"name": "X[1]", "low": 0, "high": 9, "missing": "flag"},
        {"name": "X[2]", "infinite": "pass"},
    ]
    bench.serve(with_schema(make_model("1"), *features))
    asked = [
        ((1, 1, 1, 1), 200, ""),
        ((-1, 1, 1, 1), 400, "feature 'X[0]', row 0; this model takes 0 to 9"),
        ((1, 99, 1, 1), 200, ""),
        ((1, math.nan, 1, 1), 200, ""),
        ((1, 1, math.inf, 1), 200, ""),
        ((1, 1, 1, math.nan), 400, "'X' is not a finite number at [0, 3]"),
        ((1, 1, 1, math.inf), 400, "refuses infinite values"),
        ((1, 1, 1, 1e300), 400, "refuses infinite values"),  # as float32
    ]
    for row, status, words in asked:
        found, said = bench.infer([row])
        assert (found, words in said.get("error", "")) == (status, True), said
    stats = closed(bench, len(asked))
    assert stats.row_count == 4
    assert stats.flagged == CheckCounts(range=1, missing=1)
    assert stats.rejected == CheckCounts(range=1, missing=1, infinite=2)
    bench.infer([(-5, 1, 1, 1)])
    stats = closed(bench, len(asked) + 1)
    assert (stats.row_count, stats.flagged) == (0, None), "also where no row was answered"
    assert stats.rejected == CheckCounts(range=1)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[" * 100_000,
        b'{"v": 1, "features": [{"name": "X[0]", "range": "?"}]}',
        b'{"v": 1, "features": [{"name": "a", "low": 2, "high": 1}]}',
        b'{"v": 1, "features": [{"name": "a"}, {"name": "a"}]}',
        b'{"v": 1, "features": [{"name": "a", "low": NaN}]}',
    ],
)
def test_a_model_whose_schema_cannot_be_read_does_not_serve(shared_bench, make_model, body):
    model = with_schema(make_model("1"))
    model.files[SCHEMA].write_bytes(body)
    failed = shared_bench.serve(model)
    assert isinstance(failed, CandidateFailed)
    assert failed.code == Code.MANIFEST_INVALID
    assert "schema.json" in failed.detail
