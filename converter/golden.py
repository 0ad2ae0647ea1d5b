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

Array = npt.NDArray[Any]

MAX_ROWS: Final = 256
MIN_ROWS: Final = 64
ATOL: Final = 1e-4
RTOL: Final = 1e-3
"""Another processor adds in another order and with other instructions; a broken kernel or a flipped
bit is off by far more."""
SAFE_MARGIN: Final = 1e-2
"""A label closer to a tie than this may flip on another processor: such rows are left out."""
_EPOCH: Final = (1980, 1, 1, 0, 0, 0)


def choose_rows(row_count: int, margins: Array | None) -> Array:
    """Return the indices of the golden rows: evenly spread, none near a tie.

    Args:
        row_count: How many rows there are.
        margins: How far each row's top two scores are apart, or None.
    """
    candidates = np.arange(row_count)
    if margins is not None:
        clear = candidates[margins > SAFE_MARGIN]
        if clear.size >= min(MIN_ROWS, row_count // 2):
            candidates = clear
    count = min(MAX_ROWS, candidates.size)
    return candidates[np.linspace(0, candidates.size - 1, count).astype(np.int64)]


def encode(inputs: Sequence[Array], outputs: Sequence[Array]) -> bytes:
    """Return `golden.npz`; equal arrays give equal bytes."""
    arrays: dict[str, Array] = {f"input_{i}": _plain(a) for i, a in enumerate(inputs)}
    for i, output in enumerate(outputs):
        is_float = output.dtype.kind == "f"
        arrays[f"output_{i}"] = _plain(output)
        arrays[f"output_{i}_atol"] = np.asarray(ATOL if is_float else 0.0)
        arrays[f"output_{i}_rtol"] = np.asarray(RTOL if is_float else 0.0)
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


def _plain(array: Array) -> Array:
    return array.astype(str) if array.dtype.kind == "O" else array
