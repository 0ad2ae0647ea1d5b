"""`fleet device token`, `fleet device revoke`: who gets in, and who is put out.

A token is the controller's; the digest of the root of trust is added here, by the root.json of whoever
invites. A controller in foreign hands could choose any root, and with it which releases run.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Final

import typer

from fleet.api.admission_schemas import (
    Invitation,
    InvitationIn,
    ObserverRevocation,
    Revocation,
)
from fleet.settings import find_settings
from wire.enrolment import parse_token
from wire.errors import ConfigError, PeerError

from .client import Client
from .console import Controller, confirm, counted, given_name, parse_seconds, say

DEFAULT_VALID: Final = "1h"
Valid = Annotated[str, typer.Option("--valid", help="How long the join token is good: 1h, 7d.")]
Root = Annotated[
    Path | None,
    typer.Option(
        "--root",
        help="The fleet's root.json, to which the token binds the device; else that of the fleet's"
        " directory, or the one beside the keys of FLEET_KEYS.",
    ),
]
ROOT_FILE: Final = "root.json"
"""As the ledger calls it, whose module takes its time to import."""


def token(
    device: Annotated[str, typer.Argument(help="The device's id.")],
    valid: Valid = DEFAULT_VALID,
    root: Root = None,
    controller: Controller = None,
) -> None:
    """Make a join token, by which a device gets in once; those before it end."""
    name, pin = given_name(device, what="device id"), pin_root(root)
    with Client(controller) as client:
        show_invitation(invite(client, name, valid, pin))


def revoke(
    device: Annotated[str, typer.Argument(help="The device's id.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    controller: Controller = None,
) -> None:
    """Put a device out: its certificates are void, its connection is cut."""
    name = given_name(device, what="device id")
    confirm(f"Put {name} out? A new join token would let it in again.", is_sure=yes)
    with Client(controller) as client:
        done = client.post(f"/v1/devices/{name}/revoke", None, Revocation)
    tell_revoked(name, done)


def tell_revoked(name: str, done: Revocation | ObserverRevocation) -> None:
    """Say what became of somebody's certificates and connection."""
    say(f"revoked {counted(done.certificate_count, 'certificate')} of {name}")
    if not done.is_cut:
        say("the broker did not let us cut its connection; NATS cuts it by itself")


def pin_root(given: Path | None) -> str:
    """Return the sha-256 of the root.json that is at hand; empty where there is none, which is told.

    Args:
        given: `--root`.

    Raises:
        ConfigError: `root_unreadable`.
    """
    path = given or _find_root()
    if path is None:
        say(
            f"no {ROOT_FILE} is at hand: the device will take the root of trust from the controller, on"
            f" trust; --root {ROOT_FILE} binds it to this fleet's"
        )
        return ""
    from fleet.trust.documents import ROOT, parse_document

    try:
        data = path.read_bytes()
        parse_document(ROOT, data)
    except (OSError, PeerError) as exc:
        raise ConfigError(
            f"{path} cannot be read as a root of trust: {exc}"[:300],
            code="root_unreadable",
            hint=f"restore it from a backup, or name another copy by --root {ROOT_FILE}",
        ) from exc
    return hashlib.sha256(data).hexdigest()


def _find_root() -> Path | None:
    settings, keys = find_settings(Path.cwd()), os.environ.get("FLEET_KEYS")
    folders = [settings.root] if settings is not None else []
    folders += [Path(keys)] if keys else []
    return next((f / ROOT_FILE for f in folders if (f / ROOT_FILE).exists()), None)


def invite(client: Client, device: str, valid: str, root_sha256: str) -> Invitation:
    """Return a new join token for a device, bound to the root of trust of this digest, if any."""
    life_s = parse_seconds(valid, option="--valid")
    if not 1 <= life_s <= 90 * 86_400:
        raise typer.BadParameter("from 1s to 90d", param_hint="--valid")
    made = client.post(f"/v1/devices/{device}/tokens", InvitationIn(life_s=life_s), Invitation)
    token = replace(parse_token(made.token), root=root_sha256)
    return made.model_copy(update={"token": str(token)})


def show_invitation(invitation: Invitation) -> None:
    """Print what is to be typed on the device."""
    say(f"join token of {invitation.device}, {until(invitation)}; on the device, once:")
    say(f"  fleet-agent enroll --url {shlex.quote(invitation.url)} --token {invitation.token}")


def until(invitation: Invitation) -> str:
    """Return the words for how long a token is good."""
    at = time.localtime(invitation.expires_unix_ms / 1000)
    return time.strftime("until %Y-%m-%d %H:%M:%S", at)
