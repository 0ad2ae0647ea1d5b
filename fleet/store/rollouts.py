"""Rollouts, their phases and members: the engine's state, row by row."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, and_, delete, func, insert, or_, select, update

from fleet.core.states import OPEN_ENDED, Approval, Member, Phase, ReleaseKey, Rollout
from wire import messages as m

from .devices import BATCH
from .schema import APPROVALS, MEMBERS, PHASES, ROLLOUTS
from .shadows import Shadows

MAX_LISTED = 200
ENDED = ("confirmed", "rolled_back", "rollback_failed", "rejected", "failed")
"""States of a member whose device has said how its update ended."""


@dataclass(frozen=True, slots=True)
class Order:
    """What a person asked of a rollout, beside what the engine needs to know."""

    match: dict[str, str]
    body: m.DesiredModel


class Rollouts:
    """The tables `rollouts`, `rollout_phases` and `rollout_members`, within one transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._shadows = Shadows(connection)

    def next_id(self) -> str:
        """Return the id of the next rollout: `r-1`, `r-2` and so on."""
        newest = self._connection.execute(select(func.max(ROLLOUTS.c.number))).scalar_one()
        return f"r-{(newest or 0) + 1}"

    def add(self, rollout: Rollout, order: Order) -> None:
        """Store a new rollout."""
        self._connection.execute(
            insert(ROLLOUTS).values(
                number=int(rollout.id.removeprefix("r-")),
                id=rollout.id,
                model=rollout.model,
                version=rollout.release.version,
                manifest=rollout.release.manifest,
                match=json.dumps(order.match),
                body=order.body.model_dump_json(),
                soak_s=rollout.soak_s,
                tolerance=rollout.tolerance,
                created_unix_ms=rollout.created_unix_ms,
                **_head(rollout),
            )
        )
        phases = [_phase_values(rollout.id, n, p) for n, p in enumerate(rollout.phases)]
        self._connection.execute(insert(PHASES), phases)
        if rollout.approval is not None:
            self._connection.execute(
                insert(APPROVALS).values(**_approval_values(rollout.id, rollout.approval))
            )
        if rollout.shadow is not None:
            self._shadows.add_trial(rollout.id, rollout.shadow)
        members = [_member_values(rollout.id, n, x) for n, x in enumerate(rollout.members)]
        self._connection.execute(insert(MEMBERS), members)

    def save(self, old: Rollout, new: Rollout) -> None:
        """Store what a step changed; `old` is what is stored now."""
        if _head(old) != _head(new):
            self._connection.execute(
                update(ROLLOUTS).where(ROLLOUTS.c.id == new.id).values(**_head(new))
            )
        if new.approval is not None and old.approval != new.approval:
            self._connection.execute(
                update(APPROVALS)
                .where(APPROVALS.c.rollout == new.id)
                .values(**_approval_values(new.id, new.approval))
            )
        if new.shadow is not None and old.shadow != new.shadow:
            self._shadows.save_trial(new.id, new.shadow)
        for position, (before, phase) in enumerate(zip(old.phases, new.phases, strict=True)):
            if before != phase:
                where = (PHASES.c.rollout == new.id, PHASES.c.position == position)
                self._connection.execute(delete(PHASES).where(*where))
                self._connection.execute(
                    insert(PHASES).values(**_phase_values(new.id, position, phase))
                )
        for position, (was, member) in enumerate(zip(old.members, new.members, strict=True)):
            if was != member:
                self._connection.execute(
                    update(MEMBERS)
                    .where(MEMBERS.c.rollout == new.id, MEMBERS.c.device == member.device)
                    .values(**_member_values(new.id, position, member))
                )

    def get(self, rollout: str, *, has_members: bool = True) -> Rollout | None:
        """Return a rollout with its phases, and its members if they are wanted."""
        query = select(ROLLOUTS).where(ROLLOUTS.c.id == rollout)
        row = self._connection.execute(query).one_or_none()
        return self._whole(row, has_members=has_members) if row is not None else None

    def members(self, rollout: str, *, after: str, limit: int) -> list[Member]:
        """Return the members that follow the device `after`, in the order of their phases.

        Without one those from the first on; none after one that is no member.
        """
        query = select(MEMBERS).where(MEMBERS.c.rollout == rollout)
        if after:
            last = select(MEMBERS.c.position).where(
                MEMBERS.c.rollout == rollout, MEMBERS.c.device == after
            )
            query = query.where(MEMBERS.c.position > last.scalar_subquery())
        query = query.order_by(MEMBERS.c.position).limit(limit)
        return [_member(row) for row in self._connection.execute(query)]

    def settled(self, rollout: str) -> dict[int, int]:
        """Return the number of members of each phase that have come to an end."""
        query = (
            select(MEMBERS.c.phase, func.count().label("settled"))
            .where(MEMBERS.c.rollout == rollout, MEMBERS.c.state.not_in(sorted(OPEN_ENDED)))
            .group_by(MEMBERS.c.phase)
        )
        return {row.phase: row.settled for row in self._connection.execute(query)}

    def order(self, rollout: str) -> Order:
        """Return what was asked of a rollout that exists."""
        query = select(ROLLOUTS.c.match, ROLLOUTS.c.body).where(ROLLOUTS.c.id == rollout)
        row = self._connection.execute(query).one()
        return Order(json.loads(row.match), m.DesiredModel.model_validate_json(row.body))

    def match_of(self, rollout: str) -> dict[str, str] | None:
        """Return the tags that a rollout matched, None where there is no such rollout."""
        query = select(ROLLOUTS.c.match).where(ROLLOUTS.c.id == rollout)
        found = self._connection.execute(query).scalar_one_or_none()
        return dict(json.loads(found)) if found is not None else None

    def newest(self, limit: int = MAX_LISTED) -> list[Rollout]:
        """Return the newest rollouts, newest first, with their phases and without members."""
        query = select(ROLLOUTS).order_by(ROLLOUTS.c.number.desc()).limit(limit)
        rows = self._connection.execute(query).all()
        return [self._whole(row, has_members=False) for row in rows]

    def of_release(self, model: str, manifest: str, since_unix_ms: int) -> list[Rollout]:
        """Return a release's rollouts that are live or began after an instant, oldest first, whole."""
        query = (
            select(ROLLOUTS)
            .where(
                ROLLOUTS.c.model == model,
                ROLLOUTS.c.manifest == manifest,
                or_(
                    ROLLOUTS.c.state.in_(("running", "paused")),
                    ROLLOUTS.c.created_unix_ms > since_unix_ms,
                ),
            )
            .order_by(ROLLOUTS.c.number)
        )
        return [self._whole(row) for row in self._connection.execute(query).all()]

    def counts(self, rollout: str | None = None) -> dict[str, dict[str, int]]:
        """Return the number of members in each state, by rollout; of one or of all."""
        key = (MEMBERS.c.rollout, MEMBERS.c.state)
        query = select(*key, func.count()).group_by(*key).order_by(*key)
        if rollout is not None:
            query = query.where(MEMBERS.c.rollout == rollout)
        result: dict[str, dict[str, int]] = {}
        for name, state, count in self._connection.execute(query):
            result.setdefault(name, {})[state] = count
        return result

    def state_counts(self) -> dict[str, int]:
        """Return how many rollouts are in each state."""
        query = select(ROLLOUTS.c.state, func.count()).group_by(ROLLOUTS.c.state)
        return {row[0]: row[1] for row in self._connection.execute(query)}

    def live_ids(self, model: str | None = None, *, has_proposed: bool = False) -> list[str]:
        """Return the ids of running and paused rollouts, and of proposed ones, oldest first."""
        states = ("running", "paused", "proposed") if has_proposed else ("running", "paused")
        query = (
            select(ROLLOUTS.c.id).where(ROLLOUTS.c.state.in_(states)).order_by(ROLLOUTS.c.number)
        )
        if model is not None:
            query = query.where(ROLLOUTS.c.model == model)
        return list(self._connection.execute(query).scalars())

    def concerned_ids(self, devices: Iterable[str]) -> list[str]:
        """Return the ids of the rollouts that news of these devices may change, oldest first.

        These are the live ones, and the finished ones that still wait for a device.
        """
        found: dict[int, str] = {}
        wanted = sorted(set(devices))
        for start in range(0, len(wanted), BATCH):
            query = (
                select(ROLLOUTS.c.number, ROLLOUTS.c.id)
                .join(MEMBERS, MEMBERS.c.rollout == ROLLOUTS.c.id)
                .where(
                    MEMBERS.c.device.in_(wanted[start : start + BATCH]),
                    or_(
                        ROLLOUTS.c.state.in_(("running", "paused")),
                        and_(ROLLOUTS.c.state == "finished", MEMBERS.c.state == "pending"),
                    ),
                )
                .distinct()
            )
            for row in self._connection.execute(query):
                found[row.number] = row.id
        return [found[number] for number in sorted(found)]

    def last_ends(self, device: str) -> dict[str, tuple[str, ReleaseKey, Member]]:
        """Return the newest rollout of each model that ended on a device: its id, release and end."""
        query = (
            select(
                ROLLOUTS.c.id, ROLLOUTS.c.model, ROLLOUTS.c.version, ROLLOUTS.c.manifest, MEMBERS
            )
            .join(MEMBERS, MEMBERS.c.rollout == ROLLOUTS.c.id)
            .where(MEMBERS.c.device == device, MEMBERS.c.state.in_(ENDED))
            .order_by(ROLLOUTS.c.number)
        )
        return {
            row.model: (row.id, ReleaseKey(row.version, row.manifest), _member(row))
            for row in self._connection.execute(query)
        }

    def _whole(self, row: Any, *, has_members: bool = True) -> Rollout:
        phases = select(PHASES).where(PHASES.c.rollout == row.id).order_by(PHASES.c.position)
        approvals = select(APPROVALS).where(APPROVALS.c.rollout == row.id)
        approval = self._connection.execute(approvals).one_or_none()
        members = select(MEMBERS).where(MEMBERS.c.rollout == row.id).order_by(MEMBERS.c.position)
        return Rollout(
            id=row.id,
            model=row.model,
            release=ReleaseKey(row.version, row.manifest),
            soak_s=row.soak_s,
            tolerance=row.tolerance,
            phases=tuple(
                Phase(p.share, p.size, p.state, p.opened_unix_ms, p.closed_unix_ms)
                for p in self._connection.execute(phases)
            ),
            members=tuple(_member(x) for x in self._connection.execute(members))
            if has_members
            else (),
            created_unix_ms=row.created_unix_ms,
            state=row.state,
            reason=row.reason,
            ended_unix_ms=row.ended_unix_ms,
            approval=Approval(*approval[1:]) if approval is not None else None,
            shadow=self._shadows.trial(row.id),
        )


def _head(rollout: Rollout) -> dict[str, Any]:
    return {
        "state": rollout.state,
        "reason": rollout.reason,
        "ended_unix_ms": rollout.ended_unix_ms,
    }


def _approval_values(rollout: str, approval: Approval) -> dict[str, Any]:
    return {
        "rollout": rollout,
        "asked_by": approval.asked_by,
        "limit_ratio": approval.limit,
        "approved_by": approval.approved_by,
        "approved_unix_ms": approval.approved_unix_ms,
    }


def _phase_values(rollout: str, position: int, phase: Phase) -> dict[str, Any]:
    return {
        "rollout": rollout,
        "position": position,
        "share": phase.share,
        "size": phase.size,
        "state": phase.state,
        "opened_unix_ms": phase.opened_unix_ms,
        "closed_unix_ms": phase.closed_unix_ms,
    }


def _member_values(rollout: str, position: int, member: Member) -> dict[str, Any]:
    return {
        "rollout": rollout,
        "device": member.device,
        "position": position,
        "phase": member.phase,
        "state": member.state,
        "generation": member.generation,
        "previous_version": member.previous.version if member.previous else None,
        "previous_manifest": member.previous.manifest if member.previous else None,
        "confirmed_unix_ms": member.confirmed_unix_ms,
        "code": member.code,
        "detail": member.detail,
    }


def _member(row: Any) -> Member:
    previous = None
    if row.previous_manifest is not None:
        previous = ReleaseKey(row.previous_version, row.previous_manifest)
    return Member(
        device=row.device,
        phase=row.phase,
        state=row.state,
        generation=row.generation,
        previous=previous,
        confirmed_unix_ms=row.confirmed_unix_ms,
        code=row.code,
        detail=row.detail,
    )
