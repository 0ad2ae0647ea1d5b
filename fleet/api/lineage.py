"""Routes about what was live, how releases were made, and the whole way from data to devices."""

from __future__ import annotations

from typing import Annotated

from fastapi import FastAPI, Query, Response

from fleet import aliases, registry, runs
from fleet.controller import Controller
from fleet.core import live as core
from fleet.core.rights import Right, Scope, is_within
from fleet.store.devices import BATCH, Selection
from fleet.store.releases import ReleaseRow
from fleet.store.runs import RunRow
from fleet.store.store import Tx
from fleet.trust.stored import signed_releases
from wire.errors import BundleError
from wire.ids import NAME_PATTERN
from wire.manifest import parse_manifest
from wire.messages import MAX_INTEGER

from . import lineage_schemas as s
from . import run_schemas as r
from . import schemas, views
from .access import By, needs
from .drift import finding, is_within_scope
from .errors import no_model
from .query import Match, parse_match

Instant = Annotated[int | None, Query(ge=0, le=MAX_INTEGER)]
Before = Annotated[int | None, Query(ge=1, le=MAX_INTEGER)]
Limit = Annotated[int, Query(ge=1, le=BATCH)]
Device = Annotated[str | None, Query(pattern=NAME_PATTERN)]
ONE = "/v1/releases/{model}/{version}"


def add_routes(app: FastAPI, controller: Controller) -> None:
    """Add these routes; a version may be `@` and an alias."""
    _add_runs(app, controller)

    @app.get(ONE, openapi_extra=needs(Right.SEE))
    def show_release(by: By, model: str, version: str) -> schemas.Release:
        """Show one release."""
        with controller.store.read() as tx:
            return _release(tx, aliases.resolve(tx, model, version), by.scope)

    @app.get(f"{ONE}/manifest", response_class=Response, openapi_extra=needs(Right.SEE))
    def show_manifest(model: str, version: str) -> Response:
        """Show the manifest of a release, byte for byte as its bundle has it."""
        with controller.store.read() as tx:
            body = aliases.resolve(tx, model, version).manifest_body
        return Response(body.encode(), media_type="application/json")

    @app.get("/v1/models/{model}/history", openapi_extra=needs(Right.SEE))
    def show_history(
        by: By,
        model: str,
        *,
        device: Device = None,
        match: Match = None,
        at_unix_ms: Instant = None,
        before: Before = None,
        limit: Limit = BATCH,
    ) -> list[s.LiveSpan]:
        """List what was live where, newest first; at an instant, what certainly or possibly was then."""
        selection = Selection(match=parse_match(match), device=device, scope=by.scope)
        with controller.store.read() as tx:
            spans = tx.live.page(
                selection, model=model, at_unix_ms=at_unix_ms, before=before, limit=limit
            )
            if not spans and not tx.releases.page(model, after="", limit=1):
                raise no_model(model)
            return _spans(tx, spans, at_unix_ms)

    @app.get(f"{ONE}/lineage", openapi_extra=needs(Right.SEE))
    def show_lineage(
        by: By, model: str, version: str, *, device: Device = None, match: Match = None
    ) -> s.Lineage:
        """Show where a release comes from, and where it went: on all devices, on some, or on one."""
        selection = Selection(match=parse_match(match), device=device, scope=by.scope)
        with controller.store.read() as tx:
            if device is not None and by.scope:
                registry.require_device(tx, device, by.scope)
            return _lineage(tx, aliases.resolve(tx, model, version), selection, by.scope)

    @app.get("/v1/devices/{device}/lineage", openapi_extra=needs(Right.SEE))
    def show_device_lineage(
        by: By, device: str, *, model: str | None = None, at_unix_ms: Instant = None
    ) -> list[s.Lineage]:
        """Show where that comes from which a device serves now, or served at an instant, by model."""
        now = controller.now_unix_ms()
        selection = Selection(device=device, scope=by.scope)
        with controller.store.read() as tx:
            if by.scope or not tx.live.page(Selection(device=device), limit=1):
                registry.require_device(tx, device, by.scope)
            at = now if at_unix_ms is None else at_unix_ms
            found = tx.live.page(selection, model=model, at_unix_ms=at, limit=BATCH)
            releases = {
                row.manifest: row
                for span in found
                if (row := tx.releases.by_manifest(span.release.manifest)) is not None
            }
            return [
                _lineage(tx, row, selection, by.scope, at_unix_ms=at)
                for row in sorted(releases.values(), key=lambda row: (row.model, row.version))
            ]


def _add_runs(app: FastAPI, controller: Controller) -> None:
    @app.put(f"{ONE}/run", openapi_extra=needs(Right.RELEASE))
    def keep_run(
        by: By, model: str, version: str, body: r.RunRecord, response: Response
    ) -> r.StoredRun:
        """Keep how a release was made, once; the same again changes nothing."""
        now = controller.now_unix_ms()
        row, is_new = controller.command(
            lambda tx: runs.keep(tx, model, version, body, by=by.name, now_unix_ms=now)
        )
        response.status_code = 201 if is_new else 200
        return _run(row, by.scope)

    @app.get(f"{ONE}/run", openapi_extra=needs(Right.SEE))
    def show_run(by: By, model: str, version: str) -> r.StoredRun:
        """Show how a release was made; what its trigger saw, to tokens for the whole fleet only."""
        with controller.store.read() as tx:
            return _run(runs.of_release(tx, model, version), by.scope)


def aliases_by_manifest(tx: Tx, model: str) -> dict[str, list[str]]:
    """Return what releases are called by, by their manifests."""
    called: dict[str, list[str]] = {}
    for move in tx.aliases.standing(model):
        if move.manifest is not None:
            called.setdefault(move.manifest, []).append(move.alias)
    return called


def _run(row: RunRow, scope: Scope) -> r.StoredRun:
    record = r.RunRecord.model_validate_json(row.body)
    if scope:  # what was seen may be about devices of others
        record = record.model_copy(update={"trigger": r.RunTrigger(kind=record.trigger.kind)})
    return r.StoredRun(stored_unix_ms=row.stored_unix_ms, stored_by=row.stored_by, run=record)


def _release(tx: Tx, row: ReleaseRow, scope: Scope) -> schemas.Release:
    counts = tx.releases.device_counts(Selection(scope=scope))
    signed, floor = signed_releases(tx, row.model)
    called = aliases_by_manifest(tx, row.model).get(row.manifest, ())
    count = counts.get(row.manifest, 0)
    return views.release(row, count, signed.get(row.version), floor, called)


def _spans(tx: Tx, spans: list[core.Span], at_unix_ms: int | None) -> list[s.LiveSpan]:
    heard = {
        device: when
        for device in {span.device for span in spans if at_unix_ms is not None}
        for when in tx.devices.last_seen(Selection(device=device)).values()
    }
    return [
        s.LiveSpan(
            id=span.id,
            device=span.device,
            model=span.model,
            version=span.release.version,
            manifest=span.release.manifest,
            earliest_unix_ms=span.earliest_unix_ms,
            since_unix_ms=span.since_unix_ms,
            last_known_unix_ms=span.last_known_unix_ms,
            until_unix_ms=span.until_unix_ms,
            ending=span.ending,
            code=span.code,
            certainty=None
            if at_unix_ms is None
            else core.certainty(span, at_unix_ms, heard.get(span.device)),
        )
        for span in spans
    ]


def _lineage(
    tx: Tx,
    row: ReleaseRow,
    selection: Selection,
    scope: Scope,
    *,
    at_unix_ms: int | None = None,
) -> s.Lineage:
    run = tx.runs.get(row.manifest)
    spans = tx.live.page(selection, manifest=row.manifest, at_unix_ms=at_unix_ms, limit=BATCH)
    found = s.Lineage(
        release=_release(tx, row, scope),
        run=_run(run, scope) if run is not None else None,
        rollouts=_rollouts(tx, row, selection.device, scope),
        device_count=tx.live.device_count(selection, row.manifest),
        spans=_spans(tx, spans, at_unix_ms),
        windows=_windows(tx, row.manifest, selection),
        findings=[
            finding(tx, drifted)
            for drifted in tx.drift.findings(model=row.model, closed_since_unix_ms=0)
            if drifted.manifest == row.manifest
            and is_within_scope(tx, drifted, scope)
            and (drifted.level != "device" or selection.device in (None, drifted.who))
        ],
        at_unix_ms=at_unix_ms,
    )
    try:
        manifest = parse_manifest(row.manifest_body.encode())
    except BundleError:
        return found
    found.files = [
        s.BundleFile(path=file.path, sha256=file.sha256, bytes=file.bytes)
        for file in manifest.files
    ]
    found.origin = s.ManifestOrigin.model_validate(manifest.lineage.model_dump())
    return found


def _rollouts(tx: Tx, row: ReleaseRow, device: str | None, scope: Scope) -> list[s.LineageRollout]:
    """Return the rollouts of a release, of those that a device was in if one is asked for."""
    found = []
    for rollout in tx.rollouts.of_release(row.model, row.manifest, -1):
        match = tx.rollouts.match_of(rollout.id) or {}
        members = {member.device: member.state for member in rollout.members}
        if not is_within(match, scope) or (device is not None and device not in members):
            continue
        states = members.values() if device is None else [members[device]]
        counts: dict[str, int] = {}
        for state in states:
            counts[state] = counts.get(state, 0) + 1
        found.append(
            s.LineageRollout(
                id=rollout.id,
                state=rollout.state,
                reason=rollout.reason,
                match=match,
                counts=counts,
                created_unix_ms=rollout.created_unix_ms,
                ended_unix_ms=rollout.ended_unix_ms,
            )
        )
    return found


def _windows(tx: Tx, manifest: str, selection: Selection) -> list[s.LineageWindows]:
    return [
        s.LineageWindows(
            device=served.device,
            window_count=served.window_count,
            row_count=served.row_count,
            first_unix_ms=served.first_unix_ms,
            last_unix_ms=served.last_unix_ms,
        )
        for served in tx.windows.served(manifest, selection, limit=BATCH)
    ]
