"""What differs between two runs. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import JsonValue

from .record import RunRecord


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that two runs differ in; None is where it is not there."""

    what: str
    first: JsonValue
    second: JsonValue


def differences(first: RunRecord, second: RunRecord) -> list[Difference]:
    """Return what differs, inputs before outcomes."""
    one, other = _described(first), _described(second)
    names = list(dict.fromkeys([*one, *other]))
    return [
        Difference(name, one.get(name), other.get(name))
        for name in names
        if one.get(name) != other.get(name)
    ]


def _described(record: RunRecord) -> dict[str, JsonValue]:
    data, bundle = record.data, record.bundle
    found: dict[str, JsonValue] = {}
    if data is not None:
        found |= {"data": data.sha256, "rows": data.row_count, "label": data.label}
        found |= {"features": len(data.feature_names)}
        found |= _prefixed("file", {s.path: s.sha256[:12] for s in data.sources})
        found |= _prefixed("rows of", data.parts)
    found |= {"code": record.code.sha256, "commit": record.code.commit, "seed": record.seed}
    found |= _prefixed("parameter", record.params if record.tuned is None else record.tuned)
    found |= _prefixed("library", record.libraries)
    found |= _prefixed("metric", record.metrics)
    if record.validation is not None:
        found["schema's verdict"] = record.validation.verdict
    if record.verdict is not None:
        found["verdict"] = record.verdict.outcome
    if bundle is not None:
        found |= {"model file": bundle.model, "version": bundle.version}
        found |= {"bundle": bundle.manifest, "bytes": bundle.bytes}
    if record.release is not None:
        found["release"] = record.release.version
    return found


def _prefixed(what: str, values: Mapping[str, Any]) -> dict[str, JsonValue]:
    return {f"{what} {name}": value for name, value in values.items()}
