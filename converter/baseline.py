"""The baseline: how inputs and outputs were distributed when the model was made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from wire.histogram import (
    MAX_LIMITED,
    Baseline,
    CategoryColumn,
    Column,
    count,
    psi,
    reference_counts,
    reference_edges,
    split_columns,
)
from wire.manifest import TensorSpec

Array = npt.NDArray[Any]

MAX_CATEGORIES: Final = 256
LIMIT_ROW_COUNTS: Final = (50, 100, 200, 500, 1000, 10_000)
FALSE_ALARM_RATIO: Final = 0.001
"""Of a column's limit, at one look at rows of the reference's own source."""
RESAMPLES: Final = 10_000
"""Ten of them are over the limit, which so is true to a few per cent."""
SEED: Final = 0

AnyColumn = Column | CategoryColumn


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
        outputs=_with_limits(
            [column for spec, rows in outputs for column in _columns(spec, rows)],
            len(inputs[0][1]),
        ),
        limit_row_counts=LIMIT_ROW_COUNTS,
        false_alarm_ratio=FALSE_ALARM_RATIO,
    )


def _columns(spec: TensorSpec, rows: Array) -> list[AnyColumn]:
    return [
        (_categories if column.is_label else _bins)(column.name, column.values)
        for column in split_columns(spec, rows)
    ]


def _with_limits(columns: Sequence[AnyColumn], row_count: int) -> tuple[AnyColumn, ...]:
    """Return the columns, the first ones with their row of the limit table.

    Both the reference and the rows to come are drawn anew from the reference's counts: it is a
    sample too, and as far from the truth as they are. Seeded, so that equal input gives equal bytes.
    """
    generator = np.random.default_rng(SEED)
    limited = [
        column.model_copy(update={"psi_limits": _limits(column, row_count, generator)})
        for column in columns[:MAX_LIMITED]
    ]
    return (*limited, *columns[MAX_LIMITED:])


def _limits(column: AnyColumn, row_count: int, generator: np.random.Generator) -> tuple[float, ...]:
    counts = reference_counts(column)
    shares = counts / counts.sum()
    references = generator.multinomial(row_count, shares, RESAMPLES)
    return tuple(
        # Rounded up, so that a column that cannot vary has a limit too.
        round(float(np.quantile(psi(references, draws), 1 - FALSE_ALARM_RATIO)) + 5e-5, 4)
        for n_rows in LIMIT_ROW_COUNTS
        for draws in (generator.multinomial(n_rows, shares, RESAMPLES),)
    )


def _bins(name: str, values: Array) -> AnyColumn:
    wide = values.astype(np.float64)
    edges = reference_edges(wide)
    counts, missing = count(wide, edges)
    return Column(
        name=name,
        edges=tuple(edges.tolist()),
        counts=tuple(counts.tolist()),
        missing=missing,
    )


def _categories(name: str, values: Array) -> AnyColumn:
    counted = Counter(str(value) for value in values.tolist())
    ranked = sorted(counted.items(), key=lambda item: (-item[1], item[0]))
    top = ranked[:MAX_CATEGORIES]
    return CategoryColumn(
        name=name,
        categories=tuple(label for label, _ in top),
        counts=tuple(number for _, number in top),
        other=sum(number for _, number in ranked[MAX_CATEGORIES:]),
    )
