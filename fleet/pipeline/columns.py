"""Reading Parquet, CSV and NPZ into columns. Every file may hold anything, so everything has a cap."""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from converter.rows import MAX_DATA_BYTES, read_arrays
from wire.errors import BundleError, ConfigError

if TYPE_CHECKING:
    import pyarrow as pa

Array = npt.NDArray[Any]

MAX_COLUMNS: Final = 65_536
"""As the names of one tensor in a manifest."""
MAX_LINE_BYTES: Final = 8 * 1024 * 1024
"""Of a CSV: 65,536 numbers of 120 digits."""
MAX_TEXT_CHARS: Final = 4096
"""Of one value: numpy gives every value of a column as much room as its longest takes."""
READ_BYTES: Final = 1024 * 1024
BATCH_ROWS: Final = 8192
CELL_BYTES: Final = 8
"""What a number takes in memory."""
KINDS: Final = (".parquet", ".csv", ".npz")


def read_columns(
    path: Path, shown: str, *, max_bytes: int = MAX_DATA_BYTES, texts: Sequence[str] = ()
) -> pa.Table:
    """Return the columns of a file.

    Args:
        path: Where it is.
        shown: Its name in errors.
        max_bytes: What it may take in memory.
        texts: Columns of a CSV that are text, whatever they look like.

    Raises:
        ConfigError: `pipeline_missing`: pyarrow is not installed.
        BundleError: `data_unreadable` or `data_invalid`.
    """
    check_installed()
    import pyarrow as pa

    readers: dict[str, Callable[[Path, str, int], pa.Table]] = {
        ".parquet": _read_parquet,
        ".csv": partial(_read_csv, texts=texts),
        ".npz": _read_npz,
    }
    reader = readers.get(path.suffix)
    if reader is None:
        raise BundleError(
            f"{shown} is of no kind that can be read",
            code="data_unreadable",
            hint=f"give {', '.join(KINDS)}",
        )
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise _unreadable(shown, "it is no regular file")
        table = reader(path, shown, max_bytes)
    except (pa.ArrowException, OSError, MemoryError, ValueError, KeyError) as exc:
        lines = str(exc).strip().splitlines()
        raise _unreadable(shown, (lines[0] if lines else type(exc).__name__)[:200]) from exc
    names = table.column_names
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise BundleError(f"{shown} has two columns named {twice[:80]!r}", code="data_invalid")
    return table


def to_array(column: pa.ChunkedArray, where: str) -> Array:
    """Return a column as bool, int64, float32, float64 or str, shape (n_rows,).

    What is missing becomes NaN in numbers, which then are float64, and "" in text.

    Raises:
        BundleError: `data_invalid`: a column of another type, or too long a text.
    """
    import pyarrow as pa
    from pyarrow import compute

    kind = column.type
    if pa.types.is_dictionary(kind):
        column, kind = column.cast(kind.value_type), kind.value_type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        longest = compute.max(compute.utf8_length(column)).as_py() or 0
        if longest > MAX_TEXT_CHARS or longest * 4 * len(column) > MAX_DATA_BYTES:
            raise BundleError(f"{where} holds a text of {longest} characters", code="data_invalid")
        return np.array(compute.fill_null(column, "").to_pylist(), dtype=f"U{max(1, longest)}")
    is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    if not is_number and not pa.types.is_null(kind):
        raise BundleError(
            f"{where} holds {kind}, which is neither number, boolean nor text",
            code="data_invalid",
            hint="leave it out: [data] features names the columns that the model is fed",
        )
    if column.null_count or pa.types.is_null(kind):
        column = column.cast(pa.float64())
    elif pa.types.is_integer(kind):
        try:
            column = column.cast(pa.int64())
        except pa.ArrowInvalid as exc:
            raise BundleError(
                f"{where} holds whole numbers over 2^63", code="data_invalid"
            ) from exc
    elif pa.types.is_float16(kind):
        column = column.cast(pa.float32())
    found: Array = column.to_numpy()
    return found


def to_text(column: pa.ChunkedArray, where: str) -> Array:
    """Return a column to slice or to hash by as str, shape (n_rows,).

    Raises:
        BundleError: `data_invalid`.
    """
    array = to_array(column, where)
    return array if array.dtype.kind == "U" else np.array([str(v) for v in array.tolist()])


def check_installed() -> None:
    """Check that pyarrow is there.

    Raises:
        ConfigError: `pipeline_missing`.
    """
    try:
        import pyarrow as pa  # noqa: F401
    except ImportError as exc:
        raise ConfigError(
            "the pipeline is not installed: there is no pyarrow",
            code="pipeline_missing",
            hint="pip install 'modelfleet[fleet,pipeline]'",
        ) from exc


def _read_parquet(path: Path, shown: str, max_bytes: int) -> pa.Table:
    import pyarrow as pa
    from pyarrow import parquet

    # A second file of the same name must not be what was checked first: one handle for both.
    with path.open("rb") as handle, parquet.ParquetFile(handle) as file:
        _check_size(shown, file.metadata.num_rows, file.metadata.num_columns, max_bytes)
        total, batches = 0, []
        for batch in file.iter_batches(batch_size=BATCH_ROWS):
            total += batch.nbytes
            if total > max_bytes:
                raise _too_large(shown, max_bytes)
            batches.append(batch)
        return pa.Table.from_batches(batches, schema=file.schema_arrow)


def _read_csv(path: Path, shown: str, max_bytes: int, texts: Sequence[str]) -> pa.Table:
    import pyarrow as pa
    from pyarrow import csv

    with path.open("rb") as handle:
        header = handle.readline(MAX_LINE_BYTES + 1)
        if len(header) > MAX_LINE_BYTES:
            raise BundleError(
                f"{shown} has a first line of over {MAX_LINE_BYTES // 1024**2} MB",
                code="data_invalid",
            )
        lines = sum(block.count(b"\n") for block in _blocks(handle)) + 1
        _check_size(shown, lines, header.count(b",") + 1, max_bytes)
        handle.seek(0)
        return csv.read_csv(
            handle,
            csv.ReadOptions(block_size=MAX_LINE_BYTES, use_threads=False),
            convert_options=csv.ConvertOptions(column_types=dict.fromkeys(texts, pa.string())),
        )


def _blocks(handle: Any) -> Iterable[bytes]:
    while block := handle.read(READ_BYTES):
        yield block


def _read_npz(path: Path, shown: str, max_bytes: int) -> pa.Table:
    import pyarrow as pa

    with path.open("rb") as handle:
        arrays = read_arrays(path, handle, max_bytes=max_bytes)
    rows = arrays.pop("X", None)
    if rows is None or rows.ndim != 2:
        raise BundleError(
            f"{shown} has no array X of shape (n_rows, n_features)", code="data_invalid"
        )
    names = arrays.pop("feature_names", None)
    listed = [f"X[{n}]" for n in range(rows.shape[1])] if names is None else _texts(names)
    if len(listed) != rows.shape[1]:
        raise BundleError(
            f"{shown} has {rows.shape[1]} columns and {len(listed)} feature_names",
            code="data_invalid",
        )
    _check_size(shown, len(rows), rows.shape[1] + len(arrays), max_bytes)
    columns = {name: rows[:, number] for number, name in enumerate(listed)}
    for name, array in arrays.items():
        if array.shape != (len(rows),):
            raise BundleError(
                f"{shown} has {len(rows)} rows, {name[:80]} has shape {array.shape}",
                code="data_invalid",
            )
    if len(columns) != len(listed) or columns.keys() & arrays.keys():
        raise BundleError(f"{shown} has two columns of one name", code="data_invalid")
    return pa.table({name: pa.array(array) for name, array in {**columns, **arrays}.items()})


def _texts(names: Array) -> list[str]:
    return [str(name) for name in names.reshape(-1).tolist()]


def _check_size(shown: str, row_count: int, column_count: int, max_bytes: int) -> None:
    if column_count > MAX_COLUMNS:
        raise BundleError(
            f"{shown} has {column_count} columns; at most {MAX_COLUMNS} are read",
            code="data_invalid",
        )
    if row_count * column_count * CELL_BYTES > max_bytes:
        raise _too_large(shown, max_bytes)


def _too_large(shown: str, max_bytes: int) -> BundleError:
    return BundleError(
        f"{shown} takes over {max_bytes:,} bytes in memory",
        code="data_invalid",
        hint="give fewer rows, or fewer columns",
    )


def _unreadable(shown: str, why: str) -> BundleError:
    return BundleError(f"cannot read {shown}: {why}", code="data_unreadable")
