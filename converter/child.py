"""The child process: loads, exports and runs; leaves files in a directory, nothing else.

    python -P -m converter.child REQUEST.json OUTPUT_DIR

Whatever a source does when it is loaded, it does here. The parent reads numbers and JSON only.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from wire.errors import BundleError

from .handover import MODEL_FILE, Answers, Facts, leave, leave_error
from .rows import canonical_rows, cast_rows, check_finite

Array = npt.NDArray[Any]

PROBE_ROWS: Final = 16
"""Rows asked one by one as well, to see that a batch changes nothing."""


def main() -> int:
    """Do what REQUEST.json says; return 0, or 1 with the error left for the parent."""
    # A source that crashes leaves no memory image in the user's directory.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    request = json.loads(Path(sys.argv[1]).read_text())
    die_with(request["parent"])
    out = Path(sys.argv[2])
    given = np.load(request["rows"], allow_pickle=False)
    try:
        if request["source"].endswith(".onnx"):
            facts, answers = _take_onnx(request, given, out / MODEL_FILE)
        else:
            facts, answers = _take_estimator(request, given, out / MODEL_FILE)
    except BundleError as exc:
        leave_error(out, exc)
        return 1
    leave(out, facts, answers)
    return 0


def die_with(parent: int) -> None:
    """Have the kernel end this process when its parent ends, however that happens."""
    if sys.platform != "linux":
        return
    set_parent_death_signal = 1
    ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before
        os._exit(1)


def _take_onnx(request: dict[str, Any], given: Array, path: Path) -> tuple[Facts, Answers]:
    import onnx

    from .inspect import describe_input, describe_tensors, graph_inputs, read_model

    source = Path(request["source"])
    model = read_model(source)
    spec = describe_input(model)
    describe_tensors(model.graph.output, "output")
    if spec.shape[1] not in (-1, given.shape[1]):
        raise BundleError(
            f"X has {given.shape[1]} columns, the model takes {spec.shape[1]}", code="data_invalid"
        )
    wanted = graph_inputs(model)[0].type.tensor_type.elem_type
    rows = cast_rows(given, np.dtype(onnx.helper.tensor_dtype_to_np_dtype(wanted)))
    check_finite(rows, request["nan_policy"])
    path.write_bytes(source.read_bytes())
    converted, again, single = _ask_converted(path, spec.name, rows)
    for name, answer in converted.items():
        if answer.shape[:1] != (len(rows),):
            raise BundleError(
                f"output {name} has shape {answer.shape} for {len(rows)} rows: its first dimension "
                "must be the rows",
                code="model_invalid",
            )
    return Facts(kind="onnx"), Answers(rows, converted, again, single, None)


def _take_estimator(request: dict[str, Any], given: Array, path: Path) -> tuple[Facts, Answers]:
    from .export import INPUT_NAME, export_estimator, keep_outputs
    from .load import load_estimator
    from .original import (
        ask_original,
        changed_share,
        kind_of,
        noting_versions,
        parameters_of,
        score_choice,
    )

    rows = canonical_rows(given)
    check_finite(rows, request["nan_policy"])
    warnings: list[str] = []
    with noting_versions(warnings):
        estimator = load_estimator(request["source"], trust_pickle=request["trust_pickle"])
    # The device's values in the type that it was trained on: what rounding changes is told apart.
    seen = rows.astype(given.dtype)
    originals = ask_original(estimator, seen)
    is_exact = np.array_equal(seen, given, equal_nan=given.dtype.kind == "f")
    exact = originals if is_exact else ask_original(estimator, given)
    parameters = parameters_of(estimator)
    model = export_estimator(estimator, rows, request["name"])
    path.write_bytes(model.SerializeToString(deterministic=True))
    converted, again, single = _ask_converted(path, INPUT_NAME, rows)
    kept = _comparable(originals, converted)
    dropped = sorted(set(converted) - set(kept))
    if dropped:
        keep_outputs(model, set(kept))
        path.write_bytes(model.SerializeToString(deterministic=True))
        converted, again, single = _ask_converted(path, INPUT_NAME, rows)
    facts = Facts(
        kind=kind_of(estimator),
        estimator=type(estimator).__name__,
        parameters=parameters,
        feature_names=tuple(str(name) for name in getattr(estimator, "feature_names_in_", ())),
        choice=score_choice(estimator),
        dropped=tuple(dropped),
        rounding_share=changed_share(originals[0], exact[0]),
        warnings=tuple(warnings),
    )
    return facts, Answers(rows, converted, again, single, kept)


def _ask_converted(
    path: Path, input_name: str, rows: Array
) -> tuple[dict[str, Array], dict[str, Array], dict[str, Array]]:
    """Run the converted model on all rows, again, and on some one by one."""
    from .parity import OnnxModel

    model = OnnxModel(path)
    answers = model.run({input_name: rows})
    again = model.run({input_name: rows})
    count = min(PROBE_ROWS, len(rows))
    alone = [model.run({input_name: rows[i : i + 1]}) for i in range(count)]
    single = {name: np.concatenate([answer[name] for answer in alone]) for name in answers}
    return answers, again, single


def _comparable(originals: dict[int, Array], converted: dict[str, Array]) -> dict[str, Array]:
    """Return the original's answers by the outputs that they can be compared with.

    Raises:
        BundleError: `model_invalid` when the first output, the one that the model is for, is none.
    """
    from .original import shaped_like

    kept = {}
    for position, (name, answer) in enumerate(converted.items()):
        original = originals.get(position)
        shaped = shaped_like(answer, original) if original is not None else None
        if shaped is not None:
            kept[name] = shaped
        elif position == 0:
            raise BundleError(
                f"the converted model answers {name} in the shape {answer.shape}, the original in "
                f"{originals[0].shape}",
                code="model_invalid",
                hint="skl2onnx converts this kind of model wrongly",
            )
    return kept


if __name__ == "__main__":
    sys.exit(main())
