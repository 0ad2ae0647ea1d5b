"""The rows that a model is converted with, from a file that may hold anything."""

from __future__ import annotations

import hashlib
import stat
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
import numpy.typing as npt

from wire.errors import BundleError

from .wording import first_line

Array = npt.NDArray[Any]

MAX_DATA_BYTES: Final = 4 * 1024**3
"""Of rows, unpacked; they are held in memory several times over."""
_HOW: Final = "write it with numpy.savez(path, X=rows, y=labels)"


@dataclass(frozen=True, slots=True)
class Rows:
    """What a file of rows holds.

    Attributes:
        values: `X`, shape (n_rows, n_features): numbers, booleans or strings.
        labels: `y`, shape (n_rows,) or (n_rows, n_outputs), finite; or None.
        sha256: Digest of the file.
    """

    values: Array
    labels: Array | None
    sha256: str


def read_rows(path: Path) -> Rows:
    """Return the rows in `path`.

    Raises:
        BundleError: `data_unreadable` or `data_invalid`.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise BundleError(f"{path} is no regular file", code="data_unreadable", hint=_HOW)
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            arrays = read_arrays(path, file, ("X", "y"))
    except OSError as exc:
        raise BundleError(
            f"cannot read {path}: {exc.strerror or first_line(exc)}", code="data_unreadable"
        ) from exc
    if "X" not in arrays:
        raise BundleError(f"{path} has no array named X", code="data_invalid", hint=_HOW)
    values, labels = arrays["X"], arrays.get("y")
    _check_values(values)
    if labels is not None:
        _check_labels(labels, len(values))
    return Rows(values, labels, digest)


def canonical_rows(rows: Array) -> Array:
    """Return rows in the type that a converted model gets on a device: float32, int64 or strings.

    The original model is asked with the same rows, so that both see the same truth.
    """
    if rows.dtype.kind == "f":
        with np.errstate(over="ignore"):  # becomes infinite, which `check_finite` tells
            return rows.astype(np.float32)
    return rows.astype(np.int64) if rows.dtype.kind in "iub" else rows.astype(object)


def cast_rows(rows: Array, wanted: np.dtype[Any]) -> Array:
    """Return rows in the type that an ONNX model takes; only floats may be rounded by it.

    Raises:
        BundleError: `data_invalid`.
    """
    is_text = rows.dtype.kind == "U"
    if is_text != (wanted.kind == "O"):
        takes = "strings" if wanted.kind == "O" else str(wanted)
        raise BundleError(f"X holds {rows.dtype}, the model takes {takes}", code="data_invalid")
    with np.errstate(all="ignore"):
        fed: Array = rows.astype(wanted)
    if wanted.kind in "iub" and not np.array_equal(fed, rows):
        raise BundleError(
            f"X holds values that are no {wanted}, which the model takes", code="data_invalid"
        )
    return fed


def check_finite(rows: Array, nan_policy: str) -> None:
    """Refuse rows that devices would refuse.

    Raises:
        BundleError: `data_invalid`.
    """
    if nan_policy != "reject" or rows.dtype.kind != "f":
        return
    bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if bad.size:
        raise BundleError(
            f"X has missing or infinite values, as {rows.dtype}, in {bad.size} of {len(rows)} rows,"
            f" first in row {bad[0]}: devices would refuse these",
            code="data_invalid",
            hint="leave these rows out, or let the model have them with --nan-policy pass",
        )


def read_arrays(
    path: Path,
    file: BinaryIO,
    names: Sequence[str] | None = None,
    *,
    max_bytes: int | None = None,
) -> dict[str, Array]:
    """Return the arrays of an .npz that is open, by name.

    Args:
        path: For errors.
        file: Seekable.
        names: Those that are wanted, where they are; None is all.
        max_bytes: Of all of them, unpacked; else MAX_DATA_BYTES.

    Raises:
        BundleError: `data_unreadable` or `data_invalid`.
        OSError: It cannot be read.
    """
    cap = MAX_DATA_BYTES if max_bytes is None else max_bytes
    file.seek(0)
    try:
        with zipfile.ZipFile(file) as archive:
            # What the directory says is a cap: the reader stops there.
            unpacked = sum(member.file_size for member in archive.infolist())
        if unpacked <= cap:
            file.seek(0)
            with np.load(file, allow_pickle=False) as archive:
                wanted = archive.files if names is None else names
                return {name: _native(archive[name]) for name in wanted if name in archive}
    except OSError:
        raise
    except Exception as exc:  # a damaged archive raises whatever its content provokes
        if "allow_pickle" in str(exc):
            raise BundleError(
                f"{path} holds Python objects, which only a pickle can hold",
                code="data_unreadable",
                hint="make them numbers, or strings by X.astype(str)",
            ) from exc
        raise BundleError(
            f"{path} is no .npz of plain arrays: {first_line(exc, 200)}",
            code="data_unreadable",
            hint=_HOW,
        ) from exc
    raise BundleError(f"{path} unpacks to over {cap:,} bytes", code="data_invalid")


def _native(array: Array) -> Array:
    """Return the array in this machine's byte order: trees refuse the other."""
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _check_values(values: Array) -> None:
    is_table = values.ndim == 2 and values.size and values.dtype.itemsize
    if not is_table or values.dtype.kind not in "fiubU":
        raise BundleError(
            f"X has shape {values.shape} and type {values.dtype}; it must be (n_rows, n_features) "
            "of numbers or strings",
            code="data_invalid",
        )


def _check_labels(labels: Array, row_count: int) -> None:
    if labels.ndim not in (1, 2) or len(labels) != row_count:
        raise BundleError(
            f"X has {row_count} rows, y has shape {labels.shape}", code="data_invalid"
        )
    if labels.dtype.kind not in "fiubU":
        raise BundleError(
            f"y has type {labels.dtype}; it must be numbers or strings", code="data_invalid"
        )
    if labels.dtype.kind == "f" and not np.isfinite(labels).all():
        raise BundleError("y has missing or infinite values", code="data_invalid")
