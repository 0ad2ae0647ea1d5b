"""The parity certificate, and the refusal in its place."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from wire.errors import BundleError

from . import parity
from .handover import Answers

Array = npt.NDArray[Any]

_LIBRARIES: Final = ("scikit-learn", "skl2onnx", "onnx", "onnxruntime", "numpy")
_SHOWN_VALUES: Final = 6


def judge(answers: Answers, given: Array, margins: Array | None) -> list[parity.OutputParity]:
    """Return the parity of each output; none where there is no original.

    Args:
        answers: Of both models.
        given: The rows as the user gave them.
        margins: How clear each label is, or None.

    Raises:
        BundleError: `unstable_model` or `parity_failed`, with the worst row.
    """
    for name, answer in answers.converted.items():
        fault = parity.check_stable(
            name, answer, answers.again[name], answers.single[name], margins=margins
        )
        if fault is not None:
            raise BundleError(f"the converted model is not stable: {fault}", code="unstable_model")
    outputs = []
    for name, original in (answers.original or {}).items():
        converted = answers.converted[name]
        result = parity.compare(name, original, converted, margins=margins)
        outputs.append(result)
        if not result.is_within:
            raise BundleError(
                f"converted and original disagree: {result.to_line()}. "
                f"Worst is {_show_row(result.worst_row, given, original, converted)}",
                code="parity_failed",
                hint="the converted model answers differently; it would be wrong on the devices",
            )
    return outputs


def encode(verdict: str, row_count: int, outputs: Sequence[parity.OutputParity]) -> bytes:
    """Return `parity.json`."""
    body = {
        "v": 1,
        "verdict": verdict,
        "rows": row_count,
        "limits": {
            "atol": parity.ATOL,
            "rtol": parity.RTOL,
            "scale_rtol": parity.SCALE_RTOL,
            "tie_margin": parity.TIE_MARGIN,
        },
        "outputs": [output.to_json() for output in outputs],
        "libraries": {name: version(name) for name in _LIBRARIES},
    }
    return json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _show_row(row: int, given: Array, original: Array, converted: Array) -> str:
    right, got = original[row].reshape(-1), converted[row].reshape(-1)
    where = ""
    if right.size > _SHOWN_VALUES and right.dtype.kind == got.dtype.kind == "f":
        column = int(np.argmax(parity.excesses(original, converted)[row]))
        right, got, where = right[column : column + 1], got[column : column + 1], f" [{column}]"
    return (
        f"row {row}: X = {_show(given[row])}, original{where} {_show(right)}, "
        f"converted{where} {_show(got)}"
    )


def _show(values: Array) -> str:
    shown = values.reshape(-1)[:_SHOWN_VALUES]
    more = f", … {values.size - shown.size} more" if values.size > shown.size else ""
    return f"[{', '.join(_show_value(value) for value in shown)}{more}]"


def _show_value(value: Any) -> str:
    # The shortest text that is this float32, and of a float64 not all of its digits.
    return f"{float(str(value)):.10g}" if isinstance(value, np.floating) else str(value)[:40]
