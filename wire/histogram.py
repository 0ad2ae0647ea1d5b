"""Counts over fixed bins, and the bins: the reference bins of features and outputs.

Counts over the same edges merge exactly, by addition, over time and over devices.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import Field

from .ids import Digest
from .manifest import MAX_NAME_CHARS, TensorSpec, column_names, label_output
from .messages import Count, Message, Part
from .windows import SCORE_BINS

REFERENCE_BINS: Final = 10
"""Deciles: PSI over 10 bins is the field's convention, and 500 rows a window suffice for them."""

SHARE_FLOOR: Final = 1e-4
"""One row of 10,000, the size of a usual reference."""

MAX_LIMITED: Final = 32
"""Output columns of a bundle with limits, the first ones; each takes the converter a tenth of a
second, and the device some microseconds a second."""

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


class NamedColumn(NamedTuple):
    """One column of values, shape (n_rows,); labels are counted one by one, numbers in bins."""

    name: str
    values: npt.NDArray[Any]
    is_label: bool


class Column(Part):
    """Reference bins of one feature or output column.

    `edges` has n ascending numbers, `counts` n + 1: below the first edge, [edge, next edge) …,
    from the last edge on. `missing` counts NaN. A constant column has two edges, its value and the next
    number; one without finite values has none. An older baseline has no bins above a heavy value.
    `low` and `high` are the least and the greatest finite value; an older baseline has neither.
    `psi_limits` are those of `Baseline`.
    """

    name: str
    edges: tuple[float, ...]
    counts: tuple[Count, ...]
    missing: Count = 0
    low: float | None = None
    high: float | None = None
    psi_limits: tuple[float, ...] = ()


class CategoryColumn(Part):
    """Reference counts of a column of labels or strings, most frequent first."""

    name: str
    categories: Annotated[tuple[str, ...], Field(max_length=256)]
    counts: tuple[Count, ...]
    other: Count = 0
    psi_limits: tuple[float, ...] = ()


class Baseline(Message):
    """`baseline.json`: how the inputs and outputs were distributed over the reference rows.

    The limit table says how far rows of the same source are from the reference by chance: the PSI
    of `limit_row_counts[i]` of them is over an output's `psi_limits[i]` with a chance of
    `false_alarm_ratio`. An older baseline has no table.

    `probabilities` names the output that is a table of class probabilities, if one is; `scores` are
    its reference rows by `score_counts`. Where these had labels, `score_correct` are those
    of them whose answer was the label: by these, scores are calibrated.
    """

    row_count: Count
    data_sha256: Digest | None = None
    inputs: tuple[Column | CategoryColumn, ...]
    outputs: tuple[Column | CategoryColumn, ...]
    limit_row_counts: tuple[Count, ...] = ()
    false_alarm_ratio: Annotated[float, Field(ge=0, le=1)] = 0.0
    probabilities: Annotated[str, Field(max_length=MAX_NAME_CHARS)] = ""
    scores: Annotated[tuple[Count, ...], Field(max_length=SCORE_BINS)] = ()
    score_correct: Annotated[tuple[Count, ...], Field(max_length=SCORE_BINS)] = ()


def class_names(outputs: Sequence[TensorSpec], baseline: Baseline) -> tuple[str, ...]:
    """Return the classes that a model's answers are, in the order of a confusion; none of a number.

    They are the categories of `label_output`, or the places in its table of probabilities.
    """
    if (spec := label_output(outputs)) is not None:
        columns = (c for c in baseline.outputs if isinstance(c, CategoryColumn))
        return next((c.categories for c in columns if c.name == column_names(spec, 1)[0]), ())
    table = next((spec for spec in outputs if spec.name == baseline.probabilities), None)
    return tuple(map(str, range(table.shape[-1]))) if table is not None else ()


def reference_edges(values: npt.NDArray[Any], bins: int = REFERENCE_BINS) -> FloatArray:
    """Return the edges of bins of about equal shares, in which no heavy value shares its bin.

    These are the inner quantiles, duplicates merged. A value that fills a bin's share alone is an edge
    too, and so is the next larger one: what moves up from it would else stay in its bin. Above the
    largest value that is the next number of the type, if there is one.

    Args:
        values: Shape (n,), NaN allowed and ignored. Of the type in which a device gets them.
        bins: Number of bins wanted. Fewer come back where values repeat, and up to twice as many
            where heavy ones have others between them.
    """
    wide = values.astype(np.float64)
    finite = wide[np.isfinite(wide)]
    if finite.size == 0:
        return np.empty(0)
    shares = np.arange(1, bins) / bins
    quantiles = np.quantile(finite, shares, method="inverted_cdf")
    distinct, rows = np.unique(finite, return_counts=True)
    is_heavy = rows * bins >= finite.size
    beyond = _next_number(distinct[-1], np.dtype(counted_type(values.dtype)))
    following = np.append(distinct[1:], beyond)[is_heavy]
    edges = np.concatenate([quantiles, distinct[is_heavy], following])
    return np.unique(edges[np.isfinite(edges)])


def counted_type(dtype: np.dtype[Any]) -> type[np.float32 | np.float64]:
    """Return the type in which a device compares the values of a tensor with edges."""
    return np.float32 if dtype in (np.float16, np.float32) else np.float64


def _next_number(value: float, dtype: np.dtype[Any]) -> float:
    """Return the least number of a type above `value`, and above 0 the least normal one.

    A processor may be set to take those below it for 0.
    """
    with np.errstate(over="ignore"):
        above = float(np.nextafter(dtype.type(value), dtype.type(np.inf)))
    return max(above, float(np.finfo(dtype).tiny)) if value >= 0 else above


def count(values: FloatArray, edges: FloatArray) -> tuple[IntArray, int]:
    """Return counts of shape (len(edges) + 1,) over [edge, next edge), and the number of NaN."""
    present = values[~np.isnan(values)]
    positions = np.searchsorted(edges, present, side="right")
    return np.bincount(positions, minlength=edges.size + 1), int(values.size - present.size)


def score_counts(table: FloatArray) -> IntArray:
    """Return the rows by their highest probability, over `SCORE_BINS` equal bins of [0, 1].

    Args:
        table: Class probabilities, shape (n_rows, n_classes). Rows with NaN are left out; what is
            beyond 0 and 1 by rounding counts at the ends.
    """
    places, _ = score_places(table)
    return np.bincount(places, minlength=SCORE_BINS)


def score_places(table: FloatArray) -> tuple[IntArray, npt.NDArray[np.bool_]]:
    """Return the bins of the rows of a table as `score_counts` has them, and which rows have one.

    Args:
        table: Class probabilities, shape (n_rows, n_classes).

    Returns:
        Bins of shape (n_scored,), and a mask of shape (n_rows,).
    """
    # Turned first: over few columns, a maximum for each row costs twenty times as much.
    top = np.ascontiguousarray(table.T).max(axis=0, initial=-np.inf).astype(np.float64)
    is_scored = np.isfinite(top)
    places = np.floor(top[is_scored] * SCORE_BINS).clip(0, SCORE_BINS - 1)
    return places.astype(np.int64), is_scored


def reference_counts(column: Column | CategoryColumn) -> IntArray:
    """Return all counts of a column, what is missing or of no category last."""
    rest = column.missing if isinstance(column, Column) else column.other
    return np.array([*column.counts, rest], dtype=np.int64)


def psi(reference: npt.NDArray[Any], observed: npt.NDArray[Any]) -> FloatArray:
    """Return the population stability index, in nats, of counts over the same bins.

    Sum over bins of (o - r) ln(o / r), o and r being shares (Siddiqi, Credit Risk Scorecards,
    2006). Shares below `SHARE_FLOOR` count as that, so that empty bins are finite.

    Args:
        reference: Shape (…, n_bins), sums above 0.
        observed: The same shape, or one that broadcasts to it.
    """
    r = np.maximum(reference / reference.sum(axis=-1, keepdims=True), SHARE_FLOOR)
    o = np.maximum(observed / observed.sum(axis=-1, keepdims=True), SHARE_FLOOR)
    index: FloatArray = ((o - r) * np.log(o / r)).sum(axis=-1)
    return index


def split_columns(spec: TensorSpec, rows: npt.NDArray[Any]) -> Iterator[NamedColumn]:
    """Yield the columns of a tensor as a baseline knows them, in their order.

    Args:
        spec: Its description.
        rows: Shape (n_rows, …).
    """
    flat = rows.reshape(len(rows), -1)
    is_label = rows.dtype.kind in "OU" or (rows.ndim == 1 and rows.dtype.kind in "iub")
    for number, name in enumerate(column_names(spec, flat.shape[1])):
        yield NamedColumn(name, flat[:, number], is_label)
