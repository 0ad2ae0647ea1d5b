"""`fleet devices`, `fleet device …`, `fleet telemetry`."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Annotated, Final

import typer

from fleet.api.schemas import Device, DeviceIn, DeviceModel, DevicePatch, StoredRecord
from wire.errors import PeerError
from wire.ids import parse_name

from .agent_file import AgentFile, write_agent_file
from .capture import capture_words
from .client import Client, all_pages
from .console import (
    Controller,
    Json,
    Match,
    ago,
    checked_tags,
    confirm,
    counted,
    given_name,
    in_bytes,
    parse_address,
    parse_tags,
    say,
    show,
    show_facts,
    show_json,
)
from .joining import (
    DEFAULT_VALID,
    Root,
    Valid,
    invite,
    pin_root,
    revoke,
    show_invitation,
    token,
    until,
)
from .quarantine import is_lifted, release_of

DEFAULT_LISTEN: Final = "127.0.0.1:8600"
Tag = Annotated[list[str] | None, typer.Option("--tag", help="A tag, KEY=VALUE; repeatable.")]


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command("devices")(list_devices)
    device = typer.Typer(help="One device.", no_args_is_help=True)
    device.command("add")(add)
    device.command("show")(show_device)
    device.command("tag")(tag)
    device.command("remove")(remove)
    device.command("token")(token)
    device.command("revoke")(revoke)
    app.add_typer(device, name="device")
    app.command("telemetry")(telemetry)


def list_devices(match: Match = None, json: Json = False, controller: Controller = None) -> None:
    """List the devices: online or not, what they serve, what they shall serve."""
    tags = parse_tags(match, option="--match")
    with Client(controller) as client:
        devices = all_pages(client, "/v1/devices", Device, lambda device: device.id, match=tags)
    if json:
        show_json([device.model_dump(mode="json") for device in devices])
        return
    show(
        [
            {
                "DEVICE": device.id,
                "STATE": device.state.replace("_", " "),
                "SEEN": ago(device.last_seen_unix_ms),
                "TAGS": " ".join(f"{k}={v}" for k, v in sorted(device.tags.items())),
                "MODELS": ", ".join(_model_words(device)),
            }
            for device in devices
        ],
        empty="no device; add one with `fleet device add NAME --output NAME.toml`",
    )


def add(
    device: Annotated[str | None, typer.Argument(help="The device's id.")] = None,
    tag: Tag = None,
    source: Annotated[
        Path | None, typer.Option("--from", help="CSV file: columns id, and one for each tag.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Write the agent's configuration to this file.")
    ] = None,
    output_dir: Annotated[
        Path | None, typer.Option(help="With --from: write one configuration each in here.")
    ] = None,
    listen: Annotated[
        str, typer.Option(help="Where the agent answers inference requests.")
    ] = DEFAULT_LISTEN,
    socket: Annotated[
        Path | None, typer.Option(help="Its unix socket; else beside its state.")
    ] = None,
    state_dir: Annotated[
        Path | None, typer.Option(help="Its state; else devices/NAME beside the output file.")
    ] = None,
    valid: Valid = DEFAULT_VALID,
    root: Root = None,
    controller: Controller = None,
) -> None:
    """Add a device, or many from a CSV file, and make the tokens by which they join."""
    parse_address(listen, option="--listen")
    if source is not None:
        if device or tag or output or socket or state_dir:
            raise typer.BadParameter(
                "takes its devices and tags from the file; only --output-dir and --listen go with it",
                param_hint="--from",
            )
        _add_many(source, output_dir, listen, valid, root, controller)
        return
    if device is None:
        raise typer.BadParameter("name a device, or a file with --from", param_hint="DEVICE")
    if output_dir is not None:
        raise typer.BadParameter("goes with --from; else use --output", param_hint="--output-dir")
    if output is None and (socket or state_dir):
        raise typer.BadParameter("--socket and --state-dir go into it", param_hint="--output")
    row = DeviceIn(
        id=given_name(device, what="device id"),
        tags=parse_tags(tag, option="--tag"),
    )
    pin = pin_root(root)
    with Client(controller) as client:
        file = None
        if output is not None:
            file = AgentFile(output, row.id, listen, socket, state_dir)
            file.check()
        client.post("/v1/devices", row, Device)
        say(f"added {row.id}")
        invitation = invite(client, row.id, valid, pin)
    if file is None:
        show_invitation(invitation)
        return
    write_agent_file(file, invitation)
    say(f"wrote {output}; start the agent with `fleet-agent run --config {output}`")
    say(f"it lets the device in once, {until(invitation)}")


def _add_many(
    source: Path,
    folder: Path | None,
    listen: str,
    valid: str,
    root: Path | None,
    controller: str | None,
) -> None:
    rows = _read_csv(source)
    pin = pin_root(root) if folder is not None else ""
    with Client(controller) as client:
        files = []
        if folder is not None:
            files = [AgentFile(folder / f"{row.id}.toml", row.id, listen) for row in rows]
            for file in files:
                file.check()
        client.post_list("/v1/devices", rows, Device)
        say(f"added {counted(len(rows), 'device')}")
        for file in files:
            write_agent_file(file, invite(client, file.device, valid, pin))
    if files:
        say(f"wrote {len(files)} files to {folder}")


def show_device(
    device: Annotated[str, typer.Argument(help="The device's id.")],
    json: Json = False,
    controller: Controller = None,
) -> None:
    """Show one device: what it serves, how its last updates ended, what it is."""
    with Client(controller) as client:
        found = client.get(f"/v1/devices/{given_name(device, what='device id')}", Device)
    if json:
        show_json(found.model_dump(mode="json"))
        return
    facts: list[tuple[str, object]] = [
        ("device", found.id),
        ("state", f"{found.state.replace('_', ' ')}, seen {ago(found.last_seen_unix_ms)}"),
        ("tags", " ".join(f"{k}={v}" for k, v in sorted(found.tags.items()))),
        ("agent", found.agent),
        ("generation", f"{found.reported_generation} reported, {found.desired_generation} desired"),
    ]
    for name in ("arch", "cores", "memory_bytes", "runtime", "protections"):
        value = found.inventory.get(name)
        if name == "memory_bytes" and isinstance(value, int):
            facts.append(("memory", in_bytes(value)))
        elif isinstance(value, list):
            facts.append((name, ", ".join(map(str, value))))
        elif value:
            facts.append((name, value))
    facts.append(("capture", capture_words(found.inventory)))
    facts += [
        (
            "quarantined",
            f"{release_of(entry)} {entry.manifest[:12]} ({entry.code})"
            f"{'; lifted, as soon as it answers' if is_lifted(found, entry) else ''}".strip(),
        )
        for entry in found.quarantined
    ]
    show_facts(facts)
    typer.echo()
    show(
        [
            {
                "MODEL": model.name,
                "ACTIVE": model.active_version,
                "DESIRED": model.desired_version,
                "FALLBACK": model.fallback_version,
                "STATE": model.state,
                "LAST UPDATE": " ".join(filter(None, end[:-1])),
                "DETAIL": end[-1],
            }
            for model in found.models
            for end in (_last_end(model),)
        ],
        empty="no model yet; `fleet rollout start NAME:VERSION` brings one",
    )


def tag(
    device: Annotated[str, typer.Argument(help="The device's id.")],
    tags: Annotated[list[str], typer.Argument(help="KEY=VALUE to set, KEY= to take away.")],
    controller: Controller = None,
) -> None:
    """Change a device's tags."""
    path = f"/v1/devices/{given_name(device, what='device id')}"
    with Client(controller) as client:
        result = dict(client.get(path, Device).tags)
        for text in tags:
            key, separator, value = text.partition("=")
            if not separator:
                raise typer.BadParameter(f"{text!r} is not KEY=VALUE", param_hint="TAGS")
            if value:
                result[key] = value
            else:
                result.pop(key, None)
        result = checked_tags(result, option="TAGS")
        found = client.patch(path, DevicePatch(tags=result), Device)
    typer.echo(" ".join(f"{k}={v}" for k, v in sorted(found.tags.items())) or "no tags")


def remove(
    device: Annotated[str, typer.Argument(help="The device's id.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    controller: Controller = None,
) -> None:
    """Forget a device and its records, and put it out; what runs on it goes on running."""
    name = given_name(device, what="device id")
    confirm(f"Forget {name} and its records?", is_sure=yes)
    with Client(controller) as client:
        client.delete(f"/v1/devices/{name}")
    typer.echo(f"removed {name}")


def telemetry(
    device: Annotated[str, typer.Argument(help="The device's id.")],
    channel: Annotated[
        str | None, typer.Option(help="Such as telemetry/inference or event/update.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 20,
    json: Json = False,
    controller: Controller = None,
) -> None:
    """List the newest records of a device: telemetry and events."""
    path = f"/v1/devices/{given_name(device, what='device id')}/records"
    with Client(controller) as client:
        records = client.list(path, StoredRecord, channel=channel, limit=limit)
    if json:
        show_json([record.model_dump(mode="json") for record in records])
        return
    hidden = {"v", "boot", "seq", "manifest"}
    show(
        [
            {
                "RECEIVED": ago(record.received_unix_ms),
                "CHANNEL": record.channel,
                "BODY": ", ".join(f"{k}={v}" for k, v in record.body.items() if k not in hidden),
            }
            for record in records
        ],
        empty="no record yet; devices report once a minute by default",
    )


def _model_words(device: Device) -> list[str]:
    words = []
    for model in device.models:
        text = f"{model.name} {model.active_version or 'none'}"
        if model.desired_version and model.desired_version != model.active_version:
            text += f" -> {model.desired_version} ({model.state or 'waiting'})"
        words.append(text)
    return words


def _last_end(model: DeviceModel) -> tuple[str | None, ...]:
    """Return version, outcome, code and detail of the last update, with what a guard saw.

    A release that went back is followed by the order to serve the one before, which the device
    does already: that is no update.
    """
    last = model.last_update
    if last is None or (model.code != "already_active" and model.outcome is not None):
        return model.outcome, _in_brackets(model.code), model.detail
    return last.version, last.state, _in_brackets(last.code), last.detail


def _in_brackets(text: str | None) -> str | None:
    return f"({text})" if text else None


def _read_csv(path: Path) -> list[DeviceIn]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            if "id" not in (reader.fieldnames or ()):
                raise PeerError(
                    f"{path} has no column named id",
                    code="csv_invalid",
                    hint="the first line names the columns: id, then one for each tag",
                )
            rows = []
            for number, row in enumerate(reader, start=2):
                tags = {k: v for k, v in row.items() if k and k != "id" and v}
                try:
                    name = parse_name((row["id"] or "").strip(), what="device id")
                    rows.append(DeviceIn(id=name, tags=checked_tags(tags, option="--from")))
                except (PeerError, typer.BadParameter) as exc:
                    text = f"{path} line {number}: {exc}"
                    raise PeerError(text, code="csv_invalid", hint="nothing was added") from exc
    except (OSError, UnicodeDecodeError, csv.Error) as exc:
        raise PeerError(f"cannot read {path}: {exc}", code="csv_invalid") from exc
    if not rows:
        raise PeerError(f"{path} names no device", code="csv_invalid")
    return rows
