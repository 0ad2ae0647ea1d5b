"""Golden rows: the self-test that each device runs on its own processor.

`golden.npz` holds `input_0`, `output_0`, … in the order of the manifest, and for each output the
scalars `output_<i>_atol` and `output_<i>_rtol`. Nothing in it is pickled.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from wire.errors import BundleError

Array = npt.NDArray[Any]

MAX_ROWS: Final = 256
MIN_ROWS: Final = 64
MAX_BYTES: Final = 64 * 1024**2
"""Unpacked, inputs and outputs together: what devices read."""
ATOL: Final = 1e-4
RTOL: Final = 1e-3
SCALE_ATOL: Final = 1e-5
"""Another processor adds in another order and with other instructions; a broken kernel or a flipped
bit is off by far more. The last is of the output's largest value: a sum that cancels has no
relative error of its own."""
SAFE_MARGIN: Final = 1e-2
"""A label closer to a tie than this may flip on another processor: such rows are left out."""
_EPOCH: Final = (1980, 1, 1, 0, 0, 0)


def choose_rows(row_count: int, row_bytes: int, margins: Array | None) -> Array:
    """Return the indices of the golden rows: evenly spread, none near a tie.

    Args:
        row_count: How many rows there are.
        row_bytes: Size of one, with its answers.
        margins: How clear each row's label is, or None where that is not known.

    Raises:
        BundleError: `data_invalid` when there are too few.
    """
    candidates = np.arange(row_count)
    if margins is not None:
        candidates = candidates[margins > SAFE_MARGIN]
    if candidates.size < MIN_ROWS:
        near = f", of which {row_count - candidates.size} are too near a tie to test with"
        raise BundleError(
            f"--data has {row_count} rows{near if row_count > candidates.size else ''}; devices "
            f"test themselves with {MIN_ROWS} or more",
            code="data_invalid",
            hint="give more rows",
        )
    count = min(MAX_ROWS, candidates.size, MAX_BYTES // max(1, row_bytes))
    if count < MIN_ROWS:
        raise BundleError(
            f"one row takes {row_bytes} bytes: {MIN_ROWS} golden rows would be over "
            f"{MAX_BYTES // 1024**2} MB",
            code="data_invalid",
        )
    return candidates[np.linspace(0, candidates.size - 1, count).astype(np.int64)]


def encode(inputs: Sequence[Array], outputs: Sequence[Array]) -> bytes:
    """Return `golden.npz`; equal arrays give equal bytes."""
    arrays: dict[str, Array] = {f"input_{i}": _plain(a) for i, a in enumerate(inputs)}
    for i, output in enumerate(outputs):
        atol, rtol = _tolerances(output)
        arrays[f"output_{i}"] = _plain(output)
        arrays[f"output_{i}_atol"] = np.asarray(atol)
        arrays[f"output_{i}_rtol"] = np.asarray(rtol)
    return write_npz(arrays)


def write_npz(arrays: Mapping[str, Any]) -> bytes:
    """Return an .npz whose bytes depend on the arrays alone; numpy's own writes the time."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)
            info = zipfile.ZipInfo(f"{name}.npy", _EPOCH)
            info.external_attr = 0o644 << 16
            archive.writestr(info, member.getvalue(), zipfile.ZIP_DEFLATED, 6)
    return out.getvalue()


def _tolerances(output: Array) -> tuple[float, float]:
    if output.dtype.kind != "f":
        return 0.0, 0.0
    finite = output[np.isfinite(output)].astype(np.float64)
    return ATOL + SCALE_ATOL * float(np.abs(finite).max(initial=0.0)), RTOL


def _plain(array: Array) -> Array:
    return array.astype(str) if array.dtype.kind == "O" else array
