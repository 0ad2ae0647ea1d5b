"""What a table holds, feature by feature, in the words of TensorFlow Data Validation (TFDV).

The messages are those that TFDV 1.16 writes with its default options, so that TFDV and Facets read
them; the tests compare with what TFDV answered. It keeps quantiles in a sketch, these are exact:
equal to rounding up to 5,000 normal rows, 2e-4 of the rows apart at 100,000.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from tensorflow_metadata.proto.v0 import schema_pb2, statistics_pb2
from tensorflow_metadata.proto.v0.schema_pb2 import Schema
from tensorflow_metadata.proto.v0.statistics_pb2 import DatasetFeatureStatisticsList as Statistics

from .histograms import add_buckets, equal_width, quantile_buckets, quantiles_of
from .table import Table

Array = npt.NDArray[Any]

DEFAULT_LABEL: Final = "label"
TOP_VALUES: Final = 20
RANKS: Final = 1000
BINS: Final = 10
FINE_BINS: Final = 1000
"""The quantiles that the bins of equal width are made of: TFDV takes a hundred for each."""
LONG_BYTES: Final = 1024
"""Longer texts count as one, so that a message stays small."""
LONG_TEXT: Final = "__LARGE_BYTES__"
NO_TEXT: Final = "__BYTES_VALUE__"
"""What stands for text that is no UTF-8."""
NUMBER: Final = re.compile(
    r"\s*[+-]?(\d+\.?\d*([eE][+-]?\d+)?|\.\d+([eE][+-]?\d+)?|inf|nan)\s*", re.IGNORECASE
)
WHOLE: Final = re.compile(r"\s*[+-]?\d+\s*")


@dataclass(frozen=True, slots=True)
class Column:
    """The values of one feature.

    Attributes:
        name: Of the feature.
        values: Shape (n_rows,): numbers, booleans or str.
        is_missing: Shape (n_rows,): which rows have no value, whatever is in `values` there.
    """

    name: str
    values: Array
    is_missing: npt.NDArray[np.bool_]

    @property
    def present(self) -> Array:
        """The values that are there."""
        return self.values[~self.is_missing]


def column_of(name: str, values: Array) -> Column:
    """Return a column in which NaN and the empty text mean missing, as TFDV reads data frames and CSV.

    Args:
        name: Of the feature.
        values: Shape (n_rows,).
    """
    if values.dtype.kind == "f":
        return Column(name, values, np.isnan(values))
    is_missing = values == "" if values.dtype.kind == "U" else np.zeros(len(values), np.bool_)
    return Column(name, values, is_missing)


def columns_of(table: Table, *, label: str = DEFAULT_LABEL) -> tuple[Column, ...]:
    """Return the features of a table, its labels under the name `label`, and its slices."""
    columns = [
        column_of(name, table.values[:, number]) for number, name in enumerate(table.feature_names)
    ]
    if table.labels is not None:
        columns.append(column_of(label, table.labels))
    return (*columns, *(column_of(name, values) for name, values in table.slices.items()))


def statistics_of(columns: Iterable[Column], schema: Schema | None = None) -> Statistics:
    """Return the statistics of columns of one length.

    Args:
        columns: Whole numbers and booleans are INT, other numbers FLOAT, text STRING.
        schema: What types are meant: a float column of whole numbers is taken for the INT that
            it says, and text of numbers for numbers, as TFDV reads a CSV. INT features that it
            calls categorical are counted value by value.
    """
    meant = {feature.name: feature for feature in schema.feature} if schema is not None else {}
    result = Statistics()
    data = result.datasets.add()
    for column in columns:
        data.num_examples = len(column.values)
        feature = data.features.add()
        feature.path.step.append(column.name)
        is_categorical = _is_categorical(meant.get(column.name))
        _describe(feature, _as_meant(column, meant), is_categorical=is_categorical)
    return result


def is_text(message: Any) -> bool:
    """Return whether the statistics of a feature are of text."""
    return bool(message.type == statistics_pb2.FeatureNameStatistics.STRING)


def _describe(feature: Any, column: Column, *, is_categorical: bool) -> None:
    kinds = statistics_pb2.FeatureNameStatistics
    values, kind = column.present, column.values.dtype.kind
    row_count = len(column.values)
    if kind not in "fiub":
        feature.type = kinds.STRING
        _describe_texts(feature.string_stats, values.tolist())
        _describe_presence(feature.string_stats.common_stats, row_count, len(values))
        return
    feature.type = kinds.FLOAT if kind == "f" else kinds.INT
    if is_categorical and kind != "f":
        _describe_texts(feature.string_stats, list(map(str, values.astype(np.int64).tolist())))
        feature.string_stats.avg_length = 0
        _describe_presence(feature.string_stats.common_stats, row_count, len(values))
        return
    _describe_numbers(feature.num_stats, values)
    _describe_presence(feature.num_stats.common_stats, row_count, len(values))


def _describe_presence(common: Any, row_count: int, count: int) -> None:
    common.SetInParent()
    common.num_non_missing, common.num_missing = count, row_count - count
    if not count:
        return
    common.min_num_values = common.max_num_values = 1
    common.avg_num_values, common.tot_num_values = 1.0, count
    common.num_values_histogram.type = statistics_pb2.Histogram.QUANTILES
    ones = np.ones(BINS)
    add_buckets(common.num_values_histogram, ones, ones, ones * (count / BINS))


def _describe_numbers(numbers: Any, values: Array) -> None:
    kinds = statistics_pb2.Histogram
    is_nan = np.isnan(values) if values.dtype.kind == "f" else np.zeros(len(values), np.bool_)
    wide = np.sort(values[~is_nan].astype(np.float64))
    nan_count = int(is_nan.sum())
    if wide.size or nan_count:
        standard = numbers.histograms.add(type=kinds.STANDARD, num_nan=nan_count)
        quantiles = numbers.histograms.add(type=kinds.QUANTILES, num_nan=nan_count)
    if not wide.size:
        return
    with np.errstate(all="ignore"):
        # TFDV adds a batch to nothing, and 0 times infinity is NaN.
        numbers.mean = float(wide.mean()) if np.isfinite(wide[[0, -1]]).all() else np.nan
        spread = float(wide.std())
    numbers.std_dev = spread if spread > 0 else 0.0
    numbers.num_zeros = int(wide.size - np.count_nonzero(wide))
    numbers.min, numbers.max = float(wide[0]), float(wide[-1])
    cuts, counted = quantiles_of(wide, FINE_BINS)
    numbers.median = float(cuts[FINE_BINS // 2])
    add_buckets(standard, *equal_width(wide, cuts, counted, BINS))
    step = FINE_BINS // BINS
    add_buckets(quantiles, *quantile_buckets(cuts[::step], counted[::step]))


def _describe_texts(texts: Any, values: list[str]) -> None:
    texts.SetInParent()
    counts: Counter[str] = Counter()
    length_bytes = invalid_count = 0
    distinct = Counter(values)
    for value, count in distinct.items():
        raw = value.encode("utf-8", "surrogatepass")
        is_valid = not any("\ud800" <= char <= "\udfff" for char in value)
        length_bytes += len(raw) * count
        invalid_count += 0 if is_valid else count
        counts[LONG_TEXT if len(raw) > LONG_BYTES else value if is_valid else NO_TEXT] += count
    if not values:
        return
    texts.unique, texts.invalid_utf8_count = len(distinct), invalid_count
    texts.avg_length = length_bytes / len(values)
    ranked = sorted(counts.items(), key=lambda item: (item[1], item[0]), reverse=True)
    for value, count in ranked[:TOP_VALUES]:
        texts.top_values.add(value=value, frequency=count)
    for rank, (value, count) in enumerate(ranked[:RANKS]):
        texts.rank_histogram.buckets.add(
            low_rank=rank, high_rank=rank, sample_count=count, label=value
        )


def _is_categorical(feature: Any) -> bool:
    return feature is not None and bool(feature.int_domain.is_categorical)


def _as_meant(column: Column, meant: Mapping[str, Any]) -> Column:
    """Return a column in the type that the schema says, where all of its values are of that."""
    feature, kind = meant.get(column.name), column.values.dtype.kind
    if feature is None or not feature.HasField("type") or not len(column.values):
        return column
    wants_int = feature.type == schema_pb2.INT
    if kind == "U" and (wants_int or feature.type == schema_pb2.FLOAT):
        return _parsed(column, wants_int=wants_int)
    if kind == "f" and wants_int:
        whole = np.where(column.is_missing, 0, column.values)
        with np.errstate(all="ignore"):
            if np.abs(whole).max() < 2**63 and np.array_equal(whole, np.trunc(whole)):
                return Column(column.name, whole.astype(np.int64), column.is_missing)
    if kind in "iub" and feature.type == schema_pb2.FLOAT:
        return Column(column.name, column.values.astype(np.float64), column.is_missing)
    return column


def _parsed(column: Column, *, wants_int: bool) -> Column:
    pattern = WHOLE if wants_int else NUMBER
    texts = np.where(column.is_missing, "0", column.values).tolist()
    if not all(pattern.fullmatch(text) for text in texts):
        return column
    try:
        values = np.array([(int if wants_int else float)(text) for text in texts])
    except (OverflowError, ValueError):
        return column
    is_whole = values.dtype.kind == "i" or not wants_int
    return Column(column.name, values, column.is_missing) if is_whole else column
