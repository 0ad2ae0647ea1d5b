"""`fleet sign`, `fleet release …`: what people sign beside a push, and what there is of a release."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from fleet.api.schemas import Release
from fleet.trust.draft import Draft
from fleet.trust.ledger import read_proposal
from wire.errors import PeerError

from .client import Client
from .console import Controller, Json, confirm, counted, given_release, say
from .releases import keep_run, show_release
from .signer import Keys, Output, PassphraseFile, finish, now_unix_ms, open_session, tell

Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
ReleaseName = Annotated[str, typer.Argument(help="NAME:VERSION.")]


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command("sign")(sign)
    release = typer.Typer(
        help="One release: see it, or let it run no longer.", no_args_is_help=True
    )
    release.command("show")(show_release)
    release.command("run")(keep_run)
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
        session.require_wanted_key(draft)
        before = draft.signature_count
        say(f"{file} changes:")
        for line in session.words(draft):
            say(f"  {line}")
        confirm("Sign this?", is_sure=yes)
        done = finish(session, draft, file, file.stem)
        added = draft.signature_count - before
    tell(done, as_json=json, text=f"added {counted(added, 'signature')} and handed in")


def retire(
    release: ReleaseName,
    keys: Keys = None,
    passphrase_file: PassphraseFile = None,
    output: Output = None,
    yes: Yes = False,
    json: Json = False,
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
    tell(done, as_json=json, text=f"retired {release}")


def floor(
    release: ReleaseName,
    keys: Keys = None,
    passphrase_file: PassphraseFile = None,
    output: Output = None,
    yes: Yes = False,
    json: Json = False,
    controller: Controller = None,
) -> None:
    """Declare every older release of the model dead: no device installs it or returns to it again."""
    name, version = given_release(release)
    with Client(controller) as client:
        session = open_session(client, keys, passphrase_file)
        draft = session.draft()
        draft.raise_floor(name, version)
        confirm(f"Declare every {name} before {version} dead, for ever?", is_sure=yes)
        done = finish(session, draft, output, f"floor-{name}-{version}")
        if done.is_complete:
            for line in _still_serving(client, name):
                say(line)
    tell(done, as_json=json, text=f"{release} is the oldest that may run")


def _still_serving(client: Client, model: str) -> Iterator[str]:
    """Yield which dead releases serve on: a device without a release would serve nothing."""
    try:
        releases = client.list(f"/v1/models/{model}/releases", Release)
    except PeerError:  # signed before it is pushed
        return
    for release in releases:
        if release.is_dead and release.device_count:
            yield (
                f"{model}:{release.version} serves on, on {counted(release.device_count, 'device')}:"
                " roll a newer one out"
            )
