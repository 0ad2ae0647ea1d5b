"""What a run's `run.json` says, as the fleet keeps it with the release."""

from __future__ import annotations

from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from fleet.api import run_schemas as told
from wire.errors import PeerError

RECORD_NAME: Final = "run.json"
MAX_RECORD_BYTES: Final = 16 * 1024 * 1024


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


class Verdict(_Part):
    """What the evaluation came to."""

    outcome: Literal["bless", "refuse", "inconclusive"]
    reasons: tuple[str, ...] = ()
    champion: str | None = None


class Release(_Part):
    """What became of the bundle."""

    rollout: str | None = None


class Failure(_Part):
    """Why a run ended before it was done."""

    message: str


class Record(_Part):
    """What is read of `run.json`, which `fleet pipeline run --json` prints too."""

    id: str
    model: str = ""
    params: dict[str, JsonValue] = Field(default_factory=dict)
    tuned: dict[str, JsonValue] | None = None
    data: dict[str, JsonValue] | None = None
    code: dict[str, JsonValue] = Field(default_factory=dict)
    metrics: dict[str, float] = Field(default_factory=dict)
    libraries: dict[str, str] = Field(default_factory=dict)
    verdict: Verdict | None = None
    release: Release | None = None
    failure: Failure | None = None
    trigger: JsonValue = None
    started_unix_ms: int | None = None
    ended_unix_ms: int | None = None


def parse_record(raw: bytes) -> Record | None:
    """Return the record that these bytes are, None where they are something else."""
    try:
        return Record.model_validate_json(raw)
    except ValidationError:
        return None


def to_tell(record: Record) -> told.RunRecord:
    """Return what the fleet keeps of a run.

    Raises:
        PeerError: `run_invalid`: it says too little, or what no release can have.
    """
    if record.data is None:
        raise PeerError(f"run {record.id[:80]!r} read no data: it made nothing", code="run_invalid")
    said: dict[str, Any] = {
        "pipeline": record.model or "pipeline",
        "run": record.id,
        "trigger": _trigger(record.trigger),
        "data": _some(record.data, told.RunData),
        "code": _some(record.code, told.RunCode),
        "parameters": record.params | (record.tuned or {}),
        "metrics": record.metrics,
        "verdict": record.verdict.model_dump() if record.verdict is not None else None,
        "libraries": record.libraries,
        "started_unix_ms": record.started_unix_ms,
        "ended_unix_ms": record.ended_unix_ms,
    }
    try:
        return told.RunRecord.model_validate(said)
    except ValidationError as exc:
        fault = exc.errors(include_url=False)[0]
        where = ".".join(map(str, fault["loc"]))
        raise PeerError(
            f"run {record.id[:80]!r}: {where}: {fault['msg']}", code="run_invalid"
        ) from exc


def _trigger(said: JsonValue) -> dict[str, JsonValue]:
    """Return why a run started; evidence that is none of ours is kept as it is."""
    if said is None:
        return {"kind": "hand"}
    if isinstance(said, dict) and said.keys() <= told.RunTrigger.model_fields.keys():
        return said
    return {"kind": "hand", "evidence": {"given": said}}


def _some(said: dict[str, JsonValue], kind: type[BaseModel]) -> dict[str, JsonValue]:
    """Return what of a part the fleet keeps."""
    return {key: value for key, value in said.items() if key in kind.model_fields}
