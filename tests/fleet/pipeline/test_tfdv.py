"""TFDV's files: what it infers, what is kept, and what is refused."""

from __future__ import annotations

import pytest
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st
from tensorflow_metadata.proto.v0 import anomalies_pb2, schema_pb2, statistics_pb2

from fleet.pipeline.anomalies import Severity, Verdict, validate
from fleet.pipeline.statistics import statistics_of
from fleet.pipeline.textproto import encode, parse
from fleet.pipeline.tfdv import (
    MAX_SCHEMA_BYTES,
    SERVING,
    TRAINING,
    anomalies_message,
    encode_schema,
    extend_schema,
    infer_schema,
    leave_out_in_serving,
    read_schema,
    serialised,
)
from tests.fleet.pipeline.vectors import ANSWERS, CASES, FOLDER, TABLES, columns_from
from wire.errors import ConfigError


@pytest.mark.parametrize("table", sorted(TABLES))
def test_infers_what_tfdv_infers(table):
    recorded = (FOLDER / f"{table}.schema.pbtxt").read_text()
    theirs = text_format.Parse(recorded, schema_pb2.Schema())
    assert infer_schema(statistics_of(columns_from(table))) == theirs


@pytest.mark.parametrize("table", sorted(TABLES))
def test_infers_the_same_from_tfdv_s_statistics(table):
    recorded = (FOLDER / f"{table}.statistics.pbtxt").read_text()
    statistics = text_format.Parse(recorded, statistics_pb2.DatasetFeatureStatisticsList())
    assert encode_schema(infer_schema(statistics)) == (FOLDER / f"{table}.schema.pbtxt").read_text()


SCHEMA = """\
# Comments are for people.
default_environment: "TRAINING"
from_tomorrow { deep { a: [1, 2] b: "}" } }
feature {
  name: "age"
  type: FLOAT
  # a limit of a kind that is not known here
  limit_v2: < low: 1 >;
  float_domain { min: 0.5 unit: "ye" 'ars' }
}
feature { name: "city" type: BYTES domain: "cities" }
string_domain { name: "cities" value: "Bern" value: "Z\\303\\274rich" }
"""


@pytest.fixture
def schema_file(tmp_path):
    def write(text):
        path = tmp_path / "schema.pbtxt"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def test_what_a_newer_schema_says_is_written_again_in_its_place(schema_file):
    read = read_schema(schema_file(SCHEMA))
    assert read.schema.feature[0].float_domain.min == 0.5
    first = read.schema.feature[0]
    # Someone puts a feature before it.
    read.schema.ClearField("feature")
    read.schema.feature.add(name="new", type=schema_pb2.INT)
    read.schema.feature.append(first)
    text = encode_schema(read)
    again = read_schema(schema_file(text))
    assert again.schema == read.schema
    assert sorted(field.text for field in again.kept) == [
        'from_tomorrow { deep { a: [1, 2] b: "}" } }',
        "limit_v2: < low: 1 >",
        "unit: \"ye\" 'ars'",
    ]
    age = text[text.index('name: "age"') : text.index("string_domain {")]
    assert "limit_v2" in age
    assert encode_schema(again) == text


def test_what_belongs_to_a_feature_goes_with_it(schema_file):
    read = read_schema(schema_file(SCHEMA))
    del read.schema.feature[0]
    assert "limit_v2" not in encode_schema(read)
    assert "from_tomorrow" in encode_schema(read)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('feature {\n  name: "a"\n  type: FLOT\n}', "line 3"),
        ('feature {\n  name: "a\n}', "line 2"),
        ("feature {\n\n", "line 3|line 1"),
        ("\n}", "line 2"),
        ("feature { name: 3 }", "line 1"),
        ("\n\nfeature { presence { min_count: 99999999999999999999 } }", "line 3"),
        ('feature { name: "a" name: "b" }', "line 1"),
        ("x" * 10 + ": 1", None),
        ("a { " * 2000, "deep|line 1"),
        ("feature { struct_domain { " * 2000, "line 1: blocks lie more than 24 deep"),
        ("feature { x: [" * 3000, "line 1"),
        (b"\xff\n", "line 1 is no UTF-8"),
        (b"\x00", "line 1"),
        ('feature { name: "\\ud800" }', "line 1|utf|surrogate"),
        ('feature { name: "a" }\nfeature { name: "a" }', "'a' is there twice"),
        ('string_domain { name: "a" }\nstring_domain { name: "a" }', "'a' is there twice"),
    ],
)
def test_a_file_that_is_no_schema_is_refused_with_its_line(schema_file, text, words):
    path = schema_file(text)
    if words is None:
        assert [field.text for field in read_schema(path).kept] == [text]
        return
    with pytest.raises(ConfigError, match=words) as refused:
        read_schema(path)
    assert str(path) in str(refused.value)
    assert refused.value.code in {"text_invalid", "text_unreadable", "schema_invalid"}


def test_what_is_no_file_of_a_sensible_size_is_refused(tmp_path):
    large = tmp_path / "large.pbtxt"
    large.write_bytes(b"#" * (MAX_SCHEMA_BYTES + 1))
    for path in (tmp_path, tmp_path / "none.pbtxt", large):
        with pytest.raises(ConfigError) as refused:
            read_schema(path)
        assert refused.value.code == "text_unreadable"


@given(st.text(st.sampled_from("feature{}<>[]:;,\"'\\#\n name 1a_.-é\x00"), max_size=80))
def test_any_text_is_read_or_refused(text):
    try:
        schema, kept = parse(text, schema_pb2.Schema(), shown="s")
    except ConfigError:
        return
    again, kept_again = parse(encode(schema, kept), schema_pb2.Schema(), shown="s")
    assert again == schema
    assert sorted(f.text for f in kept_again) == sorted(f.text for f in kept)


def test_new_columns_are_added_and_what_people_wrote_stays():
    schema = infer_schema(statistics_of(columns_from("single")))
    schema.feature[0].float_domain.min = 0
    before = schema_pb2.Schema.FromString(schema.SerializeToString())
    added = extend_schema(schema, statistics_of([*columns_from("single"), *columns_from("few")]))
    assert added == ("one.two", "with space", "quote'd")
    assert list(schema.feature[:2]) == list(before.feature)


def test_the_label_is_not_asked_for_when_the_model_serves():
    statistics = statistics_of(columns_from("single"))
    schema = infer_schema(statistics)
    leave_out_in_serving(schema, ["label"])
    served = statistics_of(columns_from("single")[:1])
    assert validate(served, schema, environment=SERVING).verdict is Verdict.VALID
    found = validate(served, schema, environment=TRAINING).anomalies
    assert [(a.feature, a.reason) for a in found] == [("label", "SCHEMA_MISSING_COLUMN")]


def test_anomalies_become_tfdv_s_message():
    schema = text_format.Parse(CASES["drift_and_skew"]["schema"], schema_pb2.Schema())
    schema.dataset_constraints.min_examples_count = 1000
    found = validate(
        statistics_of(columns_from("shifted")),
        schema,
        previous=statistics_of(columns_from("odd")),
        serving=statistics_of(columns_from("floats")),
        overrides={"DATASET_LOW_NUM_EXAMPLES": Severity.WARNING},
    )
    message = anomalies_message(found, schema)
    kinds = anomalies_pb2.AnomalyInfo
    told = ANSWERS["drift_and_skew"]["features"]
    assert set(message.anomaly_info) == set(told)
    for path, info in message.anomaly_info.items():
        assert [kinds.Type.Name(reason.type) for reason in info.reason] == told[path]["reasons"]
        assert info.severity == kinds.ERROR
        assert list(info.path.step) == [path]
    assert message.dataset_anomaly_info.severity == kinds.WARNING
    assert message.baseline == schema
    assert text_format.Parse(encode(message), anomalies_pb2.Anomalies()) == message


@pytest.mark.parametrize(
    ("name", "path"),
    [("a b", "a b"), ("a.b", "'a.b'"), ("it's", "'it''s'"), ("(x.y)", "(x.y)"), ("(x", "'(x'")],
)
def test_a_name_is_written_as_tfdv_writes_paths(name, path):
    assert serialised(name) == path
