"""From the store's rows to the API's answers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import get_args

from fleet.core.audit import Entry
from fleet.core.rights import Scope, is_within
from fleet.core.states import Approval, Rollout
from fleet.store.devices import BATCH, DeviceRow, Selection
from fleet.store.journal import EventRow, RecordRow
from fleet.store.releases import ReleaseRow
from fleet.store.states import ReportedModelRow
from fleet.store.store import Tx
from fleet.store.tokens import TokenRow
from fleet.trust.releases import SignedRelease
from wire import messages as m

from . import schemas
from .shadow_views import rollout_shadow


def devices(tx: Tx, selection: Selection) -> list[schemas.Device]:
    """Return the selected devices with what they shall serve and say they do."""
    generations = tx.states.generations(selection)
    reports = tx.states.reports(selection)
    wanted: dict[str, dict[str, m.DesiredModel]] = {}
    for row in tx.states.desired(selection):
        wanted.setdefault(row.device, {})[row.model.name] = row.model
    said: dict[str, dict[str, ReportedModelRow]] = {}
    for line in tx.states.reported(selection):
        said.setdefault(line.device, {})[line.model] = line
    lifted = tx.states.lifted(selection)
    named: dict[str, ReleaseRow | None] = {}
    for head in reports.values():
        for manifest in {q.manifest for q in head.quarantined} - named.keys():
            named[manifest] = tx.releases.by_manifest(manifest)
    result = []
    for device in tx.devices.rows(selection):
        report = reports.get(device.id)
        models = _models(wanted.get(device.id, {}), said.get(device.id, {}))
        result.append(
            schemas.Device(
                **_head(device),
                desired_generation=generations.get(device.id, 0),
                reported_generation=report.generation if report else 0,
                models=models,
                quarantined=[
                    _quarantined(q, named[q.manifest])
                    for q in (report.quarantined if report else ())
                ],
                lifted=lifted.get(device.id, []),
                inventory=report.inventory.model_dump(mode="json") if report else {},
            )
        )
    return result


def device(tx: Tx, name: str) -> schemas.Device:
    """Return one device that exists, with how the last update of each of its models ended."""
    (found,) = devices(tx, Selection(device=name))
    ends = tx.rollouts.last_ends(name)
    for model in found.models:
        if (end := ends.get(model.name)) is not None:
            rollout, release, member = end
            model.last_update = schemas.LastUpdate(
                rollout=rollout,
                version=release.version,
                state=member.state,
                code=member.code,
                detail=member.detail,
            )
    return found


def _quarantined(
    quarantined: m.QuarantinedBundle, release: ReleaseRow | None
) -> schemas.QuarantinedBundle:
    return schemas.QuarantinedBundle(
        manifest=quarantined.manifest,
        code=quarantined.code,
        model=release.model if release else None,
        version=release.version if release else None,
    )


def _head(device: DeviceRow) -> dict[str, object]:
    presence = device.presence
    return {
        "id": device.id,
        "tags": device.tags,
        "state": presence.state if presence else "never_seen",
        "last_seen_unix_ms": device.last_seen_unix_ms,
        "agent": presence.agent if presence else "",
    }


def _models(
    wanted: Mapping[str, m.DesiredModel], said: Mapping[str, ReportedModelRow]
) -> list[schemas.DeviceModel]:
    models = []
    for name in sorted(wanted.keys() | said.keys()):
        want = wanted.get(name)
        say = said.get(name)
        models.append(
            schemas.DeviceModel(
                name=name,
                desired_version=want.version if want else None,
                desired_manifest=want.manifest if want else None,
                active_version=say.active_version if say else None,
                active_manifest=say.active_manifest if say else None,
                fallback_version=say.fallback_version if say else None,
                state=say.state if say else None,
                outcome=say.outcome if say else None,
                code=say.code if say else None,
                detail=say.detail if say else "",
                served=say.served if say else 0,
            )
        )
    return models


def record(row: RecordRow) -> schemas.StoredRecord:
    """Return a record."""
    return schemas.StoredRecord(
        boot=row.key.boot,
        seq=row.key.seq,
        channel=row.channel,
        received_unix_ms=row.received_unix_ms,
        body=json.loads(row.body),
    )


def release(
    row: ReleaseRow,
    device_count: int = 0,
    signed: SignedRelease | None = None,
    floor: int = 0,
    aliases: Iterable[str] = (),
) -> schemas.Release:
    """Return a release, with what is signed of it and what it is called by."""
    if signed is not None and signed.manifest != row.manifest:
        signed = None
    return schemas.Release(
        model=row.model,
        version=row.version,
        manifest=row.manifest,
        index=row.index_digest,
        bytes=row.bytes,
        chunk_count=row.chunk_count,
        created_unix_ms=row.created_unix_ms,
        device_count=device_count,
        number=signed.number if signed else None,
        aliases=sorted(aliases),
        is_dead=signed is not None and signed.number < floor,
    )


def models(tx: Tx) -> list[schemas.Model]:
    """Return all models, sorted by name."""
    by_name: dict[str, list[ReleaseRow]] = {}
    for row in tx.releases.by_model():
        by_name.setdefault(row.model, []).append(row)
    return [
        schemas.Model(name=name, release_count=len(rows), newest_version=rows[0].version)
        for name, rows in sorted(by_name.items())
    ]


def rollouts(tx: Tx, scope: Scope) -> list[schemas.Rollout]:
    """Return the newest rollouts within a scope, newest first, without their members."""
    counts = tx.rollouts.counts()
    rows = tx.rollouts.newest()
    wishes = tx.aliases.wishes(row.id for row in rows)
    return [
        _rollout(tx, row, counts.get(row.id, {}), None, wishes)
        for row in rows
        if is_within(tx.rollouts.match_of(row.id) or {}, scope)
    ]


def rollout(tx: Tx, row: Rollout, *, after: str = "", limit: int = BATCH) -> schemas.Rollout:
    """Return one rollout with a page of its members in the order of its phases."""
    members = [
        schemas.RolloutMember(
            device=member.device,
            phase=member.phase,
            state=member.state,
            previous_version=member.previous.version if member.previous else None,
            code=member.code,
            detail=member.detail,
        )
        for member in tx.rollouts.members(row.id, after=after, limit=limit)
    ]
    wishes = tx.aliases.wishes([row.id])
    return _rollout(tx, row, tx.rollouts.counts(row.id).get(row.id, {}), members, wishes)


def _rollout(
    tx: Tx,
    row: Rollout,
    counts: Mapping[str, int],
    members: list[schemas.RolloutMember] | None,
    wishes: Mapping[str, tuple[str, str]],
) -> schemas.Rollout:
    states: tuple[schemas.MemberState, ...] = get_args(schemas.MemberState)
    settled = tx.rollouts.settled(row.id)
    return schemas.Rollout(
        id=row.id,
        model=row.model,
        version=row.release.version,
        manifest=row.release.manifest,
        match=tx.rollouts.order(row.id).match,
        state=row.state,
        reason=row.reason,
        soak_s=row.soak_s,
        tolerance=row.tolerance,
        phases=[
            schemas.RolloutPhase(
                share=phase.share,
                size=phase.size,
                settled_count=sum(n for of, n in settled.items() if of <= number),
                state=phase.state,
                opened_unix_ms=phase.opened_unix_ms,
                closed_unix_ms=phase.closed_unix_ms,
            )
            for number, phase in enumerate(row.phases)
        ],
        counts={state: counts[state] for state in states if counts.get(state)},
        created_unix_ms=row.created_unix_ms,
        ended_unix_ms=row.ended_unix_ms,
        approval=_approval(row.approval),
        alias=wishes[row.id][0] if row.id in wishes else None,
        shadow=rollout_shadow(tx, row, has_devices=members is not None),
        members=members,
    )


def _approval(approval: Approval | None) -> schemas.RolloutApproval | None:
    if approval is None:
        return None
    return schemas.RolloutApproval(
        asked_by=approval.asked_by,
        limit_ratio=approval.limit,
        approved_by=approval.approved_by,
        approved_unix_ms=approval.approved_unix_ms,
    )


def token(row: TokenRow, now_unix_ms: int) -> schemas.Token:
    """Return a token."""
    return schemas.Token.model_validate(_token(row, now_unix_ms))


def new_token(row: TokenRow, token: str, now_unix_ms: int) -> schemas.NewToken:
    """Return a token that was just made, with the token itself."""
    return schemas.NewToken.model_validate({**_token(row, now_unix_ms), "token": token})


def _token(row: TokenRow, now_unix_ms: int) -> dict[str, object]:
    state = "live" if row.is_live(now_unix_ms) else "expired"
    return {
        "name": row.name,
        "role": row.role,
        "scope": row.scope,
        "state": "revoked" if row.revoked_unix_ms is not None else state,
        "created_unix_ms": row.created_unix_ms,
        "created_by": row.created_by,
        "expires_unix_ms": row.expires_unix_ms,
        "last_used_unix_ms": row.last_used_unix_ms,
        "revoked_unix_ms": row.revoked_unix_ms,
    }


def audit_entry(row: Entry) -> schemas.AuditEntry:
    """Return a row of the audit log."""
    return schemas.AuditEntry.model_validate(asdict(row))


def event(row: EventRow) -> schemas.WatchEvent:
    """Return an event."""
    return schemas.WatchEvent.model_validate(
        {
            "id": row.id,
            "at_unix_ms": row.at_unix_ms,
            "kind": row.kind,
            "subject": row.subject,
            "text": row.text,
            "detail": row.detail,
        }
    )
