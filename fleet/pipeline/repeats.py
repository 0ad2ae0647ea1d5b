"""Captured rows that several files have: each export has all rows that are there, so exports overlap."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from wire.errors import BundleError

from .columns import to_array, to_text
from .labelling import ROW_ID
from .table import ABOUT

if TYPE_CHECKING:
    import pyarrow as pa

COLUMN: Final = ABOUT + ROW_ID


def take_once(
    read: Sequence[tuple[str, pa.Table]], label: str
) -> tuple[list[tuple[str, pa.Table]], int]:
    """Return the files with each captured row once, in the first of them that has it, and how many are gone.

    Args:
        read: Files by their paths, in their order.
        label: Name of the column that says what is right.

    Raises:
        BundleError: `data_invalid`: a row has two labels.
    """
    first: dict[str, tuple[str, object]] = {}
    kept, repeated_count = [], 0
    for path, columns in read:
        if COLUMN not in columns.column_names:
            kept.append((path, columns))
            continue
        is_new = []
        for row_id, value in zip(*_ids_and_labels(path, columns, label), strict=True):
            before = first.get(row_id)
            is_new.append(before is None or not row_id)
            if before is None:
                first[row_id] = (path, value)
            elif row_id and before[1] != value:
                raise _two_labels(row_id, before, (path, value))
        repeated_count += is_new.count(False)
        if any(is_new):
            kept.append((path, columns.filter(is_new)))
    return kept, repeated_count


def _ids_and_labels(path: str, columns: pa.Table, label: str) -> tuple[list[str], list[object]]:
    ids: list[str] = to_text(columns[COLUMN], f"{path}: column {COLUMN!r}").tolist()
    if label not in columns.column_names:
        return ids, [None] * len(ids)  # which is told soon
    values: list[object] = to_array(columns[label], f"{path}: column {label!r}").tolist()
    return ids, values


def _two_labels(row_id: str, one: tuple[str, object], other: tuple[str, object]) -> BundleError:
    return BundleError(
        f"captured row {row_id[:40]!r} is {str(one[1])[:40]!r} in {one[0]} and"
        f" {str(other[1])[:40]!r} in {other[0]}",
        code="data_invalid",
        hint="leave out the file whose label is wrong, or export it again with the right one",
    )
