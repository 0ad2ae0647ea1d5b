"""Routes about aliases."""

from __future__ import annotations

from typing import Annotated

from fastapi import FastAPI, Path, Query

from fleet import aliases
from fleet.controller import Controller
from fleet.core import aliases as core
from fleet.core.rights import Right
from fleet.store.devices import BATCH
from wire.errors import PeerError
from wire.ids import NAME_PATTERN
from wire.messages import MAX_INTEGER

from . import lineage_schemas as s
from .access import By, needs

AliasPath = Annotated[str, Path(pattern=NAME_PATTERN)]
Before = Annotated[int | None, Query(ge=1, le=MAX_INTEGER)]
Limit = Annotated[int, Query(ge=1, le=BATCH)]
ONE = "/v1/models/{model}/aliases/{alias}"


def add_routes(app: FastAPI, controller: Controller) -> None:
    """Add these routes; an alias is the whole fleet's, so a token with a scope moves none."""
    _add_moves(app, controller)

    @app.get("/v1/aliases", openapi_extra=needs(Right.SEE))
    def list_aliases(model: str | None = None) -> list[s.Alias]:
        """List what each alias means now, of one model or of all."""
        with controller.store.read() as tx:
            return [found for move in tx.aliases.standing(model) if (found := _alias(move))]

    @app.get(f"{ONE}/history", openapi_extra=needs(Right.SEE))
    def show_alias_history(
        model: AliasPath, alias: AliasPath, before: Before = None, limit: Limit = BATCH
    ) -> list[s.AliasMove]:
        """List the moves of an alias, newest first; `before` is the last number of the page before."""
        with controller.store.read() as tx:
            moves = tx.aliases.history(model, alias, before=before, limit=limit)
        if not moves and before is None:
            raise PeerError(
                f"there never was an alias {model}@{alias}",
                code="unknown_alias",
                hint="`fleet alias list` lists them",
            )
        return [_shown(move) for move in moves]


def _add_moves(app: FastAPI, controller: Controller) -> None:
    @app.put(ONE, openapi_extra=needs(Right.RELEASE, is_whole_fleet=True))
    def set_alias(by: By, model: AliasPath, alias: AliasPath, body: s.AliasIn) -> s.AliasMove:
        """Have an alias mean a release."""
        now = controller.now_unix_ms()
        return _shown(
            controller.command(
                lambda tx: aliases.move_to(
                    tx, model, alias, body.version, by=by.name, why=body.why, now_unix_ms=now
                )
            )
        )

    @app.delete(ONE, openapi_extra=needs(Right.RELEASE, is_whole_fleet=True))
    def delete_alias(by: By, model: AliasPath, alias: AliasPath, why: s.Why = "") -> s.AliasMove:
        """Have an alias mean nothing any more; one step back undoes it."""
        now = controller.now_unix_ms()
        return _shown(
            controller.command(
                lambda tx: aliases.delete(tx, model, alias, by=by.name, why=why, now_unix_ms=now)
            )
        )

    @app.post(f"{ONE}/rollback", openapi_extra=needs(Right.STEER, is_whole_fleet=True))
    def roll_alias_back(
        by: By, model: AliasPath, alias: AliasPath, body: s.AliasBackIn
    ) -> s.AliasMove:
        """Have an alias mean what it did before, one step back by its own history."""
        now = controller.now_unix_ms()
        return _shown(
            controller.command(
                lambda tx: aliases.step_back(
                    tx, model, alias, by=by.name, why=body.why, now_unix_ms=now
                )
            )
        )


def _alias(move: core.AliasMove) -> s.Alias | None:
    if move.version is None or move.manifest is None:
        return None
    return s.Alias(
        model=move.model,
        alias=move.alias,
        version=move.version,
        manifest=move.manifest,
        since_unix_ms=move.moved_unix_ms,
        moved_by=move.moved_by,
        why=move.why,
    )


def _shown(move: core.AliasMove) -> s.AliasMove:
    return s.AliasMove(
        id=move.id,
        model=move.model,
        alias=move.alias,
        version=move.version,
        manifest=move.manifest,
        kind=move.kind,
        moved_unix_ms=move.moved_unix_ms,
        moved_by=move.moved_by,
        why=move.why,
    )
