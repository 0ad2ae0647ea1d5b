"""`run.json`: what a run was given, what it did, and what came out; read by people and programs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from fleet.durable import write_durably
from fleet.lease import lease_holder
from wire.codec import first_fault
from wire.errors import ConfigError, StorageError
from wire.ids import Digest, ModelName, Version

FILE_NAME: Final = "run.json"
LOCK: Final = "lock"
"""In the folder of runs: held by the one that is going on."""
MAX_RECORD_BYTES: Final = 16 * 1024 * 1024
MAX_TRIGGER_BYTES: Final = 64 * 1024
ID_PATTERN: Final = r"^[0-9a-f]{12}$"

RunState = Literal["running", "done", "failed", "interrupted"]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class StepRecord(_Part):
    """One step of the last time that the run was started."""

    name: str
    state: Literal["cached", "ran", "failed"]
    seconds: float
    key: Digest | None = None
    """Hash of what it was given; null for a step that acts on the fleet, and is never kept."""
    output: Digest | None = None
    """Hash of what it made."""


class SourceRecord(_Part):
    """A file of rows."""

    path: str
    sha256: Digest
    row_count: int


class DataRecord(_Part):
    """The rows."""

    sha256: Digest
    """Of names, types and values, in their order, whatever files they were in."""
    row_count: int
    feature_names: tuple[str, ...]
    label: str
    slices: tuple[str, ...] = ()
    sources: tuple[SourceRecord, ...]
    repeated_count: int = 0
    """Captured rows that an earlier source has too; each is taken once."""
    parts: dict[str, int]
    """Rows of each part of the split."""
    classes: dict[str, dict[str, int]] = Field(default_factory=dict)
    """Of a classifier: rows of each part by label."""
    reference_sha256: Digest
    """Of the file that the bundle was converted with: its `lineage.data_sha256`."""


class AnomalyRecord(_Part):
    """One thing that the schema has against the rows."""

    feature: str
    reason: str
    """TFDV's code."""
    severity: str
    sentence: str


class ValidationRecord(_Part):
    """What the schema has against the rows."""

    verdict: str
    """`valid`, `anomalous`, `no baseline` or `no data`."""
    anomalies: tuple[AnomalyRecord, ...] = ()
    unmade: tuple[str, ...] = ()
    """Comparisons that it asks for and that could not be made."""
    unchecked: tuple[str, ...] = ()
    """What it says and nobody checks."""


class VerdictRecord(_Part):
    """May the model be released?"""

    outcome: Literal["bless", "refuse", "inconclusive"]
    reasons: tuple[str, ...]
    champion: str | None = None
    """The model file that it was compared with, by its digest."""


class CodeRecord(_Part):
    """The user's code."""

    sha256: Digest
    """Of all Python files of the folder."""
    files: tuple[str, ...]
    commit: str | None = None
    is_dirty: bool | None = None
    """Whether the folder differed from that commit; null outside a git repository."""


class BundleRecord(_Part):
    """The bundle."""

    manifest: Digest
    """What identifies the release."""
    version: Version
    model: Digest
    """Of the ONNX file."""
    bytes: int
    worst: tuple[str, ...] = ()
    """One phrase per output on its largest difference from the original."""
    warnings: tuple[str, ...] = ()


class ReleaseRecord(_Part):
    """What became of the bundle."""

    version: Version
    manifest: Digest
    pushed_unix_ms: int
    is_signed: bool = True
    """False while it waits for signatures of others: it is neither named nor rolled out."""
    rollout: str | None = None


class FailureRecord(_Part):
    """Why a run ended before it was done."""

    step: str
    code: str
    message: str
    hint: str = ""


class RunRecord(_Part):
    """`run.json`."""

    v: Literal[1] = 1
    id: Annotated[str, Field(pattern=ID_PATTERN)]
    """Hash of all that the model depends on: the same folder and data have the same."""
    state: RunState
    model: ModelName
    kind: Literal["classifier", "regressor"]
    started_unix_ms: int
    ended_unix_ms: int | None = None
    params: dict[str, JsonValue]
    """As they were given; what a search found is in `tuned`."""
    tuned: dict[str, JsonValue] | None = None
    seed: int
    code: CodeRecord
    libraries: dict[str, str]
    steps: tuple[StepRecord, ...] = ()
    data: DataRecord | None = None
    validation: ValidationRecord | None = None
    bundle: BundleRecord | None = None
    metrics: dict[str, float] = Field(default_factory=dict)
    """Of the converted model, on all rows of the test part."""
    verdict: VerdictRecord | None = None
    release: ReleaseRecord | None = None
    trigger: JsonValue = None
    """The evidence of what started the run; null when a person did."""
    failure: FailureRecord | None = None


def write_record(folder: Path, record: RunRecord) -> None:
    """Write `run.json`, all of it or none.

    Raises:
        StorageError: `run_unwritable`.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_durably(folder / FILE_NAME, record.model_dump_json(indent=2).encode() + b"\n")
    except OSError as exc:
        raise StorageError(
            f"cannot write to {folder}: {exc.strerror}", code="run_unwritable"
        ) from exc


def parse_record(raw: bytes) -> RunRecord | None:
    """Return the record that these bytes are, None where they are something else."""
    try:
        return RunRecord.model_validate_json(raw)
    except ValidationError:
        return None


def read_record(folder: Path) -> RunRecord | None:
    """Return the record in a run's folder, None where there is none.

    Raises:
        ConfigError: `run_unreadable`.
    """
    path = folder / FILE_NAME
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_RECORD_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as exc:
        raise ConfigError(f"cannot read {path}: {exc.strerror}", code="run_unreadable") from exc
    if len(raw) > MAX_RECORD_BYTES:
        raise ConfigError(f"{path} is over 16 MB", code="run_unreadable")
    try:
        return RunRecord.model_validate_json(raw)
    except ValidationError as exc:
        raise ConfigError(
            f"{path}: {first_fault(exc)}",
            code="run_unreadable",
            hint="was it written by another version? the same run writes it again",
        ) from exc


def all_records(runs: Path) -> list[RunRecord]:
    """Return the records of all runs, newest first; one that cannot be read is left out.

    What says that it is running, while nobody holds the folder, was killed: it was interrupted.
    """
    found = []
    is_held = lease_holder(runs / LOCK) is not None
    for folder in sorted(runs.glob("*")) if runs.is_dir() else ():
        if not re.fullmatch(ID_PATTERN, folder.name):
            continue
        try:
            record = read_record(folder)
        except ConfigError:
            continue
        if record is not None:
            found.append(_seen(record, is_held=is_held))
    return sorted(found, key=lambda record: record.started_unix_ms, reverse=True)


def find_record(runs: Path, given: str | None) -> RunRecord:
    """Return a run by its id or the beginning of it; without one the newest.

    Raises:
        ConfigError: `run_unknown`, or as `read_record`.
    """
    records = all_records(runs)
    matching = [record for record in records if record.id.startswith(given or "")]
    if given is not None and re.fullmatch(ID_PATTERN, given):
        record = read_record(runs / given)
        is_held = lease_holder(runs / LOCK) is not None
        matching = [_seen(record, is_held=is_held)] if record is not None else []
    if not matching or (given is not None and len(matching) > 1):
        what = f"no run {given}" if given else "no run yet"
        if given and matching:
            what = f"more than one run {given}"
        raise ConfigError(
            f"there is {what} in {runs.parent}",
            code="run_unknown",
            hint="`fleet pipeline list` shows them, `fleet pipeline run` makes one",
        )
    return matching[0]


def _seen(record: RunRecord, *, is_held: bool) -> RunRecord:
    if record.state != "running" or is_held:
        return record
    return record.model_copy(update={"state": "interrupted"})
