"""`fleet data` as people and scripts meet it: files, words and exit codes."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest
from google.protobuf import text_format
from pyarrow import parquet
from tensorflow_metadata.proto.v0 import anomalies_pb2
from typer.testing import CliRunner

from fleet.cli.main import app
from fleet.pipeline.tfdv import read_schema, read_statistics
from wire.errors import ModelfleetError

VALID, USAGE, HALTED, INCONCLUSIVE = 0, 2, 3, 4


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with rows of one kind in three formats, and with others."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(1)
    rows = random.normal(0, 1, (300, 2))
    site = random.choice(["lab", "field"], 300)
    count = random.integers(0, 9, 300)
    columns = {"a": rows[:, 0], "b": rows[:, 1], "count": count, "site": site, "y": rows[:, 0] > 0}
    table = pa.table(columns)
    parquet.write_table(table, "rows.parquet")
    with (tmp_path / "rows.csv").open("w") as file:
        file.write("a,b,count,site,y\n")
        for row in zip(*columns.values(), strict=True):
            file.write(",".join(map(str, row)) + "\n")
    np.savez("rows.npz", X=rows, y=count, feature_names=np.array(["a", "b"]))
    with (tmp_path / "later.csv").open("w") as file:
        file.write("a,b,count,site,extra\n")
        file.writelines(f"{n / 100},,{n},{'roof' if n % 3 else 'lab'},1\n" for n in range(300))
    return tmp_path


def run(*words, code=VALID):
    done = CliRunner().invoke(app, ["data", *map(str, words)])
    if isinstance(done.exception, ModelfleetError):
        raise done.exception
    assert done.exit_code == code, done.output
    return done


@pytest.mark.parametrize("name", ["rows.parquet", "rows.csv"])
def test_every_column_is_counted_in_its_own_type(place, name):
    found = json.loads(run("statistics", name, "--json").stdout)
    features = found["datasets"][0]["features"]
    assert {f["path"]["step"][0]: f.get("type", "INT") for f in features} == {
        "a": "FLOAT", "b": "FLOAT", "count": "INT", "site": "STRING", "y": "INT",
    }  # fmt: skip


def test_rows_of_an_npz_have_the_names_that_it_gives(place):
    lines = run("statistics", "rows.npz", "--output", "s.pbtxt").stdout.splitlines()
    assert [line.split()[:2] for line in lines[1:]] == [
        ["a", "FLOAT"],
        ["b", "FLOAT"],
        ["y", "INT"],
    ]
    assert read_statistics(place / "s.pbtxt").datasets[0].num_examples == 300


def test_a_schema_is_inferred_checked_and_extended(place):
    run("infer", "rows.parquet", "--output", "s.pbtxt", "--label", "y", "--label", "site")
    first = (place / "s.pbtxt").read_text()
    run("infer", "rows.parquet", "--output", "t.pbtxt", "--label", "y", "--label", "site")
    assert (place / "t.pbtxt").read_text() == first
    assert "verdict  valid" in run("validate", "rows.csv", "--schema", "s.pbtxt").stdout
    run("infer", "later.csv", "--output", "s.pbtxt", code=USAGE)
    assert (place / "s.pbtxt").read_text() == first
    told = json.loads(run("infer", "later.csv", "--output", "s.pbtxt", "--update", "--json").stdout)
    assert told["added"] == ["extra"]
    assert [f.name for f in read_schema(place / "s.pbtxt").schema.feature][-2:] == ["y", "extra"]


def test_anomalies_are_told_with_their_codes(place):
    run("infer", "rows.parquet", "--output", "s.pbtxt", "--label", "y")
    options = ("--schema", "s.pbtxt", "--environment", "SERVING")
    done = run("validate", "later.csv", *options, "--anomalies", "a.pbtxt", "--json", code=HALTED)
    found = json.loads(done.stdout)
    assert found["verdict"] == "anomalous"
    assert {(a["feature"], a["reason"]) for a in found["anomalies"]} == {
        ("b", "FEATURE_TYPE_NOT_PRESENT"),
        ("site", "ENUM_TYPE_UNEXPECTED_STRING_VALUES"),
        ("extra", "SCHEMA_NEW_COLUMN"),
    }
    message = text_format.Parse((place / "a.pbtxt").read_text(), anomalies_pb2.Anomalies())
    assert set(message.anomaly_info) == {"b", "site", "extra"}
    codes = [word for a in found["anomalies"] for word in ("--warn", a["reason"])]
    lines = run("validate", "later.csv", *options, *codes).stdout.splitlines()
    assert {line.split()[1] for line in lines[1:4]} == {"warning"}
    assert lines[-1].split() == ["verdict", "valid"]


def test_without_the_previous_data_drift_is_no_pass(place):
    run("infer", "rows.parquet", "--output", "s.pbtxt")
    schema = place / "s.pbtxt"
    drift = "drift_comparator { jensen_shannon_divergence { threshold: 0.1 } }"
    schema.write_text(schema.read_text().replace('name: "a"', f'name: "a" {drift}'))
    done = run("validate", "rows.csv", "--schema", "s.pbtxt", code=INCONCLUSIVE)
    assert "verdict  no baseline" in done.stdout
    assert "'a': the previous data are not given" in done.stderr
    run("validate", "rows.csv", "--schema", "s.pbtxt", "--previous", "rows.parquet")
    run("statistics", "rows.parquet", "--output", "before.pbtxt")
    run("validate", "rows.csv", "--schema", "s.pbtxt", "--previous", "before.pbtxt")
    done = run(
        "validate", "later.csv", "--schema", "s.pbtxt", "--previous", "rows.csv", code=HALTED
    )
    assert "COMPARATOR_JENSEN_SHANNON_DIVERGENCE_HIGH" in done.stdout


def test_no_rows_are_not_valid(place):
    (place / "none.csv").write_text("a,b\n")
    run("infer", "rows.parquet", "--output", "s.pbtxt")
    assert "no data" in run("validate", "none.csv", "--schema", "s.pbtxt", code=HALTED).stdout


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["validate", "rows.csv", "--schema", "none.pbtxt"], "text_unreadable"),
        (["validate", "rows.csv", "--schema", "rows.csv"], "text_invalid"),
        (["statistics", "none.csv"], "data_unreadable"),
        (["statistics", "rows.txt"], "data_unreadable"),
        (["infer", "rows.csv", "--output", "none/s.pbtxt"], "output_unwritable"),
    ],
)
def test_what_cannot_be_read_or_written_is_told(place, words, code):
    with pytest.raises(ModelfleetError) as refused:
        run(*words)
    assert refused.value.code == code


def test_wrong_usage_is_told(place):
    run("infer", "rows.csv", "--output", "s.pbtxt", "--label", "nobody", code=USAGE)
    assert not (place / "s.pbtxt").exists()
    run("infer", "rows.csv", "--output", "s.pbtxt")
    run("validate", "rows.csv", "--schema", "s.pbtxt", "--warn", "NOTHING", code=USAGE)
    with pytest.raises(ModelfleetError) as refused:
        run("validate", "rows.csv", "--schema", "s.pbtxt", "--environment", "MOON")
    assert refused.value.code == "environment_unknown"
