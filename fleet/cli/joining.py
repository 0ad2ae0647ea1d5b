"""`fleet device token`, `fleet device revoke`: who gets in, and who is put out."""

from __future__ import annotations

import time
from typing import Annotated, Final

import typer

from fleet.api.admission_schemas import Invitation, InvitationIn, Revocation

from .client import Client
from .console import Controller, confirm, counted, given_name, parse_seconds, say

DEFAULT_VALID: Final = "1h"
Valid = Annotated[str, typer.Option("--valid", help="How long the join token is good: 1h, 7d.")]


def token(
    device: Annotated[str, typer.Argument(help="The device's id.")],
    valid: Valid = DEFAULT_VALID,
    controller: Controller = None,
) -> None:
    """Make a join token, by which a device gets in once; those before it end."""
    with Client(controller) as client:
        show_invitation(invite(client, given_name(device, what="device id"), valid))


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
    say(f"revoked {counted(done.certificate_count, 'certificate')} of {name}")
    if not done.is_cut:
        say("the broker did not let us cut its connection; NATS cuts it by itself")


def invite(client: Client, device: str, valid: str) -> Invitation:
    """Return a new join token for a device."""
    life_s = parse_seconds(valid, option="--valid")
    if not 1 <= life_s <= 90 * 86_400:
        raise typer.BadParameter("from 1s to 90d", param_hint="--valid")
    return client.post(f"/v1/devices/{device}/tokens", InvitationIn(life_s=life_s), Invitation)


def show_invitation(invitation: Invitation) -> None:
    """Print what is to be typed on the device."""
    say(f"join token of {invitation.device}, {until(invitation)}; on the device, once:")
    say(f"  fleet-agent enroll --url {invitation.url} --token {invitation.token}")


def until(invitation: Invitation) -> str:
    """Return the words for how long a token is good."""
    at = time.localtime(invitation.expires_unix_ms / 1000)
    return time.strftime("until %Y-%m-%d %H:%M:%S", at)
