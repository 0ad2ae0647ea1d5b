"""Routes about alerts and silences."""

from __future__ import annotations

from typing import Annotated

from fastapi import FastAPI, Path, Query

from fleet.alerts import acts as alert_acts
from fleet.controller import Controller
from fleet.core import alerts as core
from fleet.core.rights import Right
from fleet.store.alerts import SilenceRow
from fleet.store.devices import BATCH
from wire.messages import MAX_INTEGER

from . import alert_schemas as s
from .access import By, needs

Number = Annotated[int, Path(ge=1, le=MAX_INTEGER)]


def add_routes(app: FastAPI, controller: Controller) -> None:
    """Add these routes."""
    _add_alerts(app, controller)
    _add_silences(app, controller)


def _add_alerts(app: FastAPI, controller: Controller) -> None:
    @app.get("/v1/alerts", openapi_extra=needs(Right.SEE))
    def list_alerts(
        by: By,
        all_: Annotated[bool, Query(alias="all")] = False,  # noqa: FBT002 - a query's flag
        before: Annotated[int | None, Query(ge=1, le=MAX_INTEGER)] = None,
        limit: Annotated[int, Query(ge=1, le=BATCH)] = BATCH,
    ) -> list[s.Alert]:
        """List alerts, newest first: the open ones, with `all` those of the last 30 days that are over."""
        now = controller.now_unix_ms()
        with controller.store.read() as tx:
            found = alert_acts.page(tx, by.scope, now, is_all=all_, before=before, limit=limit)
            return [_shown(controller, listed) for listed in found]

    @app.post("/v1/alerts/{alert}/acknowledge", openapi_extra=needs(Right.STEER))
    def acknowledge_alert(by: By, alert: Number) -> s.Alert:
        """Say that somebody knows: nobody is told of it again until it is over."""
        now = controller.now_unix_ms()
        row = controller.command(
            lambda tx: alert_acts.acknowledge(
                tx, controller.alerts, alert, by=by.name, scope=by.scope, now_unix_ms=now
            )
        )
        return _shown(controller, alert_acts.Listed(row, is_silenced=False))

    @app.post("/v1/alert-tests", openapi_extra=needs(Right.STEER, is_whole_fleet=True))
    def test_alerts(by: By) -> s.AlertTest:
        """Send a test alert to every receiver; say what each answered."""
        answers = alert_acts.try_receivers(
            controller.store, controller.alerts, by=by.name, now_unix_ms=controller.now_unix_ms()
        )
        return s.AlertTest(
            receivers=[
                s.ReceiverAnswer(receiver=name, is_taken=said.is_taken, answer=said.text)
                for name, said in answers.items()
            ]
        )


def _add_silences(app: FastAPI, controller: Controller) -> None:
    @app.get("/v1/silences", openapi_extra=needs(Right.SEE))
    def list_silences(by: By) -> list[s.Silence]:
        """List the silences that hold, oldest first."""
        with controller.store.read() as tx:
            rows = alert_acts.silences(tx, by.scope, controller.now_unix_ms())
            return [_silence(row) for row in rows]

    @app.post("/v1/silences", status_code=201, openapi_extra=needs(Right.STEER))
    def add_silence(by: By, body: s.SilenceIn) -> s.Silence:
        """Have nobody told of some alerts for a time."""
        now = controller.now_unix_ms()
        wish = core.Silence(body.rule, body.subject, body.match, now + body.for_s * 1000)
        row = controller.command(
            lambda tx: alert_acts.silence(
                tx, wish, by=by.name, why=body.why, scope=by.scope, now_unix_ms=now
            )
        )
        return _silence(row)

    @app.delete("/v1/silences/{silence}", openapi_extra=needs(Right.STEER))
    def end_silence(by: By, silence: Number) -> s.Silence:
        """End a silence; what still fires is told."""
        now = controller.now_unix_ms()
        row = controller.command(
            lambda tx: alert_acts.end_silence(tx, silence, scope=by.scope, now_unix_ms=now)
        )
        return _silence(row)


def _shown(controller: Controller, listed: alert_acts.Listed) -> s.Alert:
    row, alert = listed.row, listed.row.alert
    return s.Alert(
        id=row.id,
        rule=alert.rule,
        severity=controller.alerts.rule(alert.rule).severity,
        subject=alert.subject,
        device=row.device,
        state=alert.state,
        text=row.text,
        began_unix_ms=alert.began_unix_ms,
        fired_unix_ms=alert.fired_unix_ms,
        resolved_unix_ms=alert.resolved_unix_ms,
        told_unix_ms=alert.told_unix_ms,
        acknowledged_by=alert.acknowledged_by,
        acknowledged_unix_ms=row.acknowledged_unix_ms,
        is_silenced=listed.is_silenced,
    )


def _silence(row: SilenceRow) -> s.Silence:
    return s.Silence(
        id=row.id,
        rule=row.silence.rule,
        subject=row.silence.subject,
        match=dict(row.silence.match),
        until_unix_ms=row.silence.until_unix_ms,
        created_unix_ms=row.created_unix_ms,
        created_by=row.created_by,
        why=row.why,
    )
