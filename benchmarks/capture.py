"""What choosing rows to keep costs a request, and how long the packs are that they travel in."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from models import SEED, Models
from result import Line, Outcome

from agent import control
from agent.adapters.child_process import Child
from agent.core.captured import CaptureRules, pack
from agent.ports import ServedModel
from agent.runtime import oip
from agent.runtime.capture import RowCapture
from agent.runtime.session import LoadedModel
from wire.bundle import read_bundle
from wire.packs import MAX_PACK_ROWS

REQUESTS = 2000
NEVER = 0.0
ALWAYS = 1.0
USUAL = CaptureRules(sample=0.01, uncertain_below=0.6)


def measure(directory: Path, models: Models, *, is_quick: bool) -> Outcome:
    """Choose among requests of one row, in turns with answering them."""
    rounds = 3 if is_quick else 15
    model, served = _loaded(directory, models.digits())
    body = models.digits_body()
    request = oip.parse_request(model.manifest, body)
    outputs = [spec.name for spec in request.outputs]
    answers = model.run(request.feeds, outputs)

    def answer() -> None:
        asked = oip.parse_request(model.manifest, body)
        given = model.run(asked.feeds, outputs)
        oip.encode_answer(model.manifest, asked, given, is_finite=True)

    lines = []
    for what, rules in (
        ("capture on: 0.01 of all rows, none uncertain", USUAL),
        ("capture on: every row kept", CaptureRules(ALWAYS, NEVER)),
    ):
        chooser = RowCapture(rules, {"digits": model}, np.random.default_rng(SEED))

        def choose(chooser: RowCapture = chooser) -> None:
            chooser.take("digits", request, answers)

        ours, others = [], []
        for _ in range(rounds):
            ours.append(_us(choose, after=chooser.close))
            others.append(_us(answer))
        lines.append(Line(what, "us/request", ours, "parse, infer, encode", others))
    lines += _packs(model, served, request, answers)
    return Outcome(
        title="Capture",
        how=(
            "The cost of choosing whether to keep a row of 64 features, with a label and ten scores, as "
            "a runtime does it after the reply; beside it, in turns and in the same process, the answer to "
            "a request of one such row: parsing its JSON, inference and encoding, without HTTP. With "
            "capture off there is one comparison with None, too short to be measured. Every row kept means "
            "that most are dropped, since a second's worth is bounded. The pack holds random pixels of 0 "
            "to 16 for as many rows as fit."
        ),
        lines=lines,
    )


def _loaded(directory: Path, bundle: Path) -> tuple[LoadedModel, ServedModel]:
    directory.mkdir(parents=True, exist_ok=True)
    found = read_bundle(bundle)
    files = {}
    for name, data in found.files.items():
        files[name] = directory / name
        files[name].write_bytes(data)
    served = ServedModel("digits", "1.0.0", found.manifest_digest, files)
    told = control.Model(
        name="digits",
        version="1.0.0",
        manifest=found.manifest_digest,
        files={name: str(path) for name, path in files.items()},
        memory_mb=None,
    )
    return LoadedModel(told), served


def _packs(
    model: LoadedModel, served: ServedModel, request: oip.Request, answers: Any
) -> list[Line]:
    """Return how many rows a pack holds, and what it takes."""
    child = Child(1, (served,), auto_promote=True, timeout_s=1)
    rng = np.random.default_rng(SEED)
    rows = []
    while len(rows) < MAX_PACK_ROWS:
        chooser = RowCapture(CaptureRules(ALWAYS, NEVER), {"digits": model}, rng)
        pixels = rng.integers(0, 17, (64, 64)).astype(np.float32)
        asked = oip.Request({"X": pixels}, request.outputs, 64, None)
        chooser.take("digits", asked, model.run(asked.feeds, [s.name for s in asked.outputs]))
        told = chooser.close()
        rows += child.captured(told) if told is not None else ()
    packed = pack(rows, "c-1", "digits", is_all=False)
    return [
        Line("rows of digits in one pack", "rows", [packed.row_count], better=""),
        Line("the pack", "bytes", [len(packed.body)]),
        Line("bytes for each row", "bytes", [len(packed.body) / packed.row_count]),
    ]


def _us(do: Callable[[], None], after: Callable[[], Any] = lambda: None) -> float:
    began_s = time.perf_counter()
    for _ in range(REQUESTS):
        do()
    took_s = time.perf_counter() - began_s
    after()
    return took_s / REQUESTS * 1e6
