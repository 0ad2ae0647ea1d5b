"""What is counted of a model's rows: every column, each row once, whatever comes in which pieces."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from agent.control import MAX_COUNTS
from agent.runtime import columns as columns_module
from agent.runtime.columns import MAX_BINS, ColumnCounts, read_baseline
from agent.runtime.outputs import OutputShift
from converter.baseline import make_baseline
from wire.histogram import Baseline, CategoryColumn, Column, count
from wire.manifest import TensorSpec
from wire.windows import MAX_COLUMN_COUNTS, MAX_COLUMNS

DTYPES = {"FP16": np.float16, "FP32": np.float32, "FP64": np.float64, "INT64": np.int64}
LABEL = TensorSpec(name="label", datatype="INT64", shape=(-1,))


def spec(width, datatype="FP32", name="X", names=()):
    return TensorSpec(name=name, datatype=datatype, shape=(-1, width), feature_names=names)


def of(columns, outputs=(), *, datatype="FP32", **baseline):
    """Return the counts of a model with these columns of inputs and outputs, one tensor each."""
    made = Baseline(row_count=9, inputs=columns, outputs=outputs, **baseline)
    tensors = [spec(len(outputs), name="Y")] if outputs else []
    return ColumnCounts(made, [spec(len(columns), datatype)], tensors)


def named(number):
    return f"X[{number}]" if number is not None else "X"


def numeric(edges, name="X", **limits):
    return Column(name=name, edges=edges, counts=(0,) * (len(edges) + 1), **limits)


def only(window):
    """Return the columns of a window that has them side by side, from the first."""
    (run,) = window.runs
    assert run.first == 0
    return run.columns


def counted(counts, rows):
    counts.add(len(rows), {"X": rows}, [], [])
    return only(counts.close_window())


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 1.0, 1.5, 2.0, 3.0], (1, 2, 2)),
        ([np.nan, np.nan, 1.0], (0, 1, 0, 2)),
        ([-0.5, -0.6, -np.inf], (3, 0, 0, 0, 2)),
        ([4.0, 4.1, np.inf], (0, 0, 3, 0, 0, 2)),
        ([np.inf, -np.inf, np.nan], (1, 0, 1, 1, 1, 1)),
        ([-0.5, 4.0], (1, 0, 1)),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_values_by_bin_then_missing_below_and_above(values, expected, dtype):
    counts = of([numeric((1.0, 2.0), low=-0.5, high=4.0)])
    assert counted(counts, np.array(values, dtype).reshape(-1, 1)) == (expected,)


def test_an_older_baseline_has_nothing_below_or_above():
    rows = np.array([[-1e30], [np.inf], [np.nan]], np.float32)
    assert counted(of([numeric((1.0, 2.0))]), rows) == ((1, 0, 1, 1),)


@pytest.mark.parametrize(
    ("edge", "below", "at"), [(0.1, 0.1, 0.10000001), (1e300, 3.4e38, np.inf), (-1e300, -np.inf, -3e38)]
)  # fmt: skip
def test_an_edge_that_the_type_cannot_hold_parts_the_same_values(edge, below, at):
    # 0.1 as float32 is above 0.1 as float64; the value before it is below.
    rows = np.array([[np.nextafter(np.float32(below), np.float32(-1)) if edge == 0.1 else below],
                     [at]], np.float32)  # fmt: skip
    expected, _ = count(rows[:, 0].astype(np.float64), np.array([edge]))
    assert counted(of([numeric((edge,))]), rows) == (tuple(expected.tolist()),) == ((1, 1),)


edges_of = st.lists(st.floats(-1e3, 1e3), max_size=12, unique=True).map(sorted)
values_of = st.floats(width=16) | st.sampled_from([np.nan, np.inf, -np.inf, 0.0, 1.0, 0.5])


@st.composite
def tables(draw):
    datatype = draw(st.sampled_from(sorted(DTYPES)))
    width = draw(st.integers(1, 4))
    elements = st.integers(-2000, 2000) if datatype == "INT64" else values_of
    rows = draw(hnp.arrays(np.float64, (draw(st.integers(1, 40)), width), elements=elements))
    edges = [draw(edges_of) for _ in range(width)]
    cuts = draw(st.lists(st.integers(0, len(rows)), max_size=4).map(sorted))
    return datatype, rows.astype(DTYPES[datatype]), edges, cuts


@given(tables())
def test_counting_in_pieces_is_counting_at_once_and_every_row_is_in_one_bin(table):
    datatype, rows, edges, cuts = table
    width = rows.shape[1]
    columns = [
        numeric(edge, name=named(number if width > 1 else None), low=-10.0, high=10.0)
        for number, edge in enumerate(edges)
    ]
    whole = counted(of(columns, datatype=datatype), rows)
    pieces = of(columns, datatype=datatype)
    sums = np.zeros((width, 20), np.int64)
    for number, piece in enumerate(np.split(rows, cuts)):
        pieces.add(len(piece), {"X": piece}, [], [])
        if number % 2 and len(piece):  # windows add up
            for column, found in enumerate(only(pieces.close_window())):
                sums[column, : len(found)] += found
    last = pieces.close_window()
    for column, found in enumerate(only(last) if last.runs else ()):
        sums[column, : len(found)] += found
    for number, found in enumerate(whole):
        bins = len(edges[number]) + 1
        full = np.zeros(20, np.int64)
        full[: len(found)] = found
        assert (full == sums[number]).all()
        values = rows[:, number].astype(np.float64)
        expected, missing = count(values, np.array(edges[number], dtype=np.float64))
        assert full[:bins].tolist() == expected.tolist()
        assert full[bins] == missing
        assert full[:bins].sum() + missing == len(rows)
        assert full[bins + 1] == (values < -10).sum()
        assert full[bins + 2] == (values > 10).sum()


def test_more_rows_than_a_byte_counts_are_counted():
    rows = np.zeros((70_001, 3), np.float32)
    rows[7:, 1] = 5
    columns = [numeric((1.0,), name=named(n), low=0.0, high=1.0) for n in range(3)]
    assert counted(of(columns), rows) == ((70_001,), (7, 69_994, 0, 0, 69_994), (70_001,))


def test_labels_and_strings_are_counted_by_category_and_what_is_unknown_apart():
    strings = CategoryColumn(name="city", categories=("a", "b"), counts=(1, 1))
    label = CategoryColumn(name="label", categories=("1", "0"), counts=(1, 1))
    made = Baseline(row_count=2, inputs=(strings,), outputs=(label,))
    counts = ColumnCounts(made, [spec(1, "BYTES", names=("city",))], [LABEL])
    rows = np.array([["b"], ["c"], ["b"], [""]], object)
    counts.add(4, {"X": rows}, [LABEL], [np.array([0, 1, 1, 7])])
    assert only(counts.close_window()) == ((0, 2, 2), (2, 1, 1))


def test_an_output_that_was_not_asked_for_has_fewer_rows():
    counts = of([numeric((1.0,))], [numeric((1.0,), name="Y")])
    rows = np.zeros((3, 1), np.float32)
    counts.add(3, {"X": rows}, [spec(1, name="Y")], [rows])
    counts.add(3, {"X": rows}, [], [])
    window = counts.close_window()
    assert (window.row_count, only(window)) == (6, ((6,), (3,)))


@pytest.mark.parametrize("shape", [(0, 1), (1, 0), ()])
def test_tensors_without_rows_or_columns_count_nothing(shape):
    counts = of([numeric((1.0,))], [numeric((1.0,), name="Y")], limit_row_counts=(1,))
    empty = np.zeros(shape, np.float32)
    n_rows = shape[0] if shape else 1
    counts.add(n_rows, {"X": empty}, [spec(1, name="Y")], [empty])
    assert OutputShift(None).furthest(counts) is None
    assert list(counts.outputs())
    window = counts.close_window()
    assert window.row_count == n_rows
    assert all(column == () for run in window.runs for column in run.columns)


def test_an_answer_of_another_number_of_rows_is_not_counted():
    counts = of([numeric((1.0,))], [numeric((1.0,), name="Y")])
    counts.add(3, {"X": np.zeros((3, 1), np.float32)}, [spec(1, name="Y")], [np.zeros((1, 1))])
    assert only(counts.close_window()) == ((3,), ())


@pytest.mark.parametrize(
    "column",
    [
        numeric((1.0,)).model_copy(update={"counts": (1,)}),
        numeric((2.0, 1.0)),
        numeric((1.0, 1.0)),
        numeric(tuple(range(MAX_BINS))),
        CategoryColumn(name="X", categories=("a",), counts=()),
    ],
)
def test_a_column_that_makes_no_sense_counts_nothing(column):
    assert counted(of([column]), np.ones((3, 1), np.float32)) == ((),)


def test_two_columns_of_one_name_are_told_apart_by_their_tensor_or_not_counted():
    columns = [numeric((1.0,), name="a"), numeric((1.0,), name="a")]
    made = Baseline(row_count=1, inputs=columns, outputs=())
    rows = np.zeros((2, 2), np.float32)
    whole = ColumnCounts(made, [spec(2, names=("a", "a"))], [])
    whole.add(2, {"X": rows}, [], [])
    assert only(whole.close_window()) == ((2,), (2,))
    one = ColumnCounts(made, [spec(1, name="a")], [])
    one.add(2, {"a": rows[:, :1]}, [], [])
    assert only(one.close_window()) == ((), ())


def test_of_too_many_columns_the_first_are_counted_and_outputs_are_among_them():
    inputs = [numeric((1.0,), name=named(n)) for n in range(MAX_COLUMNS + 300)]
    counts = of(inputs, [numeric((1.0,), name="Y")])
    rows = np.zeros((2, len(inputs)), np.float32)
    counts.add(2, {"X": rows}, [spec(1, name="Y")], [np.zeros((2, 1), np.float32)])
    one, two = counts.close_window().runs
    assert (one.first, len(one.columns), two.first) == (0, MAX_COLUMNS - 1, len(inputs))
    assert set(one.columns) == {(2,)} == set(two.columns)


def test_columns_of_many_bins_are_counted_up_to_a_number_of_counts():
    edges = tuple(map(float, range(MAX_BINS - 1)))
    counts = of([numeric(edges, name=named(n)) for n in range(100)])
    rows = np.full((2, 100), np.nan, np.float32)
    columns = counted(counts, rows)
    assert len(columns) == MAX_COUNTS // (MAX_BINS + 3)
    assert max(map(len, columns)) <= MAX_COLUMN_COUNTS
    assert MAX_BINS + 3 == MAX_COLUMN_COUNTS


def test_rows_wait_in_bounded_memory(monkeypatch):
    counts = of([numeric((1.0,)), numeric((1.0,), name="X[1]")])
    for _ in range(3 * columns_module.MAX_WAITING_BYTES // columns_module.ARRAY_BYTES):
        counts.add(1, {"X": np.zeros((1, 1), np.float32)}, [], [])
        assert counts._waiting_bytes < columns_module.MAX_WAITING_BYTES
        assert len(counts._waiting) <= columns_module.MAX_WAITING_BYTES / columns_module.ARRAY_BYTES


def test_rows_are_counted_by_their_highest_probability_where_the_baseline_names_the_table():
    table = np.array([[0.9, 0.1], [0.5, 0.5], [1.0, 0.0], [np.nan, 0.5], [0.96, 0.04]], np.float32)
    outputs = [numeric((0.5,), name=f"Y[{n}]") for n in range(2)]
    inputs = [numeric((1.0,))]
    for name, expected in (("Y", {10: 1, 17: 1, 19: 2}), ("", {}), ("other", {})):
        counts = of(inputs, outputs, probabilities=name)
        rows = np.zeros((5, 1), np.float32)
        counts.add(5, {"X": rows}, [spec(2, name="Y")], [table])
        scores = counts.close_window().scores
        # 0.9 as float32 is 0.89999998: just below its bin's edge.
        assert {place: n for place, n in enumerate(scores) if n} == expected
        assert counts.close_window().scores == ()


def test_the_window_of_reference_rows_is_the_baseline(tmp_path):
    random = np.random.default_rng(2)
    rows = random.choice([0, 1.5, 2, np.nan, -3, 8], (500, 5)).astype(np.float32)
    answers = random.dirichlet([1, 1, 1], 500).astype(np.float32)
    labels = answers.argmax(axis=1)
    outputs = [(LABEL, labels), (spec(3, name="p"), answers)]
    made = make_baseline([(spec(5), rows)], outputs, "0" * 64, probabilities="p")
    (tmp_path / "b.json").write_bytes(made.model_dump_json().encode())
    baseline = read_baseline(tmp_path / "b.json")
    assert baseline == made
    counts = ColumnCounts(baseline, [spec(5)], [tensor for tensor, _ in outputs])
    for start in range(0, 500, 7):
        part = slice(start, start + 7)
        counts.add(
            len(rows[part]),
            {"X": rows[part]},
            [s for s, _ in outputs],
            [labels[part], answers[part]],
        )
    window = counts.close_window()
    for column, found in zip([*made.inputs, *made.outputs], only(window), strict=True):
        rest = column.missing if isinstance(column, Column) else column.other
        reference = [*column.counts, rest]
        assert list(found) + [0] * (len(reference) - len(found)) == reference
    assert list(window.scores) == list(made.scores)
    assert window.row_count == made.row_count
    assert json.loads(made.model_dump_json())["probabilities"] == "p"


# -- how far rows of one time are alike


def between(places, *, block_rows):
    """Return the definition's sum, from whole blocks."""
    blocks = [places[at : at + block_rows] for at in range(0, len(places), block_rows)]
    return sum(sum(b) ** 2 / len(b) for b in blocks) - sum(places) ** 2 / len(places)


@given(
    st.lists(st.sampled_from([0.5, 1.5, 2.5, np.nan, np.inf, -np.inf]), min_size=1, max_size=300),
    st.lists(st.integers(0, 300), max_size=5),
)
def test_the_sum_between_blocks_is_the_same_however_rows_come(values, cuts):
    rows = np.array(values, np.float64).reshape(-1, 1)
    counts = of([numeric((1.0, 2.0), low=0.0, high=2.0)], datatype="FP64")
    for piece in np.split(rows, sorted(cuts)):
        counts.add(len(piece), {"X": piece}, [], [])
        list(counts.outputs())  # counts what waits
    places = [3 if np.isnan(v) else int((v >= 1.0) + (v >= 2.0)) for v in values]
    block_rows = next(2**n for n in range(12) if 16 * 2**n >= len(values))
    (run,) = counts.close_window().runs
    assert run.between == (
        pytest.approx(between(places, block_rows=block_rows), rel=6e-4, abs=1e-9),
    )


def test_the_sum_between_blocks_tells_rows_that_depend_on_one_another():
    random = np.random.default_rng(4)
    alone = random.normal(size=(4000, 1))
    kept = np.repeat(alone[:40], 100, axis=0)
    edges = tuple(np.quantile(alone, np.arange(1, 10) / 10).tolist())
    found = {}
    for name, rows in (("alone", alone), ("kept", kept)):
        counts = of([numeric(edges)])
        counts.add(len(rows), {"X": rows.astype(np.float32)}, [], [])
        (run,) = counts.close_window().runs
        # 4,000 rows are 16 blocks of 256, the last one shorter; the variance of ten places is 8.25.
        found[name] = run.between[0] / (15 * np.digitize(rows, edges).var())
    assert 0.3 < found["alone"] < 2.5
    assert found["kept"] > 20


def test_labels_have_the_place_of_their_category():
    city = CategoryColumn(name="city", categories=("a", "b"), counts=(1, 1))
    counts = ColumnCounts(
        Baseline(row_count=2, inputs=(city,), outputs=()), [spec(1, "BYTES", names=("city",))], []
    )
    counts.add(3, {"X": np.array([["b"], ["?"], ["a"]], object)}, [], [])
    (run,) = counts.close_window().runs
    assert run.between == (between([1, 2, 0], block_rows=1),) == (2.0,)
