"""The baseline: how inputs and outputs were distributed when the model was made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from wire.histogram import Baseline, CategoryColumn, Column, count, reference_edges
from wire.manifest import TensorSpec

Array = npt.NDArray[Any]

MAX_CATEGORIES: Final = 256
_MAX_NAME_CHARS: Final = 128


def make_baseline(
    inputs: Sequence[tuple[TensorSpec, Array]],
    outputs: Sequence[tuple[TensorSpec, Array]],
    data_sha256: str,
) -> Baseline:
    """Return the reference bins of every input feature and every output column.

    Args:
        inputs: Each with its rows, shape (n_rows, …).
        outputs: The same for what the converted model answered.
        data_sha256: Digest of the data they come from.
    """
    return Baseline(
        row_count=len(inputs[0][1]),
        data_sha256=data_sha256,
        inputs=tuple(column for spec, rows in inputs for column in _columns(spec, rows)),
        outputs=tuple(column for spec, rows in outputs for column in _columns(spec, rows)),
    )


def _columns(spec: TensorSpec, rows: Array) -> list[Column | CategoryColumn]:
    flat = rows.reshape(len(rows), -1)
    names = spec.feature_names
    if len(names) != flat.shape[1]:
        names = tuple(f"{spec.name}[{i}]" for i in range(flat.shape[1]))
        if flat.shape[1] == 1:
            names = (spec.name,)
    is_label = rows.dtype.kind in "OU" or (rows.ndim == 1 and rows.dtype.kind in "iub")
    make = _categories if is_label else _bins
    return [make(name[:_MAX_NAME_CHARS], flat[:, i]) for i, name in enumerate(names)]


def _bins(name: str, values: Array) -> Column:
    wide = values.astype(np.float64)
    edges = reference_edges(wide)
    counts, missing = count(wide, edges)
    return Column(
        name=name,
        edges=tuple(edges.tolist()),
        counts=tuple(counts.tolist()),
        missing=missing,
    )


def _categories(name: str, values: Array) -> CategoryColumn:
    counted = Counter(str(value) for value in values.tolist())
    ranked = sorted(counted.items(), key=lambda item: (-item[1], item[0]))
    top = ranked[:MAX_CATEGORIES]
    return CategoryColumn(
        name=name,
        categories=tuple(label for label, _ in top),
        counts=tuple(number for _, number in top),
        other=sum(number for _, number in ranked[MAX_CATEGORIES:]),
    )
