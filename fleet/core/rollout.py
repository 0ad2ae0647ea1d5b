"""The rollout engine: `step(rollout, evidence, now) -> (rollout, commands)`, pure and total.

The order inside a step is fixed: first what the devices said, then breach, then advance, then
dispatch. So no device gets a release after its breach could be decided. Commands name the
generation that they will carry, and the rollout that is returned already counts them as given:
both are stored in one transaction, so a killed controller repeats a step or has done it, whole.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import Final

from . import gate, shadow
from .cohort import phase_of, phase_sizes, stable_order
from .states import (
    BAD,
    LIVE,
    OPEN_ENDED,
    Approval,
    Assign,
    Command,
    DeviceEvidence,
    Member,
    Phase,
    ReleaseKey,
    Rollout,
    RolloutState,
    ShadowRule,
    ShadowTrial,
    Withdraw,
)

Evidence = Mapping[str, DeviceEvidence]
"""By device id, every member's. A member without evidence has been removed from the fleet.

Only what a step needs is asked for, so that a mapping may load the rest when it is."""
Result = tuple[Rollout, tuple[Command, ...]]
ALONE_MS: Final = 7 * 86_400_000
"""For so long what one person moved counts with what is moved next: others have had a working week
to see it, and a fleet that is updated by halves each month need not wait for anybody."""


def plan(
    *,
    rollout: str,
    model: str,
    release: ReleaseKey,
    devices: Mapping[str, bool],
    shares: tuple[str, ...],
    soak_s: float,
    tolerance: int,
    now_unix_ms: int,
    shadow_rule: ShadowRule | None = None,
) -> Rollout:
    """Return a new rollout; its first step opens the first phase.

    Args:
        rollout: Its id, which also decides the order of the devices.
        model: The model's name.
        release: What the devices shall get.
        devices: The matched ones, and whether each runs the release already, confirmed; those
            count as confirmed from the start and get no new desired state.
        shares: Cumulative sizes; devices beyond the last one are not part of the rollout.
        soak_s: Time that a phase must stay good after its last confirmation, seconds.
        tolerance: Failed devices that do not yet halt it.
        now_unix_ms: The time.
        shadow_rule: How the first phase's devices try the release as a shadow before; None is not.
    """
    cuts = phase_sizes(shares, len(devices))
    members = []
    for position, device in enumerate(stable_order(rollout, devices)):
        if (phase := phase_of(position, cuts)) is None:
            break
        member = Member(device, phase)
        if devices[device]:
            member = replace(member, state="confirmed", code="already_active")
        members.append(member)
    return Rollout(
        id=rollout,
        model=model,
        release=release,
        soak_s=soak_s,
        tolerance=tolerance,
        phases=tuple(Phase(cut.share, cut.size) for cut in cuts),
        members=tuple(members),
        created_unix_ms=now_unix_ms,
        shadow=ShadowTrial(shadow_rule) if shadow_rule is not None else None,
    )


def step(
    rollout: Rollout,
    evidence: Evidence,
    now_unix_ms: int,
    *,
    news: Collection[str] | None = None,
    compared: shadow.Counts = shadow.NONE,
) -> Result:
    """Return the rollout after all that is known now, and what to do about it.

    Args:
        rollout: As the last step left it.
        evidence: What is known of its devices.
        now_unix_ms: The time.
        news: The devices whose evidence has changed since the last step; None looks at all of
            them, which a tick must do, since silence is no news.
        compared: What the shadows of its trial compared so far.
    """
    if rollout.state == "finished":
        # Devices that were away still arrive; their ends are noted, nothing is decided any more.
        return _absorb(rollout, evidence, now_unix_ms, news), ()
    if rollout.state not in LIVE:
        return rollout, ()
    rollout = _until(rollout, now_unix_ms)
    rollout = _absorb(rollout, evidence, now_unix_ms, news)
    if (why := gate.breach(rollout)) is not None:
        return _stop(rollout, evidence, now_unix_ms, state="halted", why=why)
    if _is_taken_over(rollout):
        why = (
            "every device left to judge was taken over by a newer rollout, a rollback or a removal"
        )
        return _stop(rollout, evidence, now_unix_ms, state="aborted", why=why)
    if rollout.state == "paused":
        return rollout, ()
    if rollout.shadow is not None and rollout.shadow.state in ("waiting", "open"):
        return _shadowed(rollout, rollout.shadow, evidence, compared, now_unix_ms)
    return _advance(rollout, evidence, now_unix_ms)


def propose(
    rollout: Rollout,
    *,
    by: str,
    limit: float,
    fleet_count: int,
    alone: Mapping[str, Collection[str]] | None = None,
) -> Rollout:
    """Return a new rollout as it shall begin: proposed, if it is too large for one person.

    Args:
        rollout: As planned.
        by: Who starts it.
        limit: The largest part of the fleet that one person may move, 0 to 1.
        fleet_count: Devices in the whole fleet, whatever the rollout matches.
        alone: Devices that got this release without a second person, by rollout; see `moved_alone`.
    """
    devices = {member.device for member in rollout.members}
    further = {name: more for name, found in (alone or {}).items() if (more := {*found} - devices)}
    count = len(devices.union(*further.values()))
    if count <= limit * fleet_count:
        return rollout
    counted = f"{count} of {fleet_count} devices" + (
        f", those of {', '.join(further)} included," if further else ""
    )
    reason = (
        f"{counted} are more than {limit:.0%} of the fleet: waits for a"
        f" second person, `fleet rollout approve {rollout.id}`"
    )
    return replace(rollout, state="proposed", reason=reason, approval=Approval(by, limit))


def moved_alone(
    rollout: Rollout, earlier: Iterable[Rollout], now_unix_ms: int
) -> dict[str, frozenset[str]]:
    """Return the devices that got a new rollout's release, or will, without a second person; by rollout.

    Those count that are live or began within `ALONE_MS`; what they set back counts no more.

    Args:
        rollout: The new one.
        earlier: Others with their members, of whatever model and release.
        now_unix_ms: The time.
    """
    return {
        other.id: frozenset(member.device for member in other.members if _is_moved(other, member))
        for other in earlier
        if (other.model, other.release.manifest) == (rollout.model, rollout.release.manifest)
        and other.approval is None
        and (other.state in LIVE or other.created_unix_ms > now_unix_ms - ALONE_MS)
    }


def _is_moved(rollout: Rollout, member: Member) -> bool:
    if member.state == "waiting":
        return rollout.state in LIVE
    return member.generation is not None and member.state != "withdrawn"


def approve(
    rollout: Rollout, *, by: str, made_by: Collection[str] = (), now_unix_ms: int
) -> Rollout:
    """Return a proposed rollout running; anything else, or by no second person, as it is.

    Args:
        rollout: The proposed one.
        by: Whose token approves.
        made_by: The tokens behind that one: what made it, what made that, and so on. Who asked must
            be none of them, or they could make the second person themselves. The other way round is
            well: the first administrator makes everybody's tokens, and is somebody else.
        now_unix_ms: The time.
    """
    approval = rollout.approval
    if rollout.state != "proposed" or approval is None or approval.asked_by in {by, *made_by}:
        return rollout
    approval = replace(approval, approved_by=by, approved_unix_ms=now_unix_ms)
    return replace(rollout, state="running", reason="", approval=approval)


def pause(rollout: Rollout, why: str = "by a person") -> Rollout:
    """Return the rollout paused: it opens no phase, and still halts on a breach."""
    return replace(rollout, state="paused", reason=why)


def resume(rollout: Rollout) -> Rollout:
    """Return the rollout running again."""
    return replace(rollout, state="running", reason="")


def abort(rollout: Rollout, evidence: Evidence, now_unix_ms: int) -> Result:
    """End the rollout by a person's word; the same as a halt in all other ways."""
    return _stop(rollout, evidence, now_unix_ms, state="aborted", why="by a person")


def supersede(rollout: Rollout, devices: frozenset[str], why: str) -> Rollout:
    """Return the rollout without `devices`: they are taken over and no longer judged.

    A confirmed one counts no more either: a rollback by hand is a verdict on it.
    """
    members = tuple(
        replace(m, state="superseded", code="superseded", detail=why)
        if m.device in devices and m.state != "withdrawn"
        else m
        for m in rollout.members
    )
    return replace(rollout, members=members)


def _until(rollout: Rollout, now: int) -> Rollout:
    """Return the rollout without moments that are yet to come.

    The clock was set back since they were noted. They count as now, or a soak might last for years.
    """
    members = tuple(
        replace(m, confirmed_unix_ms=now) if (m.confirmed_unix_ms or 0) > now else m
        for m in rollout.members
    )
    phases = tuple(
        replace(p, opened_unix_ms=now) if (p.opened_unix_ms or 0) > now else p
        for p in rollout.phases
    )
    trial = rollout.shadow
    if trial is not None and (trial.opened_unix_ms or 0) > now:
        trial = replace(trial, opened_unix_ms=now)
    if (members, phases, trial) == (rollout.members, rollout.phases, rollout.shadow):
        return rollout
    return replace(rollout, members=members, phases=phases, shadow=trial)


def _absorb(
    rollout: Rollout, evidence: Evidence, now_unix_ms: int, news: Collection[str] | None
) -> Rollout:
    members = tuple(
        _observe(rollout, m, evidence.get(m.device), now_unix_ms)
        if (news is None or m.device in news) and _is_observed(m)
        else m
        for m in rollout.members
    )
    return rollout if members == rollout.members else replace(rollout, members=members)


def _is_observed(member: Member) -> bool:
    return member.state not in BAD and member.state not in ("superseded", "withdrawn")


def _observe(rollout: Rollout, member: Member, seen: DeviceEvidence | None, now: int) -> Member:
    if seen is None:
        return replace(
            member, state="superseded", code="device_removed", detail="the device was removed"
        )
    end = gate.outcome_of(rollout.release.manifest, member, seen)
    if end == member.state:
        return member
    if end == "confirmed":
        return replace(member, state=end, confirmed_unix_ms=now, code=seen.code, detail=seen.detail)
    if end is not None:
        return replace(member, state=end, code=seen.code, detail=seen.detail)
    if member.state == "in_progress":
        opened = rollout.phases[member.phase].opened_unix_ms or 0
        if gate.is_silent(seen, opened, now):
            return replace(member, state="pending", code="silent")
    return member


def _is_taken_over(rollout: Rollout) -> bool:
    """Whether members were taken over and no other one can still come to a verdict."""
    if not any(m.state == "superseded" for m in rollout.members):
        return False
    if any(m.state in OPEN_ENDED for m in rollout.members):
        return False
    # What is left is ended. A phase with a confirmed device of its own may still pass by soaking.
    unsettled = {n for n, p in enumerate(rollout.phases) if p.state != "passed"}
    settled_by = {m.phase for m in rollout.members if m.state == "confirmed"}
    return bool(unsettled - settled_by)


def _shadowed(
    rollout: Rollout,
    trial: ShadowTrial,
    evidence: Evidence,
    compared: shadow.Counts,
    now: int,
) -> Result:
    """Go on with the trial before the first phase; when it has passed, open that."""
    commands: tuple[Command, ...] = ()
    if trial.state == "waiting":
        rollout, commands = shadow.begin(rollout, evidence, now)
        trial = rollout.shadow or trial
    match shadow.judge(rollout, trial, evidence, compared, now):
        case shadow.Wait(reason=reason):
            return replace(rollout, reason=reason), commands
        case shadow.Stop(is_proven=is_proven, reason=why):
            state: RolloutState = "halted" if is_proven else "inconclusive"
            return _stop(rollout, evidence, now, state=state, why=why)
        case shadow.Passed():
            return _advance(shadow.end(rollout, now, is_passed=True), evidence, now)


def _advance(rollout: Rollout, evidence: Evidence, now: int) -> Result:
    commands: list[Command] = []
    for number in range(len(rollout.phases)):
        if rollout.phases[number].state == "passed":
            continue
        if rollout.phases[number].state == "waiting":
            rollout, given = _open(rollout, number, evidence, now)
            commands += given
        verdict = gate.judge_phase(rollout, number, now)
        if isinstance(verdict, gate.Wait):
            return replace(rollout, reason=verdict.reason), tuple(commands)
        if verdict is gate.End.INCONCLUSIVE:
            return _inconclusive(rollout, number, now), tuple(commands)
        rollout = _close(rollout, number, now, is_passed=True)
    if all(m.generation is None for m in rollout.members):
        why = "every matched device ran this release already"
        return replace(rollout, state="finished", reason=why, ended_unix_ms=now), ()
    counts = f"{_count(rollout, 'confirmed')} of {len(rollout.members)} devices confirmed"
    if pending := _count(rollout, "pending"):
        counts += f"; {pending} offline, to be updated when they return"
    return replace(rollout, state="finished", reason=counts, ended_unix_ms=now), tuple(commands)


def _open(
    rollout: Rollout, number: int, evidence: Evidence, now: int
) -> tuple[Rollout, list[Command]]:
    commands: list[Command] = []
    members = []
    for member in rollout.members:
        if member.phase != number or member.state != "waiting":
            members.append(member)
            continue
        seen = evidence[member.device]
        members.append(
            replace(
                member,
                state="in_progress" if seen.is_online else "pending",
                generation=seen.next_generation,
                previous=seen.previous,
            )
        )
        commands.append(Assign(member.device, seen.next_generation))
    phase = replace(rollout.phases[number], state="open", opened_unix_ms=now)
    return replace(
        rollout, members=tuple(members), phases=_with_phase(rollout, number, phase)
    ), commands


def _close(rollout: Rollout, number: int, now: int, *, is_passed: bool) -> Rollout:
    phase = replace(
        rollout.phases[number],
        state="passed" if is_passed else "stopped",
        closed_unix_ms=now,
    )
    return replace(rollout, phases=_with_phase(rollout, number, phase))


def _with_phase(rollout: Rollout, number: int, phase: Phase) -> tuple[Phase, ...]:
    return (*rollout.phases[:number], phase, *rollout.phases[number + 1 :])


def _inconclusive(rollout: Rollout, number: int, now: int) -> Rollout:
    bad = gate.bad_members(rollout)
    reason = (
        f"phase {number + 1} of {len(rollout.phases)} is complete without a confirmed device"
        f" ({len(bad)} failed, {_count(rollout, 'superseded')} taken over): nothing speaks for"
        " the release; abort it, or start a new rollout"
    )
    rollout = _close(rollout, number, now, is_passed=False)
    return replace(rollout, state="inconclusive", reason=reason, ended_unix_ms=now)


def _stop(
    rollout: Rollout, evidence: Evidence, now: int, *, state: RolloutState, why: str
) -> Result:
    """End the rollout and give every unconfirmed device that it reached its previous release."""
    commands: list[Command] = []
    members = []
    shaded = shadow.withdrawals(rollout, evidence)
    for member in rollout.members:
        seen = evidence.get(member.device)
        is_reached = member.state in BAD or member.state in ("in_progress", "pending")
        if not is_reached or seen is None:
            members.append(member)
            continue
        commands.append(Withdraw(member.device, seen.next_generation, member.previous))
        members.append(member if member.state in BAD else replace(member, state="withdrawn"))
    phases = tuple(
        replace(p, state="stopped", closed_unix_ms=now) if p.state == "open" else p
        for p in rollout.phases
    )
    kept = _count(rollout, "confirmed")
    reason = f"{why}; {len(commands)} set back to what ran before"
    if kept:
        reason += f", {kept} confirmed stay on {rollout.release.version}"
    if rollout.shadow is not None and rollout.shadow.state in ("waiting", "open"):
        rollout = shadow.end(rollout, now, is_passed=False)
    rollout = replace(rollout, members=tuple(members), phases=phases)
    rollout = replace(rollout, state=state, reason=reason, ended_unix_ms=now)
    return rollout, (*commands, *shaded)


def _count(rollout: Rollout, state: str) -> int:
    return sum(1 for m in rollout.members if m.state == state)
