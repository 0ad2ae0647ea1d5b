"""The step `card`: what a run knows of its model goes into the bundle, as text for people."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from pydantic import JsonValue, TypeAdapter

from converter import add_card
from wire.bundle import read_bundle
from wire.manifest import CARD, MODEL

from .cache import Entry
from .card import CardFacts, make_card
from .comparison import Comparison
from .evaluation import Evaluation
from .judging import EVALUATION
from .making import BUNDLE_FILE, FACTS, read_facts
from .project import Project
from .record import RunRecord
from .run import Run
from .verdict import Verdict

_EVALUATION: Final = TypeAdapter(Evaluation)
_COMPARISON: Final = TypeAdapter(Comparison)
_VERDICT: Final = TypeAdapter(Verdict)
SHOWN_CHARS: Final = 16
"""Of a digest."""


def write_card(run: Run, project: Project, bundle: Entry, evaluation: Entry) -> Entry:
    """Do the step `card`; the entry has the bundle with the card, and the facts of the one without.

    Nothing of time, machine or run goes into it: equal inputs, the champion among them, give equal
    bytes.

    Raises:
        StorageError: `output_unwritable`.
    """

    def produce(folder: Path) -> None:
        text = make_card(_facts(project, run.record, bundle, evaluation))
        (folder / CARD).write_text(text)
        add_card(bundle.folder / BUNDLE_FILE, text, folder / BUNDLE_FILE)
        (folder / FACTS).write_bytes((bundle.folder / FACTS).read_bytes())

    data, record = run.record.data, run.record
    inputs: dict[str, JsonValue] = {
        "bundle": bundle.digest,
        "evaluation": evaluation.digest,
        "intended_use": project.model.intended_use,
        "limits": project.model.limits,
        "data": data.model_dump(mode="json") if data is not None else None,
        "params": dict(record.params if record.tuned is None else record.tuned),
        "code": record.code.sha256,
        "seed": record.seed,
        "libraries": dict(record.libraries),
    }
    entry = run.step("card", inputs, produce, lambda _: CARD)
    run.publish(entry.folder / CARD, CARD)
    return entry


def _facts(project: Project, record: RunRecord, bundle: Entry, evaluation: Entry) -> CardFacts:
    found = json.loads((evaluation.folder / EVALUATION).read_bytes())
    compared = found["comparison"]
    manifest = read_bundle(bundle.folder / BUNDLE_FILE).manifest
    model, data = manifest.file(MODEL), record.data
    assert data is not None  # noqa: S101 - the snapshot is there
    sources = {
        s.path: f"{s.row_count} rows, sha256 {s.sha256[:SHOWN_CHARS]}…" for s in data.sources
    }
    champion = record.verdict.champion if record.verdict is not None else None
    return CardFacts(
        name=manifest.name,
        version=manifest.version,
        model_sha256=model.sha256,
        model_bytes=model.bytes,
        evaluation=_EVALUATION.validate_python(found["evaluation"]),
        verdict=_VERDICT.validate_python(found["verdict"]),
        comparison=_COMPARISON.validate_python(compared) if compared is not None else None,
        champion=f"model.onnx {champion[:SHOWN_CHARS]}…" if champion else "",
        intended_use=project.model.intended_use,
        limits=project.model.limits,
        data={"rows": f"sha256 {data.sha256}", "label": data.label, **sources},
        part_rows=data.parts,
        feature_names=data.feature_names,
        parameters=record.params if record.tuned is None else record.tuned,
        parity=read_facts(bundle.folder)["worst"],
        lineage={
            "code": f"sha256 {record.code.sha256}",
            "seed": str(record.seed),
            **{name: version for name, version in record.libraries.items() if name in _NAMED},
        },
    )


_NAMED: Final = ("python", "scikit-learn", "skl2onnx", "onnxruntime", "numpy")
"""Libraries that a card names; `run.json` has all."""
