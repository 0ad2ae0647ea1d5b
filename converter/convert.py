"""The conversion from end to end: child process, comparison, golden rows, baseline, bundle."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from wire.errors import BundleError
from wire.manifest import (
    BASELINE,
    GOLDEN,
    MODEL,
    PARITY,
    Budgets,
    Lineage,
    Manifest,
    TensorSpec,
)

from . import baseline, golden, parity
from .bundle import describe_files, write_bundle
from .request import ConvertReport, ConvertRequest

Array = npt.NDArray[Any]
Progress = Callable[[str], None]

MAX_DATA_BYTES: Final = 4 * 1024**3
"""Of rows, unpacked; they are held in memory several times over."""
MAX_ROUNDING_SHARE: Final = 0.01
# What a damaged archive or array raises: unknown compressions, encryption, shapes that only exist
# in a header.
_NPZ_FAULTS: Final = (
    ValueError, EOFError, zlib.error, zipfile.BadZipFile, NotImplementedError, RuntimeError,
    MemoryError, OverflowError, AttributeError, SyntaxError,
)  # fmt: skip
_LIBRARIES: Final = ("scikit-learn", "skl2onnx", "onnx", "onnxruntime", "numpy")


@dataclass(frozen=True, slots=True)
class _Converted:
    """What the child left: the model, its answers, the original's, and facts."""

    model: bytes
    answers: dict[str, Array]
    again: dict[str, Array]
    single: dict[str, Array]
    original: dict[str, Array] | None
    facts: dict[str, Any]
    inputs: list[TensorSpec]
    outputs: list[TensorSpec]
    opset: dict[str, int]
    ir_version: int
    ops: list[str]
    minimum_runtime: str


def convert(request: ConvertRequest, progress: Progress) -> ConvertReport:
    """Convert a model and write its bundle; nothing is written unless all of it succeeds.

    Args:
        request: What to convert.
        progress: Takes one line a step, for a person.

    Raises:
        BundleError: The source, its data or its answers are at fault; `parity_failed` when the
            converted model disagrees with the original.
        StorageError: `output_unwritable`.
    """
    progress(f"reading {request.data}")
    rows, labels, data_sha256 = _read_data(request.data)
    with tempfile.TemporaryDirectory(prefix="convert-") as folder:
        progress(f"loading {request.source}, exporting, asking both on {len(rows)} rows")
        converted = _run_child(request, rows, Path(folder))
    progress("comparing the answers")
    margins = _margins(converted, len(rows))
    outputs, worst = _judge(converted, rows, margins)
    verdict = "parity" if converted.original is not None else "no_original"
    progress("choosing golden rows, counting the baseline, packing")
    metrics = _metrics(converted, labels)
    chosen = golden.choose_rows(len(rows), margins)
    feeds = _feeds(converted, rows)
    answers = [converted.answers[spec.name] for spec in converted.outputs]
    files = {
        MODEL: converted.model,
        GOLDEN: golden.encode([feeds[chosen]], [answer[chosen] for answer in answers]),
        BASELINE: baseline.make_baseline(
            [(converted.inputs[0], feeds)],
            list(zip(converted.outputs, answers, strict=True)),
            data_sha256,
        ).model_dump_json().encode(),
        PARITY: _certificate(verdict, len(rows), outputs),
    }  # fmt: skip
    manifest = Manifest(
        name=request.name,
        version=request.version,
        files=describe_files(files),
        inputs=tuple(converted.inputs),
        outputs=tuple(converted.outputs),
        opset=converted.opset,
        ir_version=converted.ir_version,
        ops=tuple(converted.ops),
        minimum_runtime=converted.minimum_runtime,
        device_class=request.device_class,
        budgets=Budgets(p99_ms=request.p99_ms, memory_mb=request.memory_mb),
        nan_policy="pass" if request.nan_policy == "pass" else "reject",
        lineage=Lineage(
            data_sha256=data_sha256,
            code_commit=request.code_commit,
            parameters=_parameters(converted.facts),
            metrics=metrics,
        ),
    )
    digest, size = write_bundle(request.output, manifest, files)
    return ConvertReport(
        output=request.output,
        name=request.name,
        version=request.version,
        manifest=digest,
        bytes=size,
        verdict=verdict,
        row_count=len(rows),
        worst=tuple(worst),
        metrics=metrics,
        warnings=tuple(_warnings(converted, len(rows))),
    )


def _read_data(path: Path) -> tuple[Array, Array | None, str]:
    """Return X, y if there is one, and the file's digest."""
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
        arrays = _read_arrays(path) if unpacked <= MAX_DATA_BYTES else {}
    except OSError as exc:
        raise BundleError(
            f"cannot read {path}: {exc.strerror or exc}", code="data_unreadable"
        ) from exc
    except _NPZ_FAULTS as exc:
        raise BundleError(
            f"{path} is no .npz of plain arrays: {str(exc)[:200] or type(exc).__name__}",
            code="data_unreadable",
            hint="write it with numpy.savez(path, X=rows, y=labels)",
        ) from exc
    if unpacked > MAX_DATA_BYTES:
        raise BundleError(f"{path} unpacks to over 4 GB", code="data_invalid")
    rows, labels = arrays.get("X"), arrays.get("y")
    if rows is None:
        raise BundleError(
            f"{path} has no array named X",
            code="data_invalid",
            hint="write it with numpy.savez(path, X=rows, y=labels)",
        )
    if rows.ndim != 2 or not len(rows) or not rows.shape[1] or rows.dtype.kind not in "fiubU":
        raise BundleError(
            f"X has shape {rows.shape} and type {rows.dtype}; it must be (n_rows, n_features) "
            "of numbers or strings",
            code="data_invalid",
        )
    if labels is not None and labels.shape[:1] != (len(rows),):
        raise BundleError(
            f"X has {len(rows)} rows, y has shape {labels.shape}", code="data_invalid"
        )
    return rows, labels, digest


def _read_arrays(path: Path) -> dict[str, Array]:
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in ("X", "y") if name in archive.files}


def _run_child(request: ConvertRequest, rows: Array, folder: Path) -> _Converted:
    rows_path, out = folder / "rows.npy", folder / "out"
    out.mkdir()
    np.save(rows_path, rows, allow_pickle=False)
    order = {
        "source": request.source,
        "name": request.name,
        "rows": str(rows_path),
        "trust_pickle": request.trust_pickle,
    }
    (folder / "request.json").write_text(json.dumps(order))
    argv = [sys.executable, "-m", "converter.child", str(folder / "request.json"), str(out)]
    environment = {**os.environ, "ORT_DISABLE_TELEMETRY": "1"}
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=request.timeout_s,
            env=environment,
            check=False,
        )
    except subprocess.TimeoutExpired as exc:
        raise BundleError(
            f"converting {request.source} did not end within {request.timeout_s:g} s",
            code="convert_timeout",
            hint="give fewer rows in --data, or a larger timeout",
        ) from exc
    if (out / "error.json").exists():
        error = json.loads((out / "error.json").read_text())
        raise BundleError(
            str(error["message"]), code=str(error["code"]), hint=str(error.get("hint", ""))
        )
    if done.returncode != 0:
        raise BundleError(_crash(request.source, done), code="convert_crashed")
    return _collect(out)


def _crash(source: str, done: subprocess.CompletedProcess[bytes]) -> str:
    last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
    how = (
        f"was ended by {signal.Signals(-done.returncode).name}"
        if done.returncode < 0
        else f"failed: {last[0][:300] if last else 'without a word'}"
    )
    return f"the process that converts {source} {how}"


def _collect(out: Path) -> _Converted:
    from .inspect import (
        describe_tensors,
        graph_inputs,
        minimum_runtime,
        operators,
        read_model,
    )

    facts = json.loads((out / "facts.json").read_text())
    model = read_model(out / "model.onnx")
    original = out / "original.npz"
    inputs = describe_tensors(graph_inputs(model), "input")
    names = tuple(facts["feature_names"])
    if names and all(name.isprintable() and name.isascii() for name in names):
        inputs = [inputs[0].model_copy(update={"feature_names": names})]
    return _Converted(
        model=(out / "model.onnx").read_bytes(),
        answers=_read_answers(out / "converted.npz"),
        again=_read_answers(out / "again.npz"),
        single=_read_answers(out / "single.npz"),
        original=_read_answers(original) if original.exists() else None,
        facts=facts,
        inputs=inputs,
        outputs=describe_tensors(model.graph.output, "output"),
        opset={entry.domain or "ai.onnx": entry.version for entry in model.opset_import},
        ir_version=model.ir_version,
        ops=operators(model),
        minimum_runtime=minimum_runtime(model),
    )


def _read_answers(path: Path) -> dict[str, Array]:
    with np.load(path, allow_pickle=False) as archive:
        names = json.loads(str(archive["names"]))
        return {name: archive[f"a{i}"] for i, name in enumerate(names)}


def _margins(converted: _Converted, row_count: int) -> Array | None:
    """Return how clear each row's label is, by the scores beside it, or None without any."""
    source = converted.original or converted.answers
    scores = [a for a in source.values() if a.dtype.kind == "f" and a.ndim == 2]
    has_labels = any(a.dtype.kind != "f" for a in source.values())
    return parity.tie_margins(scores[0], row_count) if scores and has_labels else None


def _judge(
    converted: _Converted, rows: Array, margins: Array | None
) -> tuple[list[parity.OutputParity], list[str]]:
    """Return the parity of each output, and words about it.

    Raises:
        BundleError: `unstable_model` or `parity_failed`, with the worst row.
    """
    for name, answer in converted.answers.items():
        if len(answer) != len(rows):
            raise BundleError(
                f"output {name} has {len(answer)} rows for {len(rows)} rows of input",
                code="model_invalid",
            )
        fault = parity.check_stable(name, answer, converted.again[name], converted.single[name])
        if fault is not None:
            raise BundleError(f"the converted model is not stable: {fault}", code="unstable_model")
    if converted.original is None:
        return [], ["the source is ONNX already: there is no original to compare with"]
    outputs = []
    for name, original in converted.original.items():
        result = parity.compare(name, original, converted.answers[name], margins=margins)
        outputs.append(result)
        if not result.is_within:
            raise BundleError(
                _worst_row(result, rows, original, converted.answers[name]),
                code="parity_failed",
                hint="the converted model answers differently; it would be wrong on the devices",
            )
    return outputs, [result.to_line() for result in outputs]


def _worst_row(result: parity.OutputParity, rows: Array, original: Array, answer: Array) -> str:
    row = result.worst_row
    if original.shape != answer.shape:
        return f"{result.name}: original has shape {original.shape}, converted {answer.shape}"
    return (
        f"converted and original disagree: {result.to_line()}. Worst is row {row}: "
        f"X = {_short(rows[row])}, original {_short(original[row])}, "
        f"converted {_short(answer[row])}"
    )


def _short(values: Any, limit: int = 6) -> str:
    flat: Sequence[Any] = np.asarray(values).reshape(-1).tolist()
    words = [f"{v:.6g}" if isinstance(v, float) else str(v)[:40] for v in flat[:limit]]
    more = f", … {len(flat) - limit} more" if len(flat) > limit else ""
    return f"[{', '.join(words)}{more}]"


def _feeds(converted: _Converted, rows: Array) -> Array:
    """Return the rows as the devices will send them."""
    types = {"FP32": np.float32, "FP64": np.float64, "INT64": np.int64}
    wanted = types.get(converted.inputs[0].datatype)
    return rows.astype(wanted) if wanted is not None else rows


def _metrics(converted: _Converted, labels: Array | None) -> dict[str, float]:
    """Return how good the *converted* model is on the given labels."""
    if labels is None or not converted.answers:
        return {}
    first = next(iter(converted.answers.values()))
    answers = first.reshape(len(first), -1)
    if first.dtype.kind != "f" and answers.shape[1] == 1:
        right = answers[:, 0].astype(str) == labels.astype(str)
        return {"accuracy": round(float(right.mean()), 6)}
    if converted.facts["kind"] == "regressor" and labels.dtype.kind in "fiu":
        truth = labels.astype(np.float64).reshape(answers.shape)
        spread = float(((truth - truth.mean(axis=0)) ** 2).sum())
        error = float(((truth - answers) ** 2).sum())
        return {"r2": round(1.0 - error / spread, 6)} if spread else {}
    return {}


def _parameters(facts: dict[str, Any]) -> dict[str, str]:
    named = {"estimator": str(facts["estimator"])} if facts["estimator"] else {}
    return {**named, **facts["parameters"]}


def _certificate(verdict: str, row_count: int, outputs: list[parity.OutputParity]) -> bytes:
    body = {
        "v": 1,
        "verdict": verdict,
        "rows": row_count,
        "limits": {"atol": parity.ATOL, "rtol": parity.RTOL, "tie_margin": parity.TIE_MARGIN},
        "outputs": [output.to_json() for output in outputs],
        "libraries": {name: version(name) for name in _LIBRARIES},
    }
    return json.dumps(body, sort_keys=True, separators=(",", ":")).encode()


def _warnings(converted: _Converted, row_count: int) -> list[str]:
    found = [f"output {name} is left out: it is not comparable with the original's"
             for name in converted.facts.get("dropped", [])]  # fmt: skip
    share = converted.facts.get("rounding_share", 0.0)
    if share > MAX_ROUNDING_SHARE:
        found.append(
            f"rounding X to float32, as devices get it, changes {share:.1%} of the answers: "
            "scale or shift the features before training"
        )
    if row_count < golden.MIN_ROWS:
        found.append(f"only {row_count} rows: give {golden.MIN_ROWS} or more for golden rows")
    return found
