"""`fleet store copy`: the rows of a fleet's SQLite into the PostgreSQL that fleet.toml names."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fleet.lease import hold_lease
from fleet.settings import require_settings
from wire.errors import ConfigError, StorageError

from .console import counted


def register(app: typer.Typer) -> None:
    """Add these commands."""
    store = typer.Typer(help="Where the controller keeps its rows.", no_args_is_help=True)
    store.callback()(_group)
    store.command("copy")(copy)
    app.add_typer(store, name="store")


def _group() -> None:
    pass


def copy(
    fleet: Annotated[
        Path | None, typer.Option("--fleet", help="The fleet's directory; else this one or above.")
    ] = None,
) -> None:
    """Copy the store's SQLite into the PostgreSQL of [store] url, while the controller is down."""
    from fleet.store.copying import copy_store

    settings = require_settings(fleet)
    if settings.store.url is None:
        raise ConfigError(
            f"{settings.root}: fleet.toml names no PostgreSQL",
            code="no_store_url",
            hint="write its URL as [store] url, then copy, then start the controller",
        )
    if not settings.sqlite_path.is_file():
        raise ConfigError(f"there is no {settings.sqlite_path} to copy", code="no_store")
    with hold_lease(settings.pid_path):
        try:
            count = copy_store(settings.sqlite_path, settings.store.url)
        except ValueError as exc:
            raise StorageError(f"nothing was copied: {exc}", code="store_failed") from exc
    typer.echo(f"copied {counted(count, 'row')}; {settings.sqlite_path} is left as it was")
