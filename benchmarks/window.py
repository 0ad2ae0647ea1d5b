"""What counting every feature and answer into the baseline's bins costs, and how long its record is."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import zstandard
from models import SEED, Models
from result import Line, Outcome

from agent import control
from agent.ports import ColumnStats
from agent.runtime import oip
from agent.runtime.columns import ColumnCounts
from agent.telemetry import _window_record
from converter.baseline import make_baseline
from wire import codec
from wire.bundle import read_bundle
from wire.histogram import Baseline
from wire.manifest import BASELINE, MANIFEST, MODEL, TensorSpec, parse_manifest
from wire.windows import MAX_PART_BYTES, MAX_PART_COLUMNS

FEATURES = 20
WINDOW_ROWS = (500, 9000)
"""What PSI over ten bins needs; and ten a second for 900 s."""
BATCH = 1000
PASSES = 20
LEVEL = 3
"""zstd's own default."""


def measure(directory: Path, models: Models, *, is_quick: bool) -> Outcome:
    """Count rows in turns with the bare inference of the same rows; encode a window of 20 features."""
    rounds = 3 if is_quick else 15
    lines = []
    for what, bundle in (
        ("digits, logistic regression", models.digits()),
        ("network of 3 hidden layers of 256", models.network("1.0.0", width=256, layers=3, body=1, head=1)),
    ):  # fmt: skip
        lines += _cost(what, read_bundle(bundle).files, rounds)
    for n_rows in WINDOW_ROWS:
        record = _record_of_features(n_rows)
        packed = len(zstandard.ZstdCompressor(level=LEVEL).compress(record))
        lines += [
            Line(
                f"record of {FEATURES} features and a label, {n_rows:,} rows",
                "bytes",
                [len(record)],
            ),
            Line("the same, compressed by zstd", "bytes", [packed]),
        ]
    return Outcome(
        title="Windows of columns",
        how=(
            "The cost of counting a row of 64 features and all answers to it, as a runtime does it "
            f"after the reply: requests of {BATCH:,} rows, and of one row each that wait until they "
            "are counted together. Beside it, in turns and in the same process: onnxruntime alone on "
            f"{BATCH:,} of these rows at once; and the answer to a request of {BATCH:,} rows, which is "
            "parsing its JSON, inference and encoding, without HTTP. The record is that of a window "
            "of normal values, one in a hundred of them missing."
        ),
        lines=lines,
    )


def _cost(what: str, files: dict[str, bytes], rounds: int) -> list[Line]:
    manifest = parse_manifest(files[MANIFEST])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2  # as the runtime has it
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(files[MODEL], options)
    outputs = [spec.name for spec in manifest.outputs]
    rows = np.random.default_rng(SEED).integers(0, 17, (BATCH, 64)).astype(np.float32)
    answers = session.run(outputs, {"X": rows})
    data = rows.ravel().tolist()
    tensor = {"name": "X", "shape": [BATCH, 64], "datatype": "FP32", "data": data}
    body = oip.encode_json({"inputs": [tensor]})
    counts = ColumnCounts(
        Baseline.model_validate_json(files[BASELINE]), manifest.inputs, manifest.outputs
    )

    def count_batch() -> None:
        counts.add(BATCH, {"X": rows}, manifest.outputs, answers)
        list(counts.outputs())  # what waits is counted

    def count_singly() -> None:
        for at in range(BATCH):
            part = slice(at, at + 1)
            counts.add(1, {"X": rows[part]}, manifest.outputs, [a[part] for a in answers])
        list(counts.outputs())

    def answer() -> None:
        request = oip.parse_request(manifest, body)
        found = session.run(outputs, request.feeds)
        oip.encode_answer(manifest, request, found, is_finite=oip.are_finite(found))

    ways: dict[str, Callable[[], Any]] = {
        "batch": count_batch,
        "singly": count_singly,
        "raw": lambda: session.run(outputs, {"X": rows}),
        "answer": answer,
    }
    samples: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        way()
    for _ in range(rounds):
        for name, way in ways.items():
            samples[name].append(_row_us(way))
    bare, whole = "onnxruntime alone", "the answer to the batch"
    return [
        Line(f"{what}: a batch", "µs/row", samples["batch"], bare, samples["raw"]),
        Line(f"{what}: a batch", "µs/row", samples["batch"], whole, samples["answer"]),
        Line(f"{what}: one by one", "µs/row", samples["singly"], bare, samples["raw"]),
    ]


def _row_us(way: Callable[[], Any]) -> float:
    began_s = time.process_time()
    for _ in range(PASSES):
        way()
    return (time.process_time() - began_s) / PASSES / BATCH * 1e6


def _record_of_features(n_rows: int) -> bytes:
    """Return the record of a window of 20 features and a label."""
    random = np.random.default_rng(SEED)
    inputs = TensorSpec(name="X", datatype="FP32", shape=(-1, FEATURES))
    label = TensorSpec(name="label", datatype="INT64", shape=(-1,))

    def drawn(n_rows: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        rows = random.normal(size=(n_rows, FEATURES)).astype(np.float32)
        rows[random.random(rows.shape) < 0.01] = np.nan
        return rows, (random.random(n_rows) < 0.3).astype(np.int64)

    rows, labels = drawn(5000)
    baseline = make_baseline([(inputs, rows)], [(label, labels)], "0" * 64)
    counts = ColumnCounts(baseline, [inputs], [label])
    rows, labels = drawn(n_rows)
    counts.add(n_rows, {"X": rows}, [label], [labels])
    window = counts.close_window()
    (run,) = window.runs
    stats = ColumnStats(
        model="digits",
        version="1.0.0",
        manifest="9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        start_unix_ms=1_767_225_600_000,
        duration_s=900.003,
        row_count=window.row_count,
        first=0,
        columns=run.columns,
        between=run.between,
        scores=window.scores,
    )
    (part,) = control.in_parts(run.columns, max_columns=MAX_PART_COLUMNS, max_bytes=MAX_PART_BYTES)
    return codec.encode(_window_record(stats, part, "5f0c2b9d41e7a836", 123_456))
