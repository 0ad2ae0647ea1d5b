"""`fleet token …`: who may do what through the API."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Annotated, Final, Literal

import typer

from fleet.api.schemas import DEFAULT_EXPIRY_S, MAX_EXPIRY_S, NewToken, Token, TokenIn
from fleet.core.rights import Role
from fleet.settings import require_settings
from wire.errors import StorageError

from .client import Client
from .console import (
    Controller,
    Json,
    ago,
    checked_tags,
    given_name,
    parse_seconds,
    parse_tags,
    say,
    show,
    show_json,
)

NEVER: Final = "never"
DEFAULT_EXPIRY: Final = f"{DEFAULT_EXPIRY_S // 86_400}d"


def register(app: typer.Typer) -> None:
    """Add these commands."""
    token = typer.Typer(help="Tokens of the API.", no_args_is_help=True)
    token.command("create")(create)
    token.command("list")(list_tokens)
    token.command("revoke")(revoke)
    token.command("recover")(recover)
    app.add_typer(token, name="token")


def parse_life(text: str) -> int | Literal["never"]:
    """Return a token's life in seconds, or never.

    Raises:
        BadParameter: It is no time, or one that no token lives.
    """
    if text == NEVER:
        return NEVER
    life_s = int(parse_seconds(text, option="--expires"))
    if not 1 <= life_s <= MAX_EXPIRY_S:
        raise typer.BadParameter("between 1s and 3660d, or never", param_hint="--expires")
    return life_s


def create(
    name: Annotated[str, typer.Argument(help="Whose it is; the audit log shows it.")],
    role: Annotated[Role, typer.Option(help="What it may do.")],
    scope: Annotated[
        list[str] | None,
        typer.Option("--scope", help="Only devices with this tag, KEY=VALUE; repeatable."),
    ] = None,
    expires: Annotated[str, typer.Option(help="After how long, such as 12h or 90d; or never.")] = (
        DEFAULT_EXPIRY
    ),
    output: Annotated[
        Path | None, typer.Option(help="Write it to this new file, for its owner's eyes only.")
    ] = None,
    json: Json = False,
    controller: Controller = None,
) -> None:
    """Make a token; it is told once, and only its digest is kept."""
    body = TokenIn(
        name=given_name(name, what="token name"),
        role=role,
        scope=checked_tags(parse_tags(scope, option="--scope"), option="--scope"),
        expires_s=parse_life(expires),
    )
    with Client(controller) as client:
        # Before the token is made: one that cannot be kept must not be left alive.
        handle = _new_file(output) if output is not None else None
        try:
            made = client.post("/v1/tokens", body, NewToken)
        except BaseException:
            if output is not None and handle is not None:
                os.close(handle)
                output.unlink()
            raise
    if handle is not None:
        with os.fdopen(handle, "w") as file:
            file.write(f"{made.token}\n")
        say(f"wrote {output}")
        made = made.model_copy(update={"token": ""})
    if json:
        show_json(made.model_dump(mode="json"))
        return
    say(f"{made.role} {made.name}, expires {_until(made)}; keep it: it cannot be shown again")
    if made.token:
        typer.echo(made.token)


def list_tokens(json: Json = False, controller: Controller = None) -> None:
    """List the tokens: what they may do, and when they were last used."""
    with Client(controller) as client:
        found = client.list("/v1/tokens", Token)
    if json:
        show_json([token.model_dump(mode="json") for token in found])
        return
    show(
        [
            {
                "TOKEN": token.name,
                "ROLE": token.role,
                "SCOPE": " ".join(f"{k}={v}" for k, v in sorted(token.scope.items())) or "all",
                "STATE": token.state,
                "EXPIRES": _until(token),
                "USED": ago(token.last_used_unix_ms),
                "BY": token.created_by,
            }
            for token in found
        ],
        empty="no token",
    )


def revoke(
    name: Annotated[str, typer.Argument(help="The token's name.")],
    controller: Controller = None,
) -> None:
    """End a token at once."""
    with Client(controller) as client:
        client.delete(f"/v1/tokens/{given_name(name, what='token name')}")
    typer.echo(f"revoked {name}")


def recover(
    fleet: Annotated[
        Path | None, typer.Option("--fleet", help="The fleet's directory; else this one or above.")
    ] = None,
) -> None:
    """Make a new administrator's token on the controller's own machine, when all are lost."""
    from fleet import tokens
    from fleet.store.store import Store

    settings = require_settings(fleet)
    store = Store(settings.database, settings.store_dir)
    try:
        path = tokens.recover(settings.root, store)
    finally:
        store.close()
    typer.echo(f"wrote {path}")


def _new_file(path: Path) -> int:
    try:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as exc:
        raise StorageError(f"cannot write {path}: {exc.strerror}", code="token_unwritable") from exc


def _until(token: Token) -> str:
    if token.expires_unix_ms is None:
        return "never"
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(token.expires_unix_ms / 1000))
