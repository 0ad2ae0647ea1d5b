"""Are the rows what they should be? Statistics, the schema in the user's folder, and what it has against them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from pydantic import JsonValue
from tensorflow_metadata.proto.v0.schema_pb2 import Schema

from converter.schema import encode as encode_device_schema
from fleet.durable import write_durably
from wire.errors import BundleError, StorageError

from . import textproto
from .anomalies import Validation, validate
from .cache import Entry
from .device_schema import device_schema
from .project import PARTS, Project
from .record import ValidationRecord, all_records
from .run import Run
from .snapshot import REFERENCE, load_parts
from .statistics import Column, columns_of, statistics_of
from .tfdv import (
    TRAINING,
    anomalies_message,
    encode_schema,
    infer_schema,
    leave_out_in_serving,
    read_schema,
    read_statistics,
)

STATISTICS: Final = "statistics.pbtxt"
SUMMARY: Final = "statistics.json"
SCHEMA_FILE: Final = "schema.pbtxt"
DEVICE_SCHEMA: Final = "device_schema.json"
VALIDATION: Final = "validation.json"
ANOMALIES: Final = "anomalies.pbtxt"
MAX_TOLD: Final = 3
MAX_KEPT: Final = 500
"""Of a kind, in a record."""


def count_rows(run: Run, project: Project, rows: Entry) -> Entry:
    """Do the step `statistics`: of all rows, as TFDV counts them."""

    def produce(folder: Path) -> None:
        found = statistics_of(_columns(project, rows))
        (folder / STATISTICS).write_text(textproto.encode(found))
        (folder / SUMMARY).write_text(json.dumps(_summary(found)))

    inputs = {"data": rows.digest, "label": project.data.label}
    entry = run.step("statistics", inputs, produce)
    run.publish(entry.folder / STATISTICS, STATISTICS)
    run.publish(entry.folder / SUMMARY, SUMMARY)
    return entry


def settle_schema(run: Run, project: Project, statistics: Entry) -> Entry:
    """Do the step `schema`: the user's file, inferred where it is not there yet, and the devices' form of it.

    Raises:
        ConfigError: The file is wrong, with the line.
        StorageError: `run_unwritable`.
    """
    path = project.root / project.data_schema.file
    is_new = not path.exists()
    schema = _inferred(project, statistics) if is_new else read_schema(path)
    text = encode_schema(schema)
    names = run.record.data.feature_names if run.record.data is not None else ()

    def produce(folder: Path) -> None:
        (folder / SCHEMA_FILE).write_text(text)
        found = device_schema(
            read_schema(folder / SCHEMA_FILE).schema,
            nan_policy=project.model.nan_policy,
            names=frozenset(names),
        )
        (folder / DEVICE_SCHEMA).write_bytes(encode_device_schema(found.schema))

    inputs: dict[str, JsonValue] = {
        "schema": hashlib.sha256(text.encode()).hexdigest(),
        "nan_policy": project.model.nan_policy,
        "names": list(names),
    }
    told = f"inferred {path.name}: read it, and keep it with the code" if is_new else path.name
    entry = run.step("schema", inputs, produce, lambda _: told)
    if is_new:
        try:
            write_durably(path, text.encode())
        except OSError as exc:
            raise StorageError(
                f"cannot write {path}: {exc.strerror}", code="run_unwritable"
            ) from exc
    return entry


def check_rows(run: Run, project: Project, rows: Entry, schema: Entry) -> None:
    """Do the step `validate`: all rows against the schema, and against those of the run before.

    Raises:
        BundleError: `data_anomalous`: there is an anomaly of a severity that `[schema] fail_on` names.
    """
    previous = _previous(run, project)
    fail_on = set(project.data_schema.fail_on)

    def produce(folder: Path) -> None:
        wanted = _with_drift(project, read_schema(schema.folder / SCHEMA_FILE).schema)
        found = validate(
            statistics_of(_columns(project, rows), wanted),
            wanted,
            environment=TRAINING if TRAINING in wanted.default_environment else None,
            previous=read_statistics(previous) if previous is not None else None,
        )
        (folder / ANOMALIES).write_text(textproto.encode(anomalies_message(found, wanted)))
        (folder / VALIDATION).write_text(json.dumps(_told(found), sort_keys=True))

    drift = project.data_schema.drift
    inputs: dict[str, JsonValue] = {
        "data": rows.digest,
        "schema": schema.digest,
        "previous": _digest(previous),
        "drift": drift.threshold_bits if drift is not None else None,
    }
    entry = run.step("validate", inputs, produce, _tell)
    record = ValidationRecord.model_validate_json((entry.folder / VALIDATION).read_bytes())
    run.note(validation=record)
    run.publish(entry.folder / ANOMALIES, ANOMALIES)
    bad = [anomaly for anomaly in record.anomalies if anomaly.severity.lower() in fail_on]
    if bad:
        more = f", and {len(bad) - MAX_TOLD} more" if len(bad) > MAX_TOLD else ""
        told = "; ".join(anomaly.sentence for anomaly in bad[:MAX_TOLD])
        raise BundleError(
            f"the rows are not what {project.data_schema.file} says: {told}{more}",
            code="data_anomalous",
            hint=f"correct the data, or {project.data_schema.file} where the data are right",
        )


def _columns(project: Project, rows: Entry) -> tuple[Column, ...]:
    whole = load_parts(rows.folder, (PARTS[0], REFERENCE))
    return columns_of(whole, label=project.data.label)


def _inferred(project: Project, statistics: Entry) -> Schema:
    schema = infer_schema(read_statistics(statistics.folder / STATISTICS))
    leave_out_in_serving(schema, {project.data.label, *project.data.slices})
    return schema


def _with_drift(project: Project, schema: Schema) -> Schema:
    """Return the schema with the limit of `[schema] drift` where a feature has none of its own."""
    drift = project.data_schema.drift
    if drift is None:
        return schema
    changed = Schema()
    changed.CopyFrom(schema)
    for feature in changed.feature:
        if not feature.HasField("drift_comparator"):
            limit = feature.drift_comparator.jensen_shannon_divergence
            limit.threshold = drift.threshold_bits
    return changed


def _previous(run: Run, project: Project) -> Path | None:
    """Return the statistics of the newest finished run of other rows."""
    mine = run.record.data
    for record in all_records(project.runs):
        is_other = (
            record.data is not None and mine is not None and record.data.sha256 != mine.sha256
        )
        path = project.runs / record.id / STATISTICS
        if record.state == "done" and is_other and path.is_file():
            return path
    return None


def _digest(path: Path | None) -> str | None:
    return None if path is None else hashlib.sha256(path.read_bytes()).hexdigest()


def _told(found: Validation) -> dict[str, Any]:
    return {
        "verdict": str(found.verdict),
        "anomalies": [asdict(anomaly) for anomaly in found.anomalies[:MAX_KEPT]],
        "unmade": sorted(unmade.sentence for unmade in found.unmade)[:MAX_KEPT],
        "unchecked": list(found.unchecked[:MAX_KEPT]),
    }


def _tell(folder: Path) -> str:
    found = json.loads((folder / VALIDATION).read_bytes())
    count = len(found["anomalies"])
    words = f"{count} anomal{'y' if count == 1 else 'ies'}" if count else "no anomaly"
    return f"{found['verdict']}: {words}"


def _summary(statistics: Any) -> list[dict[str, JsonValue]]:
    """Return a row a feature, for the report."""
    rows: list[dict[str, JsonValue]] = []
    for dataset in statistics.datasets:
        for feature in dataset.features:
            is_text = feature.HasField("string_stats")
            counts = feature.string_stats if is_text else feature.num_stats
            row: dict[str, JsonValue] = {
                "name": feature.name or ".".join(feature.path.step),
                "missing": int(counts.common_stats.num_missing),
            }
            if is_text:
                top = counts.top_values[:3]
                row["unique"] = int(counts.unique)
                row["top"] = ", ".join(f"{value.value} ({value.frequency:.0f})" for value in top)
            else:
                for name in ("mean", "std_dev", "min", "median", "max"):
                    value = float(getattr(counts, name))
                    row[name] = value if abs(value) < float("inf") else None
            rows.append(row)
    return rows
