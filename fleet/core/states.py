"""The rollout engine's data: all of it is stored, so that a restart continues where it stood.

Instants are milliseconds of the Unix epoch by the controller's clock, because they outlive the
process. A clock set back lengthens a soak, one set forward shortens it; neither changes a verdict.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from wire.lifecycle import Outcome, UpdateState

RolloutState = Literal[
    "proposed", "running", "paused", "halted", "inconclusive", "finished", "aborted"
]
PhaseState = Literal["waiting", "open", "passed", "stopped"]
MemberState = Literal[
    "waiting",
    "pending",
    "in_progress",
    "confirmed",
    "rolled_back",
    "rollback_failed",
    "rejected",
    "failed",
    "superseded",
    "withdrawn",
]

LIVE: Final[frozenset[RolloutState]] = frozenset({"running", "paused"})
BAD: Final[frozenset[MemberState]] = frozenset(
    {"rolled_back", "rollback_failed", "rejected", "failed"}
)
OPEN_ENDED: Final[frozenset[MemberState]] = frozenset({"waiting", "pending", "in_progress"})


class ReleaseKey(NamedTuple):
    """A release by both of its names: the version for people, the manifest's digest for machines."""

    version: str
    manifest: str


@dataclass(frozen=True, slots=True)
class Member:
    """One device of a rollout.

    Attributes:
        device: Its id.
        phase: The phase that it belongs to, from 0.
        state: Where it stands; see `fleet.api.schemas.MemberState`.
        generation: The generation that assigned the target; None before its phase opened, and
            where the device ran the release already.
        previous: What it returns to when the rollout halts; None where there is nothing.
        confirmed_unix_ms: When its confirmation was seen.
        code: Why it ended as it did.
        detail: The cause in words.
    """

    device: str
    phase: int
    state: MemberState = "waiting"
    generation: int | None = None
    previous: ReleaseKey | None = None
    confirmed_unix_ms: int | None = None
    code: str | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Phase:
    """One phase; `size` is cumulative."""

    share: str
    size: int
    state: PhaseState = "waiting"
    opened_unix_ms: int | None = None
    closed_unix_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Approval:
    """That a rollout needs a second person.

    Attributes:
        asked_by: Name of the token that started it.
        limit: The largest part of the fleet that one person may move, as it was then, 0 to 1.
        approved_by: Name of the other token, once there was one.
        approved_unix_ms: When.
    """

    asked_by: str
    limit: float
    approved_by: str | None = None
    approved_unix_ms: int | None = None


@dataclass(frozen=True, slots=True)
class ShadowRule:
    """How a release is tried as a shadow before the first phase, and what must be proven of it.

    Attributes:
        duration_s: How long it is compared, seconds.
        sample_ratio: Share of the requests that it is given, 0 to 1.
        min_agreement: The true share of rows that agree must be this at least; above 0, below 1.
        min_rows: Rows that must be compared.
        rtol: A number agrees within `atol` plus this share of the active release's.
        atol: See `rtol`; in the output's unit.
    """

    duration_s: float
    sample_ratio: float
    min_agreement: float
    min_rows: int
    rtol: float = 0.01
    atol: float = 0.0


@dataclass(frozen=True, slots=True)
class ShadowTrial:
    """Where the trial of a rollout stands; `devices` with the generation that asked each for it."""

    rule: ShadowRule
    state: PhaseState = "waiting"
    opened_unix_ms: int | None = None
    closed_unix_ms: int | None = None
    devices: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Rollout:
    """One model's release on its way to a frozen list of devices.

    Members are fixed when it starts: a device that gets matching tags later is not part of it.
    """

    id: str
    model: str
    release: ReleaseKey
    soak_s: float
    tolerance: int
    phases: tuple[Phase, ...]
    members: tuple[Member, ...]
    created_unix_ms: int
    state: RolloutState = "running"
    reason: str = ""
    ended_unix_ms: int | None = None
    approval: Approval | None = None
    shadow: ShadowTrial | None = None

    @property
    def open_phase(self) -> int | None:
        """The number of the phase that is open, from 0, or None."""
        return next((n for n, p in enumerate(self.phases) if p.state == "open"), None)


class ShadowSeen(NamedTuple):
    """What a device says of its shadow; see `wire.messages.ReportedShadow`."""

    manifest: str
    state: str
    code: str | None


@dataclass(frozen=True, slots=True)
class DeviceEvidence:
    """What is known of one device about one model, as of now.

    Attributes:
        is_online: By its presence.
        offline_since_unix_ms: When it went offline, or when the controller could first have
            known otherwise; None where it was never seen.
        last_seen_unix_ms: When it last sent anything; likewise.
        next_generation: The generation that a new desired state of this device will carry.
        reported_generation: The generation that its report says it acted on.
        active: Manifest digest of the release that it serves.
        state: Where its update stands.
        target: Manifest digest that `outcome` and `code` speak of.
        outcome: How the last assignment ended.
        code: Why.
        detail: The cause in words.
        previous: The release to return to: the newest confirmed one other than the rollout's.
        shadow: Where its shadow stands, None without one.
    """

    is_online: bool
    next_generation: int
    reported_generation: int = 0
    offline_since_unix_ms: int | None = None
    last_seen_unix_ms: int | None = None
    active: str | None = None
    state: UpdateState | None = None
    target: str | None = None
    outcome: Outcome | None = None
    code: str | None = None
    detail: str = ""
    previous: ReleaseKey | None = None
    shadow: ShadowSeen | None = None


@dataclass(frozen=True, slots=True)
class Assign:
    """Give the rollout's release to a device, in desired state `generation`."""

    device: str
    generation: int


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Set a device back to `previous`, or remove the model, in desired state `generation`."""

    device: str
    generation: int
    previous: ReleaseKey | None


@dataclass(frozen=True, slots=True)
class Shade:
    """Have a device run the rollout's release as a shadow, in desired state `generation`."""

    device: str
    generation: int


@dataclass(frozen=True, slots=True)
class Unshade:
    """End the shadow of a device."""

    device: str


Command = Assign | Withdraw | Shade | Unshade
