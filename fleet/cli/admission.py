"""`fleet broker`, `fleet observer`: who may talk."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import typer
from typer.core import TyperGroup

from fleet.api.admission_schemas import (
    MAX_OBSERVER_NAME,
    AuditResult,
    Observer,
    ObserverCertificate,
    ObserverIn,
    ObserverRevocation,
)
from fleet.pki import brokers
from fleet.pki.access import found_pki
from fleet.pki.authority import new_request, read_certificate
from fleet.pki.folder import KeyPair, write_private
from fleet.pki.grants import observer_name
from fleet.settings import FleetSettings, require_settings
from wire.endpoint import parse_broker_url
from wire.errors import ConfigError

from .client import Client
from .console import (
    ERROR,
    Controller,
    Json,
    confirm,
    given_name,
    on_day,
    say,
    show,
    show_json,
)
from .joining import tell_revoked

AUDIT_S: Final = 180.0
"""An audit waits ten seconds for each thing that a broker does not do."""


class _ObserverGroup(TyperGroup):
    """Takes a name in place of a command: that is to add it."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the command in where it was left out; see `TyperGroup.parse_args`."""
        if args and args[0] not in (*self.commands, *self.get_help_option_names(ctx)):
            args = ["add", *args]
        return super().parse_args(ctx, args)


def register(app: typer.Typer) -> None:
    """Add these commands."""
    broker = typer.Typer(help="The broker.", no_args_is_help=True)
    broker.command("config")(broker_config)
    broker.command("audit")(broker_audit)
    app.add_typer(broker, name="broker")
    one = typer.Typer(
        cls=_ObserverGroup,
        help="Who watches the broker. `fleet observer NAME` is `fleet observer add NAME`.",
        no_args_is_help=True,
    )
    one.command("add")(observer)
    one.command("revoke")(revoke_observer)
    app.add_typer(one, name="observer")
    app.command("observers")(list_observers)


def observer(
    name: Annotated[str, typer.Argument(help="Who watches; one connection at a time.")],
    output: Annotated[
        Path, typer.Option(help="Directory for NAME.key, NAME.pem and ca.pem.")
    ] = Path(),
    controller: Controller = None,
) -> None:
    """Make a certificate that reads every topic on the broker and writes none."""
    name = given_name(name, what="observer's name")
    if len(name) > MAX_OBSERVER_NAME:
        raise typer.BadParameter(f"at most {MAX_OBSERVER_NAME} characters", param_hint="NAME")
    pair = KeyPair(output / f"{name}.key", output / f"{name}.pem")
    csr = new_request(pair.key, observer_name(name))
    with Client(controller) as client:
        made = client.post("/v1/observers", ObserverIn(name=name, csr=csr), Observer)
    write_private(pair.certificate, made.certificate.encode())
    write_private(output / "ca.pem", made.ca.encode())
    where = parse_broker_url(made.broker_url)
    until = read_certificate(made.certificate).not_after_unix_ms
    say(
        f"good until {on_day(until)}, and renewed by nobody: `fleet observer {name}` makes the next"
    )
    say(f"wrote {pair.key}, {pair.certificate} and {output / 'ca.pem'}; for example:")
    say(
        f"  mosquitto_sub -h {where.host} -p {where.port} --cafile {output / 'ca.pem'}"
        f" --cert {pair.certificate} --key {pair.key} -t 'fleet/v1/device/+/telemetry/#'"
    )


def revoke_observer(
    name: Annotated[str, typer.Argument(help="Who watches.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    controller: Controller = None,
) -> None:
    """Put an observer out: its certificates are void, its connection is cut."""
    name = given_name(name, what="observer's name")
    confirm(f"Put {name} out? `fleet observer {name}` would let it in again.", is_sure=yes)
    with Client(controller) as client:
        done = client.post(f"/v1/observers/{name}/revoke", None, ObserverRevocation)
    tell_revoked(name, done)


def list_observers(json: Json = False, controller: Controller = None) -> None:
    """List those who watch the broker, and until when their certificates are good."""
    with Client(controller) as client:
        found = client.list("/v1/observers", ObserverCertificate)
    if json:
        show_json([one.model_dump(mode="json") for one in found])
        return
    show(
        [
            {
                "OBSERVER": one.name,
                "MADE": on_day(one.issued_unix_ms),
                "GOOD UNTIL": on_day(one.not_after_unix_ms),
            }
            for one in found
        ],
        empty="nobody but observer.pem of the fleet itself; `fleet observer NAME` makes more",
    )


def broker_audit(json: Json = False, controller: Controller = None) -> None:
    """Try by round trip that no device reads or writes another's topics, and look for bad habits.

    Exit code 1 when there is a fault.
    """
    with Client(controller) as client:
        found = client.post("/v1/broker-audits", None, AuditResult, timeout_s=AUDIT_S).findings
    if json:
        show_json([one.model_dump(mode="json") for one in found])
    else:
        width = max(len(one.subject) for one in found)
        for one in found:
            say(f"{one.verdict:<8} {one.subject:<{width}}  {one.text}")
            if one.remedy and one.verdict != "ok":
                say(f"{'':<8} {'':<{width}}  -> {one.remedy}")
    if any(one.verdict == "fault" for one in found):
        raise typer.Exit(ERROR)


def broker_config(
    kind: Annotated[
        Literal["mosquitto", "nats", "emqx", "aws-iot"],
        typer.Option("--for", help="Which broker."),
    ],
    output: Annotated[
        Path | None, typer.Option(help="Write to this file, not to print it.")
    ] = None,
    fleet: Annotated[
        Path | None, typer.Option("--fleet", help="The fleet's directory; else this one or above.")
    ] = None,
) -> None:
    """Print how a broker of your own is to let this fleet in: mutual TLS, rights, revocations."""
    settings = require_settings(fleet)
    found_pki(settings.pki, settings.devices.hosts, time.time_ns() // 1_000_000)
    text = _config(settings, kind, output)
    if output is None:
        typer.echo(text, nl=False)
        return
    try:
        output.write_text(text)
    except OSError as exc:
        raise ConfigError(
            f"cannot write {output}: {exc.strerror}", code="config_unwritable"
        ) from exc
    say(f"wrote {output}")


def _config(settings: FleetSettings, kind: str, output: Path | None) -> str:
    home = output.resolve().parent if output is not None else settings.store_dir / "broker"
    listener = brokers.Listener(
        settings.broker.listen_host, settings.broker.port, home, home / f"{kind}-data", settings.pki
    )
    match kind:
        case "mosquitto":
            return brokers.mosquitto(listener)
        case "nats":
            return brokers.nats(listener)
        case "emqx":
            return brokers.emqx(settings.pki)
        case _:
            return brokers.aws_iot()
