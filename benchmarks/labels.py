"""What remembering an answer and taking its label cost a runtime, in time and memory, and how long the record is."""

from __future__ import annotations

import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from models import SEED, Models
from result import Line, Outcome

from agent.core.ring import Ring
from agent.ports import LabelStats
from agent.runtime import oip
from agent.runtime.labels import Counted, Given, Labelling
from agent.telemetry import performance_record
from wire import codec
from wire.bundle import read_bundle
from wire.histogram import Baseline
from wire.manifest import BASELINE, MANIFEST, MODEL, Manifest, parse_manifest

REQUESTS = 2000
BATCH = 100
FULL = 40_000
"""Requests of one row, twice what the ring holds."""


def measure(directory: Path, models: Models, *, is_quick: bool) -> Outcome:
    """Remember and label answers of the digits' model in turns with answering; fill a ring."""
    files = read_bundle(models.digits()).files
    manifest = parse_manifest(files[MANIFEST])
    baseline = Baseline.model_validate_json(files[BASELINE])
    session = onnxruntime.InferenceSession(files[MODEL])
    random = np.random.default_rng(SEED)
    lines = []
    for rows in (1, BATCH):
        pixels = random.integers(0, 17, (rows, 64)).astype(np.float32)
        lines += _cost(manifest, baseline, session, pixels, 3 if is_quick else 15)
    pixels = random.integers(0, 17, (1, 64)).astype(np.float32)
    lines += _memory(manifest, baseline, session.run(None, {"X": pixels}))
    lines += _records(manifest, baseline, random)
    return Outcome(
        title="Labels that come late",
        how=(
            "Processor time of keeping the answer to a request with an id until its label comes, and of "
            "counting that label, for the digits' model with its ten classes; beside it, in turns and in "
            "the same process, the answer itself: parsing its JSON, inference and encoding, without "
            "HTTP. A request without an id costs one comparison. The ring is filled twice over with "
            "requests of one row, at its defaults. The records are those of a window of a thousand "
            "labels, nine in ten of them right, and of one in which each cell of the confusion has some."
        ),
        lines=lines,
    )


def _cost(
    manifest: Manifest,
    baseline: Baseline,
    session: onnxruntime.InferenceSession,
    pixels: np.ndarray[Any, Any],
    rounds: int,
) -> list[Line]:
    rows = len(pixels)
    tensor = {
        "name": "X", "shape": [rows, 64], "datatype": "FP32", "data": pixels.ravel().tolist(),
    }  # fmt: skip
    body = oip.encode_json({"id": "request-0", "inputs": [tensor]})
    names = [spec.name for spec in manifest.outputs]
    answers = session.run(names, {"X": pixels})
    labelling = _new(manifest, baseline)
    requests = max(20, REQUESTS // rows)
    samples: dict[str, list[float]] = {"remember": [], "label": [], "answer": []}
    for _ in range(rounds):
        began_s = time.process_time()
        for number in range(requests):
            labelling.remember(f"request-{number}", manifest.outputs, answers)
        samples["remember"].append(_each_us(began_s, requests))
        began_s = time.process_time()
        for number in range(requests):
            for row in range(rows):
                labelling.take(Given(f"request-{number}", 3, row))
        samples["label"].append(_each_us(began_s, requests))
        began_s = time.process_time()
        for _ in range(requests):
            request = oip.parse_request(manifest, body)
            found = session.run(names, request.feeds)
            oip.encode_answer(manifest, request, found, is_finite=oip.are_finite(found))
        samples["answer"].append(_each_us(began_s, requests))
    what = f"a request of {rows} row{'s' if rows > 1 else ''}"
    return [
        Line(f"{what}: remembered", "µs", samples["remember"], "the answer", samples["answer"]),
        Line(f"{what}: its labels counted", "µs", samples["label"], "the answer", samples["answer"]),
    ]  # fmt: skip


def _memory(
    manifest: Manifest, baseline: Baseline, answers: list[np.ndarray[Any, Any]]
) -> list[Line]:
    labelling = _new(manifest, baseline)
    tracemalloc.start()
    for number in range(FULL):
        labelling.remember(f"5f0c2b9d-41e7-a836-{number:012d}", manifest.outputs, answers)
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return [
        Line(
            "the ring when it is full", "MB", [taken / 1e6], "its bound", [Ring().max_bytes / 1e6]
        ),
        Line("answers of one row that it holds", "", [len(labelling.ring)], better=""),
    ]


def _records(manifest: Manifest, baseline: Baseline, random: np.random.Generator) -> list[Line]:
    labelling = _new(manifest, baseline)
    for number in range(1000):
        labels, table = _drawn(random)
        labelling.remember(str(number), manifest.outputs, [labels, table])
        is_right = random.random() < 0.9
        labelling.take(Given(str(number), int(labels[0]) if is_right else (number % 10)))
    some = labelling.close_window()
    for number in range(10):
        for label in range(10):
            table = _drawn(random)[1]
            labelling.remember("x", manifest.outputs, [np.array([number]), table])
            labelling.take(Given("x", label))
    every = labelling.close_window()
    return [
        Line(f"record of a window, {what}", "bytes", [len(_encoded(counted))])
        for what, counted in (("1,000 labels", some), ("every cell of ten classes", every))
        if counted is not None
    ]


def _drawn(random: np.random.Generator) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    table = random.dirichlet([0.1] * 10, 1).astype(np.float32)
    return table.argmax(axis=1), table


def _encoded(counted: Counted) -> bytes:
    stats = LabelStats(
        model="digits",
        version="1.0.0",
        manifest="9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        start_unix_ms=1_767_225_600_000,
        duration_s=900.003,
        labelled_count=counted.labelled,
        correct_count=counted.correct,
        confusion=counted.confusion,
        scores=counted.scores,
        score_correct=counted.score_correct,
        score_sums=counted.score_sums,
        errors=None,
        refused=None,
    )
    return codec.encode(performance_record(stats, "5f0c2b9d41e7a836", 123_456))


def _new(manifest: Manifest, baseline: Baseline) -> Labelling:
    ring = Ring()
    return Labelling(manifest, baseline, max_rows=ring.max_rows, max_bytes=ring.max_bytes)


def _each_us(began_s: float, count: int) -> float:
    return (time.process_time() - began_s) / count * 1e6
