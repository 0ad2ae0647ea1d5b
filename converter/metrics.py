"""How good the converted model is on labels that were given with the rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .parity import labels_differ

Array = npt.NDArray[Any]


def measure(kind: str, answer: Array, labels: Array | None) -> dict[str, float]:
    """Return accuracy or r2, or nothing where neither has a meaning.

    Args:
        kind: `classifier`, `regressor`, `onnx` or another.
        answer: The first output, shape (n_rows, …).
        labels: `y`, shape (n_rows,) or (n_rows, n_outputs), or None.
    """
    if labels is None or labels.size != answer.size:
        return {}
    truth = labels.reshape(answer.shape)
    if answer.dtype.kind != "f" and kind in ("classifier", "onnx"):
        right = ~labels_differ(answer, truth).reshape(len(answer), -1).any(axis=1)
        return {"accuracy": round(float(right.mean()), 6)}
    if kind == "regressor" and labels.dtype.kind in "fiu":
        return _r2(answer.astype(np.float64), truth.astype(np.float64))
    return {}


def _r2(answer: Array, truth: Array) -> dict[str, float]:
    with np.errstate(all="ignore"):
        spread = float(((truth - truth.mean(axis=0)) ** 2).sum())
        error = float(((truth - answer) ** 2).sum())
        r2 = 1.0 - error / spread if spread else np.nan
    return {"r2": round(r2, 6)} if np.isfinite(r2) else {}
