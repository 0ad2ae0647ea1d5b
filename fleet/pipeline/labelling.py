"""Labels that people made, and the captured rows that they are for."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from wire.errors import BundleError

from .columns import read_columns, to_array, to_text
from .table import ABOUT

if TYPE_CHECKING:
    import pyarrow as pa

Array = npt.NDArray[Any]

LABEL: Final = "label"
ROW_ID: Final = "row_id"
REQUEST_ID: Final = "request_id"
DEVICE: Final = "device"

Key = tuple[str, str, str]
"""Row id, request id, device; "" where it is not said. With a row id the others say nothing more."""


@dataclass(frozen=True, slots=True)
class Labels:
    """A file of labels.

    Attributes:
        keys: What each is for.
        values: The labels themselves, of the same length: numbers, booleans or str.
        empty_count: Lines without a label, or without an id; they are no part of the others.
    """

    keys: tuple[Key, ...]
    values: Array
    empty_count: int


@dataclass(frozen=True, slots=True)
class Joined:
    """Labels at the rows that they are for.

    Attributes:
        rows: Numbers of the rows that have one label, rising.
        labels: Of these rows.
        unknown_count: Labels that are for none of the rows.
        ambiguous_count: Labels for a request of which there are several rows.
        repeated_count: Labels that say of a row what another one says too.
        conflicting_count: Rows whose labels differ; they have none.
        empty_count: As in `Labels`.
    """

    rows: npt.NDArray[np.intp]
    labels: Array
    unknown_count: int
    ambiguous_count: int
    repeated_count: int
    conflicting_count: int
    empty_count: int


def read_labels(path: Path) -> Labels:
    """Return the labels in a Parquet, CSV or NPZ file.

    It has a column `label`, and `row_id` or `request_id` or both, perhaps `device`; an exported file of
    captured rows to which somebody added `label` will do.

    Raises:
        ConfigError: `pipeline_missing`.
        BundleError: `data_unreadable`, `data_invalid` or `labels_invalid`.
    """
    names = (ROW_ID, REQUEST_ID, DEVICE)
    texts = [*names, *(ABOUT + name for name in names)]
    table = read_columns(path, str(path), texts=texts)
    ids = {name: _ids(table, name, path) for name in names}
    if LABEL not in table.column_names or (ids[ROW_ID] is None and ids[REQUEST_ID] is None):
        raise BundleError(
            f"{path} has no column {LABEL!r}, or neither {ROW_ID!r} nor {REQUEST_ID!r}",
            code="labels_invalid",
            hint=f"it has {', '.join(table.column_names[:12])}",
        )
    parts = [[""] * table.num_rows if ids[name] is None else ids[name] for name in names]
    keys = [_key(*texts) for texts in zip(*parts, strict=True)]
    is_there = _is_there(table[LABEL]) & np.array([any(key[:2]) for key in keys], dtype=np.bool_)
    # Without what is missing, whole numbers stay whole.
    kept = to_array(_kept(table[LABEL], is_there), f"{path}: column {LABEL!r}")
    return Labels(
        keys=tuple(key for key, is_kept in zip(keys, is_there, strict=True) if is_kept),
        values=kept,
        empty_count=int(np.count_nonzero(~is_there)),
    )


def join(
    labels: Labels, row_ids: Sequence[str], request_ids: Sequence[str], devices: Sequence[str]
) -> Joined:
    """Return the rows that a label is for; pure.

    Args:
        labels: Those there are.
        row_ids: Of each row, all different.
        request_ids: Of each row, "" without one.
        devices: Of each row.
    """
    places: defaultdict[Key, list[int]] = defaultdict(list)
    for row, (row_id, request_id, device) in enumerate(
        zip(row_ids, request_ids, devices, strict=True)
    ):
        places[row_id, "", ""].append(row)
        if request_id:
            places["", request_id, ""].append(row)
            places["", request_id, device].append(row)
    given: defaultdict[int, list[int]] = defaultdict(list)
    unknown, ambiguous = 0, 0
    for number, key in enumerate(labels.keys):
        rows = places.get(key, [])
        unknown += not rows
        ambiguous += len(rows) > 1
        if len(rows) == 1:
            given[rows[0]].append(number)
    values = labels.values.tolist()
    agreed = {
        row: numbers for row, numbers in given.items() if len({values[n] for n in numbers}) == 1
    }
    rows = sorted(agreed)
    return Joined(
        rows=np.array(rows, dtype=np.intp),
        labels=labels.values[[agreed[row][0] for row in rows]],
        unknown_count=unknown,
        ambiguous_count=ambiguous,
        repeated_count=sum(len(numbers) - 1 for numbers in agreed.values()),
        conflicting_count=len(given) - len(agreed),
        empty_count=labels.empty_count,
    )


def _ids(table: pa.Table, name: str, path: Path) -> list[str] | None:
    for column in (name, ABOUT + name):
        if column in table.column_names:
            texts: list[str] = to_text(table[column], f"{path}: column {column!r}").tolist()
            return texts
    return None


def _key(row_id: str, request_id: str, device: str) -> Key:
    return (row_id, "", "") if row_id else ("", request_id, device)


def _is_there(column: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    values = to_array(column, LABEL)
    if values.dtype.kind == "U":
        return np.asarray(values != "")
    return np.isfinite(values) if values.dtype.kind == "f" else np.ones(len(values), np.bool_)


def _kept(column: pa.ChunkedArray, is_there: npt.NDArray[np.bool_]) -> pa.ChunkedArray:
    import pyarrow as pa

    return column.filter(pa.array(is_there))
