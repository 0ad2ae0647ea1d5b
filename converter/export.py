"""scikit-learn to ONNX: the one call into skl2onnx, and the order it leaves to make."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy.typing as npt
import onnx

from wire.errors import BundleError

from .wording import first_line

OPSET: Final = 17
ML_OPSET: Final = 3
IR_VERSION: Final = 8
"""The newest that every onnxruntime since 1.18 loads; the defaults of today's onnx do not."""
INPUT_NAME: Final = "X"

Array = npt.NDArray[Any]


def export_estimator(estimator: Any, rows: Array, name: str) -> onnx.ModelProto:
    """Return the estimator as ONNX: input `X` of [rows, n_features], tensors out.

    A search is exported as the best that it found.

    Args:
        estimator: Fitted. Settings of it that say nothing about its answers may be changed.
        rows: In the type that the model will take: float32, int64 or object, for strings.
        name: Of the graph.

    Raises:
        BundleError: `export_failed`.
    """
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import FloatTensorType, Int64TensorType, StringTensorType

    estimator = getattr(estimator, "best_estimator_", estimator)
    kinds = {"f": FloatTensorType, "i": Int64TensorType, "O": StringTensorType}
    shape = [None, rows.shape[1]]
    try:
        model: onnx.ModelProto = convert_sklearn(
            estimator,
            name=name,
            initial_types=[(INPUT_NAME, kinds[rows.dtype.kind](shape))],
            target_opset={"": OPSET, "ai.onnx.ml": ML_OPSET},
            options=_options(estimator),
        )
    except Exception as exc:  # skl2onnx raises a dozen types
        raise BundleError(
            f"skl2onnx cannot convert {type(estimator).__name__}: {first_line(exc)}",
            code="export_failed",
        ) from exc
    tidy(model)
    if not hasattr(estimator, "predict_proba"):
        rename_output(model, "probabilities", "scores")
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


def rename_output(model: onnx.ModelProto, old: str, new: str) -> None:
    """Give an output of the graph another name, where there is one and the name is free."""
    outputs = {output.name: output for output in model.graph.output}
    nodes = model.graph.node
    used = {name for node in nodes for name in (*node.input, *node.output)}
    if old not in outputs or new in used:
        return
    outputs[old].name = new
    for node in nodes:
        node.input[:] = [new if name == old else name for name in node.input]
        node.output[:] = [new if name == old else name for name in node.output]


def _options(estimator: Any) -> dict[int, dict[str, bool]]:
    """Return the options of every classifier in a chain of pipelines: those that each one knows.

    A pipeline would hand its own down to steps that may not know them.
    """
    from sklearn.base import is_classifier
    from sklearn.ensemble import VotingClassifier

    # A dictionary per row is no tensor: onnxruntime could answer it, the protocol could not.
    wanted = {"zipmap": False}
    if hasattr(estimator, "decision_function") and not hasattr(estimator, "predict_proba"):
        # Otherwise a binary SVC's two columns come out exchanged.
        wanted["raw_scores"] = True
    options = {}
    for model in _steps(estimator):
        if is_classifier(model):
            known = _known_options(getattr(model, "best_estimator_", model))
            options[id(model)] = {key: value for key, value in wanted.items() if key in known}
        if isinstance(model, VotingClassifier):
            # It concerns `transform`, which is not exported, and is refused at its default.
            model.flatten_transform = False
    return options


def _steps(estimator: Any) -> Iterator[Any]:
    """Yield the estimator, or where it is a pipeline, what it is made of."""
    from sklearn.pipeline import Pipeline

    if not isinstance(estimator, Pipeline):
        yield estimator
        return
    for _, step in estimator.steps:
        yield from _steps(step)


def _known_options(model: Any) -> set[str]:
    from skl2onnx._supported_operators import get_model_alias
    from skl2onnx.common._registration import get_converter

    try:
        known = get_converter(get_model_alias(type(model))).get_allowed_options()
    except (RuntimeError, ValueError):  # not supported: converting it says so better
        return set()
    return set(known or ())
