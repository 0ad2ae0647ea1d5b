"""Columns of a file of rows, each in its own type, as TFDV reads them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .columns import read_columns, to_array
from .statistics import Column, column_of
from .table import ABOUT

if TYPE_CHECKING:
    import pyarrow as pa


def read_data(path: Path) -> tuple[Column, ...]:
    """Return the columns of a Parquet, CSV or NPZ file, without what is said about captured rows.

    Missing values keep whole numbers whole, where a table that a model is fed has NaN and so floats.

    Raises:
        ConfigError: `pipeline_missing`.
        BundleError: `data_unreadable` or `data_invalid`.
    """
    table = read_columns(path, str(path))
    return tuple(
        _column(name, column, f"{path}: column {name!r}")
        for name, column in zip(table.column_names, table.columns, strict=True)
        if not name.startswith(ABOUT)
    )


def _column(name: str, column: pa.ChunkedArray, where: str) -> Column:
    import pyarrow as pa

    if column.null_count and (pa.types.is_integer(column.type) or pa.types.is_boolean(column.type)):
        filled = column.fill_null(pa.scalar(0).cast(column.type))
        return Column(name, to_array(filled, where), np.asarray(column.is_null().to_numpy()))
    return column_of(name, to_array(column, where))
