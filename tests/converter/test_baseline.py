"""How inputs and outputs were distributed, in bins that devices can count into."""

import numpy as np
import pytest

from converter.baseline import MAX_CATEGORIES, make_baseline
from wire.histogram import Baseline, CategoryColumn, Column
from wire.manifest import TensorSpec

SHA = "0" * 64


def spec(name="X", names=(), datatype="FP32"):
    return TensorSpec(name=name, datatype=datatype, shape=(-1, -1), feature_names=names)


def columns(rows, **options):
    made = make_baseline([(spec(**options), rows)], [], SHA)
    assert Baseline.model_validate_json(made.model_dump_json()) == made
    assert made.row_count == len(rows)
    assert made.data_sha256 == SHA
    return made.inputs


def test_numbers_fall_into_ten_even_bins():
    rows = np.random.default_rng(0).permutation(1000).reshape(-1, 1).astype(np.float32)
    (column,) = columns(rows)
    assert isinstance(column, Column)
    assert column.edges == tuple(range(99, 999, 100))
    assert column.counts == (99, 100, 100, 100, 100, 100, 100, 100, 100, 101)
    assert column.missing == 0


def test_missing_values_are_counted_apart_and_infinities_at_the_ends():
    rows = np.array([[np.nan], [1], [2], [np.inf], [-np.inf], [np.nan]], np.float32)
    (column,) = columns(rows)
    assert column.missing == 2
    assert sum(column.counts) == 4
    assert all(np.isfinite(column.edges))
    assert column.counts[-1] >= 1


@pytest.mark.parametrize("value", [0, 7, -1e30, np.nan, np.inf])
def test_a_constant_column_has_one_edge_or_none(value):
    (column,) = columns(np.full((70, 1), value, np.float32))
    assert len(column.edges) == (1 if np.isfinite(value) else 0)
    assert sum(column.counts) + column.missing == 70


def test_every_row_is_counted_whatever_is_in_it():
    random = np.random.default_rng(1)
    rows = random.choice([0, 1, 2.5, np.nan, np.inf, -np.inf, 1e38], (500, 6)).astype(np.float32)
    for column in columns(rows):
        assert sum(column.counts) + column.missing == 500
        assert len(column.counts) == len(column.edges) + 1
        assert list(column.edges) == sorted(set(column.edges))


def test_strings_are_counted_the_most_frequent_first():
    rows = np.array([["b", "x"], ["a", "y"], ["b", "z"], ["a", "x"]])
    first, second = columns(rows, datatype="BYTES")
    assert isinstance(first, CategoryColumn)
    assert (first.categories, first.counts, first.other) == (("a", "b"), (2, 2), 0)
    assert (second.categories, second.counts) == (("x", "y", "z"), (2, 1, 1))


def test_rare_strings_are_counted_together():
    rows = np.array([[f"v{i % 300}"] for i in range(900)])
    (column,) = columns(rows, datatype="BYTES")
    assert len(column.categories) == MAX_CATEGORIES
    assert column.other == 3 * (300 - MAX_CATEGORIES)
    assert sum(column.counts) + column.other == 900


def test_labels_are_categories_and_whole_features_are_not():
    rows = np.arange(80).reshape(-1, 1)
    label = np.arange(80) % 2
    made = make_baseline(
        [(spec(datatype="INT64"), rows)], [(spec("label", datatype="INT64"), label)], SHA
    )
    assert isinstance(made.inputs[0], Column)
    assert made.outputs[0] == CategoryColumn(
        name="label", categories=("0", "1"), counts=(40, 40), other=0
    )


def test_columns_have_the_names_of_the_features_or_numbers():
    rows = np.zeros((3, 2), np.float32)
    assert [c.name for c in columns(rows)] == ["X[0]", "X[1]"]
    assert [c.name for c in columns(rows, names=("width", "height"))] == ["width", "height"]
    assert [c.name for c in columns(rows, names=("one",))] == ["X[0]", "X[1]"]
    assert [c.name for c in columns(rows[:, :1])] == ["X"]
    assert [c.name for c in columns(np.zeros((3, 2, 2), np.float32))] == [
        "X[0]", "X[1]", "X[2]", "X[3]",
    ]  # fmt: skip
