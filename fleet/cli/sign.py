"""`fleet sign`, `fleet release …`: what people sign beside a push."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fleet.trust.draft import Draft
from fleet.trust.ledger import read_proposal

from .client import Client
from .console import Controller, Json, confirm, given_release, say, show_json
from .signer import Keys, Output, PassphraseFile, finish, now_unix_ms, open_session

Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
ReleaseName = Annotated[str, typer.Argument(help="NAME:VERSION.")]


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command("sign")(sign)
    release = typer.Typer(help="Releases that shall run no longer.", no_args_is_help=True)
    release.command("retire")(retire)
    release.command("floor")(floor)
    app.add_typer(release, name="release")


def sign(
    file: Annotated[Path, typer.Argument(help="A file that is passed around for signatures.")],
    keys: Keys = None,
    passphrase_file: PassphraseFile = None,
    yes: Yes = False,
    json: Json = False,
    controller: Controller = None,
) -> None:
    """Add your signatures to a file; with enough of them it is handed in."""
    proposed = read_proposal(file)
    with Client(controller) as client:
        session = open_session(client, keys, passphrase_file)
        draft = Draft.of(session.base, proposed, now_unix_ms())
        before = draft.signature_count
        say(f"{file} changes:")
        for line in session.words(draft):
            say(f"  {line}")
        confirm("Sign this?", is_sure=yes)
        done = finish(session, draft, file, file.stem)
        added = draft.signature_count - before
    if json:
        lacking = {role: count for role, count, _ in done.missing}
        show_json({"added": added, "is_complete": done.is_complete, "missing": lacking})
        return
    typer.echo(f"added {added} signatures; " + ("handed in" if done.is_complete else "more needed"))


def retire(
    release: ReleaseName,
    keys: Keys = None,
    passphrase_file: PassphraseFile = None,
    output: Output = None,
    yes: Yes = False,
    controller: Controller = None,
) -> None:
    """Take a release out: no device installs it any more; where it runs it goes on running."""
    name, version = given_release(release)
    with Client(controller) as client:
        session = open_session(client, keys, passphrase_file)
        draft = session.draft()
        draft.retire(name, version)
        confirm(f"Retire {release}?", is_sure=yes)
        done = finish(session, draft, output, f"retire-{name}-{version}")
    typer.echo(f"retired {release}" if done.is_complete else "waits for more signatures")


def floor(
    release: ReleaseName,
    keys: Keys = None,
    passphrase_file: PassphraseFile = None,
    output: Output = None,
    yes: Yes = False,
    controller: Controller = None,
) -> None:
    """Kill every older release of the model, for ever: devices stop serving it and never return to it."""
    name, version = given_release(release)
    with Client(controller) as client:
        session = open_session(client, keys, passphrase_file)
        draft = session.draft()
        draft.raise_floor(name, version)
        confirm(f"Kill every release of {name} before {version}, for ever?", is_sure=yes)
        done = finish(session, draft, output, f"floor-{name}-{version}")
    typer.echo(
        f"{release} is the oldest that may run" if done.is_complete else "waits for more signatures"
    )
