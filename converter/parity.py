"""Does the converted model answer as the original did? Row by row, with the worst one shown."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from wire.errors import BundleError

Array = npt.NDArray[Any]

ATOL: Final = 1e-5
"""For probabilities and scores: float32 arithmetic in another order is off by a few 1e-7."""
RTOL: Final = 1e-4
"""For values of any size: 1000 times float32's resolution, 100 times less than what a wrong link
function or a miscounted vote is off by."""
TIE_MARGIN: Final = 1e-4
"""Top two closer than this: either label is right, and either side may pick it."""


class OnnxModel:
    """A model in onnxruntime, on one thread, so that every run adds in the same order."""

    def __init__(self, path: Path) -> None:
        """Load the model.

        Raises:
            BundleError: `model_invalid`.
        """
        # Its Linux wheels contact a vendor's host since 1.29; set before the import.
        os.environ["ORT_DISABLE_TELEMETRY"] = "1"
        import onnxruntime as ort

        ort.set_default_logger_severity(4)
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        try:
            self._session = ort.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as exc:  # onnxruntime raises a dozen types of its own
            raise BundleError(
                f"onnxruntime cannot load the model: {_first_line(exc)}", code="model_invalid"
            ) from exc
        self._names = [output.name for output in self._session.get_outputs()]

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Return all outputs by name.

        Raises:
            BundleError: `model_invalid`.
        """
        try:
            answers = self._session.run(self._names, dict(feeds))
        except Exception as exc:  # as above
            raise BundleError(
                f"onnxruntime fails on the rows of --data: {_first_line(exc)}",
                code="model_invalid",
                hint="is X of the type and width that the model takes?",
            ) from exc
        return {name: np.asarray(a) for name, a in zip(self._names, answers, strict=True)}


@dataclass(frozen=True, slots=True)
class OutputParity:
    """How far one output is apart. Labels have `flip_count`, numbers the errors."""

    name: str
    max_abs: float
    max_rel: float
    flip_count: int
    tie_count: int
    worst_row: int
    is_within: bool

    def to_json(self) -> dict[str, Any]:
        """Return plain data for `parity.json`."""
        return {
            "name": self.name,
            "max_abs": self.max_abs,
            "max_rel": self.max_rel,
            "flips": self.flip_count,
            "ties": self.tie_count,
            "worst_row": self.worst_row,
            "within": self.is_within,
        }

    def to_line(self) -> str:
        """Return one line for a person."""
        if self.flip_count or self.tie_count or not self.max_abs:
            ties = f", {self.tie_count} ties" if self.tie_count else ""
            return f"{self.name}: {self.flip_count} labels differ{ties}"
        return f"{self.name}: off by at most {self.max_abs:.2g} ({self.max_rel:.2g} relative)"


def compare(
    name: str, original: Array, converted: Array, *, margins: Array | None = None
) -> OutputParity:
    """Compare one output over all rows.

    Args:
        name: Of the output.
        original: Shape (n_rows, …).
        converted: The same shape.
        margins: For labels: how far the top two were apart in the original, shape (n_rows,).
    """
    if original.shape != converted.shape:
        return OutputParity(name, np.inf, np.inf, len(original), 0, 0, is_within=False)
    if original.dtype.kind != "f" and converted.dtype.kind != "f":
        return _compare_labels(name, original, converted, margins)
    wide, got = original.astype(np.float64), converted.astype(np.float64)
    both_missing = np.isnan(wide) & np.isnan(got)
    error = np.where(both_missing, 0.0, np.abs(got - wide))
    error = np.where(np.isnan(error), np.inf, error)
    # The size of the whole output, not of one value: a sum that cancels has no relative error.
    scale = np.nanmax(np.abs(wide), initial=0.0)
    allowed = ATOL + RTOL * np.where(np.isfinite(wide), np.abs(wide), 0.0) + RTOL * 0.1 * scale
    excess = (error - allowed).reshape(len(error), -1).max(axis=1, initial=-np.inf)
    worst = int(np.argmax(excess)) if excess.size else 0
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = np.where(error > 0, error / np.maximum(np.abs(wide), 1e-12), 0.0)
    return OutputParity(
        name,
        float(error.max(initial=0.0)),
        float(np.nanmax(relative, initial=0.0)),
        0,
        0,
        worst,
        is_within=bool((excess <= 0).all()),
    )


def tie_margins(scores: Array | None, row_count: int) -> Array | None:
    """Return how far the two largest scores of each row are apart, or None without scores."""
    if scores is None or scores.ndim != 2 or len(scores) != row_count or scores.shape[1] < 2:
        return None
    top = np.sort(scores.astype(np.float64), axis=1)[:, -2:]
    margins: Array = top[:, 1] - top[:, 0]
    return margins


def check_stable(name: str, batch: Array, again: Array, single: Array) -> str | None:
    """Return what is wrong with an output that changes from run to run or with the batch."""
    if not _equal(batch, again, atol=0.0):
        return f"{name} changes from one run to the next"
    if not _equal(batch[: len(single)], single, atol=ATOL):
        return f"{name} depends on the other rows of the batch"
    return None


def _compare_labels(
    name: str, original: Array, converted: Array, margins: Array | None
) -> OutputParity:
    differs = original.astype(str) != converted.astype(str)
    differs = differs.reshape(len(differs), -1).any(axis=1)
    is_tie = (
        margins <= TIE_MARGIN if margins is not None else np.zeros(len(differs), dtype=np.bool_)
    )
    flips = differs & ~is_tie
    worst = int(np.argmax(flips)) if flips.any() else 0
    return OutputParity(
        name,
        0.0,
        0.0,
        int(flips.sum()),
        int((differs & is_tie).sum()),
        worst,
        is_within=not flips.any(),
    )


def _equal(one: Array, other: Array, *, atol: float) -> bool:
    if one.shape != other.shape:
        return False
    if one.dtype.kind != "f":
        return bool((one.astype(str) == other.astype(str)).all())
    return bool(np.allclose(one, other, atol=atol, rtol=atol, equal_nan=True))


def _first_line(exc: Exception) -> str:
    return (str(exc).strip().splitlines() or [type(exc).__name__])[0][:300]
