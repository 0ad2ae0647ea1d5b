"""What a rollout's evidence says: one device's outcome, a breach, whether a phase has passed.

Finished, silent and transient are three different things here: a *finished* device said how its
update ended; a *silent* one is offline or has sent nothing for long, becomes pending and is not
judged; a *transient* one is still at work (fetching, queued, on probation) and is waited for.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from wire.lifecycle import SUCCESSES, Outcome, UpdateState

from .states import BAD, DeviceEvidence, Member, MemberState, Rollout

SILENCE_LIMIT_MS: Final = 120_000
"""Offline for this long, a device no longer holds its phase up. A reboot takes less."""
STALE_LIMIT_MS: Final = 600_000
"""Said to be online but silent for this long: its broker lost the will (both lost power)."""

_BAD_OUTCOMES: Final[dict[Outcome, MemberState]] = {
    Outcome.ROLLED_BACK: "rolled_back",
    Outcome.ROLLBACK_FAILED: "rollback_failed",
    Outcome.REJECTED: "rejected",
    Outcome.FAILED: "failed",
}


@dataclass(frozen=True, slots=True)
class Wait:
    """The phase goes on; `reason` says what for."""

    reason: str


class End(Enum):
    """How a phase is over."""

    PASSED = "passed"
    INCONCLUSIVE = "inconclusive"


def is_confirmed(manifest: str, generation: int, seen: DeviceEvidence) -> bool:
    """Whether a device serves `manifest`, asked for at `generation`, and its probation is over."""
    return (
        seen.reported_generation >= generation
        and seen.active == manifest
        and seen.state is UpdateState.IDLE
        and seen.outcome in SUCCESSES
        and seen.target in (manifest, None)
    )


def outcome_of(manifest: str, member: Member, seen: DeviceEvidence) -> MemberState | None:
    """Return how the update of one member ended, or None while it has not.

    Only what the device says of this manifest at this generation or a later one counts: an older
    report, or one about another release, is no news.
    """
    if member.generation is None or seen.reported_generation < member.generation:
        return None
    if is_confirmed(manifest, member.generation, seen):
        return "confirmed"
    if seen.target == manifest and seen.outcome in _BAD_OUTCOMES:
        return _BAD_OUTCOMES[seen.outcome]
    return None


def is_silent(seen: DeviceEvidence, opened_unix_ms: int, now_unix_ms: int) -> bool:
    """Whether a device has been out of reach for so long that its phase stops waiting for it.

    Silence counts from the opening of the phase at the earliest.
    """
    if not seen.is_online:
        since = max(seen.offline_since_unix_ms or 0, opened_unix_ms)
        return now_unix_ms - since >= SILENCE_LIMIT_MS
    since = max(seen.last_seen_unix_ms or 0, opened_unix_ms)
    return now_unix_ms - since >= STALE_LIMIT_MS


def bad_members(rollout: Rollout) -> tuple[Member, ...]:
    """Return the members whose update failed; a device that was taken over does not count."""
    return tuple(m for m in rollout.members if m.state in BAD)


def breach(rollout: Rollout) -> str | None:
    """Return why the rollout must halt, or None."""
    bad = bad_members(rollout)
    if len(bad) <= rollout.tolerance:
        return None
    named = ", ".join(f"{m.device} {m.state.replace('_', ' ')} ({m.code})" for m in bad[:3])
    more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
    return f"{named}{more}; {len(bad)} failed, {rollout.tolerance} tolerated"


def judge_phase(rollout: Rollout, number: int, now_unix_ms: int) -> Wait | End:
    """Return whether phase `number`, which is open, has passed.

    Judged are the phase's own members. It passes when at least one is confirmed, none is still at
    work, and the soak time has gone by since the last confirmation. Without any confirmed one it
    waits for the pending ones; with nobody left to wait for it is inconclusive, never passed.
    """
    own = [m for m in rollout.members if m.phase == number]
    confirmed = [m for m in own if m.state == "confirmed"]
    at_work = [m for m in own if m.state == "in_progress"]
    pending = [m for m in own if m.state == "pending"]
    label = f"phase {number + 1} of {len(rollout.phases)}"
    if at_work:
        return Wait(f"{label}: waiting for {_devices(at_work)}")
    if not confirmed and pending:
        return Wait(f"{label}: every device that could be judged is offline: {_devices(pending)}")
    if not confirmed:
        return End.INCONCLUSIVE
    times = [m.confirmed_unix_ms for m in confirmed if m.confirmed_unix_ms is not None]
    if times and now_unix_ms - max(times) < rollout.soak_s * 1000:
        return Wait(f"{label}: {len(confirmed)} confirmed, soaking for {rollout.soak_s:g} s")
    return End.PASSED


def _devices(members: list[Member]) -> str:
    if len(members) <= 3:
        return ", ".join(sorted(m.device for m in members))
    return f"{len(members)} devices"
