"""The steps of a run, and what each of them depends on. Pure: a hash of inputs, no clock, no disk.

A step is run again when a hash of its inputs changes, and else never. What it was given by the steps
before counts by the digest of their files, so that a step whose outcome is the same as before lets
those after it rest.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Final

from pydantic import JsonValue

from .project import Project
from .snapshot import Source

ORDER: Final = (
    "snapshot", "statistics", "schema", "validate", "tune", "train", "convert", "evaluate", "card",
    "release", "rollout",
)  # fmt: skip
"""Every step that there is, in the order of a run."""
REVISIONS: Final[Mapping[str, int]] = {**dict.fromkeys(ORDER, 1), "snapshot": 2, "tune": 2}
"""Counted up when the code of a step changes what it makes of the same inputs."""
ID_CHARS: Final = 12
"""Of a run's id: 48 bits, so that two of a million runs share one by a chance of 0.2 %."""

Inputs = Mapping[str, JsonValue]


def key_of(step: str, inputs: Inputs) -> str:
    """Return the sha-256 of a step's inputs."""
    return _digest([step, REVISIONS[step], dict(inputs)])


def run_id(
    project: Project,
    sources: Sequence[Source],
    *,
    code: str,
    schema: str,
    katib: str,
    libraries: Inputs,
) -> str:
    """Return the id of a run: a hash of all that its model depends on.

    What becomes of the model afterwards, its release and rollout, is no part of it.

    Args:
        project: The settings.
        sources: The files of rows.
        code: Digest of the user's code.
        schema: Digest of the user's schema, "" while it has not been inferred.
        katib: Digest of the Katib Experiment, "" without one.
        libraries: Versions.
    """
    kept = {"model", "data", "data_schema", "train", "tune", "evaluate"}
    settings = project.model_dump(mode="json", include=kept, exclude={"train": {"timeout_s"}})
    files = [source.sha256 for source in sources]
    return _digest([settings, files, code, schema, katib, dict(libraries)])[:ID_CHARS]


def snapshot_inputs(project: Project, sources: Sequence[Source], reader: str) -> Inputs:
    """Return what the rows depend on; `reader` is the version of pyarrow."""
    return {
        "sources": [source.sha256 for source in sources],
        "data": project.data.model_dump(mode="json", exclude={"sources"}),
        "kind": project.model.kind,
        "reader": reader,
    }


def train_inputs(
    project: Project, *, data: str, code: str, params: Inputs, libraries: Inputs
) -> Inputs:
    """Return what an estimator depends on.

    Args:
        project: The function and its seed; not how long it may take.
        data: Digest of the snapshot.
        code: Digest of the user's code.
        params: What the function is given.
        libraries: Versions.
    """
    return {
        "data": data,
        "code": code,
        "entry": project.train.entry,
        "seed": project.train.seed,
        "params": dict(params),
        "libraries": dict(libraries),
    }


def convert_inputs(
    project: Project,
    *,
    version: str,
    data: str,
    estimator: str,
    schema: str,
    libraries: Inputs,
) -> Inputs:
    """Return what a bundle depends on.

    Args:
        project: What the bundle declares.
        version: The release's version.
        data: Digest of the snapshot.
        estimator: Digest of what the training made.
        schema: Digest of the device's schema, "" without one.
        libraries: Versions.
    """
    return {
        "model": project.model.model_dump(mode="json", exclude={"kind", "intended_use", "limits"}),
        "version": version,
        "data": data,
        "estimator": estimator,
        "schema": schema,
        "libraries": dict(libraries),
    }


def _digest(value: object) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
