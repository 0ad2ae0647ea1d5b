"""Every payload that crosses the wire as JSON, as frozen models.

Unknown fields are ignored, so that a newer side may add some; a missing or mistyped field refuses
the whole message. Times are milliseconds of the Unix epoch by the writer's clock, durations are
seconds, ratios are 0 to 1.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from .ids import BootId, DeviceId, Digest, ModelName, RolloutId, Version
from .lifecycle import Outcome, UpdateState

MAX_MODELS_PER_DEVICE = 8
"""So that desired and reported state, at their longest, stay below the 8 kB of a control payload."""
MAX_ACK_RANGES = 64
MAX_MISSING_CHUNKS = 64
MAX_QUARANTINED = 8
MAX_DETAIL_CHARS = 300
MAX_REPORTED_DETAIL_CHARS = 80

Count = Annotated[int, Field(ge=0, le=2**53 - 1)]
UnixMs = Annotated[int, Field(ge=0, le=2**53 - 1)]
Seconds = Annotated[float, Field(ge=0, le=86_400 * 365)]
Ratio = Annotated[float, Field(ge=0, le=1)]
Detail = Annotated[str, Field(max_length=MAX_DETAIL_CHARS)]
CodeText = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")]


class Part(BaseModel):
    """A piece of a message."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class Message(Part):
    """A whole payload; `v` is its schema's version."""

    v: Literal[1] = 1


class Probation(Part):
    """How long a new model serves on trial before it counts as good."""

    min_s: Seconds = 60.0
    max_s: Seconds = 3600.0
    min_inferences: Count = 1


class Guards(Part):
    """Limits whose breach during probation returns the device to its fallback."""

    error_ratio: Ratio = 0.05
    min_requests: Annotated[int, Field(ge=1)] = 20


class DesiredModel(Part):
    """One model that a device shall serve."""

    name: ModelName
    version: Version
    manifest: Digest
    index: Digest
    mode: Literal["active"] = "active"
    rollout: RolloutId | None = None
    probation: Probation = Probation()
    guards: Guards = Guards()


class Desired(Message):
    """Everything the controller wants of one device. Models that are not named are removed."""

    device: DeviceId
    generation: Annotated[int, Field(ge=1, le=2**53 - 1)]
    expires_unix_ms: UnixMs | None = None
    models: Annotated[tuple[DesiredModel, ...], Field(max_length=MAX_MODELS_PER_DEVICE)] = ()


class Release(Part):
    """A version and the digest that identifies it."""

    version: Version
    manifest: Digest


class ReportedModel(Part):
    """What one device says of one model.

    `target` is what `outcome` and `code` speak of: the release that was last asked for.
    """

    name: ModelName
    state: UpdateState
    active: Release | None = None
    fallback: Release | None = None
    target: Release | None = None
    outcome: Outcome | None = None
    code: CodeText | None = None
    detail: Annotated[str, Field(max_length=MAX_REPORTED_DETAIL_CHARS)] = ""
    served: Count = 0


class QuarantinedBundle(Part):
    """A manifest digest that the device refuses to try again, and why."""

    manifest: Digest
    code: CodeText


class Inventory(Part):
    """What the device is and which protections are really active on it."""

    arch: Annotated[str, Field(max_length=32)] = ""
    cores: Count = 0
    memory_bytes: Count = 0
    runtime: Annotated[str, Field(max_length=64)] = ""
    max_opset: Count = 0
    protections: Annotated[
        tuple[Annotated[str, Field(max_length=32)], ...], Field(max_length=16)
    ] = ()


class Reported(Message):
    """The whole reported state of a device; `generation` is the one it acted on."""

    boot: BootId
    seq: Count
    generation: Count
    models: Annotated[tuple[ReportedModel, ...], Field(max_length=MAX_MODELS_PER_DEVICE)] = ()
    quarantined: Annotated[tuple[QuarantinedBundle, ...], Field(max_length=MAX_QUARANTINED)] = ()
    inventory: Inventory = Inventory()


class Presence(Message):
    """Connected or not. The will carries the birth's boot and number, so a stale one is known."""

    state: Literal["online", "offline"]
    boot: BootId
    birth: Count
    agent: Annotated[str, Field(max_length=64)] = ""


class ControllerPresence(Message):
    """Whether a controller is connected."""

    state: Literal["online", "offline"]
    boot: BootId
    birth: Count
    version: Annotated[str, Field(max_length=64)] = ""


class Record(Message):
    """A message that must reach the store: unique by device, `boot` and `seq`, kept until acked."""

    boot: BootId
    seq: Count


class UpdateEvent(Record):
    """One step of an update, or its end."""

    at_unix_ms: UnixMs
    generation: Count
    model: ModelName
    manifest: Digest | None = None
    from_: Annotated[UpdateState, Field(alias="from")]
    to: UpdateState
    code: CodeText
    detail: Detail = ""

    model_config = ConfigDict(populate_by_name=True)


class GapEvent(Record):
    """Records that the outbox had to drop: `first` to `last` of `lost_boot`, `count` of them."""

    lost_boot: BootId
    first: Count
    last: Count
    count: Count
    reason: CodeText


class AlarmEvent(Record):
    """Something on this device that a person should look at."""

    at_unix_ms: UnixMs
    code: CodeText
    detail: Detail = ""


class ChunksMissing(Message):
    """Chunks that a device waits for in vain; a request, not a record."""

    boot: BootId
    chunks: Annotated[tuple[Digest, ...], Field(min_length=1, max_length=MAX_MISSING_CHUNKS)]


class ErrorCount(Part):
    """Requests of a window that failed, by cause; `client` is never the model's fault."""

    runtime: Count = 0
    deadline: Count = 0
    client: Count = 0
    non_finite: Count = 0


class LatencyMs(Part):
    """Latency quantiles of answered requests, in milliseconds; None without any."""

    p50: float | None = None
    p99: float | None = None


class InferenceTelemetry(Record):
    """What one model answered on one device over one window."""

    start_unix_ms: UnixMs
    duration_s: Seconds
    model: ModelName
    version: Version
    manifest: Digest
    request_count: Count
    row_count: Count
    error_count: ErrorCount = ErrorCount()
    latency_ms: LatencyMs = LatencyMs()


class VitalsTelemetry(Record):
    """How the machine and the agent are doing."""

    at_unix_ms: UnixMs
    uptime_s: Seconds
    cpu_ratio: Ratio
    memory_available_bytes: Count
    disk_free_bytes: Count
    supervisor_rss_bytes: Count
    runtime_rss_bytes: Count
    temperature_c: float | None = None
    runtime_restarts: Count = 0
    records_dropped: Count = 0


class StoredRange(Part):
    """Records `first` to `last`, both included, of one series."""

    boot: BootId
    first: Count
    last: Count


class Ack(Message):
    """Records that are safely in the controller's store; the outbox deletes exactly these."""

    stored: Annotated[tuple[StoredRange, ...], Field(max_length=MAX_ACK_RANGES)]
