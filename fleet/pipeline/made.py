"""What of a run's record the fleet keeps with the release that the run made."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, JsonValue, ValidationError

from fleet.api import run_schemas as told
from wire.errors import PeerError

from .record import RunRecord


def to_tell(record: RunRecord) -> told.RunRecord:
    """Return what the fleet keeps of a run.

    Raises:
        PeerError: `run_invalid`: it read no data, or says what no release can have.
    """
    if record.data is None:
        raise PeerError(f"run {record.id} read no data: it made nothing", code="run_invalid")
    verdict = record.verdict
    said: dict[str, Any] = {
        "pipeline": record.model,
        "run": record.id,
        "trigger": _trigger(record.trigger),
        "data": _some(record.data, told.RunData),
        "code": _some(record.code, told.RunCode),
        "parameters": record.params | (record.tuned or {}),
        "metrics": record.metrics,
        "verdict": verdict.model_dump() if verdict is not None else None,
        "libraries": record.libraries,
        "started_unix_ms": record.started_unix_ms,
        "ended_unix_ms": record.ended_unix_ms,
    }
    try:
        return told.RunRecord.model_validate(said)
    except ValidationError as exc:
        fault = exc.errors(include_url=False)[0]
        where = ".".join(map(str, fault["loc"]))
        raise PeerError(f"run {record.id}: {where}: {fault['msg']}", code="run_invalid") from exc


def _trigger(said: JsonValue) -> dict[str, JsonValue]:
    """Return why a run started; evidence that is none of ours is kept as it is."""
    if said is None:
        return {"kind": "hand"}
    if isinstance(said, dict) and said.keys() <= told.RunTrigger.model_fields.keys():
        return said
    return {"kind": "hand", "evidence": {"given": said}}


def _some(said: BaseModel, kind: type[BaseModel]) -> dict[str, Any]:
    """Return what of a part the fleet keeps."""
    return said.model_dump(mode="json", include=set(kind.model_fields))
