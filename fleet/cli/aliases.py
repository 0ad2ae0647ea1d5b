"""`fleet alias …`: names such as `digits@champion` that are moved from release to release."""

from __future__ import annotations

from typing import Annotated

import typer

from fleet.api.lineage_schemas import (
    MAX_WHY_CHARS,
    Alias,
    AliasBackIn,
    AliasIn,
    AliasMove,
)

from .client import Client
from .console import (
    Controller,
    Json,
    ago,
    at_time,
    given_alias,
    given_name,
    given_release_or_alias,
    show,
    show_json,
)

Which = Annotated[str, typer.Argument(help="NAME@ALIAS, such as digits@champion.")]
Why = Annotated[str, typer.Option(help="Why; the history shows it.")]
PAGE = 500


def register(app: typer.Typer) -> None:
    """Add these commands."""
    alias = typer.Typer(help="Names that mean one release after another.", no_args_is_help=True)
    alias.command("list")(list_aliases)
    alias.command("set")(set_alias)
    alias.command("delete")(delete)
    alias.command("rollback")(rollback)
    alias.command("history")(history)
    app.add_typer(alias, name="alias")


def list_aliases(
    model: Annotated[str | None, typer.Argument(help="Of this model only.")] = None,
    json: Json = False,
    controller: Controller = None,
) -> None:
    """List what each alias means now."""
    wanted = given_name(model, what="model name") if model is not None else None
    with Client(controller) as client:
        found = client.list("/v1/aliases", Alias, model=wanted)
    if json:
        show_json([alias.model_dump(mode="json") for alias in found])
        return
    show(
        [
            {
                "ALIAS": f"{alias.model}@{alias.alias}",
                "RELEASE": f"{alias.model}:{alias.version}",
                "SINCE": ago(alias.since_unix_ms),
                "BY": alias.moved_by,
                "WHY": alias.why,
            }
            for alias in found
        ],
        empty="no alias yet; `fleet alias set MODEL@ALIAS VERSION` makes one",
    )


def set_alias(
    alias: Which,
    version: Annotated[
        str, typer.Argument(help="The release's version; or NAME:VERSION, or NAME@ALIAS.")
    ],
    why: Why = "",
    json: Json = False,
    controller: Controller = None,
) -> None:
    """Have an alias mean a release. Devices stay as they are: `fleet rollout start` moves them."""
    name, called = given_alias(alias)
    is_whole = ":" in version or "@" in version
    other, meant = given_release_or_alias(version if is_whole else f"{name}:{version}")
    if other != name:
        raise typer.BadParameter(f"{alias} is an alias of {name}, not of {other}")
    body = AliasIn(version=meant, why=_why(why))
    with Client(controller) as client:
        move = client.put(_path(name, called), body, AliasMove)
    _tell(move, json=json)


def delete(alias: Which, why: Why = "", json: Json = False, controller: Controller = None) -> None:
    """Have an alias mean nothing any more; `fleet alias rollback` undoes it."""
    name, called = given_alias(alias)
    with Client(controller) as client:
        move = client.drop(_path(name, called), AliasMove, why=_why(why))
    _tell(move, json=json)


def rollback(
    alias: Which, why: Why = "", json: Json = False, controller: Controller = None
) -> None:
    """Have an alias mean what it did before: one step back, by its own history."""
    name, called = given_alias(alias)
    with Client(controller) as client:
        body = AliasBackIn(why=_why(why))
        move = client.post(f"{_path(name, called)}/rollback", body, AliasMove)
    _tell(move, json=json)


def history(alias: Which, json: Json = False, controller: Controller = None) -> None:
    """Show every move of an alias, newest first: who, when, why."""
    name, called = given_alias(alias)
    moves: list[AliasMove] = []
    page: list[AliasMove] | None = None
    with Client(controller) as client:
        while page is None or len(page) == PAGE:
            before = moves[-1].id if moves else None
            path = f"{_path(name, called)}/history"
            page = client.list(path, AliasMove, before=before, limit=PAGE)
            moves += page
    if json:
        show_json([move.model_dump(mode="json") for move in moves])
        return
    show(
        [
            {
                "WHEN": at_time(move.moved_unix_ms),
                "MEANS": f"{move.model}:{move.version}" if move.version else "nothing",
                "HOW": move.kind,
                "BY": move.moved_by,
                "WHY": move.why,
            }
            for move in moves
        ],
        empty="it never moved",
    )


def _path(name: str, alias: str) -> str:
    return f"/v1/models/{name}/aliases/{alias}"


def _why(text: str) -> str:
    if len(text) > MAX_WHY_CHARS:
        raise typer.BadParameter(f"at most {MAX_WHY_CHARS} characters", param_hint="--why")
    return text


def _tell(move: AliasMove, *, json: bool) -> None:
    if json:
        show_json(move.model_dump(mode="json"))
        return
    means = f"is {move.model}:{move.version}" if move.version else "is deleted"
    typer.echo(f"{move.model}@{move.alias} {means}")
