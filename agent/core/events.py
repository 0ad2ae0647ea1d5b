"""What the update machine hears (events, past tense) and asks for (effects, imperative)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from wire.lifecycle import Outcome, UpdateState

from .states import (
    NO_FACTS,
    Assignment,
    BundleFacts,
    OutputShift,
    QuarantineLift,
    Ref,
    ShadowWish,
)


@dataclass(frozen=True, slots=True)
class Started:
    """The agent has started; everything outside `DeviceState` is gone."""


@dataclass(frozen=True, slots=True)
class Stopping:
    """The agent ends in good order."""


@dataclass(frozen=True, slots=True)
class DirectorGone:
    """The key that signed the desired state that is acted on is trusted no more."""


@dataclass(frozen=True, slots=True)
class DesiredReceived:
    """A desired state arrived."""

    generation: int
    assignments: tuple[Assignment, ...]
    lifted: tuple[QuarantineLift, ...] = ()
    shadow: ShadowWish | None = None


@dataclass(frozen=True, slots=True)
class BundleStaged:
    """All files of the bundle are on disk and verified."""

    manifest: str
    facts: BundleFacts = NO_FACTS


@dataclass(frozen=True, slots=True)
class FetchFailed:
    """Fetching ended for good. `outcome` is rejected or failed."""

    manifest: str
    outcome: Outcome
    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class CandidatePassed:
    """The candidate is ready to accept.

    `served_p99_ms` is the recent 99th percentile of latency of the release that its target takes
    the place of; None where nothing of this model served, or too few requests.
    """

    served_p99_ms: float | None = None


@dataclass(frozen=True, slots=True)
class CandidateRefused:
    """The candidate did not get ready; `model` is the culprit where it is known."""

    model: str | None
    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class RuntimeAccepts:
    """The incarnation that was started last accepts connections."""


@dataclass(frozen=True, slots=True)
class TryDue:
    """What is staged may be tried, now that a runtime serves: the answer to `TryStaged`."""


@dataclass(frozen=True, slots=True)
class RuntimeEnded:
    """The serving incarnation ended by itself or was killed for a stuck request.

    `served_s` is how long it had accepted; infinite of one that made room for another.
    """

    code: str
    detail: str
    served_s: float = math.inf


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the model on probation did since the last evidence.

    `request_count` leaves out requests that were the client's fault; `latency` counts these over
    the bins of `wire.latency`. `rss_bytes` is the resident memory of its runtime now, `shift` how
    far its answers are from the reference by now.
    """

    elapsed_s: float
    request_count: int
    failure_count: int
    non_finite_count: int = 0
    latency: tuple[int, ...] = ()
    rss_bytes: int = 0
    shift: OutputShift | None = None


@dataclass(frozen=True, slots=True)
class GoldenRowsChecked:
    """The golden rows of the model on probation ran again."""

    is_passed: bool
    detail: str


@dataclass(frozen=True, slots=True)
class ShadowEnded:
    """The shadow with this manifest ended by itself, or was killed for being stuck."""

    manifest: str
    code: str
    detail: str


Event = (
    Started
    | Stopping
    | DirectorGone
    | DesiredReceived
    | BundleStaged
    | FetchFailed
    | CandidatePassed
    | CandidateRefused
    | RuntimeAccepts
    | TryDue
    | RuntimeEnded
    | Evidence
    | GoldenRowsChecked
    | ShadowEnded
)


# Each effect may be repeated after a crash.


@dataclass(frozen=True, slots=True)
class Fetch:
    """Bring a bundle's content to this disk; a fetch under way for another one ends.

    `failure_count` is how often this has failed: the next try waits the longer.
    """

    assignment: Assignment
    failure_count: int = 0


@dataclass(frozen=True, slots=True)
class CancelFetch:
    """End the fetch; what is on disk may stay."""


@dataclass(frozen=True, slots=True)
class StartCandidate:
    """Start an incarnation with this set, and wait for `Promote`."""

    models: tuple[tuple[str, Ref], ...]


@dataclass(frozen=True, slots=True)
class TryStaged:
    """Come back with `TryDue`: to begin a try waits for a disk that works, to serve does not."""


@dataclass(frozen=True, slots=True)
class Serve:
    """Start an incarnation with this set that accepts as soon as it is ready.

    `failure_count` spaces the tries: the caller waits longer the higher it is.
    """

    models: tuple[tuple[str, Ref], ...]
    failure_count: int = 0


@dataclass(frozen=True, slots=True)
class Promote:
    """Let the candidate accept and the incarnation before it drain."""


@dataclass(frozen=True, slots=True)
class DiscardCandidate:
    """End the candidate."""


@dataclass(frozen=True, slots=True)
class CheckGolden:
    """Run the golden rows of a served model again."""

    name: str


@dataclass(frozen=True, slots=True)
class StartShadow:
    """Start a runtime with the shadow's release alone, and give it a sample of the requests."""

    wish: ShadowWish
    active: Ref


@dataclass(frozen=True, slots=True)
class StopShadow:
    """End the shadow."""


@dataclass(frozen=True, slots=True)
class Announce:
    """Record one transition for the controller and the log."""

    model: str
    manifest: str | None
    before: UpdateState
    after: UpdateState
    code: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Collect:
    """Delete content that no model, fallback or assignment needs."""


@dataclass(frozen=True, slots=True)
class Ignored:
    """An event that has no meaning in this state; counted, so that surprises are seen."""

    reason: str


Effect = (
    Fetch
    | CancelFetch
    | StartCandidate
    | TryStaged
    | Serve
    | Promote
    | DiscardCandidate
    | CheckGolden
    | StartShadow
    | StopShadow
    | Announce
    | Collect
    | Ignored
)
