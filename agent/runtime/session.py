"""Models in onnxruntime: the one module of the agent that imports it."""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from agent.control import Model
from wire.errors import BundleError
from wire.graph import refuse_undeclared, scan_model
from wire.lifecycle import Code
from wire.manifest import (
    BASELINE,
    GOLDEN,
    MANIFEST,
    MODEL,
    SCHEMA,
    Manifest,
    TensorSpec,
    parse_manifest,
)

from .checks import InputChecks, read_schema
from .columns import read_baseline
from .wording import plain

# Its Linux wheels contact a vendor's host since 1.29; it must be set before the import.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import onnxruntime as ort

Array = npt.NDArray[Any]

ORT_TYPES: Final[Mapping[str, str]] = {
    "BOOL": "tensor(bool)", "UINT8": "tensor(uint8)", "UINT16": "tensor(uint16)",
    "UINT32": "tensor(uint32)", "UINT64": "tensor(uint64)", "INT8": "tensor(int8)",
    "INT16": "tensor(int16)", "INT32": "tensor(int32)", "INT64": "tensor(int64)",
    "FP16": "tensor(float16)", "FP32": "tensor(float)", "FP64": "tensor(double)",
    "BYTES": "tensor(string)",
}  # fmt: skip
INLINE_LIMIT_S: Final = 0.005
"""A model that takes longer for one request runs in a thread, so that others are not held up;
below, the hand-over to a thread costs more than it gives (15,000 against 4,700 requests/s)."""
BATCH_LIMIT_S: Final = 0.5
"""So does a batch, by the time of one row alone, which a row of many does not take: the loop beats too."""
MAX_OPSET: Final = 23
"""The newest ai.onnx opset that every onnxruntime since 1.23 loads; told in the inventory."""

ort.set_default_logger_severity(4)  # its warnings are for authors of models, not for devices


def runtime_name() -> str:
    """Return the name and version of the inference engine."""
    return f"onnxruntime {ort.__version__}"


class LoadedModel:
    """One model, ready to run. `run` may be called from any thread.

    Attributes:
        model: What it was loaded from.
        manifest: Its parsed manifest.
        baseline: Its parsed baseline; None of one that says nothing that can be used.
        checks: Says what of a request is refused.
        is_slow: Whether requests belong in a thread.
    """

    def __init__(self, model: Model) -> None:
        """Sieve the file, load it, and compare its inputs and outputs with the manifest.

        Raises:
            BundleError: `model_refused`, `load_failed` or `manifest_invalid`.
        """
        self.model = model
        self.manifest: Manifest = parse_manifest(Path(model.files[MANIFEST]).read_bytes())
        self.baseline = read_baseline(Path(model.files[BASELINE]))
        schema = model.files.get(SCHEMA)
        self.checks = InputChecks(
            self.manifest.inputs,
            self.manifest.nan_policy,
            read_schema(Path(schema)) if schema is not None else None,
        )
        self.is_slow = False
        self._row_s = 0.0
        _sieve(Path(model.files[MODEL]), self.manifest)
        options = ort.SessionOptions()
        options.intra_op_num_threads = max(1, min(2, len(os.sched_getaffinity(0))))
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = ort.InferenceSession(
                model.files[MODEL], options, providers=["CPUExecutionProvider"]
            )
        except Exception as exc:  # onnxruntime raises a dozen types of its own
            raise BundleError(_words(exc), code=Code.LOAD_FAILED) from exc
        self._output_names = [spec.name for spec in self.manifest.outputs]
        outputs = self.manifest.outputs
        self._labels = frozenset(s.name for s in outputs if not s.datatype.startswith("FP"))
        named = self.baseline.probabilities if self.baseline is not None else ""
        self._has_probabilities = named in self._output_names
        self._tables = (named,) if self._has_probabilities else _tables(outputs)
        _compare("input", self.manifest.inputs, self._session.get_inputs())
        _compare("output", self.manifest.outputs, self._session.get_outputs())

    @property
    def golden_path(self) -> Path:
        """Where the golden rows are."""
        return Path(self.model.files[GOLDEN])

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str] | None = None) -> list[Array]:
        """Return the outputs, by default all in the order of the manifest.

        Raises:
            InferenceError: onnxruntime could not answer.
        """
        try:
            answer: list[Array] = self._session.run(outputs or self._output_names, dict(feeds))
        except Exception as exc:  # as above
            raise InferenceError(_words(exc)) from exc
        return answer

    def answer(self, feeds: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        """Return these outputs, labels only where the numbers beside them are numbers.

        A label is the place of the largest of a row's scores, and onnxruntime finds one among NaN too:
        the first class, as a rule. So the table of probabilities is fetched with any label, asked for
        or not, and must be finite. Where the baseline names none, no other table may hold NaN
        (infinity may be meant there, as the logarithm of nothing).

        Raises:
            InferenceError: onnxruntime could not answer.
            NoLabelError: A label was asked for that rests on NaN.
        """
        if not self._tables or self._labels.isdisjoint(outputs):
            return self.run(feeds, outputs)
        fetched = [*outputs, *(name for name in self._tables if name not in outputs)]
        answers = self.run(feeds, fetched)
        for name in self._tables:
            table = answers[fetched.index(name)]
            sound = np.isfinite(table) if self._has_probabilities else ~np.isnan(table)
            if not sound.all():
                row = int(np.argwhere(~sound)[0][0]) if table.ndim else 0
                raise NoLabelError(
                    f"{name} is not finite in row {row}, so no label follows from it; "
                    f"{name} alone can be asked for"
                )
        return answers[: len(outputs)]

    def measure(self, feeds: Mapping[str, Array]) -> None:
        """Run one row twice and decide from the second run whether the model is slow."""
        row = {name: array[:1] for name, array in feeds.items()}
        try:
            self.run(row)
            began_s = time.perf_counter()
            self.run(row)
        except InferenceError:
            return  # some models take whole batches only; the golden rows have passed
        self._row_s = time.perf_counter() - began_s
        self.is_slow = self._row_s > INLINE_LIMIT_S

    def is_slow_for(self, n_rows: int) -> bool:
        """Return whether a request of so many rows belongs in a thread: none may keep the loop for long."""
        return self.is_slow or n_rows * self._row_s > BATCH_LIMIT_S


class InferenceError(Exception):
    """The model failed on an input that its contract allows: the model's fault."""


class NoLabelError(Exception):
    """The model answered a label that rests on NaN, as the first class is of a row of NaN."""


def _tables(outputs: Sequence[TensorSpec]) -> tuple[str, ...]:
    """Return the outputs that a label may rest on: numbers, one or some of each row."""
    return tuple(
        spec.name for spec in outputs if spec.datatype.startswith("FP") and len(spec.shape) <= 2
    )


def _sieve(path: Path, manifest: Manifest) -> None:
    if not path.stat().st_size:
        raise BundleError("model.onnx is empty", code=Code.LOAD_FAILED)
    with path.open("rb") as file:
        # Never closed by hand: a refusal's traceback still holds views of it.
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    facts = scan_model(memoryview(data))
    refuse_undeclared(facts, manifest.ops)


def _compare(kind: str, specs: Sequence[TensorSpec], nodes: Sequence[Any]) -> None:
    found = {node.name: node.type for node in nodes}
    for spec in specs:
        if found.get(spec.name) != ORT_TYPES[spec.datatype]:
            raise BundleError(
                f"the manifest says {kind} {spec.name} is {spec.datatype}, "
                f"the model says {found.get(spec.name, 'there is none')}",
                code=Code.LOAD_FAILED,
            )
    if kind == "input" and (extra := set(found) - {spec.name for spec in specs}):
        raise BundleError(
            f"the model has inputs that the manifest does not name: {', '.join(sorted(extra))}",
            code=Code.LOAD_FAILED,
        )


def _words(exc: Exception) -> str:
    return plain(str(exc)) or type(exc).__name__
