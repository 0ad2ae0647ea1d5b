"""Golden rows: inputs with the outputs that the author's machine gave, replayed on this one."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from wire.errors import BundleError
from wire.lifecycle import Code
from wire.manifest import TensorSpec

from .session import InferenceError, LoadedModel

Array = npt.NDArray[Any]

MAX_GOLDEN_BYTES: Final = 64 * 1024 * 1024
"""Unpacked; 256 rows of 50,000 float32 features."""


def run_golden(model: LoadedModel) -> Mapping[str, Array]:
    """Run the golden rows and compare; return their inputs.

    Floats agree within `atol + rtol * |expected|`, NaN agrees with NaN, everything else exactly.

    Raises:
        BundleError: `self_test_failed` with the worst deviation, or `load_failed` when the file
            is no set of golden rows for this model.
        OSError: The file cannot be read: that says nothing of the bundle.
    """
    golden = _read(model.golden_path)
    feeds = {
        spec.name: _get(golden, f"input_{number}", spec)
        for number, spec in enumerate(model.manifest.inputs)
    }
    try:
        answers = model.run(feeds)
    except InferenceError as exc:
        raise BundleError(f"golden rows: {exc}", code=Code.SELF_TEST_FAILED) from exc
    for number, (spec, answer) in enumerate(zip(model.manifest.outputs, answers, strict=True)):
        expected = _get(golden, f"output_{number}", spec)
        atol = _scalar(golden, f"output_{number}_atol")
        rtol = _scalar(golden, f"output_{number}_rtol")
        _compare(spec.name, expected, np.asarray(answer), atol, rtol)
    return feeds


def _compare(name: str, expected: Array, answer: Array, atol: float, rtol: float) -> None:
    if expected.shape != answer.shape:
        raise BundleError(
            f"golden rows: {name} has shape {answer.shape}, expected {expected.shape}",
            code=Code.SELF_TEST_FAILED,
        )
    if expected.dtype.kind != "f":
        wrong = np.flatnonzero((expected.astype(str) != answer.astype(str)).reshape(-1))
        if wrong.size:
            raise BundleError(
                f"golden rows: {name}: {wrong.size} of {expected.size} values differ",
                code=Code.SELF_TEST_FAILED,
            )
        return
    wide, got = expected.astype(np.float64), answer.astype(np.float64)
    if np.allclose(got, wide, atol=atol, rtol=rtol, equal_nan=True):
        return
    worst = float(np.nanmax(np.abs(got - wide))) if np.isfinite(got - wide).any() else np.inf
    raise BundleError(
        f"golden rows: {name} is off by up to {worst:.3g} (allowed {atol:g} + {rtol:g} relative)",
        code=Code.SELF_TEST_FAILED,
    )


def _read(path: Path) -> dict[str, Array]:
    # At once, so that what is raised below comes of the content, and an OSError of the disk.
    file = io.BytesIO(path.read_bytes())
    try:
        with zipfile.ZipFile(file) as archive:
            unpacked_bytes = sum(entry.file_size for entry in archive.infolist())
        if unpacked_bytes <= MAX_GOLDEN_BYTES:
            file.seek(0)
            with np.load(file, allow_pickle=False) as archive:
                return {name: archive[name] for name in archive.files}
    except MemoryError:
        raise
    except Exception as exc:  # a damaged archive raises whatever its content provokes
        raise BundleError(f"golden.npz cannot be read: {exc}", code=Code.LOAD_FAILED) from exc
    raise BundleError("golden.npz is over its cap", code=Code.LOAD_FAILED)


def _get(golden: Mapping[str, Array], key: str, spec: TensorSpec) -> Array:
    if key not in golden:
        raise BundleError(f"golden.npz has no {key} for {spec.name}", code=Code.LOAD_FAILED)
    array = golden[key]
    # onnxruntime takes and gives strings as objects.
    return array.astype(object) if array.dtype.kind == "U" else array


def _scalar(golden: Mapping[str, Array], key: str) -> float:
    value = golden.get(key)
    if value is None or value.size != 1 or not 0 <= float(value) < np.inf:
        raise BundleError(f"golden.npz has no usable {key}", code=Code.LOAD_FAILED)
    return float(value)
