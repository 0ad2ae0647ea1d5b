"""Every payload that crosses the wire as JSON, as frozen models.

Unknown fields are ignored, so that a newer side may add some; a missing or mistyped field refuses
the whole message. Times are milliseconds of the Unix epoch by the writer's clock, durations are
seconds, ratios are 0 to 1. Every field has a longest form, so every message has one too.
The texts below fields are their meaning in `docs/topics.md`; run `make docs` after changing one.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from .capture import CaptureFacts, CaptureRequest
from .fitting import fit, refuse_boolean
from .ids import BootId, DeviceId, Digest, ModelName, RolloutId, Version
from .latency import LATENCY_BINS
from .lifecycle import Outcome, UpdateState

MAX_MODELS_PER_DEVICE: Final = 8
"""So that desired and reported state, at their longest, stay below the 8 kB of a control payload."""
MAX_ACK_RANGES: Final = 64
MAX_GAP_RANGES: Final = 64
MAX_MISSING_CHUNKS: Final = 64
MAX_QUARANTINED: Final = 8
MAX_LIFTED: Final = 8
"""A device that must forget more than it reports is told to forget all of them."""
MAX_PROTECTIONS: Final = 10
MAX_DETAIL_BYTES: Final = 300
MAX_REPORTED_DETAIL_BYTES: Final = 64
MAX_INTEGER: Final = 2**53 - 1
"""The largest that every JSON reader keeps exact."""
CODE_PATTERN: Final = r"^[a-z][a-z0-9_]{0,31}$"


Count = Annotated[int, Field(ge=0, le=MAX_INTEGER)]
PositiveCount = Annotated[int, Field(ge=1, le=MAX_INTEGER)]
UnixMs = Annotated[int, Field(ge=0, le=MAX_INTEGER)]
Seconds = Annotated[float, Field(ge=0, le=86_400 * 365)]
Ratio = Annotated[float, Field(ge=0, le=1)]
Detail = Annotated[str, Field(max_length=MAX_DETAIL_BYTES), fit(MAX_DETAIL_BYTES)]
ReportedDetail = Annotated[
    str, Field(max_length=MAX_REPORTED_DETAIL_BYTES), fit(MAX_REPORTED_DETAIL_BYTES)
]
Label = Annotated[str, Field(max_length=32), fit(32)]
CodeText = Annotated[str, Field(pattern=CODE_PATTERN)]


class Part(BaseModel):
    """A piece of a message."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class Message(Part):
    """A whole payload."""

    v: Annotated[Literal[1], BeforeValidator(refuse_boolean)] = 1
    """Version of the schema. Fields are added within a version, never changed or removed."""


class Probation(Part):
    """How long a new model serves on trial before it counts as good."""

    min_s: Seconds = 60.0
    """Shortest trial."""
    max_s: Seconds = 3600.0
    """When the trial ends: without traffic, the golden rows decide then."""
    min_inferences: Count = 1
    """Requests that must have been answered well."""


class Guards(Part):
    """Limits whose breach during probation returns the device to its fallback.

    What is over a limit is not confirmed, but watched on; it is condemned as soon as the evidence
    suffices, else at `max_s`.
    """

    error_ratio: Ratio = 0.05
    """Largest share of requests that may fail by the model's fault."""
    min_requests: PositiveCount = 20
    """Requests before shares and latency are judged early; fewer are judged when probation ends."""
    non_finite_ratio: Ratio = 0.05
    """Largest share of answers that may be NaN or infinite where the inputs are not."""
    p99_ms: Annotated[float, Field(ge=0.01, le=100_000)] | None = None
    """Largest 99th percentile of latency; null is what the manifest declares, if it does."""
    p99_ratio: Annotated[float, Field(ge=1, le=1_000_000)] = 3.0
    """The same, in multiples of the release before on this device; 25 ms more are always fine."""
    memory_growth_mb: Annotated[int, Field(ge=1, le=1_048_576)] = 32
    """Largest steady growth after the warm-up; a tenth of the size is fine, over the budget never."""
    output_psi: Annotated[float, Field(ge=0, le=1000)] | None = None
    """Largest PSI of an output against its baseline, beyond chance; null looks at none: rows may differ."""


class DesiredModel(Part):
    """One model that a device shall serve."""

    name: ModelName
    """The line of models, in the path of inference requests. Not twice in one desired state."""
    version: Version
    """For people; must be what the manifest says."""
    manifest: Digest
    """Digest of `manifest.json`: the release's identity, and what all its files are checked by."""
    index: Digest
    """Chunk that holds the content index, where fetching begins."""
    mode: Literal["active"] = "active"
    """`active` serves."""
    rollout: RolloutId | None = None
    """The rollout that asks for it; null after a return by hand."""
    probation: Probation = Probation()
    guards: Guards = Guards()


class DesiredShadow(Part):
    """A release that shall answer a sample of the requests beside the active one, and never serve."""

    model: ModelName
    """Which line of models; what serves of it is what the answers are compared with."""
    version: Version
    """As of a desired model."""
    manifest: Digest
    index: Digest
    rollout: RolloutId
    """The rollout that asks for it; a trial that failed is tried again by another one."""
    sample_ratio: Ratio = 0.1
    """Share of the requests that it is given."""
    rtol: Ratio = 0.01
    """A number agrees when it is within `atol` plus this share of the active one's answer. A row with
    labels agrees when these are equal, whatever its numbers."""
    atol: Annotated[float, Field(ge=0, le=1e12)] = 0.0
    """See `rtol`; in the output's own unit."""


class LiftedQuarantine(Part):
    """An operator's word that quarantined bundles may be tried again."""

    manifest: Digest | None
    """The bundle; null is every one."""
    generation: PositiveCount
    """Ends the quarantine of what was tried at a lower generation; so it may be heard again."""


class Desired(Message):
    """Everything the controller wants of one device. Models that are not named are removed."""

    device: DeviceId
    """The device meant; any other refuses it."""
    generation: PositiveCount
    """Counts the desired states of this device; one that is not higher than the last is ignored."""
    issued_unix_ms: UnixMs = 0
    """When it was signed, by the controller's clock; a device's clock is never behind it again."""
    expires_unix_ms: UnixMs | None = None
    """When it stops being a command; null is never."""
    snapshot: Count = 0
    """Version of the trust snapshot that the controller had; an older one is not news to act on."""
    models: Annotated[
        tuple[DesiredModel, ...], Field(max_length=MAX_MODELS_PER_DEVICE, fail_fast=True)
    ] = ()
    lifted: Annotated[
        tuple[LiftedQuarantine, ...], Field(max_length=MAX_LIFTED, fail_fast=True)
    ] = ()
    """Quarantines that end; repeated until the device has reported a generation as high."""
    capture: CaptureRequest | None = None
    """Captured rows that are wanted; the device begins at the first generation that has it."""
    shadow: DesiredShadow | None = None
    """What answers beside the active one; an agent that knows no shadows serves on without."""


class Release(Part):
    """A version and the digest that identifies it."""

    version: Version
    manifest: Digest


class ReportedModel(Part):
    """What one device says of one model."""

    name: ModelName
    state: UpdateState
    """Where its update stands; `idle` when none is under way."""
    active: Release | None = None
    """What serves, on probation included."""
    fallback: Release | None = None
    """What a rollback returns to."""
    target: Release | None = None
    """What was last asked for; `outcome`, `code` and `detail` speak of it."""
    outcome: Outcome | None = None
    """How that ended; null while it is under way."""
    code: CodeText | None = None
    """Why it ended so, from the list of codes."""
    detail: ReportedDetail = ""
    """The cause in words; the event has more of it."""
    served: Count = 0
    """Requests answered during the last probation."""


class QuarantinedBundle(Part):
    """A manifest digest that the device refuses to try again, and why."""

    manifest: Digest
    code: CodeText
    """Why, from the list of codes."""


class Inventory(Part):
    """What the device is and which protections are really active on it."""

    arch: Label = ""
    """Machine type as the kernel names it."""
    cores: Count = 0
    """CPUs that it may use."""
    memory_bytes: Count = 0
    """Memory of the machine."""
    runtime: Label = ""
    """Inference library and its version; empty before one has started."""
    max_opset: Count = 0
    """Newest ONNX operator set that it can run."""
    protections: Annotated[
        tuple[CodeText, ...], Field(max_length=MAX_PROTECTIONS, fail_fast=True)
    ] = ()
    """What confines the runtime's process, by name; what this kernel lacks is not in it."""
    capture: CaptureFacts | None = None
    """What it captures; null where capture is off, as it is by default."""


class ReportedShadow(Part):
    """Where the shadow that is asked for stands."""

    manifest: Digest
    state: Literal["waiting", "fetching", "running", "failed"]
    """`waiting` for an update that goes first, or for a release to compare with."""
    code: CodeText | None = None
    """Why it failed, from the list of codes; the event has the words."""


class Reported(Message):
    """The whole reported state of a device."""

    boot: BootId
    seq: Count
    """Counts the reports of this boot, apart from its records; one not higher is ignored."""
    generation: Count
    """Generation of the desired state that it acts on; 0 before any."""
    models: Annotated[
        tuple[ReportedModel, ...], Field(max_length=MAX_MODELS_PER_DEVICE, fail_fast=True)
    ] = ()
    quarantined: Annotated[
        tuple[QuarantinedBundle, ...], Field(max_length=MAX_QUARANTINED, fail_fast=True)
    ] = ()
    """The newest ones."""
    inventory: Inventory = Inventory()
    shadow: ReportedShadow | None = None
    """Null without one, and from an agent that knows none."""


class Presence(Message):
    """Connected or not."""

    state: Literal["online", "offline"]
    boot: BootId
    birth: Count
    """Number of this connection within the boot. The will carries it too, so a stale one is known."""
    agent: Label = ""
    """Version of the agent."""


class ControllerPresence(Message):
    """Whether a controller is connected."""

    state: Literal["online", "offline"]
    boot: BootId
    birth: Count
    """Number of this connection within the boot."""
    version: Label = ""
    """Version of the controller."""


class Record(Message):
    """A message that must reach the store: unique by device, `boot` and `seq`, kept until acked."""

    boot: BootId
    seq: Count
    """Counts the records of this boot, over all kinds."""


class UpdateEvent(Record):
    """One step of an update, or its end."""

    at_unix_ms: UnixMs
    generation: Count
    """Generation of the desired state that it serves."""
    model: ModelName
    manifest: Digest | None = None
    """The release it is about."""
    from_: Annotated[UpdateState, Field(alias="from")]
    to: UpdateState
    code: CodeText
    """Why, from the list of codes."""
    detail: Detail = ""
    """The cause in words."""

    model_config = ConfigDict(populate_by_name=True)


class LostRange(Part):
    """Records `first` to `last`, both included, every one of them lost."""

    first: Count
    last: Count


class GapEvent(Record):
    """Records that the outbox had to drop; each loss is in one of these."""

    lost_boot: BootId
    """Boot that had written them."""
    first: Count
    """Lowest number lost."""
    last: Count
    """Highest number lost."""
    count: Count
    """How many of these were lost; others between them may have been kept."""
    ranges: Annotated[tuple[LostRange, ...], Field(max_length=MAX_GAP_RANGES, fail_fast=True)] = ()
    """Which ones exactly, in order. Empty is from an older agent: all of them, or not known which."""
    reason: CodeText
    """`records_dropped` for the outbox's own cap, `disk_full` for a disk with little room."""


class AlarmEvent(Record):
    """Something on this device that a person should look at."""

    at_unix_ms: UnixMs
    code: CodeText
    """What kind of thing."""
    detail: Detail = ""
    """The same in words."""


class ChunksMissing(Message):
    """Chunks that a device waits for in vain; a request, not a record."""

    boot: BootId
    chunks: Annotated[
        tuple[Digest, ...], Field(min_length=1, max_length=MAX_MISSING_CHUNKS, fail_fast=True)
    ]


class ErrorCount(Part):
    """Requests of a window that failed, by cause."""

    runtime: Count = 0
    """The model raised."""
    deadline: Count = 0
    """The answer came too late."""
    client: Count = 0
    """The request was wrong; never the model's fault."""
    non_finite: Count = 0
    """The model made NaN or infinity of finite inputs, or a label that rests on them."""


class LatencyMs(Part):
    """Latency quantiles of requests, in milliseconds, `client` errors left out; null without any."""

    p50: float | None = None
    p95: float | None = None
    """Null from an older agent too."""
    p99: float | None = None


class InferenceTelemetry(Record):
    """What one model answered on one device over one window."""

    start_unix_ms: UnixMs
    """When the window began."""
    duration_s: Seconds
    """Length of the window."""
    model: ModelName
    version: Version
    manifest: Digest
    request_count: Count
    """All requests, failed ones included."""
    row_count: Count
    """Rows answered."""
    error_count: ErrorCount = ErrorCount()
    latency_ms: LatencyMs = LatencyMs()
    latency_bins: Annotated[tuple[Count, ...], Field(max_length=LATENCY_BINS, fail_fast=True)] = ()
    """How many requests, `client` errors left out, took below 0.01 ms; from there up to 100 s in 20
    bins a decade, with the edges 0.01 · 10^(i/20) ms, the lower one included; and longer. Zeros at
    the end are left out. Counts of one release add up, over windows and devices, and so give the
    quantiles of a fleet. Empty without any, and from an older agent."""


class VitalsTelemetry(Record):
    """How the machine and the agent are doing."""

    at_unix_ms: UnixMs
    uptime_s: Annotated[float, Field(ge=0, le=MAX_INTEGER)]
    """Since the machine's start, which may be years ago."""
    cpu_ratio: Ratio
    """Share of all CPUs in use since the last report."""
    memory_available_bytes: Count
    disk_free_bytes: Count
    """Where the agent keeps its state; 0 where that disk does not answer."""
    supervisor_rss_bytes: Count
    """Resident memory of the agent itself."""
    runtime_rss_bytes: Count
    """Resident memory of the process that serves."""
    temperature_c: float | None = None
    """The hottest sensor; null without one."""
    cpu_is_throttled: bool | None = None
    """Slowed down by heat or a weak supply, now or since the last report; null where nothing tells."""
    clock_is_synchronized: bool | None = None
    """Kept by a better clock, such as NTP's; null where nobody says."""
    clock_error_ms: Annotated[float | None, Field(ge=0, le=MAX_INTEGER)] = None
    """Most by which the clock may be off, as the kernel reckons; null where it does not say."""
    runtime_restarts: Count = 0
    """Times that the serving process had to be replaced, since the agent's start."""
    records_dropped: Count = 0
    """Records that were lost, since the agent's start."""
    agent_restarts: Count = 0
    """Starts of the agent that followed no orderly stop (a kill, a power cut, a fault), ever."""


class StoredRange(Part):
    """Records `first` to `last`, both included, of one boot."""

    boot: BootId
    first: Count
    last: Count


class Ack(Message):
    """Records that are safely in the controller's store; the outbox deletes exactly these."""

    stored: Annotated[tuple[StoredRange, ...], Field(max_length=MAX_ACK_RANGES, fail_fast=True)]
