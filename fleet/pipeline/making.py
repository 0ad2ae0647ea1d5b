"""What a model is made by: the training and the conversion, as a step of a run or as part of a trial."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import JsonValue

from converter import ConvertRequest, convert
from wire.manifest import digest_of

from . import steps
from .cache import Entry
from .checking import DEVICE_SCHEMA
from .project import PARTS, Project
from .run import Recipe
from .snapshot import REFERENCE
from .training import TrainRequest, train

BUNDLE_FILE: Final = "model.bundle"
FACTS: Final = "facts.json"
TUNING: Final = "tuning.json"
"""What a search left."""


@dataclass(frozen=True, slots=True)
class Maker:
    """Makes models of one project and one set of rows.

    Attributes:
        project: What says how.
        rows: The snapshot.
        feature_names: Of its columns.
        schema: What the schema came to, None without one.
        code: Digest of the user's code.
        libraries: Versions.
        version: Of the bundles.
    """

    project: Project
    rows: Entry
    feature_names: tuple[str, ...]
    schema: Entry | None
    code: str
    libraries: Mapping[str, str]
    version: str

    def estimator(self, params: Mapping[str, JsonValue], log: Path) -> Recipe:
        """Return how an estimator is made with these parameters."""
        wanted = self.project.train

        def produce(folder: Path) -> None:
            train(
                TrainRequest(
                    folder=self.project.root,
                    entry=wanted.entry,
                    data=self.rows.folder / f"{PARTS[0]}.npz",
                    params=dict(params),
                    seed=wanted.seed,
                    timeout_s=wanted.timeout_s,
                    log=log,
                ),
                folder,
            )

        inputs = steps.train_inputs(
            self.project,
            data=self.rows.digest,
            code=self.code,
            params=params,
            libraries=dict(self.libraries),
        )
        return Recipe("train", inputs, produce)

    def bundle(self, estimator: Entry) -> Recipe:
        """Return how a bundle is made of an estimator."""
        model = self.project.model
        schema = self.schema.folder / DEVICE_SCHEMA if self.schema is not None else None

        def produce(folder: Path) -> None:
            report = convert(
                ConvertRequest(
                    source=str(estimator_file(estimator.folder)),
                    name=model.name,
                    version=self.version,
                    data=self.rows.folder / f"{REFERENCE}.npz",
                    output=folder / BUNDLE_FILE,
                    trust_pickle=True,  # the user's own code made it a moment ago
                    p99_ms=model.p99_ms,
                    memory_mb=model.memory_mb,
                    device_class=model.device_class,
                    nan_policy=model.nan_policy,
                    schema=schema,
                    feature_names=self.feature_names,
                    folder=self.project.root,
                    timeout_s=self.project.train.timeout_s,
                ),
                progress=lambda _: None,
            )
            facts = {"worst": report.worst, "warnings": report.warnings}
            (folder / FACTS).write_text(json.dumps(facts, sort_keys=True))

        inputs = steps.convert_inputs(
            self.project,
            version=self.version,
            data=self.rows.digest,
            estimator=estimator.digest,
            schema=digest_of(schema.read_bytes()) if schema is not None else "",
            libraries=dict(self.libraries),
        )
        return Recipe("convert", inputs, produce)


def read_facts(folder: Path) -> dict[str, Any]:
    """Return what a step noted of its outcome."""
    facts: dict[str, Any] = json.loads((folder / FACTS).read_bytes())
    return facts


def estimator_file(folder: Path) -> Path:
    """Return the estimator that a training made."""
    return next(path for path in sorted(folder.iterdir()) if path.stem == "estimator")
