"""`fleet watch`: what happens, as it happens."""

from __future__ import annotations

import sys
import time
from typing import Annotated

import typer

from fleet.api.schemas import WatchEvent

from .client import Client
from .console import Controller, Json, printable, say
from .events import stream
from .screen import watch_screen


def register(app: typer.Typer) -> None:
    """Add this command."""
    app.command("watch")(watch)


def watch(
    lines: Annotated[
        bool, typer.Option("--lines", help="Events alone, a line each, as without a terminal.")
    ] = False,
    json: Json = False,
    controller: Controller = None,
) -> None:
    """Show the fleet and what happens in it, until Ctrl-C: devices, updates, alarms, rollouts."""
    with Client(controller) as client:
        if sys.stdout.isatty() and not lines and not json:
            with Client(controller) as events:
                watch_screen(client, events)
        say(f"watching {client.url}; Ctrl-C ends it")
        for event in stream(
            client,
            told=lambda fault: say(f"{fault}; trying again"),
            recovered=lambda: say(f"watching {client.url} again"),
        ):
            _print(event, is_json=json)


def _print(event: WatchEvent, *, is_json: bool) -> None:
    if is_json:
        typer.echo(event.model_dump_json())
        return
    at = time.strftime("%H:%M:%S", time.localtime(event.at_unix_ms / 1000))
    typer.echo(f"{at}  {event.kind:<9} {printable(event.subject)}: {printable(event.text)}")
