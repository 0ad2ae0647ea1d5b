"""Routes about captured rows. What devices were asked and answered leaves the fleet here, so each is audited."""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.responses import StreamingResponse

from fleet.capture import captures
from fleet.controller import Controller
from fleet.core.rights import Right
from fleet.store.devices import Selection

from . import capture_schemas as s
from .access import By, needs
from .query import Match, parse_match


def add_routes(app: FastAPI, controller: Controller) -> None:
    """Add these routes."""

    @app.post("/v1/capture-requests", status_code=201, openapi_extra=needs(Right.RELEASE))
    def request_captures(by: By, body: s.CaptureRequestIn) -> s.CaptureRequestResult:
        """Ask devices for rows that they have captured; none captures because it is asked."""
        now = controller.now_unix_ms()
        return controller.command(
            lambda tx: captures.request(tx, body, now, by=by.name, scope=by.scope)
        )

    @app.get("/v1/capture-requests", openapi_extra=needs(Right.SEE))
    def list_capture_requests(by: By, match: Match = None) -> list[s.CaptureAsked]:
        """List what devices were asked for last, newest first."""
        with controller.store.read() as tx:
            asked = tx.captures.asked(Selection(match=parse_match(match), scope=by.scope))
        return [
            s.CaptureAsked(
                id=one.wish.id,
                device=one.device,
                model=one.wish.model,
                limit=one.wish.limit,
                row_count=one.row_count,
                is_open=one.is_open,
                until_unix_ms=one.wish.until_unix_ms,
                created_unix_ms=one.wish.created_unix_ms,
                created_by=one.wish.created_by,
            )
            for one in asked
        ]

    @app.get("/v1/captures", openapi_extra=needs(Right.SEE))
    def list_captures(by: By, model: str | None = None, match: Match = None) -> list[s.CaptureHeld]:
        """List how many captured rows are here, by model and device."""
        with controller.store.read() as tx:
            held = tx.captures.held(Selection(match=parse_match(match), scope=by.scope), model)
        return [
            s.CaptureHeld(
                model=one.model,
                device=one.device,
                row_count=one.row_count,
                size_bytes=one.size_bytes,
                first_unix_ms=one.first_unix_ms,
                last_unix_ms=one.last_unix_ms,
                received_unix_ms=one.received_unix_ms,
            )
            for one in held
        ]

    @app.post(
        "/v1/capture-exports",
        response_class=StreamingResponse,
        openapi_extra=needs(Right.RELEASE),
    )
    def export_captures(by: By, body: s.CaptureExportIn) -> StreamingResponse:
        """Hand captured rows out, pack after pack: before each, a line of JSON with its length."""
        now = controller.now_unix_ms()
        packs = captures.export(controller.store, body, now, scope=by.scope)
        return StreamingResponse(packs, media_type=captures.MEDIA_TYPE)

    @app.post("/v1/capture-deletions", openapi_extra=needs(Right.RELEASE))
    def delete_captures(by: By, body: s.CaptureDeletionIn) -> s.CaptureDeletionResult:
        """Delete captured rows for good."""
        now = controller.now_unix_ms()
        count = controller.command(lambda tx: captures.delete(tx, body, now, scope=by.scope))
        return s.CaptureDeletionResult(row_count=count)
