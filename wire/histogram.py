"""Counts over fixed bins, and the bins: the reference bins of features and outputs.

Counts over the same edges merge exactly, by addition, over time and over devices.
"""

from __future__ import annotations

from typing import Annotated, Final

import numpy as np
import numpy.typing as npt
from pydantic import Field

from .ids import Digest
from .messages import Count, Message, Part

REFERENCE_BINS: Final = 10
"""Deciles: PSI over 10 bins is the field's convention, and 500 rows a window suffice for them."""

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


class Column(Part):
    """Reference bins of one feature or output column.

    `edges` has n ascending numbers, `counts` n + 1: below the first edge, [edge, next edge) …,
    from the last edge on. `missing` counts NaN. A constant column has a single edge or none.
    """

    name: str
    edges: tuple[float, ...]
    counts: tuple[Count, ...]
    missing: Count = 0


class CategoryColumn(Part):
    """Reference counts of a column of labels or strings, most frequent first."""

    name: str
    categories: Annotated[tuple[str, ...], Field(max_length=256)]
    counts: tuple[Count, ...]
    other: Count = 0


class Baseline(Message):
    """`baseline.json`: how the inputs and outputs were distributed over the reference rows."""

    row_count: Count
    data_sha256: Digest | None = None
    inputs: tuple[Column | CategoryColumn, ...]
    outputs: tuple[Column | CategoryColumn, ...]


def reference_edges(values: FloatArray, bins: int = REFERENCE_BINS) -> FloatArray:
    """Return the inner quantile edges of `values`, duplicates merged.

    Args:
        values: Shape (n,), NaN allowed and ignored.
        bins: Number of bins wanted; fewer come back where values repeat.
    """
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        return np.empty(0)
    shares = np.arange(1, bins) / bins
    return np.unique(np.quantile(finite, shares, method="inverted_cdf"))


def count(values: FloatArray, edges: FloatArray) -> tuple[IntArray, int]:
    """Return counts of shape (len(edges) + 1,) over [edge, next edge), and the number of NaN."""
    present = values[~np.isnan(values)]
    positions = np.searchsorted(edges, present, side="right")
    return np.bincount(positions, minlength=edges.size + 1), int(values.size - present.size)
