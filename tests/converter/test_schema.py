"""What features may hold: what the reference rows say flags, what the author says goes before it."""

import json

import numpy as np
import pytest

from agent.runtime.checks import InputChecks
from converter.baseline import make_baseline
from converter.schema import encode, make_schema, read_schema
from wire.errors import PeerError
from wire.manifest import TensorSpec
from wire.schema import FeatureCheck, Schema


def reference(rows, names=(), datatype="FP32"):
    spec = TensorSpec(name="X", datatype=datatype, shape=(-1, rows.shape[1]), feature_names=names)
    return spec, make_baseline([(spec, rows)], [], "0" * 64)


def test_what_is_inferred_flags_nothing_of_the_reference_rows_and_refuses_nothing_at_all():
    random = np.random.default_rng(3)
    rows = random.choice([0.1, 2.5, -7, 1e30], (200, 3)).astype(np.float32)
    spec, baseline = reference(rows)
    schema = make_schema(baseline, None)
    checks = InputChecks((spec,), "pass", schema)
    assert +checks.flag("X", rows) == {}
    odd = np.float32([[1e38, -8, 0.1], [np.nan, np.inf, 0.1]])
    assert checks.refuse({"X": odd}) is None
    assert +checks.flag("X", odd) == {"range": 2}


def test_categories_are_known_where_the_reference_has_them_all():
    rows = np.array([["a", f"v{n}"] for n in range(300)], object)
    _, baseline = reference(rows, names=("few", "many"), datatype="BYTES")
    assert make_schema(baseline, None).features == (FeatureCheck(name="few", categories=("a",)),)


def test_an_authors_check_takes_the_place_of_what_was_inferred():
    _, baseline = reference(np.float32([[1, 2], [3, 4]]), names=("age", "size"))
    age = FeatureCheck(name="age", low=0, high=120, range="reject")
    made = make_schema(baseline, Schema(features=(age,)))
    assert {check.name: check for check in made.features} == {
        "age": age,
        "size": FeatureCheck(name="size", low=2, high=4),
    }
    assert Schema.model_validate_json(encode(made)) == made
    assert json.loads(encode(made))["v"] == 1


@pytest.mark.parametrize(
    ("names", "words"), [(("a", "b"), "is no feature"), (("age", "age"), "the name of several")]
)
def test_a_check_of_no_single_feature_is_refused(names, words):
    _, baseline = reference(np.float32([[1, 2], [3, 4]]), names=names)
    with pytest.raises(PeerError, match=words) as refused:
        make_schema(baseline, Schema(features=(FeatureCheck(name="age"),)))
    assert refused.value.code == "request_invalid"


@pytest.mark.parametrize("body", [None, b"{", b'{"features": [{"name": ""}]}', b'{"features": 1}'])
def test_a_file_that_is_no_schema_is_refused_with_its_name(tmp_path, body):
    path = tmp_path / "s.json"
    if body is not None:
        path.write_bytes(body)
    with pytest.raises(PeerError, match=r"--schema: .*s\.json") as refused:
        read_schema(path)
    assert refused.value.code == "request_invalid"


def test_a_check_of_missing_values_alone_stays_beside_what_was_inferred():
    _, baseline = reference(np.float32([[1], [3]]), names=("age",))
    made = make_schema(baseline, Schema(features=(FeatureCheck(name="age", missing="flag"),)))
    assert made.features == (FeatureCheck(name="age", low=1, high=3, missing="flag"),)
    unlimited = FeatureCheck(name="age", low=None, missing="flag")
    assert make_schema(baseline, Schema(features=(unlimited,))).features == (unlimited,)
