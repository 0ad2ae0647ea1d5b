"""A TFDV schema on the device: the same file that checks the training data checks each request."""

from __future__ import annotations

import numpy as np
import pytest
from google.protobuf import text_format
from tensorflow_metadata.proto.v0.schema_pb2 import Schema

from agent.runtime.checks import InputChecks
from converter.baseline import make_baseline
from converter.schema import make_schema
from fleet.pipeline.device_schema import device_schema
from fleet.pipeline.statistics import column_of, statistics_of
from fleet.pipeline.tfdv import infer_schema, leave_out_in_serving
from wire.errors import ConfigError, PeerError
from wire.manifest import TensorSpec
from wire.schema import FeatureCheck

REQUIRED = "presence { min_fraction: 1 min_count: 1 }"


def schema_of(text):
    return text_format.Parse(text, Schema())


def check_of(text, **options):
    found = device_schema(schema_of(f'feature {{ name: "x" {text} }}'), **options)
    return found.schema.features[0] if found.schema.features else None


@pytest.mark.parametrize(
    ("text", "check"),
    [
        (
            "type: FLOAT float_domain { min: 0 max: 1.5 }",
            {"low": 0, "high": 1.5, "range": "flag"},
        ),
        (
            'type: INT int_domain { min: 3 } annotation { tag: "device:reject" }',
            {"low": 3, "range": "reject"},
        ),
        ("type: INT bool_domain { }", {"low": 0, "high": 1, "range": "flag"}),
        (
            f'type: BYTES {REQUIRED} string_domain {{ value: "a" value: "b" value: "a" }}',
            {"categories": ("a", "b"), "category": "flag"},
        ),
        (
            'type: BYTES string_domain { value: "a" } annotation { tag: "mine" tag: "device:reject" }',
            {"categories": ("a", ""), "category": "reject"},
        ),
        (
            f'type: BYTES {REQUIRED} bool_domain {{ true_value: "yes" false_value: "no" }}',
            {"categories": ("yes", "no"), "category": "flag"},
        ),
        ("type: FLOAT", None),
        ("type: FLOAT float_domain { max: inf }", None),
        ("type: FLOAT deprecated: true float_domain { min: 0 }", None),
        ("type: BYTES float_domain { min: 0 }", None),
        (f"type: FLOAT {REQUIRED}", None),
        ("type: FLOAT float_domain { disallow_nan: true disallow_inf: true }", None),
    ],
)
def test_limits_become_checks(text, check):
    assert check_of(text) == (FeatureCheck(name="x", **check) if check is not None else None)


def test_a_schema_is_stricter_than_the_nan_policy_and_never_laxer():
    strict = f'type: FLOAT {REQUIRED} float_domain {{ disallow_inf: true }} annotation {{ tag: "device:reject" }}'
    assert check_of(strict, nan_policy="pass") == FeatureCheck(
        name="x", missing="reject", infinite="reject"
    )
    assert check_of(f"type: FLOAT {REQUIRED}", nan_policy="pass") == FeatureCheck(
        name="x", missing="flag"
    )
    assert check_of("type: FLOAT", nan_policy="pass") is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("type: BYTES int_domain { min: 1 }", "int_domain is not checked"),
        ("type: BYTES natural_language_domain { }", "natural_language_domain is not checked"),
        ("type: INT int_domain { max: 9223372036854775807 }", "beyond 2^53"),
        ("type: BYTES unique_constraints { min: 1 max: 2 }", "unique_constraints"),
        ("type: FLOAT drift_comparator { }", "drift_comparator"),
        ("type: FLOAT presence { min_fraction: 0.5 }", "many rows"),
        (
            "type: BYTES string_domain { " + "".join(f'value: "{n}" ' for n in range(257)) + "}",
            "257 values are not checked",
        ),
    ],
)
def test_what_no_device_checks_is_told(text, words):
    found = device_schema(schema_of(f'feature {{ name: "x" {text} }}'))
    assert any(words in sentence for sentence in found.unexpressed)


def test_other_features_are_left_out():
    text = 'feature { name: "a" type: INT bool_domain { } } feature { name: "b" type: INT bool_domain { } }'
    found = device_schema(schema_of(text), names=["b"])
    assert [check.name for check in found.schema.features] == ["b"]
    assert found.unexpressed == ("'a' is no feature of the model",)


def test_what_no_device_could_read_is_refused():
    text = "type: FLOAT float_domain { min: 2 max: 1 }"
    with pytest.raises(ConfigError, match="range of 'x' is empty") as refused:
        check_of(text)
    assert refused.value.code == "schema_invalid"


def test_one_schema_serves_training_conversion_and_each_request():
    random = np.random.default_rng(0)
    rows = random.uniform(0, 10, (200, 2)).astype(np.float32)
    labels = random.integers(0, 2, 200)
    columns = [column_of("a", rows[:, 0]), column_of("b", rows[:, 1]), column_of("y", labels)]
    schema = infer_schema(statistics_of(columns))
    leave_out_in_serving(schema, ["y"])
    schema.feature[0].float_domain.max = 100
    schema.feature[0].annotation.tag.append("device:reject")
    given = device_schema(schema).schema
    spec = TensorSpec(name="X", datatype="FP32", shape=(-1, 2), feature_names=("a", "b"))
    made = make_schema(make_baseline([(spec, rows)], [], "0" * 64), given)
    checks = InputChecks((spec,), "reject", made)
    assert checks.refuse({"X": np.float32([[50, 5]])}) is None
    assert "this model takes -inf to 100" in checks.refuse({"X": np.float32([[101, 5]])}).sentence
    # Of b the schema says nothing, so the reference rows do.
    assert +checks.flag("X", np.float32([[50, 11]])) == {"range": 1}


def test_a_schema_that_asks_devices_for_the_label_is_refused_with_what_to_do():
    rows = np.float32([[1, 2], [3, 4]])
    spec = TensorSpec(name="X", datatype="FP32", shape=(-1, 2), feature_names=("a", "b"))
    schema = schema_of('feature { name: "y" type: INT bool_domain { } }')
    with pytest.raises(PeerError, match="'y' is no feature") as refused:
        make_schema(make_baseline([(spec, rows)], [], "0" * 64), device_schema(schema).schema)
    assert "not_in_environment" in refused.value.hint
