"""Captured rows become rows to train with: named, labelled by whoever knows, and none lost without a word."""

import json
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from agent.core.captured import CapturedRow, RowTensor, pack
from fleet.pipeline.captured import CapturedRows
from fleet.pipeline.labelling import join, read_labels
from fleet.pipeline.pipeline import run_pipeline
from fleet.pipeline.project import load_project
from fleet.pipeline.run import Options
from fleet.pipeline.snapshot import find_sources, read_snapshot
from tests.fleet.pipeline.projects import TOML, rows
from wire.errors import BundleError, ConfigError, ModelfleetError
from wire.manifest import TensorSpec

MANIFEST = "a" * 64
X = TensorSpec(name="X", datatype="FP32", shape=(-1, 3), feature_names=("a", "b", "c"))
LABEL = TensorSpec(name="label", datatype="INT64", shape=(-1,))
PROBABILITIES = TensorSpec(name="probabilities", datatype="FP32", shape=(-1, 2))
TAGS = {"cam-01": {"site": "lab"}, "cam-02": {"site": "hall"}}


def release(*inputs, outputs=(PROBABILITIES, LABEL)):
    """Return what is read of a manifest."""
    return SimpleNamespace(inputs=inputs, outputs=outputs)


def row(values, id_="", *, answer=1, score=0.5, version="1.0.0", left_out=(), kind="<f4"):
    """Return a row that a release answered."""
    values = np.array(values, kind)
    datatype = {"<f4": "FP32", "<i8": "INT64"}[kind]
    tensors = (
        RowTensor("X", False, datatype, 1, values.shape),
        RowTensor("label", True, "INT64", 1, ()),
    )
    data = values.tobytes() + np.array(answer, "<i8").tobytes()
    return CapturedRow(
        "line", version, MANIFEST, 7, id_, score, tensors, tuple(left_out), data
    )  # fmt: skip


def packed(*given):
    return pack(list(given), "c-1", "line", is_all=True).body


def read(*packs, manifest=None, tags=TAGS, **options):
    known = release(X) if manifest is None else manifest
    return CapturedRows.read(packs, lambda *_: known, tags, **options)


def written(path, captured, **options):
    numbers = options.pop("rows", np.arange(captured.row_count))
    captured.write(path, numbers, **options)
    return parquet.read_table(path)


def labels(path, text):
    path.write_text(text)
    return read_labels(path)


# -- from packs to columns


def test_columns_are_named_as_the_release_names_them_and_the_rest_says_what_a_row_is(tmp_path):
    body = packed(row([1, 2, 3], "one"), row([4, 5, 6], "", answer=0, score=0.25))
    table = written(tmp_path / "r.parquet", read(("cam-01", body)), slices=("site",))
    assert table.column_names[:3] == ["a", "b", "c"]
    assert table["b"].to_pylist() == [2, 5]
    assert table["b"].type == pa.float32()
    assert table["site"].to_pylist() == ["lab", "lab"]
    about = {
        name: table[f"captured.{name}"].to_pylist()
        for name in ("request_id", "device", "answer", "score", "at_unix_ms", "version", "tag.site")
    }
    assert about == {
        "request_id": ["one", ""], "device": ["cam-01"] * 2, "answer": [1, 0],
        "score": [0.5, 0.25], "at_unix_ms": [7, 7], "version": ["1.0.0"] * 2,
        "tag.site": ["lab", "lab"],
    }  # fmt: skip
    assert len(set(table["captured.row_id"].to_pylist())) == 2


def test_the_same_rows_make_the_same_file_and_keep_their_ids(tmp_path):
    one, two = packed(row([1, 2, 3])), packed(row([1, 2, 3], "x"))
    first = read(("cam-01", one), ("cam-02", one), ("cam-02", two))
    written(tmp_path / "a.parquet", first)
    again = read(("cam-01", one), ("cam-02", one), ("cam-02", two))
    written(tmp_path / "b.parquet", again)
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    ids = [text for part in first.about["row_id"] for text in part.tolist()]
    assert len(set(ids)) == 3  # equal rows of two devices, and of one device twice
    later = read(("cam-02", two))
    assert later.about["row_id"][0].tolist() == ids[2:]


def test_columns_that_a_device_keeps_to_itself_are_missing_and_no_zero(tmp_path):
    body = packed(row([1, 0, 3], left_out=["b"], kind="<i8"), row([1, 2, 3], kind="<i8"))
    whole = X.model_copy(update={"datatype": "INT64"})
    captured = read(("cam-01", body), manifest=release(whole))
    assert written(tmp_path / "r.parquet", captured)["b"].to_pylist() == [None, 2]
    assert captured.left_out == {"b"}
    all_of_it = packed(row([0, 0, 0], left_out=["X"], kind="<i8"))
    captured = read(("cam-01", all_of_it), manifest=release(whole))
    assert written(tmp_path / "s.parquet", captured)["c"].to_pylist() == [None]


def test_without_names_columns_are_called_as_the_tensor(tmp_path):
    bare = X.model_copy(update={"feature_names": ()})
    captured = read(("cam-01", packed(row([1, 2, 3]))), manifest=release(bare))
    assert list(captured.features) == ["X[0]", "X[1]", "X[2]"]


@pytest.mark.parametrize(
    "changes",
    [{"datatype": "FP64"}, {"shape": (-1, 4)}, {"name": "Z"}, {"feature_names": ("a", "a", "b")}],
)
def test_rows_that_are_not_what_their_release_takes_are_counted(changes):
    captured = read(
        ("cam-01", packed(row([1, 2, 3]), row([1, 2, 4]))),
        manifest=release(X.model_copy(update=changes)),
    )
    assert (captured.row_count, captured.unfit_count) == (0, 2)


def test_rows_of_unknown_releases_are_counted_and_those_of_other_versions_not_meant():
    body = packed(row([1, 2, 3]), row([4, 5, 6], version="2.0.0"))
    known = {"1.0.0": release(X)}
    captured = CapturedRows.read([("cam-01", body)], lambda v, _: known.get(v), TAGS)
    assert (captured.row_count, captured.unknown_count) == (1, 1)
    assert read(("cam-01", body), version="2.0.0").row_count == 1


def test_releases_of_other_features_make_no_one_table():
    other = X.model_copy(update={"feature_names": ("a", "b", "d")})
    known = {"1.0.0": release(X), "2.0.0": release(other)}
    body = packed(row([1, 2, 3]), row([4, 5, 6], version="2.0.0"))
    with pytest.raises(ConfigError) as refusal:
        CapturedRows.read([("cam-01", body)], lambda v, _: known[v], TAGS)
    assert refusal.value.code == "captures_differ"


@pytest.mark.parametrize("options", [{"slices": ("a",)}, {"label": ("c", np.array([1]))},
                                     {"slices": ("y",), "label": ("y", np.array([1]))},
                                     {"label": ("captured.answer", np.array([1]))}])  # fmt: skip
def test_no_column_is_there_twice(tmp_path, options):
    tags = {"cam-01": {"a": "1", "y": "2"}}
    captured = read(("cam-01", packed(row([1, 2, 3]))), tags=tags)
    with pytest.raises(ConfigError) as refusal:
        written(tmp_path / "r.parquet", captured, **options)
    assert refusal.value.code == "column_twice"
    assert list(tmp_path.iterdir()) == []


def test_a_tag_that_no_device_has_is_no_column(tmp_path):
    captured = read(("cam-01", packed(row([1, 2, 3]))))
    with pytest.raises(ConfigError, match="'sight'") as refusal:
        written(tmp_path / "r.parquet", captured, slices=("sight",))
    assert refusal.value.hint == "their tags are site"


# -- labels


def test_labels_find_their_rows_and_what_finds_none_is_counted(tmp_path):
    given = labels(
        tmp_path / "l.csv",
        "request_id,label\n"
        "007,3\n"       # an id of digits stays what it is
        "twice,1\n"     # of two rows
        "gone,1\n"
        "same,4\nsame,4\n"
        "other,1\nother,2\n"
        "open,\n"
        ",5\n",
    )  # fmt: skip
    requests = ["007", "twice", "twice", "same", "other", "open", ""]
    joined = join(given, [f"r{n}" for n in range(7)], requests, ["cam-01"] * 7)
    assert joined.rows.tolist() == [0, 3]
    assert joined.labels.tolist() == [3, 4]
    assert joined.labels.dtype == np.int64
    counts = (joined.unknown_count, joined.ambiguous_count, joined.repeated_count)
    assert counts == (1, 1, 1)
    assert (joined.conflicting_count, joined.empty_count) == (1, 2)


def test_a_device_or_a_row_id_says_which_row_is_meant(tmp_path):
    given = labels(
        tmp_path / "l.csv",
        "row_id,request_id,device,label\n,one,cam-02,good\nr2,two,,bad\nr2,,,bad\n",
    )
    joined = join(given, ["r0", "r1", "r2", "r3"], ["one", "one", "two", "two"],
                  ["cam-01", "cam-02", "cam-01", "cam-01"])  # fmt: skip
    assert joined.rows.tolist() == [1, 2]
    assert joined.labels.tolist() == ["good", "bad"]
    assert (joined.ambiguous_count, joined.repeated_count) == (0, 1)


def test_labels_by_row_and_by_request_must_agree(tmp_path):
    given = labels(tmp_path / "l.csv", "row_id,request_id,label\nr0,,1\n,one,0\n")
    joined = join(given, ["r0"], ["one"], ["cam-01"])
    assert (joined.rows.tolist(), joined.conflicting_count) == ([], 1)


def test_a_file_of_rows_to_label_is_a_file_of_labels(tmp_path):
    captured = read(("cam-01", packed(row([1, 2, 3]), row([4, 5, 6]), row([7, 8, 9]))))
    table = written(tmp_path / "todo.parquet", captured)
    done = table.append_column("label", pa.array([None, 0.5, None]))
    parquet.write_table(done, tmp_path / "done.parquet")
    joined = captured.join(read_labels(tmp_path / "done.parquet"))
    assert (joined.rows.tolist(), joined.labels.tolist()) == ([1], [0.5])
    assert joined.empty_count == 2


@pytest.mark.parametrize("text", ["id,label\na,1\n", "request_id,digit\na,1\n", "label\n1\n"])
def test_a_file_without_ids_or_labels_is_refused(tmp_path, text):
    with pytest.raises(BundleError) as refusal:
        labels(tmp_path / "l.csv", text)
    assert refusal.value.code == "labels_invalid"


@pytest.mark.parametrize("raw", [b"", b"\xff\xfe\x00", b'request_id,label\n"', b"a,b\n1\n2,3,4\n"])
def test_a_file_of_labels_that_is_none_is_told(tmp_path, raw):
    (tmp_path / "l.csv").write_bytes(raw)
    with pytest.raises(ModelfleetError):
        read_labels(tmp_path / "l.csv")


# -- in a pipeline


def exported(path, *, count=200, seed=5, slices=("site",)):
    """Write captured rows with labels, half of them of each device."""
    columns = rows(count, seed)
    values = np.stack([columns[name] for name in "abc"], axis=1)
    half = count // 2
    bodies = [
        (device, packed(*(row(v) for v in part)))
        for device, part in (("cam-01", values[:half]), ("cam-02", values[half:]))
    ]
    captured = read(*bodies)
    path.parent.mkdir(exist_ok=True)
    numbers = np.arange(captured.row_count)
    captured.write(path, numbers, slices=slices, label=("y", columns["y"]))
    return columns


@pytest.mark.parametrize("name", ["captured", "later"])
def test_old_and_captured_rows_are_one_snapshot_whichever_comes_first(make, tmp_path, name):
    sources = f'sources = ["data/*.parquet", "{name}/*.parquet"]'
    folder = make(tmp_path / "p", toml=TOML.replace('sources = ["data/*"]', sources))
    columns = exported(folder / name / "new.parquet")
    project = load_project(folder)
    snapshot = read_snapshot(project, find_sources(project))
    table = snapshot.table
    assert table.feature_names == ("a", "b", "c")
    assert table.values.shape == (800, 3)
    assert table.values.dtype == np.float32
    mine = slice(0, 200) if name == "captured" else slice(600, 800)
    assert table.values[mine, 1].tolist() == columns["b"].tolist()
    assert table.labels[mine].tolist() == columns["y"].tolist()
    assert table.slices["site"][mine].tolist() == ["lab"] * 100 + ["hall"] * 100


def test_captured_rows_are_validated_as_the_rows_that_they_go_with(make, tmp_path, fleet):
    folder = make(tmp_path / "p")
    exported(tmp_path / "new.parquet")
    schema = tmp_path / "s.pbtxt"
    fleet("data", "infer", folder / "data/rows.parquet", "--output", schema)
    fleet("data", "validate", tmp_path / "new.parquet", "--schema", schema)


def test_what_is_said_of_a_row_is_read_where_it_is_named(make, tmp_path):
    toml = TOML.replace('slices = ["site"]', 'slices = ["captured.device"]')
    folder = make(tmp_path / "p", toml=toml)
    (folder / "data/rows.parquet").unlink()
    exported(folder / "data/new.parquet", slices=())
    project = load_project(folder)
    table = read_snapshot(project, find_sources(project)).table
    assert set(table.slices["captured.device"]) == {"cam-01", "cam-02"}


def test_a_slice_that_was_not_exported_is_told_with_what_to_do(make, tmp_path):
    folder = make(tmp_path / "p")
    exported(folder / "data/new.parquet", slices=())
    project = load_project(folder)
    with pytest.raises(BundleError, match="no column 'site'") as refusal:
        read_snapshot(project, find_sources(project))
    assert "fleet capture export --slice site" in refusal.value.hint


def test_a_row_that_two_exports_have_is_taken_once(make, tmp_path, told):
    folder = make(tmp_path / "p")
    exported(folder / "data/monday.parquet", count=120)
    monday = parquet.read_table(folder / "data/monday.parquet")
    parquet.write_table(monday, folder / "data/again.parquet")  # sorted before it
    parquet.write_table(monday.slice(0, 20), folder / "data/some.parquet")
    record = run_pipeline(load_project(folder), Options(until="snapshot", push=False), told)
    assert record.data.row_count == 720
    assert record.data.repeated_count == 140
    counts = {source.path: source.row_count for source in record.data.sources}
    assert counts["data/some.parquet"] == 20
    assert "140 captured rows are in two files, and taken once" in told.details["snapshot"]


def test_a_row_that_two_exports_label_differently_is_refused(make, tmp_path):
    folder = make(tmp_path / "p")
    exported(folder / "data/monday.parquet", count=20)
    table = parquet.read_table(folder / "data/monday.parquet")
    wrong = table.set_column(
        table.column_names.index("y"), "y", pa.array([1 - y for y in table["y"].to_pylist()])
    )
    parquet.write_table(wrong.slice(3, 2), folder / "data/tuesday.parquet")
    project = load_project(folder)
    with pytest.raises(BundleError, match=r"in data/monday\.parquet and '[01]' in data/tuesday"):
        read_snapshot(project, find_sources(project))


def test_a_run_over_old_and_captured_rows_is_kept_and_made_again_byte_for_byte(
    make, tmp_path, told, records
):
    bundles = []
    for name in ("one", "two"):
        folder = make(tmp_path / name)
        exported(folder / "data/captured.parquet")
        record = run_pipeline(load_project(folder), Options(push=False), told)
        assert record.data.row_count == 800
        bundles.append((folder / "runs" / record.id / "model.bundle").read_bytes())
    assert bundles[0] == bundles[1]
    told.steps.clear()
    run_pipeline(load_project(folder), Options(push=False), told)
    assert {state for _, state in told.steps} == {"cached"}
    (kept,) = records(folder)
    assert json.dumps(kept["data"]["sources"]).count("sha256") == 2


# -- the command


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--output", "r.parquet"), "--unlabelled"),
        (("--output", "r.csv", "--unlabelled"), "file.parquet"),
        (("--output", "r.npz", "--labels", "l.csv"), "a .npz has no label"),
    ],
)
def test_an_export_that_makes_no_sense_asks_nobody(fleet, tmp_path, words, said):
    refused = fleet("capture", "export", "line", *words, cwd=tmp_path, check=2)
    assert said in refused.stderr
