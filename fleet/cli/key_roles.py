"""`fleet keys add`, `team`, `rotate`, `revoke`, `renew`: who signs as what, and for how long."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from securesystemslib.signer import Key, SSlibKey

from fleet.api.schemas import TrustKey, TrustKeyIn
from fleet.trust.documents import ROOT, TARGETS
from fleet.trust.draft import Draft
from fleet.trust.keys import KeyFile, KeyFolder, has_own_id, match_keyid, read_public
from fleet.trust.repository import ONLINE_ROLES, Repository
from fleet.trust.session import Done, Session
from wire.errors import ConfigError, PeerError
from wire.trust import model_role

from .client import Client
from .console import Controller, Json, confirm, counted, given_name
from .signer import Keys, Output, PassphraseFile, finish, open_session, tell

Role = Annotated[
    str,
    typer.Argument(help="root, targets, model-NAME, or one of snapshot, timestamp, director."),
]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
Hsm = Annotated[
    int | None,
    typer.Option(
        "--hsm", help="Use the P-256 key with this id on a PKCS#11 token; 2 on a YubiKey."
    ),
]
Token = Annotated[str | None, typer.Option("--token", help="The token's label.")]
Threshold = Annotated[
    int | None, typer.Option(min=1, help="How many of the role's keys must sign from now on.")
]


def add(
    role: Role,
    pub: Annotated[list[Path], typer.Argument(help="The new keys' .pub files.")],
    threshold: Threshold = None,
    keys: Keys = None,
    passphrase_file: PassphraseFile = None,
    output: Output = None,
    yes: Yes = False,
    json: Json = False,
    controller: Controller = None,
) -> None:
    """Add keys of people to a role, and change how many must sign."""
    added = [read_public(path).key for path in pub]
    with Client(controller) as client:
        session = open_session(client, keys, passphrase_file)
        _refuse_online(role)
        present = session.base.keys(role)
        wanted = {**present, **{key.keyid: key for key in added}}
        count = threshold or session.base.role(role).threshold
        done = _set(session, role, list(wanted.values()), count, output, yes)
    tell(done, as_json=json)


def team(
    model: Annotated[str, typer.Argument(help="The model's name.")],
    pub: Annotated[list[Path], typer.Argument(help="The team's .pub files.")],
    threshold: Threshold = None,
    keys: Keys = None,
    passphrase_file: PassphraseFile = None,
    output: Output = None,
    yes: Yes = False,
    json: Json = False,
    controller: Controller = None,
) -> None:
    """Give a model to a team: these keys, and no others, sign its releases."""
    role = model_role(given_name(model, what="model name"))
    given: list[Key] = [read_public(path).key for path in pub]
    with Client(controller) as client:
        session = open_session(client, keys, passphrase_file)
        draft = session.draft()
        if session.base.newest(role) is None:
            draft.add_model(model, given)
        done = _set(session, role, given, threshold or 1, output, yes, draft=draft)
    tell(done, as_json=json)


def rotate(
    role: Role,
    key: Annotated[
        str | None, typer.Option(help="The key to replace, where the role has several.")
    ] = None,
    pub: Annotated[
        Path | None, typer.Option(help="Replace it by this key; else a new one is made here.")
    ] = None,
    hsm: Hsm = None,
    token: Token = None,
    keys: Keys = None,
    passphrase_file: PassphraseFile = None,
    output: Output = None,
    yes: Yes = False,
    json: Json = False,
    controller: Controller = None,
) -> None:
    """Replace a key of a role by a new one; the old one counts for nothing afterwards."""
    with Client(controller) as client:
        session = open_session(client, keys, passphrase_file)
        present = session.base.keys(role)
        if key is None and len(present) > 1:
            raise PeerError(
                f"{role} has {len(present)} keys: {', '.join(k[:8] for k in present)}",
                code="unknown_key",
                hint="say with --key which one is to be replaced",
            )
        old = match_keyid(key, set(present)) if key else next(iter(present))
        confirm(f"Replace key {old[:8]} of {role}?", is_sure=yes)
        if role in ONLINE_ROLES:
            fresh: Key = online_key(client, role)
        elif pub is not None:
            fresh = read_public(pub).key
        else:
            if output is None:
                session.require_role_keys(ROOT if role in (ROOT, TARGETS) else TARGETS)
            fresh = make_key(session.keys, role, hsm, token).key
        wanted = [fresh if keyid == old else other for keyid, other in present.items()]
        count = session.base.role(role).threshold
        done = _set(session, role, wanted, count, output, is_sure=True)
    tell(done, as_json=json)


def revoke(
    key: Annotated[str, typer.Argument(help="The first 8 digits of a key id, or more.")],
    threshold: Threshold = None,
    keys: Keys = None,
    passphrase_file: PassphraseFile = None,
    output: Output = None,
    yes: Yes = False,
    json: Json = False,
    controller: Controller = None,
) -> None:
    """Take a key out of every role that it has; where it is the only one, rotate that role instead."""
    with Client(controller) as client:
        session = open_session(client, keys, passphrase_file)
        base = session.base
        everywhere = {name: base.keys(name) for name in all_roles(base)}
        keyid = match_keyid(key, {k for found_keys in everywhere.values() for k in found_keys})
        concerned = [name for name, found_keys in everywhere.items() if keyid in found_keys]
        confirm(f"Take key {keyid[:8]} out of {', '.join(concerned)}?", is_sure=yes)
        draft = session.draft()
        for name in concerned:
            rest = [other for other_id, other in everywhere[name].items() if other_id != keyid]
            count = threshold or base.role(name).threshold
            if len(rest) < count:
                raise PeerError(
                    f"{name} would have {counted(len(rest), 'key')} left and needs {count}",
                    code="threshold_impossible",
                    hint=f"`fleet keys rotate {name} --key {keyid[:8]}` replaces it; or give a lower"
                    " --threshold",
                )
            draft.set_keys(name, rest, count)
        tell(finish(session, draft, output, f"revoke-{keyid[:8]}"), as_json=json)


def renew(
    role: Annotated[
        list[str] | None, typer.Argument(help="Roles; else all that the keys here can sign.")
    ] = None,
    keys: Keys = None,
    passphrase_file: PassphraseFile = None,
    output: Output = None,
    json: Json = False,
    controller: Controller = None,
) -> None:
    """Sign documents again, unchanged, for another year."""
    with Client(controller) as client:
        session = open_session(client, keys, passphrase_file)
        base = session.base
        here = {k for k, file in session.keys.files().items() if file.uri is not None}
        wanted = role or [
            document.role
            for document in base.documents()
            if len(here.intersection(base.keys(document.role)))
            >= base.role(document.role).threshold
        ]
        draft = session.draft()
        for name in wanted:
            draft.renew(name)
        if draft.is_empty:
            raise ConfigError(
                f"the keys in {session.keys.path} can renew nothing alone",
                code="key_not_at_hand",
                hint="name roles, and pass the file around",
            )
        tell(finish(session, draft, output, "renew"), as_json=json)


def all_roles(base: Repository) -> list[str]:
    """Return every role, root first."""
    return [*base.root.signed.roles, *base.delegated()]


def make_key(folder: KeyFolder, name: str, hsm: int | None, token: str | None) -> KeyFile:
    """Make a key pair in the folder, or note one on a token."""
    return folder.make(name) if hsm is None else folder.take_from_token(name, hsm, token)


def online_key(client: Client, role: str) -> SSlibKey:
    """Have the controller make a key; return its public half.

    Raises:
        PeerError: `key_unusable`; and what the controller refuses.
    """
    made = client.post("/v1/trust/keys", TrustKeyIn.model_validate({"role": role}), TrustKey)
    try:
        key = SSlibKey.from_dict(made.keyid, dict(made.key))
    except (ValueError, KeyError, TypeError):
        key = None
    if key is None or not has_own_id(key):
        raise PeerError(
            f"the controller gave something for {role} that is no key, or not the one of its id",
            code="key_unusable",
            hint="sign nothing for it before you know why; its keys are in `trust` of its store",
        )
    return key


def _set(
    session: Session,
    role: str,
    wanted: list[Key],
    threshold: int,
    output: Path | None,
    is_sure: bool,
    *,
    draft: Draft | None = None,
) -> Done:
    draft = draft or session.draft()
    draft.set_keys(role, wanted, threshold)
    names = ", ".join(key.keyid[:8] for key in wanted)
    confirm(f"From now on {threshold} of {names} sign as {role}?", is_sure=is_sure)
    return finish(session, draft, output, role)


def _refuse_online(role: str) -> None:
    if role in ONLINE_ROLES:
        raise PeerError(
            f"{role} is the controller's",
            code="unknown_role",
            hint=f"`fleet keys rotate {role}` has it make a new key",
        )
