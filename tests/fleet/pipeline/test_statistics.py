"""Statistics, against those that TFDV gave for the same vectors (`record_tfdv.py`)."""

from __future__ import annotations

import numpy as np
import pytest
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tensorflow_metadata.proto.v0.schema_pb2 import Schema
from tensorflow_metadata.proto.v0.statistics_pb2 import DatasetFeatureStatisticsList as Statistics

from fleet.pipeline.statistics import column_of, columns_of, statistics_of
from fleet.pipeline.table import Table
from tests.fleet.pipeline.vectors import FOLDER, TABLES, columns_from


def differences(ours, theirs, path=""):
    """Return where two messages differ, by more than rounding; maps and order are theirs."""
    found = []
    for field in type(ours).DESCRIPTOR.fields:
        a, b = getattr(ours, field.name), getattr(theirs, field.name)
        where = f"{path}.{field.name}"
        if field.is_repeated:
            if len(a) != len(b):
                found.append(f"{where}: {len(a)} != {len(b)}")
                continue
            pairs = list(zip(a, b, strict=True))
        else:
            if field.has_presence and ours.HasField(field.name) != theirs.HasField(field.name):
                found.append(f"{where}: there on one side only")
            pairs = [(a, b)]
        for number, (x, y) in enumerate(pairs):
            if field.message_type is not None:
                found += (
                    differences(x, y, f"{where}[{number}]") if x.ByteSize() or y.ByteSize() else []
                )
            elif isinstance(x, float):
                if not np.isclose(x, y, rtol=1e-9, atol=1e-9, equal_nan=True):
                    found.append(f"{where}[{number}]: {x} != {y}")
            elif x != y:
                found.append(f"{where}[{number}]: {x!r} != {y!r}")
    return found


@pytest.mark.parametrize("table", sorted(TABLES))
def test_equal_tfdv(table):
    recorded = text_format.Parse(
        (FOLDER / f"{table}.statistics.pbtxt").read_text(),
        Statistics(),
    )
    ours = statistics_of(columns_from(table))
    assert differences(ours, recorded) == []


def test_differences_are_seen():
    recorded = text_format.Parse((FOLDER / "floats.statistics.pbtxt").read_text(), Statistics())
    found = differences(statistics_of(columns_from("shifted")), recorded)
    assert any("median" in line for line in found)
    assert any("sample_count" in line for line in found)


def test_a_table_is_its_features_its_labels_and_its_slices():
    table = Table(
        values=np.array([[1.0, np.nan], [2.0, 4.0]]),
        feature_names=("a", "b"),
        labels=np.array([0, 1]),
        slices={"site": np.array(["x", ""])},
    )
    columns = columns_of(table, label="y")
    assert [column.name for column in columns] == ["a", "b", "y", "site"]
    features = statistics_of(columns).datasets[0].features
    assert [view.num_stats.common_stats.num_missing for view in features[:3]] == [0, 1, 0]
    assert features[3].string_stats.common_stats.num_missing == 1


def schema_of(name, kind):
    return text_format.Parse(f'feature {{ name: "{name}" type: {kind} }}', Schema())


@pytest.mark.parametrize(
    ("values", "kind", "found"),
    [
        ([1.0, 2.0, np.nan], "INT", "INT"),
        ([1.0, 2.5], "INT", "FLOAT"),
        ([1.0, np.inf], "INT", "FLOAT"),
        ([1.0, 1e19], "INT", "FLOAT"),
        ([1, 2], "FLOAT", "FLOAT"),
        ([True, False], "INT", "INT"),
        (["1", "2", ""], "INT", "INT"),
        (["1", "2.5"], "INT", "STRING"),
        (["1", "99999999999999999999"], "INT", "STRING"),
        (["1", "2.5e3", " nan "], "FLOAT", "FLOAT"),
        (["1", "1_000"], "FLOAT", "STRING"),
        (["1", "x"], "FLOAT", "STRING"),
        (["1", "2"], "BYTES", "STRING"),
    ],
)
def test_a_schema_says_what_type_is_meant_where_all_values_are_of_it(values, kind, found):
    column = column_of("x", np.array(values))
    feature = statistics_of([column], schema_of("x", kind)).datasets[0].features[0]
    assert feature.Type.Name(feature.type) == found


@given(
    hnp.arrays(np.float64, st.integers(1, 60), elements=st.floats(width=64)),
)
def test_any_numbers_are_counted_and_no_row_is_lost(values):
    numbers = statistics_of([column_of("x", values)]).datasets[0].features[0].num_stats
    present = values[~np.isnan(values)]
    assert numbers.common_stats.num_non_missing == len(present)
    for histogram in numbers.histograms:
        total = sum(bucket.sample_count for bucket in histogram.buckets)
        # Of a range over the largest double there are no bins of equal width, as in TFDV.
        is_empty = not histogram.buckets
        assert is_empty or total == pytest.approx(len(present), rel=1e-9) or np.isinf(present).any()
    if len(present) and np.isfinite(present).all():
        assert numbers.min == present.min()
        assert numbers.max == present.max()
        assert numbers.min <= numbers.median <= numbers.max


@given(st.lists(st.text(st.characters(), max_size=4), min_size=1, max_size=40))
def test_any_texts_are_counted_and_fit_into_a_message(texts):
    array = np.array(texts)
    column = column_of("x", array)
    counted = statistics_of([column])
    again = Statistics.FromString(counted.SerializeToString())
    stats = again.datasets[0].features[0].string_stats
    assert sum(bucket.sample_count for bucket in stats.rank_histogram.buckets) == len(
        column.present
    )
    assert stats.unique == len(set(column.present.tolist()))
