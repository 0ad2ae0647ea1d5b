"""`fleet devices`, `fleet device …`, `fleet telemetry`."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Annotated, Final

import typer

from fleet.api.schemas import Device, DeviceIn, DevicePatch, Health, StoredRecord
from wire.errors import ConfigError, PeerError
from wire.ids import parse_name

from .client import Client
from .console import (
    Controller,
    Json,
    Match,
    ago,
    confirm,
    in_bytes,
    parse_address,
    parse_tags,
    say,
    show,
    show_facts,
    show_json,
)

DEFAULT_LISTEN: Final = "127.0.0.1:8600"
MAX_SOCKET_PATH: Final = 107
"""Linux's limit on the path of a unix socket."""

_AGENT_TEMPLATE: Final = """\
# The agent's configuration: `fleet-agent run --config {file}`

[device]
id = "{device}"

[broker]
url = "{broker}"
# ca = "ca.pem"            # for mqtts and wss

[serve]
listen = "{listen}"
{socket}
[state]
dir = "{state}"
"""

Tag = Annotated[list[str] | None, typer.Option("--tag", help="A tag, KEY=VALUE; repeatable.")]


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command("devices")(list_devices)
    device = typer.Typer(help="One device.", no_args_is_help=True)
    device.command("add")(add)
    device.command("show")(show_device)
    device.command("tag")(tag)
    device.command("remove")(remove)
    app.add_typer(device, name="device")
    app.command("telemetry")(telemetry)


def list_devices(match: Match = None, json: Json = False, controller: Controller = None) -> None:
    """List the devices: online or not, what they serve, what they shall serve."""
    tags = parse_tags(match, option="--match")
    with Client(controller) as client:
        devices = client.list("/v1/devices", Device, match=tags)
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
    controller: Controller = None,
) -> None:
    """Add a device, or many from a CSV file."""
    parse_address(listen, option="--listen")
    if (device is None) == (source is None):
        raise typer.BadParameter("name a device, or a file with --from", param_hint="DEVICE")
    with Client(controller) as client:
        broker = client.get("/v1/health", Health).broker_url if output or output_dir else ""
        if source is not None:
            rows = _read_csv(source)
            client.post_list("/v1/devices", rows, Device)
            say(f"added {len(rows)} devices")
            for row in rows:
                if output_dir is not None:
                    _write_agent(output_dir / f"{row.id}.toml", row.id, broker, listen, None, None)
            return
        name = parse_name(device or "", what="device id")
        if output is not None and output.exists():
            raise ConfigError(
                f"{output} exists already", code="file_exists", hint="choose another --output"
            )
        row = DeviceIn(id=name, tags=parse_tags(tag, option="--tag"))
        client.post("/v1/devices", row, Device)
        say(f"added {name}")
        if output is not None:
            _write_agent(output, name, broker, listen, socket, state_dir)
            say(f"wrote {output}; start the agent with `fleet-agent run --config {output}`")


def show_device(
    device: Annotated[str, typer.Argument(help="The device's id.")],
    json: Json = False,
    controller: Controller = None,
) -> None:
    """Show one device: what it serves, how its last updates ended, what it is."""
    with Client(controller) as client:
        found = client.get(f"/v1/devices/{parse_name(device, what='device id')}", Device)
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
    facts += [
        ("quarantined", f"{entry['manifest'][:12]} ({entry['code']})")
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
                "LAST UPDATE": " ".join(filter(None, (model.outcome, _in_brackets(model.code)))),
                "DETAIL": model.detail,
            }
            for model in found.models
        ],
        empty="no model yet; `fleet rollout start NAME:VERSION` brings one",
    )


def tag(
    device: Annotated[str, typer.Argument(help="The device's id.")],
    tags: Annotated[list[str], typer.Argument(help="KEY=VALUE to set, KEY= to take away.")],
    controller: Controller = None,
) -> None:
    """Change a device's tags."""
    path = f"/v1/devices/{parse_name(device, what='device id')}"
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
        found = client.patch(path, DevicePatch(tags=result), Device)
    typer.echo(" ".join(f"{k}={v}" for k, v in sorted(found.tags.items())) or "no tags")


def remove(
    device: Annotated[str, typer.Argument(help="The device's id.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    controller: Controller = None,
) -> None:
    """Forget a device and its records; what runs on it goes on running."""
    name = parse_name(device, what="device id")
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
    path = f"/v1/devices/{parse_name(device, what='device id')}/records"
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
                    rows.append(DeviceIn(id=name, tags=tags))
                except (PeerError, ValueError) as exc:
                    text = str(exc).splitlines()[0]
                    raise PeerError(f"{path} line {number}: {text}", code="csv_invalid") from exc
    except (OSError, UnicodeDecodeError, csv.Error) as exc:
        raise PeerError(f"cannot read {path}: {exc}", code="csv_invalid") from exc
    if not rows:
        raise PeerError(f"{path} names no device", code="csv_invalid")
    return rows


def _write_agent(
    path: Path,
    device: str,
    broker: str,
    listen: str,
    socket: Path | None,
    state: Path | None,
) -> None:
    home = path.resolve().parent / "devices" / device
    chosen = (socket or home / "agent.sock").resolve()
    if len(str(chosen)) > MAX_SOCKET_PATH:
        if socket is not None:
            raise ConfigError(
                f"{chosen} is too long for a unix socket",
                code="socket_path",
                hint=f"at most {MAX_SOCKET_PATH} bytes",
            )
        line = f"# no unix socket: {chosen.name} beside the state would have too long a path"
    else:
        line = f'socket = "{chosen}"'
    text = _AGENT_TEMPLATE.format(
        file=path.name,
        device=device,
        broker=broker,
        listen=listen,
        socket=line,
        state=(state or home / "state").resolve(),
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as exc:
        raise ConfigError(
            f"the device is added, but {path} cannot be written: {exc.strerror}",
            code="config_unwritable",
            hint="write it by hand; docs/runbook.md shows one",
        ) from exc
