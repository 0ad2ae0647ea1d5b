"""`fleet init`, `up`, `down`, `controller run`: a fleet's own programs."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final

import typer

from fleet.broker import HOST, BrokerProcess, find_broker, free_port
from fleet.settings import (
    DEFAULT_API_PORT,
    DEFAULT_BROKER_PORT,
    FleetSettings,
    require_settings,
    write_settings,
)
from wire.errors import ConfigError
from wire.link_paho import parse_broker_url

from .client import Client
from .console import parse_address, say

READY_S: Final = 40.0
DOWN_S: Final = 30.0

Fleet = Annotated[
    Path | None, typer.Option("--fleet", help="The fleet's directory; else this one or above.")
]


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command("init")(init)
    app.command("up")(up)
    app.command("down")(down)
    controller = typer.Typer(help="The controller without a broker of its own.")
    controller.command("run")(run)
    app.add_typer(controller, name="controller")


def init(
    directory: Annotated[Path, typer.Argument(help="Made when absent.")],
    broker: Annotated[
        str | None, typer.Option(help="URL of your own broker, such as mqtt://HOST:1883.")
    ] = None,
    broker_kind: Annotated[
        str, typer.Option(help="The broker that `fleet up` starts: auto, mosquitto or nats.")
    ] = "auto",
    listen: Annotated[
        str | None, typer.Option(help="HOST:PORT of the API; else the first free from 8700 on.")
    ] = None,
) -> None:
    """Make a fleet: a directory with fleet.toml."""
    if listen is not None:
        parse_address(listen, option="--listen")
    if broker_kind not in ("auto", "mosquitto", "nats"):
        raise typer.BadParameter("one of auto, mosquitto, nats", param_hint="--broker-kind")
    if broker is None:
        found = find_broker(None if broker_kind == "auto" else broker_kind)  # type: ignore[arg-type]
        url = f"mqtt://{HOST}:{free_port(DEFAULT_BROKER_PORT)}"
        note = f"{found} on {url}, started by `fleet up`"
    else:
        parse_broker_url(broker)
        url, broker_kind, note = broker, "external", broker
    path = write_settings(
        directory,
        kind=broker_kind,
        url=url,
        listen=listen or f"{HOST}:{free_port(DEFAULT_API_PORT)}",
    )
    typer.echo(f"wrote {path}")
    typer.echo(f"broker: {note}")
    typer.echo(f"next:   cd {directory} && fleet up")


def up(
    fleet: Fleet = None,
    detach: Annotated[
        bool, typer.Option("--detach", help="Go to the background when everything is up.")
    ] = False,
) -> None:
    """Start broker, controller and API; Ctrl-C ends them."""
    settings = require_settings(fleet)
    settings.check_loopback()
    if (pid := _running(settings)) is not None:
        raise ConfigError(
            f"this fleet is already up (process {pid})",
            code="already_up",
            hint="`fleet down` ends it",
        )
    if detach:
        _detach(settings)
    else:
        _foreground(settings, has_broker=settings.broker.kind != "external")


def run(fleet: Fleet = None) -> None:
    """Run the controller and its API alone, against the broker in fleet.toml."""
    settings = require_settings(fleet)
    settings.check_loopback()
    _foreground(settings, has_broker=False)


def down(fleet: Fleet = None) -> None:
    """End what `fleet up` started."""
    settings = require_settings(fleet)
    pid = _running(settings)
    if pid is None:
        typer.echo("this fleet is not up")
        return
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    deadline_s = time.monotonic() + DOWN_S
    while _running(settings) is not None:
        if time.monotonic() > deadline_s:
            raise ConfigError(
                f"process {pid} does not end",
                code="does_not_end",
                hint=f"look at {settings.log_path}, or end it with `kill -9 {pid}`",
            )
        time.sleep(0.1)
    typer.echo("down")


def _foreground(settings: FleetSettings, *, has_broker: bool) -> None:
    from fleet.service import ControllerSettings, run_controller

    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s"
    )
    settings.store_dir.mkdir(parents=True, exist_ok=True)
    broker = _start_broker(settings) if has_broker else None
    try:
        with _pid_file(settings), _kept_alive(broker):
            run_controller(
                ControllerSettings(
                    broker_url=settings.broker.url,
                    listen=settings.api.address,
                    store_path=settings.store_dir / "fleet.db",
                    data_dir=settings.store_dir,
                    on_ready=lambda: _banner(settings, broker),
                )
            )
    finally:
        if broker is not None:
            broker.stop()


def _start_broker(settings: FleetSettings) -> BrokerProcess:
    kind = settings.broker.kind
    program = find_broker(kind if kind in ("mosquitto", "nats") else None)
    port = parse_broker_url(settings.broker.url).port
    broker = BrokerProcess(program, port, settings.store_dir / "broker")
    broker.start()
    return broker


def _banner(settings: FleetSettings, broker: BrokerProcess | None) -> None:
    name = f"{broker.program}, process {broker.pid}" if broker else "yours"
    say(f"broker      {settings.broker.url} ({name})")
    say(f"API         {settings.api_url} (docs at {settings.api_url}/docs)")
    say(f"store       {settings.store_dir}")
    say("Reachable from this machine only: there is no TLS, no login and no signature yet.")
    say("Ctrl-C ends it.")


@contextlib.contextmanager
def _kept_alive(broker: BrokerProcess | None) -> Iterator[None]:
    """Restart the broker when it dies, for as long as the controller runs."""
    ended = threading.Event()

    def keep() -> None:
        while not ended.wait(0.5):
            if broker is not None:
                broker.keep_alive(time.monotonic())

    keeper = threading.Thread(target=keep, name="broker-keeper")
    keeper.start()
    try:
        yield
    finally:
        ended.set()
        keeper.join()


@contextlib.contextmanager
def _pid_file(settings: FleetSettings) -> Iterator[None]:
    settings.pid_path.write_text(f"{os.getpid()}\n")
    try:
        yield
    finally:
        settings.pid_path.unlink(missing_ok=True)


def _running(settings: FleetSettings) -> int | None:
    """Return the process id of a living `fleet up` of this fleet."""
    try:
        pid = int(settings.pid_path.read_text())
        os.kill(pid, 0)
    except (OSError, ValueError):
        return None
    # The id may have been given to another program since a power cut.
    cmdline = Path(f"/proc/{pid}/cmdline")
    if cmdline.exists() and b"fleet" not in cmdline.read_bytes():
        return None
    return pid


def _detach(settings: FleetSettings) -> None:
    settings.store_dir.mkdir(parents=True, exist_ok=True)
    argv = [sys.executable, "-m", "fleet", "up", "--fleet", str(settings.root)]
    with settings.log_path.open("ab") as output:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    deadline_s = time.monotonic() + READY_S
    while not _is_healthy(settings):
        if process.poll() is not None or time.monotonic() > deadline_s:
            tail = settings.log_path.read_text(errors="replace").strip().splitlines()[-5:]
            raise ConfigError(
                "it did not come up: " + "; ".join(tail),
                code="not_up",
                hint=f"its log is {settings.log_path}",
            )
        time.sleep(0.1)
    typer.echo(f"up: broker {settings.broker.url}, API {settings.api_url}")
    typer.echo(f"process {process.pid}, log {settings.log_path}")


def _is_healthy(settings: FleetSettings) -> bool:
    import httpx

    with Client(settings.api_url) as client:
        try:
            answer = httpx.get(f"{client.url}/v1/health", timeout=2, trust_env=False)
        except httpx.HTTPError:
            return False
    return answer.is_success
