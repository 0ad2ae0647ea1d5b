"""scikit-learn to ONNX: the one call into skl2onnx, and the order it leaves to make."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx

from wire.errors import BundleError

OPSET: Final = 17
ML_OPSET: Final = 3
IR_VERSION: Final = 8
"""The newest that every onnxruntime since 1.18 loads; the defaults of today's onnx do not."""
INPUT_NAME: Final = "X"

Array = npt.NDArray[Any]


def canonical_rows(rows: Array) -> Array:
    """Return rows in the type that the model will get on a device: float32, int64 or strings.

    The original model is asked with the same rows, so that both see the same truth.
    """
    if rows.dtype.kind in "fc":
        return rows.astype(np.float32)
    if rows.dtype.kind in "iub":
        return rows.astype(np.int64)
    return rows.astype(object)


def export_estimator(estimator: Any, rows: Array, name: str) -> onnx.ModelProto:
    """Return the estimator as ONNX: input `X` of [rows, n_features], tensors out.

    Raises:
        BundleError: `export_failed`.
    """
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import FloatTensorType, Int64TensorType, StringTensorType
    from sklearn.base import is_classifier

    kinds = {"f": FloatTensorType, "i": Int64TensorType, "O": StringTensorType}
    shape = [None, rows.shape[1]]
    # A dictionary per row is no tensor: onnxruntime could answer it, the protocol could not.
    options = {id(estimator): {"zipmap": False}} if is_classifier(estimator) else None
    try:
        model: onnx.ModelProto = convert_sklearn(
            estimator,
            name=name,
            initial_types=[(INPUT_NAME, kinds[rows.dtype.kind](shape))],
            target_opset={"": OPSET, "ai.onnx.ml": ML_OPSET},
            options=options,
        )
    except Exception as exc:  # skl2onnx raises a dozen types
        text = (str(exc).strip().splitlines() or [type(exc).__name__])[0]
        raise BundleError(
            f"skl2onnx cannot convert {type(estimator).__name__}: {text[:300]}",
            code="export_failed",
        ) from exc
    tidy(model)
    return model


def tidy(model: onnx.ModelProto) -> None:
    """Merge opset imports that stand twice, and fix the version of the format."""
    newest: dict[str, int] = {}
    for entry in model.opset_import:
        newest[entry.domain] = max(newest.get(entry.domain, 0), entry.version)
    del model.opset_import[:]
    for domain, version in sorted(newest.items()):
        model.opset_import.append(onnx.helper.make_opsetid(domain, version))
    model.ir_version = IR_VERSION


def keep_outputs(model: onnx.ModelProto, names: set[str]) -> None:
    """Remove all other outputs of the graph."""
    kept = [output for output in model.graph.output if output.name in names]
    del model.graph.output[:]
    model.graph.output.extend(kept)
