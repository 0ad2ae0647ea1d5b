"""`fleet watch`: what happens, as it happens."""

from __future__ import annotations

import time
from typing import Final

import typer
from pydantic import ValidationError

from fleet.api.schemas import WatchEvent
from wire.errors import TransferError

from .client import Client
from .console import Controller, Json, printable, say

RETRY_S: Final = 2.0


def register(app: typer.Typer) -> None:
    """Add this command."""
    app.command("watch")(watch)


def watch(json: Json = False, controller: Controller = None) -> None:
    """Print events until Ctrl-C: devices, updates, alarms, rollouts."""
    since: int | None = None
    is_connected = False
    with Client(controller) as client:
        say(f"watching {client.url}; Ctrl-C ends it")
        while True:
            try:
                query = {} if since is None else {"since": since}
                for line in client.stream("/v1/watch", **query):
                    is_connected = True
                    event = _parse(line)
                    if event is not None:
                        since = event.id
                        _print(event, is_json=json)
            except TransferError as exc:
                if not is_connected:
                    raise
                say(f"{exc}; trying again")
            time.sleep(RETRY_S)


def _parse(line: str) -> WatchEvent | None:
    if not line.startswith("data:"):
        return None
    try:
        return WatchEvent.model_validate_json(line.removeprefix("data:").strip())
    except ValidationError:
        return None  # a newer controller may know more kinds


def _print(event: WatchEvent, *, is_json: bool) -> None:
    if is_json:
        typer.echo(event.model_dump_json())
        return
    at = time.strftime("%H:%M:%S", time.localtime(event.at_unix_ms / 1000))
    typer.echo(f"{at}  {event.kind:<9} {printable(event.subject)}: {printable(event.text)}")
