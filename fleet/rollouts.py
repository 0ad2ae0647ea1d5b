"""Rollouts against the store: evidence from its tables, the engine's step, its commands carried out.

Every function runs inside the caller's transaction, so that a decision, its desired states and
their publications are stored together or not at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from fleet import acts
from fleet.api.schemas import RollbackDevice, RollbackIn, RollbackResult, RolloutIn
from fleet.core import gate
from fleet.core import rollout as engine
from fleet.core.reconcile import rollback_of
from fleet.core.rights import WHOLE_FLEET, Scope, is_within
from fleet.core.shadow import NONE
from fleet.core.states import LIVE, Assign, Command, ReleaseKey, Rollout, Shade, Unshade
from fleet.store.devices import Selection
from fleet.store.journal import EventRow
from fleet.store.rollouts import Order
from fleet.store.store import Tx
from fleet.trust.stored import dead_manifests, require_signed
from wire import messages as m
from wire.errors import PeerError

from . import aliases, desired, registry, shadows, tokens
from .evidence import Sight, StoredEvidence, evidence_of
from .narrate import narrate
from .tokens import out_of_scope

STOPPED: Final = "rollout_stopped"
"""The rule of the alerts about rollouts."""


def start(
    tx: Tx,
    request: RolloutIn,
    sight: Sight,
    *,
    scope: Scope = WHOLE_FLEET,
    by: str = "",
    limit: float | None = None,
) -> Rollout:
    """Start a rollout; it takes its devices over from older ones of the same model.

    One of more than `limit` of the fleet (0 to 1, None is any) is only proposed, and takes nothing over;
    what others brought to the fleet of the same release without a second person counts with it.

    Raises:
        PeerError: `out_of_scope`, `unknown_release`, `unknown_alias`, `not_signed`, `below_floor`,
            `no_device_matches`, `rollout_running`, `too_many_models` or `alias_partial`.
    """
    acts.about(f"{request.model}:{request.version} to {_words(request.match)}")
    if not is_within(request.match, scope):
        raise out_of_scope(scope, "the devices of a rollout must match these tags")
    if request.alias is not None and scope:
        raise out_of_scope(scope, "an alias is the whole fleet's")
    release = aliases.resolve(tx, request.model, request.version)
    require_signed(tx, release)
    selection = Selection(match=request.match)
    devices = registry.matched(tx, selection)
    key = ReleaseKey(release.version, release.manifest)
    _refuse_twice(tx, request, key)
    _refuse_too_many(tx, selection, request.model)
    rollout = engine.plan(
        rollout=tx.rollouts.next_id(),
        model=request.model,
        release=key,
        devices=_already(tx, selection, devices, request.model, key),
        shares=tuple(request.phases),
        soak_s=request.soak_s,
        tolerance=request.tolerance,
        now_unix_ms=sight.now_unix_ms,
        shadow_rule=request.shadow.rule() if request.shadow is not None else None,
    )
    shadows.refuse_second(tx, rollout)
    body = m.DesiredModel(
        name=request.model,
        version=release.version,
        manifest=release.manifest,
        index=release.index_digest,
        rollout=rollout.id,
        probation=request.probation,
        guards=request.guards,
    )
    if limit is not None:
        rollout = _proposed(tx, rollout, sight.now_unix_ms, by=by, limit=limit)
    is_proposed = rollout.state == "proposed"
    if not is_proposed:
        _take_over(tx, rollout, sight)
    tx.rollouts.add(rollout, Order(dict(request.match), body))
    if request.alias is not None:
        aliases.wish(tx, rollout, request.alias, by)
    verb = "proposed" if is_proposed else "started"
    text = f"{verb}: {request.model}:{release.version}, devices: {len(rollout.members)}"
    tx.journal.note([EventRow("rollout", rollout.id, text)], sight.now_unix_ms)
    return advance(tx, rollout, sight)


def _proposed(tx: Tx, rollout: Rollout, now_unix_ms: int, *, by: str, limit: float) -> Rollout:
    """Return a planned rollout as it shall begin, by what the fleet got of its release lately."""
    earlier = tx.rollouts.of_release(
        rollout.model, rollout.release.manifest, now_unix_ms - engine.ALONE_MS
    )
    moved = engine.moved_alone(rollout, earlier, now_unix_ms)
    alone = {name: tx.devices.known(devices) for name, devices in moved.items()}
    count, _ = tx.devices.counts(Selection())
    return engine.propose(rollout, by=by, limit=limit, fleet_count=count, alone=alone)


def approve(
    tx: Tx, rollout_id: str, sight: Sight, *, by: str, scope: Scope = WHOLE_FLEET
) -> Rollout:
    """Start a proposed rollout, as the second person.

    Raises:
        PeerError: `unknown_rollout`, `not_proposed` or `same_person`.
    """
    rollout = get(tx, rollout_id, scope)
    if rollout.state != "proposed":
        raise PeerError(
            f"{rollout.id} is {rollout.state} and waits for nobody", code="not_proposed"
        )
    made_by = tokens.makers(tx, by)
    shadows.refuse_second(tx, rollout)
    new = engine.approve(rollout, by=by, made_by=made_by, now_unix_ms=sight.now_unix_ms)
    if new == rollout:
        raise _same_person(rollout, by)
    _take_over(tx, new, sight)
    new = _carry_out(tx, rollout, new, (), sight)
    return advance(tx, new, sight)


def advance(
    tx: Tx, rollout: Rollout, sight: Sight, *, news: frozenset[str] | None = None
) -> Rollout:
    """Step a stored rollout with all that is known now, and carry its commands out.

    Args:
        tx: The transaction.
        rollout: As it is stored.
        sight: The time, and since when devices could be heard.
        news: The devices that something was heard of since the last step, None for all.
    """
    if sight.since_unix_ms is None:
        return rollout
    known = StoredEvidence(tx, rollout, sight, news)
    is_tried = rollout.shadow is not None and rollout.shadow.state == "open"
    compared = tx.shadows.counts(rollout.id) if is_tried else NONE
    new, commands = engine.step(rollout, known, sight.now_unix_ms, news=news, compared=compared)
    return _carry_out(tx, rollout, new, commands, sight)


def pause(tx: Tx, rollout_id: str, sight: Sight, *, scope: Scope = WHOLE_FLEET) -> Rollout:
    """Pause a running rollout.

    Raises:
        PeerError: `unknown_rollout`, `rollout_proposed` or `rollout_ended`.
    """
    rollout = _live(tx, rollout_id, "paused", scope)
    return _carry_out(tx, rollout, engine.pause(rollout), (), sight)


def resume(tx: Tx, rollout_id: str, sight: Sight, *, scope: Scope = WHOLE_FLEET) -> Rollout:
    """Resume a paused rollout.

    Raises:
        PeerError: `unknown_rollout`, `rollout_proposed` or `rollout_ended`.
    """
    rollout = _live(tx, rollout_id, "resumed", scope)
    if rollout.state == "paused":
        rollout = _carry_out(tx, rollout, engine.resume(rollout), (), sight)
    return advance(tx, rollout, sight)


def abort(tx: Tx, rollout_id: str, sight: Sight, *, scope: Scope = WHOLE_FLEET) -> Rollout:
    """End a rollout; unconfirmed devices return to their previous release.

    Raises:
        PeerError: `unknown_rollout` or `rollout_ended`.
    """
    rollout = get(tx, rollout_id, scope)
    if rollout.state not in LIVE and rollout.state not in ("proposed", "inconclusive"):
        raise _ended(rollout, "aborted")
    known = StoredEvidence(tx, rollout, sight)
    new, commands = engine.abort(rollout, known, sight.now_unix_ms)
    return _carry_out(tx, rollout, new, commands, sight)


def rollback(
    tx: Tx, request: RollbackIn, sight: Sight, *, scope: Scope = WHOLE_FLEET
) -> RollbackResult:
    """Return each matched device to the release that it confirmed before the present one.

    Raises:
        PeerError: `out_of_scope`, `unknown_model` or `no_device_matches`.
    """
    acts.about(f"{request.model} on {_words(request.match)}")
    if not is_within(request.match, scope):
        raise out_of_scope(scope, "the devices of a rollback must match these tags")
    if not tx.releases.by_model(request.model):
        raise PeerError(
            f"there is no model {request.model}",
            code="unknown_model",
            hint="`fleet releases` lists what was pushed",
        )
    selection = Selection(match=request.match)
    devices = registry.matched(tx, selection)
    _supersede(tx, request.model, frozenset(devices), "rolled back by hand", sight)
    present = {
        row.device: row.model
        for row in tx.states.desired(selection)
        if row.model.name == request.model
    }
    confirmed = tx.states.confirmed(selection, request.model)
    dead = dead_manifests(tx, request.model)
    reports = tx.states.reports(selection)
    results = []
    for device in devices:
        now = present.get(device)
        history = confirmed.get(device, [])
        report = reports.get(device)
        back = rollback_of(
            present=now.manifest if now else None,
            confirmed=[key for key, _ in history],
            quarantined=dead | ({q.manifest for q in report.quarantined} if report else set()),
        )
        if back.release is not None:
            body = next(body for key, body in history if key == back.release)
            generation = desired.generation_after(tx, device)
            tx.states.void_confirmed_after(device, request.model, back.release.manifest)
            desired.give(tx, device, generation, body.model_copy(update={"rollout": None}))
        results.append(
            RollbackDevice(
                device=device,
                from_version=now.version if now else None,
                to_version=back.release.version if back.release else None,
                reason=back.reason,
            )
        )
    moved = sum(1 for result in results if result.to_version is not None)
    text = f"rolled back on {moved} of {len(results)} devices"
    detail: dict[str, object] = {"match": request.match}
    tx.journal.note([EventRow("rollback", request.model, text, detail)], sight.now_unix_ms)
    return RollbackResult(model=request.model, devices=results)


def get(
    tx: Tx, rollout_id: str, scope: Scope = WHOLE_FLEET, *, has_members: bool = True
) -> Rollout:
    """Return a stored rollout; outside of the scope is as if it were not there.

    Raises:
        PeerError: `unknown_rollout`.
    """
    rollout = tx.rollouts.get(rollout_id, has_members=has_members)
    if rollout is None or not is_within(tx.rollouts.match_of(rollout_id) or {}, scope):
        raise PeerError(
            f"there is no rollout {rollout_id[:80]!r}",
            code="unknown_rollout",
            hint="`fleet rollouts` lists them",
        )
    return rollout


def _carry_out(
    tx: Tx, old: Rollout, new: Rollout, commands: Iterable[Command], sight: Sight
) -> Rollout:
    body = None
    for command in commands:
        if isinstance(command, Assign):
            body = body or tx.rollouts.order(new.id).body
            desired.give(tx, command.device, command.generation, body)
            continue
        if isinstance(command, Shade):
            body = body or tx.rollouts.order(new.id).body
            shadows.shade(tx, new, body.index, command.device, command.generation)
            continue
        if isinstance(command, Unshade):
            shadows.unshade(tx, new.model, [command.device])
            continue
        previous = _previous_body(tx, command.device, new.model, command.previous)
        if previous is None:
            desired.take(tx, command.device, command.generation, new.model)
        else:
            desired.give(tx, command.device, command.generation, previous)
    if new != old:
        tx.rollouts.save(old, new)
        tx.journal.note(narrate(old, new), sight.now_unix_ms)
    if new.state != old.state:
        _note_stop(tx, new, sight.now_unix_ms)
        if new.state == "finished":
            aliases.on_finished(tx, new, sight.now_unix_ms)
    return new


def _note_stop(tx: Tx, rollout: Rollout, now_unix_ms: int) -> None:
    """Note for the alerts that a rollout stopped by itself, or that one is over."""
    is_stopped = rollout.state in ("halted", "inconclusive")
    release = f"{rollout.model}:{rollout.release.version}"
    text = f"{rollout.id} of {release} is {rollout.state}: {rollout.reason}"
    tx.alerts.note(STOPPED, rollout.id, text, now_unix_ms, is_breached=is_stopped)
    if rollout.state == "finished":
        for earlier in tx.alerts.open_of(STOPPED):
            if tx.rollouts.order(earlier).body.name == rollout.model:
                tx.alerts.note(STOPPED, earlier, "", now_unix_ms, is_breached=False)


def _previous_body(
    tx: Tx, device: str, model: str, previous: ReleaseKey | None
) -> m.DesiredModel | None:
    if previous is None:
        return None
    history = tx.states.confirmed(Selection(device=device), model).get(device, [])
    body = next((body for key, body in history if key.manifest == previous.manifest), None)
    return body.model_copy(update={"rollout": None}) if body is not None else None


def _take_over(tx: Tx, rollout: Rollout, sight: Sight) -> None:
    taken = frozenset(member.device for member in rollout.members)
    _supersede(tx, rollout.model, taken, f"taken over by {rollout.id}", sight)


def _supersede(tx: Tx, model: str, devices: frozenset[str], why: str, sight: Sight) -> None:
    """Take devices out of all live rollouts of a model, and end its shadows; one left empty ends."""
    shadows.unshade(tx, model, devices)
    for rollout_id in tx.rollouts.live_ids(model):
        old = get(tx, rollout_id)
        new = engine.supersede(old, devices, why)
        if new != old:
            advance(tx, _carry_out(tx, old, new, (), sight), sight)


def _live(tx: Tx, rollout_id: str, wish: str, scope: Scope) -> Rollout:
    rollout = get(tx, rollout_id, scope)
    if rollout.state == "proposed":
        raise PeerError(
            f"{rollout.id} is only proposed and cannot be {wish}: {rollout.reason}",
            code="rollout_proposed",
            hint="approve it, or abort it",
        )
    if rollout.state not in LIVE:
        raise _ended(rollout, wish)
    return rollout


def _words(match: Mapping[str, str]) -> str:
    return " ".join(f"{key}={value}" for key, value in sorted(match.items())) or "all devices"


def _ended(rollout: Rollout, wish: str) -> PeerError:
    return PeerError(
        f"{rollout.id} is {rollout.state} and cannot be {wish}: {rollout.reason}",
        code="rollout_ended",
        hint="start a new rollout, or use `fleet rollback`",
    )


def _same_person(rollout: Rollout, by: str) -> PeerError:
    asked_by = rollout.approval.asked_by if rollout.approval else ""
    whose = "" if by == asked_by else f", and the token {by} comes from theirs"
    return PeerError(
        f"{asked_by} asked for {rollout.id}{whose}: somebody else must approve it",
        code="same_person",
        hint=f"a releaser or administrator can whose token was not made by {asked_by}, nor by one that"
        " was: `fleet token list` shows who made which",
    )


def _refuse_twice(tx: Tx, request: RolloutIn, key: ReleaseKey) -> None:
    for rollout_id in tx.rollouts.live_ids(request.model, has_proposed=True):
        same = tx.rollouts.order(rollout_id)
        if same.body.manifest == key.manifest and same.match == request.match:
            raise PeerError(
                f"{rollout_id} is already rolling out {request.model}:{key.version} to these"
                " devices",
                code="rollout_running",
                hint=f"watch it with `fleet rollout show {rollout_id}`, or abort it first",
            )


def _refuse_too_many(tx: Tx, selection: Selection, model: str) -> None:
    others: dict[str, int] = {}
    for row in tx.states.desired(selection):
        if row.model.name != model:
            others[row.device] = others.get(row.device, 0) + 1
    full = sorted(d for d, count in others.items() if count >= m.MAX_MODELS_PER_DEVICE)
    if full:
        raise PeerError(
            f"{', '.join(full[:5])}: {m.MAX_MODELS_PER_DEVICE} models already, no room for {model}",
            code="too_many_models",
            hint="choose other devices",
        )


def _already(
    tx: Tx, selection: Selection, devices: list[str], model: str, key: ReleaseKey
) -> Mapping[str, bool]:
    """Return for each device whether it is assigned the release, serves it and confirmed it."""
    seen = evidence_of(tx, selection, model, key.manifest, Sight(0, 0))
    assigned = {
        row.device: row.generation
        for row in tx.states.desired(selection)
        if row.model.manifest == key.manifest
    }
    return {
        device: device in assigned
        and gate.is_confirmed(key.manifest, assigned[device], seen[device])
        for device in devices
    }
