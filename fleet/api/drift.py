"""Routes for drift: what was found, and how a release's columns lie beside their baseline."""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import FastAPI, Query

from fleet import aliases
from fleet.controller import Controller
from fleet.core.rights import Right, Scope
from fleet.monitoring.drift import words_of
from fleet.store.devices import Selection
from fleet.store.drift import FindingRow
from fleet.store.releases import ReleaseRow
from fleet.store.store import Tx

from .access import By, needs
from .drift_schemas import DriftFinding, DriftReport
from .errors import no_model
from .query import Match, parse_match

MAX_SPAN_S: Final = 730 * 86_400
DAY_S: Final = 86_400


def add_routes(app: FastAPI, controller: Controller) -> None:
    """Add these routes."""

    @app.get("/v1/drift", openapi_extra=needs(Right.SEE))
    def list_findings(
        by: By,
        model: str | None = None,
        closed_s: Annotated[float, Query(ge=0, le=MAX_SPAN_S)] = 0,
    ) -> list[DriftFinding]:
        """List what drift was traced to, newest first; `closed_s` adds what ended so long ago."""
        since = controller.now_unix_ms() - int(closed_s * 1000) if closed_s else None
        with controller.store.read() as tx:
            rows = tx.drift.findings(model=model, closed_since_unix_ms=since)
            return [finding(tx, row) for row in rows if is_within_scope(tx, row, by.scope)]

    @app.get("/v1/models/{model}/drift", openapi_extra=needs(Right.SEE))
    def show_drift(
        by: By,
        model: str,
        *,
        version: str | None = None,
        device: str | None = None,
        match: Match = None,
        since_s: Annotated[float, Query(gt=0, le=MAX_SPAN_S)] = DAY_S,
    ) -> DriftReport:
        """Hold what a release was asked and answered against its baseline; the newest that served."""
        now = controller.now_unix_ms()
        selection = Selection(match=parse_match(match), device=device, scope=by.scope)
        with controller.store.read() as tx:
            since = now - int(since_s * 1000)
            release = _release(tx, model, version, since, now)
            report = _report(tx, controller, release, selection, since)
            rows = tx.drift.findings(model=model)
            report.findings = [
                finding(tx, row)
                for row in rows
                if row.manifest == release.manifest and is_within_scope(tx, row, by.scope)
            ]
        return report


def finding(tx: Tx, row: FindingRow) -> DriftFinding:
    """Return a finding as the API says it."""
    release = tx.releases.by_manifest(row.manifest)
    return DriftFinding.model_validate(
        {
            "id": row.id,
            "model": row.model,
            "version": release.version if release else None,
            "level": row.level,
            "who": row.who,
            "features": list(row.features),
            "since_unix_ms": row.since_unix_ms,
            "drifted_count": row.drifted_count,
            "device_count": row.device_count,
            "opened_unix_ms": row.opened_unix_ms,
            "closed_unix_ms": row.closed_unix_ms,
            "text": words_of(row),
        }
    )


def is_within_scope(tx: Tx, row: FindingRow, scope: Scope) -> bool:
    """Whether a finding is about devices of a scope and no others."""
    if not scope:
        return True
    if row.level == "device":
        return bool(tx.devices.ids(Selection(device=row.who, scope=scope)))
    key, _, value = row.who.partition("=")
    return row.level == "group" and scope == {key: value}


def _release(tx: Tx, model: str, version: str | None, since: int, now: int) -> ReleaseRow:
    """Return the release that is meant: the named one, else the newest that has windows."""
    releases = tx.releases.by_model(model)
    if not releases:
        raise no_model(model)
    if version is not None:
        return aliases.resolve(tx, model, version)
    seen = set(tx.windows.manifests(since, now + 1))
    return next((release for release in releases if release.manifest in seen), releases[0])


def _report(
    tx: Tx, controller: Controller, release: ReleaseRow, selection: Selection, since: int
) -> DriftReport:
    # These bring numpy and scipy, which the controller starts without.
    from fleet.monitoring.drift import gather
    from fleet.monitoring.drift_report import budget_of, report_of

    now = controller.now_unix_ms()
    head = DriftReport(
        model=release.model,
        version=release.version,
        manifest=release.manifest,
        since_unix_ms=since,
        until_unix_ms=now,
        device_count=0,
        row_count=0,
        columns=[],
        findings=[],
    )
    baseline = controller.windows.baselines.of(release)
    evidence = gather(
        tx, release.manifest, baseline, selection, since_unix_ms=since, until_unix_ms=now + 1
    )
    served = tx.releases.device_counts(Selection()).get(release.manifest, 0)
    watched = controller.drift
    budget = budget_of(evidence, served, watched.alarms_per_30_days, watched.slot_ms)
    return report_of(baseline, evidence, head, budget=budget)
