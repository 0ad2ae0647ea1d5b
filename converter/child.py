"""The child process: loads, exports and runs; leaves files in a directory, nothing else.

    python -m converter.child REQUEST.json OUTPUT_DIR

Whatever a source does when it is loaded, it does here. The parent reads numbers and JSON only.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from wire.errors import BundleError

from .export import INPUT_NAME, canonical_rows, export_estimator, keep_outputs
from .inspect import describe_tensors, graph_inputs, read_model
from .parity import ATOL, RTOL, OnnxModel

Array = npt.NDArray[Any]

PROBE_ROWS = 16
"""Rows asked one by one as well, to see that a batch changes nothing."""


def main() -> int:
    """Do what REQUEST.json says; return 0, or 1 with the error in `error.json`."""
    request = json.loads(Path(sys.argv[1]).read_text())
    out = Path(sys.argv[2])
    given = np.load(request["rows"], allow_pickle=False)
    try:
        if request["source"].endswith(".onnx"):
            facts = _take_onnx(Path(request["source"]), given, out)
        else:
            facts = _take_estimator(request, given, out)
    except BundleError as exc:
        error = {"message": str(exc), "code": exc.code, "hint": exc.hint}
        (out / "error.json").write_text(json.dumps(error))
        return 1
    (out / "facts.json").write_text(json.dumps(facts))
    return 0


def _take_onnx(source: Path, given: Array, out: Path) -> dict[str, Any]:
    model = read_model(source)
    inputs = graph_inputs(model)
    if len(inputs) != 1:
        raise BundleError(
            f"the model has {len(inputs)} inputs; one of [rows, features] is supported",
            code="model_invalid",
        )
    (out / "model.onnx").write_bytes(source.read_bytes())
    describe_tensors(inputs, "input")
    describe_tensors(model.graph.output, "output")
    wanted = onnx.helper.tensor_dtype_to_np_dtype(inputs[0].type.tensor_type.elem_type)
    _answer(out, inputs[0].name, _cast(given, np.dtype(wanted)))
    return {"kind": "onnx", "estimator": None, "parameters": {}, "feature_names": []}


def _cast(rows: Array, wanted: np.dtype[Any]) -> Array:
    try:
        return rows.astype(wanted)
    except ValueError as exc:
        raise BundleError(
            f"X holds {rows.dtype}, the model takes {wanted}", code="data_invalid"
        ) from exc


def _take_estimator(request: dict[str, Any], given: Array, out: Path) -> dict[str, Any]:
    from sklearn.base import is_classifier, is_regressor

    from .load import load_estimator

    estimator = load_estimator(request["source"], trust_pickle=request["trust_pickle"])
    rows = canonical_rows(given)
    model = export_estimator(estimator, rows, request["name"])
    # The device's values in the type that it was trained on: what rounding changes is told apart.
    seen = rows.astype(given.dtype)
    originals = _ask_original(estimator, seen)
    exact = originals if np.array_equal(seen, given) else _ask_original(estimator, given)
    path = out / "model.onnx"
    path.write_bytes(model.SerializeToString(deterministic=True))
    answers = _answer(out, INPUT_NAME, rows)
    kept: dict[str, Array] = {}
    for position, name in enumerate(answers):
        if position in originals:
            shaped = _shaped(originals[position], answers[name])
            if shaped is not None:
                kept[name] = shaped
    if not kept:
        raise BundleError(
            f"{type(estimator).__name__} has no answer to compare the converted model with",
            code="export_failed",
        )
    dropped = sorted(set(answers) - set(kept))
    if dropped:
        keep_outputs(model, set(kept))
        path.write_bytes(model.SerializeToString(deterministic=True))
        _answer(out, INPUT_NAME, rows)
    _save(out / "original.npz", kept)
    kind = "classifier" if is_classifier(estimator) else "other"
    return {
        "kind": "regressor" if is_regressor(estimator) else kind,
        "estimator": type(estimator).__name__,
        "parameters": _parameters(estimator),
        "feature_names": [str(name) for name in getattr(estimator, "feature_names_in_", [])],
        "dropped": dropped,
        "rounding_share": _changed_share(originals[0], exact[0]),
    }


def _ask_original(estimator: Any, rows: Array) -> dict[int, Array]:
    """Return the original's answers by the position of the output that they belong to."""
    answers: dict[int, Array] = {}
    try:
        if hasattr(estimator, "predict"):
            answers[0] = np.asarray(estimator.predict(rows))
            for method in ("predict_proba", "decision_function", "score_samples", "transform"):
                if hasattr(estimator, method):
                    answers[1] = np.asarray(getattr(estimator, method)(rows))
                    break
        elif hasattr(estimator, "transform"):
            answers[0] = np.asarray(estimator.transform(rows))
    except Exception as exc:  # estimators raise whatever they like
        raise BundleError(
            f"{type(estimator).__name__} does not take the rows of --data: {str(exc)[:200]}",
            code="data_invalid",
            hint="X must have the columns that the model was trained on",
        ) from exc
    return answers


def _shaped(original: Array, converted: Array) -> Array | None:
    """Return the original's answer in the converted one's shape, or None if it is another thing."""
    if original.shape == converted.shape:
        return original
    if original.size == converted.size:
        return original.reshape(converted.shape)
    if original.ndim == 1 and converted.shape == (original.size, 2):
        # A binary decision function: ONNX gives both sides.
        return np.stack([-original, original], axis=1)
    return None


def _changed_share(rounded: Array, exact: Array) -> float:
    """Return the share of rows that float32 answers otherwise than the rows as they were given."""
    if exact.dtype.kind == "f":
        differs = ~np.isclose(rounded, exact, rtol=RTOL, atol=ATOL, equal_nan=True)
    else:
        differs = rounded != exact
    return float(np.mean(differs.reshape(len(exact), -1).any(axis=1)))


def _answer(out: Path, input_name: str, rows: Array) -> dict[str, Array]:
    """Run the converted model on all rows, again, and on some one by one; save all answers."""
    model = OnnxModel(out / "model.onnx")
    answers = model.run({input_name: rows})
    again = model.run({input_name: rows})
    count = min(PROBE_ROWS, len(rows))
    singles = [model.run({input_name: rows[i : i + 1]}) for i in range(count)]
    _save(out / "converted.npz", answers)
    _save(out / "again.npz", again)
    _save(
        out / "single.npz", {name: np.concatenate([s[name] for s in singles]) for name in answers}
    )
    return answers


def _save(path: Path, arrays: dict[str, Array]) -> None:
    plain = {
        name: array.astype(str) if array.dtype.kind == "O" else array
        for name, array in arrays.items()
    }
    # Names of outputs are no safe names of members: number them.
    names = json.dumps(list(plain))
    numbered = {f"a{i}": array for i, array in enumerate(plain.values())}
    np.savez(path, allow_pickle=False, names=np.array(names), **numbered)


def _parameters(estimator: Any) -> dict[str, str]:
    """Return the settings that are plain values; others may print addresses."""
    found = estimator.get_params(deep=False) if hasattr(estimator, "get_params") else {}
    plain = {k: v for k, v in found.items() if isinstance(v, (bool, int, float, str))}
    return {key: str(value)[:200] for key, value in sorted(plain.items())[:100]}


if __name__ == "__main__":
    sys.exit(main())
