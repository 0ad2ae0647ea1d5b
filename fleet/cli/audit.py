"""`fleet audit …`: who did what, and whether that log is whole."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from fleet.api.schemas import AuditEntry
from fleet.settings import FleetSettings, require_settings
from wire.errors import StorageError

from .client import Client
from .console import Controller, Json, confirm, counted, show, show_json


def register(app: typer.Typer) -> None:
    """Add these commands."""
    audit = typer.Typer(help="Who did what.", no_args_is_help=True)
    audit.command("log")(show_log)
    audit.command("verify")(verify)
    audit.command("begin")(begin)
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
                "AT": _at(row.at_unix_ms),
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
    from fleet.checkpoints import MEMORY_FILE
    from fleet.store.store import Store

    settings = require_settings(fleet)
    store = Store(settings.database, settings.store_dir)
    try:
        found = audit.verify(
            store,
            checkpoints or settings.checkpoints_path,
            key or settings.root / audit.PUBLIC_FILE,
            time.time_ns() // 1_000_000,
            memory_path=_key_path(settings).with_name(MEMORY_FILE) if checkpoints is None else None,
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
                "hint": found.fault.hint or audit.KEEP if found.fault else "",
                "begun_after_row": found.beginning.seq if found.beginning else 0,
                "begun_why": found.beginning.why if found.beginning else "",
            }
        )
        if found.fault is not None:
            raise typer.Exit(1)
        return
    if found.fault is not None:
        raise StorageError(
            found.fault.why,
            code="audit_broken",
            hint=found.fault.hint or audit.KEEP,
        )
    typer.echo(
        f"whole: {counted(found.row_count, 'row')}, {counted(found.checkpoint_count, 'checkpoint')};"
        f" {found.open_count} newer than the newest checkpoint"
    )
    if found.beginning is not None:
        began = found.beginning
        typer.echo(f"rows up to {began.seq} as they were on {_at(began.at_unix_ms)}: {began.why}")


def begin(
    why: Annotated[str, typer.Option(help="Why nothing before is witnessed; it stays in the log.")],
    fleet: Annotated[
        Path | None, typer.Option("--fleet", help="The fleet's directory; else this one or above.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Accept the rows as they are, after checkpoints were lost or a backup was set back."""
    from fleet import audit
    from fleet.acts import MAX_SUBJECT_CHARS
    from fleet.store.store import Store

    words = why.strip()
    if not words or not words.isprintable() or len(words) > MAX_SUBJECT_CHARS:
        raise typer.BadParameter(
            f"one line of 1 to {MAX_SUBJECT_CHARS} letters", param_hint="--why"
        )
    settings = require_settings(fleet)
    confirm("Accept all rows of the audit log as they are?", is_sure=yes)
    store = Store(settings.database, settings.store_dir)
    try:
        began = audit.begin(
            store,
            settings.checkpoints_path,
            _key_path(settings),
            words,
            time.time_ns() // 1_000_000,
        )
    finally:
        store.close()
    typer.echo(f"rows up to {began.seq} count as they are; what comes after is witnessed")


def _key_path(settings: FleetSettings) -> Path:
    from fleet import audit

    return settings.store_dir / "trust" / audit.KEY_FILE


def _at(unix_ms: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(unix_ms / 1000))
