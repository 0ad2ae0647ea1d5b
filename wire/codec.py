"""Bytes to message and back: the one place that decodes JSON from outside.

Refused beyond what a JSON parser refuses: payloads over their cap, invalid UTF-8, duplicate keys,
NaN and infinities, and nesting deep enough to exhaust the stack. Types are taken as they are: a
number in quotes is no number.
"""

from __future__ import annotations

import json
import math
from typing import Any, Final, NoReturn, TypeVar

from pydantic import BaseModel, ValidationError

from . import messages as m
from . import topics
from .alerts import ControllerAlert
from .errors import PeerError
from .performance import Feedback, PerformanceTelemetry
from .shadow import ShadowTelemetry
from .windows import WindowTelemetry

MAX_CONTROL_BYTES: Final = 8 * 1024
"""Desired, reported, presence, acks and events; AWS IoT's shadow document has the same cap."""
MAX_MESSAGE_BYTES: Final = 64 * 1024
"""Any message, chunks included; the smallest retained limit met is 64 KiB (Azure Event Grid)."""

ModelT = TypeVar("ModelT", bound=BaseModel)

PAYLOADS: Final[dict[str, type[m.Message]]] = {
    "desired": m.Desired,
    "reported": m.Reported,
    "presence": m.Presence,
    "ack": m.Ack,
    "feedback": Feedback,
    "event/update": m.UpdateEvent,
    "event/gap": m.GapEvent,
    "event/alarm": m.AlarmEvent,
    "event/chunks_missing": m.ChunksMissing,
    "telemetry/inference": m.InferenceTelemetry,
    "telemetry/window": WindowTelemetry,
    "telemetry/performance": PerformanceTelemetry,
    "telemetry/shadow": ShadowTelemetry,
    "telemetry/vitals": m.VitalsTelemetry,
    "controller/presence": m.ControllerPresence,
    "controller/alert": ControllerAlert,
}
"""Channel name to the type of its payload; `docs/topics.md` is generated from it."""


def encode(message: BaseModel) -> bytes:
    """Return `message` as compact JSON in UTF-8."""
    return message.model_dump_json(by_alias=True).encode()


def decode(kind: type[ModelT], payload: bytes, *, max_bytes: int = MAX_CONTROL_BYTES) -> ModelT:
    """Return `payload` as a message of `kind`.

    Raises:
        PeerError: `payload_too_large`, `payload_not_json` or `payload_invalid`.
    """
    parse_json(payload, max_bytes=max_bytes)
    try:
        return kind.model_validate_json(payload, strict=True)
    except ValidationError as exc:
        raise PeerError(f"{kind.__name__}: {first_fault(exc)}", code="payload_invalid") from exc


def first_fault(exc: ValidationError) -> str:
    """Return where a payload is wrong first, and how; at most 300 characters."""
    first = exc.errors(include_url=False, include_input=False, include_context=False)[0]
    where = ".".join(str(part) for part in first["loc"]) or "payload"
    return f"{where}: {first['msg']}"[:300]


def parse_json(payload: bytes, *, max_bytes: int) -> Any:
    """Return `payload` parsed strictly as JSON.

    Raises:
        PeerError: `payload_too_large` or `payload_not_json`.
    """
    if len(payload) > max_bytes:
        raise PeerError(
            f"payload of {len(payload)} bytes is over the cap of {max_bytes}",
            code="payload_too_large",
        )
    try:
        value = json.loads(
            payload.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_constant=_refuse_constant,
            parse_float=_finite,
        )
        if b"\\u" in payload:
            # Half a character can be escaped, and is in no text that could be written again.
            json.dumps(value, ensure_ascii=False).encode()
    except ValueError as exc:
        raise PeerError(f"payload is not JSON: {exc}"[:300], code="payload_not_json") from exc
    except RecursionError as exc:
        raise PeerError("payload is nested too deeply", code="payload_not_json") from exc
    return value


def channel_of(topic: topics.Topic) -> str | None:
    """Return the channel name by which `PAYLOADS` knows the payload of `topic`, if it has one."""
    match topic:
        case topics.Event(kind=kind):
            return f"event/{kind}"
        case topics.Telemetry(kind=kind):
            return f"telemetry/{kind}"
        case topics.ControllerPresence():
            return "controller/presence"
        case topics.ControllerAlert():
            return "controller/alert"
        case topics.Chunk() | topics.Trust() | topics.ModelTrust() | topics.Unknown():
            return None
        case _:
            return type(topic).__name__.lower()


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("an object has the same key twice")
    return result


def _finite(text: str) -> float:
    if math.isinf(value := float(text)):
        raise ValueError(f"{text[:40]} is beyond all numbers")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
