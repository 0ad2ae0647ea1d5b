"""`fleet audit …`: who did what, and whether that log is whole."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from fleet.api.schemas import AuditEntry
from fleet.settings import require_settings
from wire.errors import StorageError

from .client import Client
from .console import Controller, Json, counted, show, show_json


def register(app: typer.Typer) -> None:
    """Add these commands."""
    audit = typer.Typer(help="Who did what.", no_args_is_help=True)
    audit.command("log")(show_log)
    audit.command("verify")(verify)
    app.add_typer(audit, name="audit")


def show_log(
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 50,
    json: Json = False,
    controller: Controller = None,
) -> None:
    """List what was done and tried through the API, newest first."""
    with Client(controller) as client:
        rows = client.list("/v1/audit", AuditEntry, limit=limit)
    if json:
        show_json([row.model_dump(mode="json") for row in rows])
        return
    show(
        [
            {
                "ROW": row.seq,
                "AT": time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(row.at_unix_ms / 1000)),
                "WHO": row.who,
                "WHAT": row.what,
                "SUBJECT": row.subject,
                "OUTCOME": row.outcome,
                "CODE": row.code,
            }
            for row in rows
        ],
        empty="nothing was done yet",
    )


def verify(
    fleet: Annotated[
        Path | None, typer.Option("--fleet", help="The fleet's directory; else this one or above.")
    ] = None,
    checkpoints: Annotated[
        Path | None, typer.Option(help="A copy of the checkpoints; else those in fleet.toml.")
    ] = None,
    key: Annotated[
        Path | None, typer.Option(help="A copy of audit.pub; else the one beside fleet.toml.")
    ] = None,
    json: Json = False,
) -> None:
    """Hold the log against its chain and its checkpoints; reads the store, asks no controller."""
    from fleet import audit
    from fleet.store.store import Store

    settings = require_settings(fleet)
    store = Store(settings.database, settings.store_dir)
    try:
        found = audit.verify(
            store,
            checkpoints or settings.checkpoints_path,
            key or settings.root / audit.PUBLIC_FILE,
        )
    finally:
        store.close()
    if json:
        show_json(
            {
                "is_whole": found.fault is None,
                "first_bad_row": found.fault.seq if found.fault else None,
                "why": found.fault.why if found.fault else "",
                "row_count": found.row_count,
                "checkpoint_count": found.checkpoint_count,
                "open_count": found.open_count,
            }
        )
        if found.fault is not None:
            raise typer.Exit(1)
        return
    if found.fault is not None:
        raise StorageError(
            found.fault.why,
            code="audit_broken",
            hint="keep this store and its checkpoints as they are, and restore a backup elsewhere",
        )
    typer.echo(
        f"whole: {counted(found.row_count, 'row')}, {counted(found.checkpoint_count, 'checkpoint')};"
        f" {found.open_count} newer than the newest checkpoint"
    )
