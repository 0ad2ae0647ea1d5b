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
    score_counts,
    score_places,
    split_columns,
)
from wire.manifest import TensorSpec, label_output
from wire.windows import SCORE_BINS

from .parity import labels_differ

Array = npt.NDArray[Any]

MAX_CATEGORIES: Final = 256
LIMIT_ROW_COUNTS: Final = (50, 100, 200, 500, 1000, 10_000)
FALSE_ALARM_RATIO: Final = 0.001
"""Of a column's limit, at one look at rows of the reference's own source."""
RESAMPLES: Final = 10_000
"""Ten of them are over the limit, which so is true to a few per cent."""
SEED: Final = 0
SUM_TOLERANCE: Final = 1e-3
"""A thousand float32 probabilities, each rounded, are far closer to 1 than that."""

AnyColumn = Column | CategoryColumn


def make_baseline(
    inputs: Sequence[tuple[TensorSpec, Array]],
    outputs: Sequence[tuple[TensorSpec, Array]],
    data_sha256: str,
    *,
    probabilities: str = "",
    labels: Array | None = None,
) -> Baseline:
    """Return the reference bins of every input feature and every output column.

    Args:
        inputs: Each with its rows, shape (n_rows, …).
        outputs: The same for what the converted model answered.
        data_sha256: Digest of the data they come from.
        probabilities: Name of the output that is a table of class probabilities, if one is.
        labels: What was right, shape (n_rows,) or (n_rows, 1), or None.
    """
    table = next((rows for spec, rows in outputs if spec.name == probabilities), None)
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
        probabilities=probabilities,
        scores=() if table is None else tuple(score_counts(table).tolist()),
        score_correct=() if table is None else _correct_by_score(outputs, table, labels),
    )


def probabilities_among(outputs: Sequence[tuple[TensorSpec, Array]]) -> str:
    """Return the name of the output of a classifier that is a table of class probabilities, or "".

    It is the first whose reference rows all are what probabilities are: two or more, none below 0,
    adding up to 1.
    """
    return next((spec.name for spec, rows in outputs if _are_probabilities(rows)), "")


def _correct_by_score(
    outputs: Sequence[tuple[TensorSpec, Array]], table: Array, labels: Array | None
) -> tuple[int, ...]:
    """Return the rows whose answer was the label, by score; nothing where that cannot be said."""
    if labels is None or labels.size != len(table):
        return ()
    named = label_output([spec for spec, _ in outputs])
    answer = next((rows for spec, rows in outputs if spec is named), table.argmax(axis=1))
    # Where classes have no names of their own, labels must be places among the probabilities.
    is_unnamed = named is None and not np.isin(labels, np.arange(table.shape[1])).all()
    if is_unnamed or answer.size != len(table):
        return ()
    is_right = ~labels_differ(answer.reshape(-1), labels.reshape(-1))
    places, is_scored = score_places(table)
    return tuple(np.bincount(places[is_right[is_scored]], minlength=SCORE_BINS).tolist())


def _are_probabilities(rows: Array) -> bool:
    if rows.dtype.kind != "f" or rows.ndim != 2 or rows.shape[1] < 2:
        return False
    wide = rows.astype(np.float64)
    return bool((wide >= 0).all() and np.allclose(wide.sum(axis=1), 1, rtol=0, atol=SUM_TOLERANCE))


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
    edges = reference_edges(values)
    counts, missing = count(wide, edges)
    finite = wide[np.isfinite(wide)]
    return Column(
        name=name,
        edges=tuple(edges.tolist()),
        counts=tuple(counts.tolist()),
        missing=missing,
        low=float(finite.min()) if finite.size else None,
        high=float(finite.max()) if finite.size else None,
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
