"""Asking the converted model of a bundle: what it answers, and what it takes to answer.

It is asked in a child process as the conversion is done in one: a model is a program, and one that
crashes, hangs or takes all memory does it there.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
import numpy.typing as npt

from wire.bundle import read_bundle
from wire.errors import BundleError, StorageError
from wire.graph import scan_model
from wire.manifest import MODEL, Datatype

from .handover import MODEL_FILE, Cost, take_cost, take_outputs
from .process import Errand, ended_early, run_errand, scratch_folder
from .request import DEFAULT_TIMEOUT_S
from .rows import cast_rows, check_finite

Array = npt.NDArray[Any]
Taken = TypeVar("Taken")

_DTYPES: Final[dict[Datatype, np.dtype[Any]]] = {
    "BOOL": np.dtype(np.bool_), "BYTES": np.dtype(object),
    "INT8": np.dtype(np.int8), "INT16": np.dtype(np.int16), "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64), "UINT8": np.dtype(np.uint8), "UINT16": np.dtype(np.uint16),
    "UINT32": np.dtype(np.uint32), "UINT64": np.dtype(np.uint64), "FP16": np.dtype(np.float16),
    "FP32": np.dtype(np.float32), "FP64": np.dtype(np.float64),
}  # fmt: skip


def answer(
    bundle: Path, values: Array, *, timeout_s: float = DEFAULT_TIMEOUT_S
) -> dict[str, Array]:
    """Return what the converted model in `bundle` answers, by the names of its outputs.

    Args:
        bundle: The file that `convert` wrote.
        values: Shape (n_rows, n_features), n_rows above 0; rounded to what the model takes, as a
            device does.
        timeout_s: After which the child process is ended.

    Raises:
        BundleError: The bundle, its model or the rows are at fault; `answer_timeout` or
            `answer_crashed`.
        StorageError: `scratch_unwritable`.
    """
    return _ask(
        bundle, values, timeout_s, "answer", lambda folder: take_outputs(folder, len(values))
    )


def measure(bundle: Path, values: Array, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> Cost:
    """Return the size, latency and memory of the converted model in `bundle`, on this machine.

    Args:
        bundle: The file that `convert` wrote.
        values: Rows to ask it, as in `answer`.
        timeout_s: After which the child process is ended.

    Raises:
        BundleError: As `answer`.
        StorageError: `scratch_unwritable`.
    """
    return _ask(bundle, values, timeout_s, "measure", take_cost)


def _ask(
    bundle: Path,
    values: Array,
    timeout_s: float,
    what: str,
    take: Callable[[Path], Taken | None],
) -> Taken:
    opened = read_bundle(bundle)
    model = opened.files[MODEL]
    scan_model(model)  # as every device does
    if len(opened.manifest.inputs) != 1:
        raise BundleError(f"{bundle} has several inputs", code="model_invalid")
    spec = opened.manifest.inputs[0]
    fed = _fed(values, spec.shape, spec.datatype, opened.manifest.nan_policy)
    errand = Errand(
        module="converter.answer_child",
        verb="answer",
        doing=f"asking {bundle}",
        who=f"the process that asks {bundle}",
        timeout_s=timeout_s,
        timeout_hint="give fewer rows, or more time",
    )
    with scratch_folder("answer-") as name:
        folder = Path(name)
        try:
            (folder / MODEL_FILE).write_bytes(model)
        except OSError as exc:
            raise StorageError(
                f"cannot write to {folder.parent}: {exc.strerror or exc}", code="scratch_unwritable"
            ) from exc
        order = {"model": str(folder / MODEL_FILE), "input": spec.name, "what": what}
        taken = take(run_errand(errand, order, fed, folder))
    if taken is None:
        raise ended_early(errand)
    return taken


def _fed(values: Array, shape: tuple[int, ...], datatype: Datatype, nan_policy: str) -> Array:
    """Return the rows as the model gets them; strings stay numpy's, which need no pickle."""
    if values.ndim != 2 or not values.size or values.dtype.kind not in "fiubU":
        raise BundleError(
            f"the rows have shape {values.shape} and type {values.dtype}; they must be "
            "(n_rows, n_features) of numbers or strings",
            code="data_invalid",
        )
    if len(shape) != 2 or shape[1] not in (-1, values.shape[1]):
        takes = shape[1] if len(shape) == 2 else f"the shape {shape}"
        raise BundleError(
            f"the rows have {values.shape[1]} columns, the model takes {takes}",
            code="data_invalid",
        )
    rows = cast_rows(values, _DTYPES[datatype])
    check_finite(rows, nan_policy)
    return rows.astype(str) if rows.dtype.kind == "O" else rows
