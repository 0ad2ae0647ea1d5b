"""What the update machine remembers: plain frozen data, on disk before anything acts on it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated, Final, Literal

from pydantic import Field

from wire.lifecycle import Outcome, UpdateState
from wire.messages import Guards, Probation


@dataclass(frozen=True, slots=True)
class Ref:
    """A release as this device can fetch it: `manifest` identifies it, `index` leads to it."""

    version: str
    manifest: str
    index: str


@dataclass(frozen=True, slots=True)
class Assignment:
    """One model that the controller wants served here, and how it shall be tried."""

    name: str
    ref: Ref
    probation: Probation = field(default_factory=Probation)
    guards: Guards = field(default_factory=Guards)
    expires_unix_ms: int | None = None


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """Where one model stands.

    Attributes:
        name: The model.
        active: What the runtime serves, or shall serve: the pointer. None serves nothing.
        fallback: The newest confirmed release other than `active`, or None.
        is_confirmed: Whether `active` has passed its probation on this device.
        target: What the last assignment asked for; `outcome` and `code` speak of it.
        outcome: How that ended, or None while it is under way.
        code: Why it ended so.
        detail: The cause in words.
        generation: The generation at which `outcome` was reached; it is not tried again before
            a newer one.
        served: Requests answered during the last probation.
        p99_ms: 99th percentile of latency of the newest confirmed release over its probation, or
            None where it had too few requests.
    """

    name: str
    active: Ref | None = None
    fallback: Ref | None = None
    is_confirmed: bool = False
    target: Ref | None = None
    outcome: Outcome | None = None
    code: str | None = None
    detail: str = ""
    generation: int = 0
    served: int = 0
    p99_ms: float | None = None


@dataclass(frozen=True, slots=True)
class BundleFacts:
    """What the manifest of a bundle on this disk says of it.

    Attributes:
        model: Digest of `model.onnx`: the same under every version; None where it is not known.
        p99_ms: Declared budget of latency, or None.
        memory_mb: Declared budget of memory, or None.
    """

    model: str | None = None
    p99_ms: float | None = None
    memory_mb: int | None = None


NO_FACTS: Final = BundleFacts()
"""Of a bundle that an older agent brought here."""


@dataclass(frozen=True, slots=True)
class MemoryTrace:
    """Resident memory over the seconds in which a runtime answered, in bounded space.

    Attributes:
        lows: The lowest of each `stride` samples, bytes, oldest first.
        stride: Samples behind one of `lows`: 1, then doubled whenever these are too many.
        pending: Samples of the next one.
    """

    lows: tuple[int, ...] = ()
    stride: int = 1
    pending: tuple[int, ...] = ()


NO_MEMORY: Final = MemoryTrace()


@dataclass(frozen=True, slots=True)
class OutputShift:
    """How far the answers are from those of the reference rows, where they are furthest.

    Attributes:
        column: The output column.
        row_count: Rows answered since its runtime began to serve.
        psi: Population stability index against the baseline, nats.
        excess: What of that is beyond the baseline's limit for so many rows; below 0 it may be
            chance.
    """

    column: str
    row_count: int
    psi: float
    excess: float


@dataclass(frozen=True, slots=True)
class Idle:
    """No update under way."""

    kind: Literal["idle"] = "idle"


@dataclass(frozen=True, slots=True)
class Fetching:
    """The target's content is being brought to this disk.

    Attributes:
        assignment: The target.
        try_count: As in `SelfTesting`.
        is_repair: Whether it served here before and was damaged: then it is brought until it is here,
            however often the disk fails.
        failure_count: Times in a row that this failed, since the agent's start.
    """

    assignment: Assignment
    try_count: int = 0
    is_repair: bool = False
    failure_count: int = 0
    kind: Literal["fetching"] = "fetching"


@dataclass(frozen=True, slots=True)
class Staged:
    """The target is on this disk and verified; it waits until a runtime serves."""

    assignment: Assignment
    facts: BundleFacts = NO_FACTS
    try_count: int = 0
    kind: Literal["staged"] = "staged"


@dataclass(frozen=True, slots=True)
class SelfTesting:
    """A candidate loads the target and runs its golden rows, beside the serving runtime.

    `try_count` counts the candidates started with it, this one included, whose end was not seen: a
    model that takes the agent or the machine down with it must not be tried for ever.
    """

    assignment: Assignment
    facts: BundleFacts = NO_FACTS
    try_count: int = 0
    kind: Literal["self_testing"] = "self_testing"


@dataclass(frozen=True, slots=True)
class OnProbation:
    """The target serves on trial.

    Durations and counts survive restarts; a deadline would not.

    Attributes:
        assignment: What is on trial, and the rules of the trial.
        facts: What its manifest says.
        reference_p99_ms: Of the confirmed release before, on this device; None where unknown.
        served_s: How long it has accepted requests, seconds.
        request_count: Requests that reached it; bad requests of clients left out.
        failure_count: Those that it failed to answer.
        non_finite_count: Those that it answered with NaN or infinity, of finite inputs.
        latency: Counts over the bins of `wire.latency`; empty before the first.
        memory: How the memory of its runtime went; begins anew with each runtime.
        shift: How far its answers are from the reference; likewise. None of too few rows.
        start_count: Starts of the agent during it that did not end in good order.
        is_golden_due: Set while the golden rows run again for want of traffic.
        golden_asked_s: `served_s` when that was asked for last.
    """

    assignment: Assignment
    facts: BundleFacts = NO_FACTS
    reference_p99_ms: float | None = None
    served_s: float = 0.0
    request_count: int = 0
    failure_count: int = 0
    non_finite_count: int = 0
    latency: tuple[int, ...] = ()
    memory: MemoryTrace = NO_MEMORY
    shift: OutputShift | None = None
    start_count: int = 0
    is_golden_due: bool = False
    golden_asked_s: float = 0.0
    kind: Literal["on_probation"] = "on_probation"


@dataclass(frozen=True, slots=True)
class RollingBack:
    """The pointer is back on the fallback; a runtime with it is starting.

    `is_commanded` is set when the controller asked for the return: nothing is quarantined then,
    and the release returned to counts as confirmed, as it did before.
    """

    name: str
    bad: Ref
    code: str
    detail: str
    is_commanded: bool = False
    kind: Literal["rolling_back"] = "rolling_back"


@dataclass(frozen=True, slots=True)
class Removing:
    """A runtime without this model is starting."""

    name: str
    kind: Literal["removing"] = "removing"


Update = Annotated[
    Idle | Fetching | Staged | SelfTesting | OnProbation | RollingBack | Removing,
    Field(discriminator="kind"),
]


@dataclass(frozen=True, slots=True)
class Quarantine:
    """A bundle that this device refuses to try again, under this version or another.

    Attributes:
        manifest: Its digest.
        code: Why.
        model: Digest of its `model.onnx`; None where the bundle never got here whole.
        generation: The generation at which it was tried: one lifted as of a later one ends.
        name: The line of models that it was tried for.
    """

    manifest: str
    code: str
    model: str | None = None
    generation: int = 0
    name: str = ""


@dataclass(frozen=True, slots=True)
class QuarantineLift:
    """An operator's word that a bundle may be tried again.

    It ends the quarantine of `manifest`, of every one if that is None, where the bundle was tried
    before `generation`. So it may be heard again and again: a newer failure stays quarantined.
    """

    manifest: str | None
    generation: int

    def ends(self, quarantine: Quarantine) -> bool:
        """Whether this quarantine ends by it."""
        is_meant = self.manifest in (None, quarantine.manifest)
        return is_meant and quarantine.generation < self.generation


@dataclass(frozen=True, slots=True)
class ShadowWish:
    """A release that the controller wants to answer beside the active one.

    Attributes:
        assignment: The release, as it is fetched.
        rollout: The rollout that asks for it.
        sample_ratio: Share of the requests that it is given, 0 to 1.
        rtol: A number agrees within `atol` plus this share of the active release's.
        atol: See `rtol`; in the output's unit.
    """

    assignment: Assignment
    rollout: str
    sample_ratio: float
    rtol: float
    atol: float

    @property
    def manifest(self) -> str:
        """Digest that identifies the release."""
        return self.assignment.ref.manifest


@dataclass(frozen=True, slots=True)
class Shadow:
    """Where the shadow that is wanted stands; see `agent.core.shadowing`.

    Attributes:
        wish: What is wanted.
        stage: Waiting for its turn, being fetched, running, or failed for good.
        start_count: Starts whose end was not seen, this one included.
        against: Manifest digest of the active release that it runs beside; None where it does not.
        code: Why it failed.
    """

    wish: ShadowWish
    stage: Literal["waiting", "fetching", "running", "failed"] = "waiting"
    start_count: int = 0
    against: str | None = None
    code: str | None = None


@dataclass(frozen=True, slots=True)
class DeviceState:
    """Everything that the update machine remembers across a power cut.

    One update runs at a time, so that a runtime's misbehaviour has one suspect; the others wait
    in `desired`. `desired` is None until the controller has ever said anything. `is_serving` is
    False from a start until a runtime accepts. `step_count` counts the transitions of the present
    update and caps loops. `serve_failure_count` counts starts in a row that led to no service,
    `short_life_count` runtimes in a row that ended soon after they had begun to serve.
    """

    generation: int = 0
    desired: tuple[Assignment, ...] | None = None
    models: tuple[ModelRecord, ...] = ()
    update: Update = Idle()
    quarantined: tuple[Quarantine, ...] = ()
    is_serving: bool = False
    serve_failure_count: int = 0
    step_count: int = 0
    shadow: Shadow | None = None
    short_life_count: int = 0

    def record(self, name: str) -> ModelRecord:
        """Return the record of `name`, a blank one if there is none yet."""
        return next((r for r in self.models if r.name == name), ModelRecord(name))

    def with_record(self, record: ModelRecord) -> DeviceState:
        """Return the state with this record in place of its model's former one."""
        others = [r for r in self.models if r.name != record.name]
        return replace(self, models=tuple(sorted([*others, record], key=lambda r: r.name)))

    def without_record(self, name: str) -> DeviceState:
        """Return the state without any record of this model."""
        return replace(self, models=tuple(r for r in self.models if r.name != name))

    def served_set(self) -> tuple[tuple[str, Ref], ...]:
        """Return what the runtime shall serve: each model's active release."""
        return tuple((r.name, r.active) for r in self.models if r.active is not None)

    def needed_manifests(self) -> frozenset[str]:
        """Return the bundles that must stay on this disk: wanted, served, or returned to."""
        shadow = {self.shadow.wish.manifest} if self.shadow is not None else set()
        return (
            frozenset(a.ref.manifest for a in self.desired or ())
            | shadow
            | {
                ref.manifest
                for record in self.models
                for ref in (record.active, record.fallback)
                if ref is not None
            }
        )

    def fetched(self) -> Assignment | None:
        """Return what is being brought to this disk, or None."""
        match self.update:
            case Fetching(assignment=assignment):
                return assignment
            case _ if self.shadow is not None and self.shadow.stage == "fetching":
                return self.shadow.wish.assignment
            case _:
                return None

    def quarantine_code(self, manifest: str) -> str | None:
        """Return why a manifest is quarantined, or None if it is not."""
        return next((q.code for q in self.quarantined if q.manifest == manifest), None)

    def quarantine_of_model(self, model: str | None) -> Quarantine | None:
        """Return the quarantine of a bundle with this very `model.onnx`, or None."""
        return next((q for q in self.quarantined if model and q.model == model), None)


def update_state(update: Update) -> UpdateState:
    """Return the name on the wire of where an update stands."""
    match update:
        case Idle():
            return UpdateState.IDLE
        case Fetching():
            return UpdateState.FETCHING
        case Staged():
            return UpdateState.STAGED
        case SelfTesting():
            return UpdateState.SELF_TESTING
        case OnProbation():
            return UpdateState.ON_PROBATION
        case RollingBack() | Removing():
            return UpdateState.ROLLING_BACK


def subject(update: Update) -> str | None:
    """Return the model that an update is about, or None when idle."""
    match update:
        case Idle():
            return None
        case RollingBack(name=name) | Removing(name=name):
            return name
        case _:
            return update.assignment.name
