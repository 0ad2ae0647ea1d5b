"""`fleet quarantine …`: what devices refuse to try again, and an end to that."""

from __future__ import annotations

import re
from typing import Annotated, Final

import typer

from fleet.api.schemas import (
    Device,
    QuarantinedBundle,
    QuarantineLiftIn,
    QuarantineLiftResult,
    Release,
)
from wire.errors import PeerError

from .client import Client
from .console import (
    Controller,
    Json,
    Match,
    confirm,
    given_name,
    given_release_or_alias,
    parse_tags,
    show,
    show_json,
)

_DIGEST: Final = re.compile(r"[0-9a-f]{12,64}")


def register(app: typer.Typer) -> None:
    """Add these commands."""
    quarantine = typer.Typer(help="Bundles that devices refuse.", no_args_is_help=True)
    quarantine.command("list")(list_quarantined)
    quarantine.command("lift")(lift)
    app.add_typer(quarantine, name="quarantine")


def list_quarantined(
    match: Match = None, json: Json = False, controller: Controller = None
) -> None:
    """List what each device has quarantined, and why."""
    tags = parse_tags(match, option="--match")
    with Client(controller) as client:
        devices = client.list("/v1/devices", Device, match=tags)
    if json:
        show_json(
            [
                {"device": device.id, **entry.model_dump(mode="json")}
                for device in devices
                for entry in device.quarantined
            ]
        )
        return
    show(
        [
            {
                "DEVICE": device.id,
                "RELEASE": release_of(entry),
                "MANIFEST": entry.manifest[:12],
                "CODE": entry.code,
                "LIFTED": "when it answers" if is_lifted(device, entry) else "",
            }
            for device in devices
            for entry in device.quarantined
        ],
        empty="no device has quarantined anything",
    )


def lift(
    bundle: Annotated[
        str | None,
        typer.Argument(help="NAME:VERSION, NAME@ALIAS, or 12 digits or more of its digest."),
    ] = None,
    device: Annotated[str | None, typer.Option(help="On this device only.")] = None,
    match: Match = None,
    every: Annotated[bool, typer.Option("--all", help="Every bundle.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    json: Json = False,
    controller: Controller = None,
) -> None:
    """Have devices forget that a bundle failed on them, so that it may be tried again."""
    if (bundle is None) == (not every):
        raise typer.BadParameter("name a bundle, or give --all", param_hint="BUNDLE")
    if device is not None and match:
        raise typer.BadParameter("goes without --device", param_hint="--match")
    tags = parse_tags(match, option="--match")
    name = given_name(device, what="device id") if device is not None else None
    where = name or " ".join(f"{k}={v}" for k, v in tags.items()) or "ALL devices"
    confirm(f"Lift the quarantine of {bundle or 'EVERY bundle'} on {where}?", is_sure=yes)
    with Client(controller) as client:
        manifest = _manifest(client, bundle) if bundle is not None else None
        body = QuarantineLiftIn(manifest=manifest, device=name, match=tags)
        result = client.post("/v1/quarantine-lifts", body, QuarantineLiftResult)
    if json:
        show_json(result.model_dump(mode="json"))
        return
    show(
        [
            {
                "DEVICE": row.device,
                "LIFTED": "yes, as soon as it answers" if row.is_lifted else "no",
                "REASON": row.reason,
            }
            for row in result.devices
        ],
        empty="no device has these tags",
    )


def release_of(entry: QuarantinedBundle) -> str:
    """Return NAME:VERSION of a quarantined bundle, empty where it is no release of this fleet."""
    return f"{entry.model}:{entry.version}" if entry.model else ""


def is_lifted(device: Device, entry: QuarantinedBundle) -> bool:
    """Whether a lift of this quarantine waits for the device."""
    return any(word.manifest in (None, entry.manifest) for word in device.lifted)


def _manifest(client: Client, bundle: str) -> str:
    """Return the whole digest of the bundle that a person means."""
    if ":" in bundle or "@" in bundle:
        model, version = given_release_or_alias(bundle)
        digests = {client.get(f"/v1/releases/{model}/{version}", Release).manifest}
    elif _DIGEST.fullmatch(bundle):
        devices = client.list("/v1/devices", Device)
        digests = {
            entry.manifest
            for device in devices
            for entry in device.quarantined
            if entry.manifest.startswith(bundle)
        }
    else:
        raise typer.BadParameter(
            f"{bundle!r} is neither NAME:VERSION, nor NAME@ALIAS, nor a digest", param_hint="BUNDLE"
        )
    if len(digests) != 1:
        raise PeerError(
            f"there is no bundle {bundle}" if not digests else f"{bundle} is more than one bundle",
            code="unknown_release",
            hint="`fleet quarantine list` names what devices refuse",
        )
    return digests.pop()
