"""Routes for administrators: tokens, and the audit log."""

from __future__ import annotations

from typing import Annotated

from fastapi import FastAPI, Query

from fleet import tokens
from fleet.controller import Controller
from fleet.core.rights import Right
from fleet.store.store import Tx
from wire.messages import MAX_INTEGER

from . import schemas as s
from . import views
from .access import By, needs

MAX_AUDIT = 1000
"""Rows of the audit log in one answer."""


def add_routes(app: FastAPI, controller: Controller) -> None:
    """Add these routes."""

    @app.get("/v1/tokens", openapi_extra=needs(Right.ADMINISTER))
    def list_tokens(by: By) -> list[s.Token]:
        """List the tokens that give no more than the caller's scope, dead ones too."""
        with controller.store.read() as tx:
            now = controller.now_unix_ms()
            return [views.token(row, now) for row in tokens.visible(tx, by)]

    @app.post("/v1/tokens", status_code=201, openapi_extra=needs(Right.ADMINISTER))
    def create_token(by: By, body: s.TokenIn) -> s.NewToken:
        """Make a token; the answer is the only place that it is ever told."""
        now = controller.now_unix_ms()

        def create(tx: Tx) -> s.NewToken:
            made = tokens.create(
                tx,
                name=body.name,
                role=body.role,
                scope=body.scope,
                expires_unix_ms=None if body.expires_s == "never" else now + body.expires_s * 1000,
                by=by,
                now_unix_ms=now,
            )
            return views.new_token(made.row, made.token, now)

        return controller.command(create)

    @app.delete("/v1/tokens/{name}", openapi_extra=needs(Right.ADMINISTER))
    def revoke_token(by: By, name: str) -> s.Token:
        """End a token at once; open streams of its bearer end too."""
        now = controller.now_unix_ms()
        row = controller.command(lambda tx: tokens.revoke(tx, name, by=by, now_unix_ms=now))
        return views.token(row, now)

    @app.get("/v1/audit", openapi_extra=needs(Right.ADMINISTER, is_whole_fleet=True))
    def list_audit(
        before: Annotated[int | None, Query(ge=1, le=MAX_INTEGER)] = None,
        limit: Annotated[int, Query(ge=1, le=MAX_AUDIT)] = 100,
    ) -> list[s.AuditEntry]:
        """List the newest rows of the audit log, newest first, those numbered below `before`."""
        with controller.store.read() as tx:
            return [views.audit_entry(row) for row in tx.audit.page(before=before, limit=limit)]
