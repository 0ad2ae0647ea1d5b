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

from .handover import Choice
from .wording import first_line

Array = npt.NDArray[Any]

ATOL: Final = 1e-5
"""For probabilities and scores: float32 arithmetic in another order is off by a few 1e-7."""
RTOL: Final = 1e-4
"""For values of any size: 1000 times float32's resolution, 100 times less than what a wrong link
function or a miscounted vote is off by."""
SCALE_RTOL: Final = 1e-5
"""Of the largest value in the column: a sum that cancels has no relative error of its own."""
TIE_MARGIN: Final = 1e-4
"""Top two scores closer than this share of a typical score: either label is right, and either side
may pick it."""


def load_library() -> Any:
    """Return onnxruntime, quiet; before the first model, its own memory is not that model's."""
    # Its Linux wheels contact a vendor's host since 1.29; set before the import.
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime as ort

    ort.set_default_logger_severity(4)
    return ort


class OnnxModel:
    """A model in onnxruntime, on one thread, so that every run adds in the same order."""

    def __init__(self, path: Path) -> None:
        """Load the model.

        Raises:
            BundleError: `model_invalid`.
        """
        ort = load_library()
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        try:
            self._session = ort.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as exc:  # onnxruntime raises a dozen types of its own
            # The copy's place means nothing to anyone.
            text = first_line(exc).replace(f" from {path}", "")
            raise BundleError(
                f"onnxruntime cannot load the model: {text}", code="model_invalid"
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
                f"onnxruntime cannot run the model on the rows of --data: {first_line(exc)}",
                code="model_invalid",
            ) from exc
        return {name: _as_array(a) for name, a in zip(self._names, answers, strict=True)}


@dataclass(frozen=True, slots=True)
class OutputParity:
    """How far one output is apart.

    Attributes:
        name: Of the output.
        is_label: Whether rows are equal or not, or numbers that differ by some amount.
        row_count: Rows compared.
        worst_row: The row that is furthest off.
        is_within: Whether this is parity.
        flip_count: Labels that differ beyond ties.
        tie_count: Labels that differ at a tie.
        max_abs: Largest difference of numbers.
        max_rel: The same as a share of the largest value in its column.
        largest: The largest finite value of all.
    """

    name: str
    is_label: bool
    row_count: int
    worst_row: int
    is_within: bool
    flip_count: int = 0
    tie_count: int = 0
    max_abs: float = 0.0
    max_rel: float = 0.0
    largest: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Return plain data for `parity.json`."""
        return {
            "name": self.name,
            "kind": "labels" if self.is_label else "numbers",
            "max_abs": self.max_abs,
            "max_rel": self.max_rel,
            "flips": self.flip_count,
            "ties": self.tie_count,
            "worst_row": self.worst_row,
            "within": self.is_within,
        }

    def to_line(self) -> str:
        """Return one line for a person."""
        if self.is_label:
            ties = f", and {self.tie_count} at a tie" if self.tie_count else ""
            if not self.flip_count:
                return f"{self.name}: all equal{ties.replace(', and', ' but')}"
            return f"{self.name}: {self.flip_count} of {self.row_count} rows differ{ties}"
        if not self.max_abs:
            return f"{self.name}: all equal"
        size = f", on values up to {self.largest:.2g}" if self.largest >= 10 else ""
        return f"{self.name}: off by at most {self.max_abs:.2g}{size}"


def compare(
    name: str, original: Array, converted: Array, *, margins: Array | None = None
) -> OutputParity:
    """Compare one output over all rows.

    Args:
        name: Of the output.
        original: Shape (n_rows, …).
        converted: The same shape.
        margins: For labels: how clear each is, from `tie_margins`.
    """
    if original.shape != converted.shape:
        return OutputParity(name, True, len(original), 0, is_within=False, flip_count=len(original))
    # What the converted model answers decides: scikit-learn's labels may be floats.
    if converted.dtype.kind != "f" or original.dtype.kind not in "fiub":
        return _compare_labels(name, original, converted, margins)
    error = _errors(original, converted)
    largest = _largest(original)
    excess = excesses(original, converted).reshape(len(error), -1).max(axis=1, initial=-np.inf)
    relative = np.divide(error, largest, out=np.zeros_like(error), where=largest > 0)
    return OutputParity(
        name,
        is_label=False,
        row_count=len(original),
        worst_row=int(np.argmax(excess)) if excess.size else 0,
        is_within=bool((excess <= 0).all()),
        max_abs=float(error.max(initial=0.0)),
        max_rel=float(relative.max(initial=0.0)),
        largest=float(largest.max(initial=0.0)),
    )


def excesses(original: Array, converted: Array) -> Array:
    """Return by how much each number is beyond the limits; negative where it is within."""
    allowed = ATOL + RTOL * np.abs(_finite(original)) + SCALE_RTOL * _largest(original)
    beyond: Array = _errors(original, converted) - allowed
    return beyond


def tie_margins(scores: Array, choice: Choice = "largest") -> Array | None:
    """Return how clear each row's label is, or None where these scores cannot tell.

    A margin is the distance between the best score and the next, as a share of a typical score; for
    the choice `sign`, of the only score from zero.

    Args:
        scores: Shape (n_rows, n_classes), or for `sign` (n_rows,) or (n_rows, 1).
        choice: How the label follows from them.
    """
    flat = scores.astype(np.float64).reshape(len(scores), -1)
    if choice == "sign":
        gaps = np.abs(flat[:, 0]) if flat.shape[1] == 1 else None
    elif scores.ndim == 2 and flat.shape[1] > 1:
        best = np.sort(flat if choice == "largest" else -flat, axis=1)[:, -2:]
        with np.errstate(invalid="ignore"):
            gaps = best[:, 1] - best[:, 0]
    else:
        gaps = None
    if gaps is None:
        return None
    sizes = np.abs(_finite(flat)).max(axis=1)
    typical = np.median(sizes[sizes > 0]) if sizes.any() else 1.0
    margins: Array = gaps / typical
    return margins


def check_stable(
    name: str, batch: Array, again: Array, single: Array, *, margins: Array | None = None
) -> str | None:
    """Return what is wrong with an output that changes from run to run or with the batch."""
    if not _is_same(batch, again):
        return f"{name} changes from one run to the next"
    few = len(single)
    clear = margins[:few] if margins is not None else None
    if not compare(name, batch[:few], single, margins=clear).is_within:
        return f"{name} depends on the other rows of the batch"
    return None


def as_labels(values: Array) -> Array:
    """Return labels in a form in which equal ones are equal: booleans and floats are numbers."""
    if values.dtype.kind in "fub":
        return values.astype(np.float64)
    return values if values.dtype.kind == "i" else values.astype(str)


def labels_differ(one: Array, other: Array) -> Array:
    """Return which labels differ, in their shape; numbers and strings are compared as strings."""
    left, right = as_labels(one), as_labels(other)
    if (left.dtype.kind == "U") != (right.dtype.kind == "U"):
        left, right = left.astype(str), right.astype(str)
    differs: Array = left != right
    return differs


def _compare_labels(
    name: str, original: Array, converted: Array, margins: Array | None
) -> OutputParity:
    differs = np.asarray(labels_differ(original, converted).reshape(len(original), -1).any(axis=1))
    is_tie = margins <= TIE_MARGIN if margins is not None else np.zeros(len(differs), np.bool_)
    flips = differs & ~is_tie
    clearness = np.nan_to_num(margins) if margins is not None else np.ones(len(differs))
    return OutputParity(
        name,
        is_label=True,
        row_count=len(original),
        worst_row=int(np.argmax(np.where(flips, clearness, -1.0))) if flips.any() else 0,
        is_within=not flips.any(),
        flip_count=int(flips.sum()),
        tie_count=int((differs & is_tie).sum()),
    )


def _errors(original: Array, converted: Array) -> Array:
    wide, got = original.astype(np.float64), converted.astype(np.float64)
    with np.errstate(invalid="ignore"):
        error = np.abs(got - wide)
    is_same = (wide == got) | (np.isnan(wide) & np.isnan(got))  # infinities have no difference
    return np.where(is_same, 0.0, np.where(np.isnan(error), np.inf, error))


def _largest(original: Array) -> Array:
    """Return the largest finite value of each column."""
    largest: Array = np.abs(_finite(original)).max(axis=0, keepdims=True, initial=0.0)
    return largest


def _finite(values: Array) -> Array:
    return np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)


def _is_same(one: Array, other: Array) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    return bool(np.array_equal(one, other, equal_nan=one.dtype.kind == "f"))


def _as_array(answer: Any) -> Array:
    # A sequence is no tensor; what is in it is never looked at.
    return answer if isinstance(answer, np.ndarray) else np.empty(0)
