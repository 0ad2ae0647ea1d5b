"""`fleet keys …`: the keys of people and of the controller."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from fleet.expiries import expiries, soon_words
from fleet.settings import require_settings
from fleet.trust.drill import drill_all
from fleet.trust.keys import OFFLINE_DIR, match_keyid, public_text
from fleet.trust.ledger import Ledger
from fleet.trust.repository import ONLINE_ROLES, Repository
from fleet.trust.session import restore
from wire.errors import ConfigError

from .client import Client
from .console import Controller, Json, counted, given_name, say, show, show_json
from .key_roles import Hsm, Token, add, all_roles, make_key, renew, revoke, rotate, team
from .signer import (
    HttpCarrier,
    Keys,
    PassphraseFile,
    given_passphrase,
    home_of,
    key_folder,
    now_unix_ms,
    open_session,
)

if TYPE_CHECKING:  # it brings the store, which most commands do without
    from fleet.trust.ceremony import Founded


@dataclass(frozen=True, slots=True)
class KeyRow:
    """A key as `fleet keys show` tells of it."""

    keyid: str
    scheme: str
    is_here: bool


@dataclass(frozen=True, slots=True)
class RoleRow:
    """A role as `fleet keys show` tells of it; without a document of its own it never expires."""

    role: str
    held_by: str
    threshold: int
    keys: list[KeyRow]
    version: int | None
    expires: str | None


def register(app: typer.Typer) -> None:
    """Add these commands."""
    keys = typer.Typer(help="The keys that sign.", no_args_is_help=True)
    for name, command in COMMANDS.items():
        keys.command(name)(command)
    app.add_typer(keys, name="keys")


def founding_words(founded: Founded) -> str:
    """Return what was made, and what to do with it."""
    guard = "with their passphrase beside them" if founded.has_passphrase_beside else "encrypted"
    return (
        f"keys:   {founded.keys_dir}, {guard}. Copy them to two media that are locked away, remove\n"
        "        this folder, and name a medium with --keys when you sign (docs/keys.md)"
    )


def found_keys(
    keys: Keys = None,
    passphrase_file: PassphraseFile = None,
    fleet: Annotated[Path | None, typer.Option("--fleet", help="The fleet's directory.")] = None,
) -> None:
    """Make the keys of a fleet that has none: one that was made before fleets had keys."""
    from fleet.trust.ceremony import found

    settings = require_settings(fleet)
    founded = found(
        settings.root,
        settings.store_dir,
        now_unix_ms(),
        database=settings.database,
        keys_dir=keys or settings.root / OFFLINE_DIR,
        passphrase=given_passphrase(passphrase_file),
    )
    typer.echo(founding_words(founded))


def show_keys(keys: Keys = None, json: Json = False, controller: Controller = None) -> None:
    """Show each role: its keys, which of them are here, how many must sign, when it expires."""
    with Client(controller) as client:
        session = open_session(client, keys, None)
    base = session.base
    try:
        here = {k for k, file in session.keys.files().items() if file.uri is not None}
    except ConfigError as exc:
        here = set()
        say(f"{exc}: {exc.hint}")
    rows = [_row(base, name, here) for name in all_roles(base)]
    if json:
        show_json([asdict(row) for row in rows])
        return
    show(
        [
            {
                "ROLE": row.role,
                "SIGN": f"{row.threshold} of {len(row.keys)}",
                "KEYS": ", ".join(
                    f"{key.keyid[:8]}{' (here)' if key.is_here else ''}" for key in row.keys
                ),
                "HELD BY": row.held_by,
                "EXPIRES": row.expires,
            }
            for row in rows
        ],
        empty="no role",
    )
    for line in soon_words(expiries(base.documents()), now_unix_ms()):
        say(line)


def new(
    name: Annotated[str, typer.Argument(help="Whose key it is; begins the names of its files.")],
    keys: Keys = None,
    passphrase_file: PassphraseFile = None,
    hsm: Hsm = None,
    token: Token = None,
    json: Json = False,
) -> None:
    """Make a key for a person or a team; its .pub file is given to whoever adds it to a role."""
    folder = key_folder(keys, passphrase_file)
    file = make_key(folder, given_name(name, what="name"), hsm, token)
    path = folder.path / f"{file.name}.pub"
    if json:
        show_json({"file": str(path), "keyid": file.key.keyid, "scheme": file.key.scheme})
    else:
        typer.echo(f"{path}: key {file.key.keyid}")


def export(
    key: Annotated[str, typer.Argument(help="The first 8 digits of a key id, or more.")],
    output: Annotated[Path, typer.Argument(help="The file to write.")],
    keys: Keys = None,
) -> None:
    """Write the public half of a key to a file, for others."""
    folder = key_folder(keys, None)
    mine = folder.files()
    file = mine[match_keyid(key, set(mine))]
    output.write_bytes(public_text(file, with_uri=False))
    typer.echo(f"wrote {output}")


def drill(
    keys: Keys = None,
    passphrase_file: PassphraseFile = None,
    json: Json = False,
    controller: Controller = None,
) -> None:
    """Prove on a scratch copy that the keys here can rotate each role; say which they cannot."""
    with Client(controller) as client:
        session = open_session(client, keys, passphrase_file)
    results = drill_all(session.base, session.keys, now_unix_ms())
    if json:
        show_json([{"role": r.role, "is_good": r.is_good, "detail": r.detail} for r in results])
    else:
        show(
            [
                {"ROLE": r.role, "ROTATES": "yes" if r.is_good else "NO", "DETAIL": r.detail}
                for r in results
            ],
            empty="no role",
        )
    if not all(result.is_good for result in results):
        raise typer.Exit(1)


def restore_documents(keys: Keys = None, json: Json = False, controller: Controller = None) -> None:
    """Hand in all that was signed here, to a controller whose store was lost or set back."""
    ledger = Ledger(home_of(key_folder(keys, None).path))
    with Client(controller) as client:
        documents = restore(HttpCarrier(client), ledger)
    if json:
        show_json([document.file_name for document in documents])
    else:
        typer.echo(f"handed in {counted(len(documents), 'document')}")


def _row(base: Repository, name: str, here: set[str]) -> RoleRow:
    document = base.newest(name)
    return RoleRow(
        role=name,
        held_by="controller" if name in ONLINE_ROLES else "people",
        threshold=base.role(name).threshold,
        keys=[KeyRow(k, key.scheme, k in here) for k, key in base.keys(name).items()],
        version=document.version if document else None,
        expires=f"{document.signed.expires:%Y-%m-%d}" if document else None,
    )


COMMANDS: Final[dict[str, Callable[..., None]]] = {
    "show": show_keys,
    "new": new,
    "export": export,
    "add": add,
    "team": team,
    "rotate": rotate,
    "revoke": revoke,
    "renew": renew,
    "drill": drill,
    "restore": restore_documents,
    "found": found_keys,
}
