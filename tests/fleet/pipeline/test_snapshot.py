"""Rows from files that may hold anything: the same rows give the same snapshot, others are refused."""

import os

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import csv, parquet

from fleet.pipeline.project import PARTS, load_project
from fleet.pipeline.snapshot import find_sources, load_part, read_snapshot, save_snapshot
from tests.fleet.pipeline.projects import TOML, rows, write_parquet
from wire.errors import ConfigError, ModelfleetError


def taken(folder, **options):
    project = load_project(folder)
    return read_snapshot(project, find_sources(project), **options)


def replaced(folder, name, columns):
    for path in (folder / "data").iterdir():
        path.unlink()
    path = folder / "data" / name
    match path.suffix:
        case ".parquet":
            write_parquet(path, columns)
        case ".csv":
            csv.write_csv(pa.table(columns), path)
        case ".npz":
            names = [name for name in columns if name not in ("y", "site")]
            values = np.stack([columns[name] for name in names], axis=1)
            np.savez(path, X=values, y=columns["y"], feature_names=names, site=columns["site"])


def test_a_table_has_what_the_columns_are_for(folder):
    table = taken(folder).table
    assert table.values.shape == (600, 3)
    assert table.values.dtype == np.float32
    assert table.feature_names == ("a", "b", "c")
    assert table.labels.dtype == np.int64
    assert set(table.slices["site"]) == {"lab", "hall"}


def test_the_format_of_a_file_does_not_change_its_rows(folder):
    columns = {name: c.astype(float) if c.dtype.kind == "f" else c for name, c in rows().items()}
    seen = set()
    for name in ("r.parquet", "r.csv", "r.npz"):
        replaced(folder, name, columns)
        snapshot = taken(folder)
        seen.add((snapshot.sha256, snapshot.parts.tobytes()))
    assert len(seen) == 1


def test_many_files_are_one_table_in_the_order_of_their_names(folder):
    whole = taken(folder)
    columns = rows()
    for name, part in (("b.parquet", slice(250, 600)), ("a.parquet", slice(0, 250))):
        write_parquet(folder / "data" / name, {key: c[part] for key, c in columns.items()})
    (folder / "data/rows.parquet").unlink()
    snapshot = taken(folder)
    assert snapshot.sha256 == whole.sha256
    assert [(s.path, s.row_count) for s in snapshot.sources] == [
        ("data/a.parquet", 250), ("data/b.parquet", 350),
    ]  # fmt: skip


@pytest.mark.parametrize("change", ["value", "label", "slice", "order", "name"])
def test_the_digest_changes_when_anything_does(folder, change):
    before = taken(folder).sha256
    columns = rows()
    match change:
        case "value":
            columns["b"][17] = np.nextafter(columns["b"][17], np.float32(9))
        case "label":
            columns["y"][3] = 1 - columns["y"][3]
        case "slice":
            columns["site"] = np.where(np.arange(600) == 5, "roof", columns["site"])
        case "order":
            columns = {name: c[::-1] for name, c in columns.items()}
        case "name":
            columns["d"] = columns.pop("c")
    replaced(folder, "rows.parquet", columns)
    assert taken(folder).sha256 != before


def test_the_parts_are_kept_in_files_and_are_the_whole(folder, tmp_path):
    snapshot = taken(folder)
    (tmp_path / "s").mkdir()
    save_snapshot(snapshot, tmp_path / "s")
    parts = [load_part(tmp_path / "s", name) for name in PARTS]
    assert sum(len(part.values) for part in parts) == 600
    assert (parts[0].values == snapshot.table.values[snapshot.parts == 0]).all()
    assert parts[2].slices["site"].tolist() == snapshot.part("test").slices["site"].tolist()
    reference = load_part(tmp_path / "s", "reference")
    assert len(reference.values) == len(parts[1].values) + len(parts[2].values)
    first = {path.name: path.read_bytes() for path in (tmp_path / "s").iterdir()}
    (tmp_path / "t").mkdir()
    save_snapshot(snapshot, tmp_path / "t")
    assert {path.name: path.read_bytes() for path in (tmp_path / "t").iterdir()} == first


@pytest.mark.parametrize(
    ("columns", "dtype", "first"),
    [
        ({"a": pa.array([1, 2], pa.int8()), "b": pa.array([3, 4], pa.int64())}, np.int64, [1, 3]),
        ({"a": pa.array([1, 2], pa.int8()), "b": pa.array([0.5, 4])}, np.float64, [1, 0.5]),
        ({"a": pa.array([True, False])}, np.bool_, [True]),
        ({"a": pa.array([None, 2], pa.int32())}, np.float64, [np.nan]),
        ({"a": pa.array(["x", "yy"]).dictionary_encode()}, np.dtype("U2"), ["x"]),
        ({"a": pa.array([None, "yy"])}, np.dtype("U2"), [""]),
        ({"a": pa.array([1, 2], pa.float32()), "b": pa.nulls(2)}, np.float64, [1, np.nan]),
    ],
)
def test_a_column_becomes_what_a_model_is_fed(make, tmp_path, columns, dtype, first):
    repeated = {name: pa.chunked_array([column] * 40) for name, column in columns.items()}
    toml = TOML.replace('slices = ["site"]', 'key = "n"')
    extra = {"y": pa.array([0, 1] * 40), "n": pa.array(range(80))}
    folder = make(tmp_path / "q", toml=toml, columns={**repeated, **extra})
    values = taken(folder).table.values
    assert values.dtype == dtype
    np.testing.assert_array_equal(values[0], first)


def refuse(folder, says, code="data_invalid", **options):
    with pytest.raises(ModelfleetError) as caught:
        taken(folder, **options)
    assert says in f"{caught.value} {caught.value.hint}"
    assert caught.value.code == code
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"y": None}, "has no column 'y', which [data] label is about"),
        ({"site": None}, "has no column 'site', which [data] slices is about"),
        ({"y": np.where(np.arange(600) == 7, np.nan, 1.0)}, "missing or infinite in 1 of 600 rows"),
        ({"y": np.where(np.arange(600) == 7, np.inf, 1.0)}, "first in row 7"),
        ({"y": np.where(np.arange(600) == 7, "", "cat")}, "missing or infinite in 1 of 600 rows"),
        ({"y": np.full(600, 0.5)}, "holds fractions"),
        ({"b": np.array(["x"] * 600)}, "text in b and numbers in other columns"),
        ({"b": pa.array([[1]] * 600)}, "list"),
        ({"b": pa.array([b"x"] * 600)}, "binary"),
        ({"b": pa.array([2**64 - 1] * 600, pa.uint64())}, "over 2^63"),
        ({"b": np.array(["x" * 5000] * 600)}, "a text of 5000 characters"),
    ],
)
def test_rows_that_no_model_can_be_made_of_are_refused(folder, changes, says):
    columns = {name: c for name, c in {**rows(), **changes}.items() if c is not None}
    write_parquet(folder / "data/rows.parquet", columns)
    refuse(folder, says)


def test_a_regressor_takes_fractions_and_no_text(make, tmp_path):
    toml = TOML.replace("classifier", "regressor")
    folder = make(tmp_path / "q", toml=toml, columns={**rows(), "y": np.linspace(0, 1, 600)})
    assert taken(folder).table.labels.dtype == np.float64
    write_parquet(folder / "data/rows.parquet", {**rows(), "y": np.array(["a"] * 600)})
    refuse(folder, "is text, and a regressor answers numbers")


def test_files_whose_columns_differ_are_refused(folder):
    write_parquet(folder / "data/second.parquet", {**rows(), "extra": np.ones(600)})
    refuse(folder, "has a column 'extra' that the first file does not have")
    write_parquet(folder / "data/second.parquet", {k: v for k, v in rows().items() if k != "b"})
    refuse(folder, "data/second.parquet has no column 'b'")
    write_parquet(folder / "data/second.parquet", {**rows(), "y": np.array(["a"] * 600)})
    refuse(folder, "text in one is a number in another")


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("x.parquet", b"PAR1 and no more", "data_unreadable"),
        ("x.parquet", b"", "data_unreadable"),
        ("x.csv", b"", "data_unreadable"),
        ("x.csv", b"a,b\n1,2,3\n", "data_unreadable"),
        ("x.csv", b"a,a\n1,2\n", "data_invalid"),
        ("x.csv", b"\xff\xfe\x00", "data_unreadable"),
        ("x.csv", b"a" * 9_000_000, "data_invalid"),
        ("x.csv", b"," * 70_000 + b"\n", "data_invalid"),
        ("x.npz", b"PK\x03\x04", "data_unreadable"),
        ("x.txt", b"1 2 3", "data_unreadable"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_file_that_is_no_table_is_refused(folder, name, content, code):
    (folder / "data/rows.parquet").unlink()
    (folder / "data" / name).write_bytes(content)
    refuse(folder, f"data/{name}", code)


def test_what_takes_too_much_memory_is_refused_before_it_does(folder):
    small = 600 * 5 * 8 - 1
    refuse(folder, f"takes over {small:,} bytes in memory", max_bytes=small)
    replaced(folder, "r.csv", rows())
    refuse(folder, "bytes in memory", max_bytes=small)
    # A few bytes a column, and ten million rows by what it says: a dictionary of one value.
    (folder / "data/r.csv").unlink()
    table = pa.table({name: pa.nulls(10_000_000, pa.int64()) for name in ("a", "b", "c", "y")})
    parquet.write_table(table, folder / "data/bomb.parquet")
    assert (folder / "data/bomb.parquet").stat().st_size < 100_000
    refuse(folder, "bytes in memory", max_bytes=100_000_000)


def test_a_text_that_is_long_in_one_row_does_not_take_its_room_in_all(folder):
    texts = pa.array(["x" * 4000, *["y"] * 599_999])
    columns = {"a": texts, "y": np.arange(600_000) % 2, "site": np.array(["lab"] * 600_000)}
    write_parquet(folder / "data/rows.parquet", columns)
    refuse(folder, "holds a text of 4000 characters")


def test_a_pattern_without_a_file_is_told(folder):
    (folder / "data/rows.parquet").unlink()
    project = load_project(folder)
    with pytest.raises(ConfigError) as caught:
        find_sources(project)
    assert caught.value.code == "sources_missing"
    assert "'data/*'" in str(caught.value)


def test_a_pipe_among_the_sources_does_not_hang(folder):
    os.mkfifo(folder / "data/pipe.csv")
    assert [source.path for source in find_sources(load_project(folder))] == ["data/rows.parquet"]


def test_too_few_rows_for_a_part_are_refused(folder):
    write_parquet(folder / "data/rows.parquet", {n: c[:2] for n, c in rows().items()})
    refuse(folder, "whose share is")
