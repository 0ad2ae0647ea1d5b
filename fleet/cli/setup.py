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

from fleet.broker import EVERYWHERE, HOST, BrokerProcess, find_broker, free_port, run_reload
from fleet.expiries import expiries, observer_words, soon_words
from fleet.lease import already_up, hold_lease, lease_holder
from fleet.monitoring.drift import DriftSettings
from fleet.pki.access import found_pki
from fleet.sections import DEFAULT_API_PORT, DEFAULT_BROKER_PORT, DEFAULT_DEVICES_PORT
from fleet.settings import FILE_NAME, FleetSettings, require_settings, write_settings
from fleet.trust.keys import OFFLINE_DIR
from wire.endpoint import parse_broker_url
from wire.errors import ConfigError, StorageError

from .bearer import find_token, trusted
from .console import parse_address, say
from .keys import founding_words
from .signer import given_passphrase, now_unix_ms

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
    keys: Annotated[
        Path | None, typer.Option("--keys", help="For the offline keys; else DIRECTORY/offline.")
    ] = None,
    passphrase_file: Annotated[
        Path | None,
        typer.Option(
            help="File with a passphrase for the offline keys; else FLEET_PASSPHRASE, else one is"
            " made and left beside them."
        ),
    ] = None,
    ask_passphrase: Annotated[
        bool, typer.Option("--ask-passphrase", help="Ask for that passphrase.")
    ] = False,
    host: Annotated[
        list[str] | None,
        typer.Option(
            help="Name or address by which devices reach this machine; repeatable. Opens broker and "
            "device listener to the network; without it they are on loopback."
        ),
    ] = None,
    devices: Annotated[
        str | None,
        typer.Option(help="HOST:PORT where devices enrol; else the first free from 8800 on."),
    ] = None,
    store: Annotated[
        str | None,
        typer.Option(
            help="URL of an empty database of PostgreSQL, such as postgresql://USER@HOST/DATABASE; "
            "else SQLite in the fleet's directory."
        ),
    ] = None,
) -> None:
    """Make a fleet: a directory with fleet.toml, a store, all keys, and an administrator's token."""
    from fleet.trust.ceremony import found

    secret = given_passphrase(passphrase_file, must_ask=ask_passphrase)
    for option, given in (("--listen", listen), ("--devices", devices)):
        if given is not None:
            parse_address(given, option=option)
    hosts = host or []
    if broker_kind not in ("auto", "mosquitto", "nats"):
        raise typer.BadParameter("one of auto, mosquitto, nats", param_hint="--broker-kind")
    if broker is None:
        program = find_broker(None if broker_kind == "auto" else broker_kind)  # type: ignore[arg-type]
        name = hosts[0] if hosts else HOST
        shown = f"[{name}]" if ":" in name else name
        url = f"mqtts://{shown}:{free_port(DEFAULT_BROKER_PORT)}"
        note = f"{program} on {url}, started by `fleet up`"
    else:
        parse_broker_url(broker)
        url, broker_kind, note = broker, "external", broker
    if store is not None:
        _reach(store, directory)
    path = write_settings(
        directory,
        kind=broker_kind,
        url=url,
        listen=listen or f"{HOST}:{free_port(DEFAULT_API_PORT)}",
        devices=devices or f"{EVERYWHERE if hosts else HOST}:{free_port(DEFAULT_DEVICES_PORT)}",
        hosts=hosts,
        store_url=store,
    )
    settings = require_settings(directory)
    authority = found_pki(settings.pki, hosts, now_unix_ms())
    founded = found(
        settings.root,
        settings.store_dir,
        now_unix_ms(),
        database=settings.database,
        keys_dir=keys or settings.root / OFFLINE_DIR,
        passphrase=secret,
    )
    typer.echo(f"wrote {path}")
    typer.echo(f"certificate authority {authority.fingerprint[:16]} in {settings.pki.root}")
    if (token := _found(settings)) is not None:
        typer.echo(f"token:  {token}, an administrator's")
    typer.echo(f"broker: {note}")
    typer.echo(founding_words(founded))
    typer.echo(f"next:   cd {directory} && fleet up")


def _reach(url: str, directory: Path) -> None:
    """Make the tables, before anything else is made that a second `init` would find."""
    from fleet.store.store import Store

    if (directory / FILE_NAME).exists():
        return  # which is refused below
    Store(url, directory / "store").close()


def up(
    fleet: Fleet = None,
    detach: Annotated[
        bool, typer.Option("--detach", help="Go to the background when everything is up.")
    ] = False,
) -> None:
    """Start broker, controller and API; Ctrl-C ends them."""
    settings = require_settings(fleet)
    settings.check_loopback()
    if (pid := lease_holder(settings.pid_path)) is not None:
        raise already_up(pid)
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
    pid = lease_holder(settings.pid_path)
    if pid is None:
        typer.echo("this fleet is not up")
        return
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        pass
    except PermissionError as exc:
        raise ConfigError(
            f"process {pid} belongs to another user",
            code="not_permitted",
            hint="run `fleet down` as the user who ran `fleet up`",
        ) from exc
    deadline_s = time.monotonic() + DOWN_S
    while lease_holder(settings.pid_path) == pid:
        if time.monotonic() > deadline_s:
            raise ConfigError(
                f"process {pid} does not end",
                code="does_not_end",
                hint=f"look at {settings.log_path}, or end it with `kill -9 {pid}`",
            )
        time.sleep(0.1)
    typer.echo("down")


def _foreground(settings: FleetSettings, *, has_broker: bool) -> None:
    from fleet.service import Admission, Alerting, ControllerSettings, run_controller

    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s"
    )
    with contextlib.ExitStack() as stack:
        # The lease first: a second `fleet up` must not reach for the broker's port and data.
        stack.enter_context(hold_lease(settings.pid_path))
        if (token := _found(settings)) is not None:  # of a store from before there were any
            say(f"wrote {token}, an administrator's token")
        found_pki(settings.pki, settings.devices.hosts, now_unix_ms())
        broker = _start_broker(settings) if has_broker else None
        if broker is not None:
            stack.callback(broker.stop)
            stack.enter_context(_kept_alive(broker))
        run_controller(
            ControllerSettings(
                broker_url=settings.broker.local_url,
                listen=settings.api.address,
                database=settings.database,
                data_dir=settings.store_dir,
                checkpoints_path=settings.checkpoints_path,
                approval_limit=settings.approval.limit,
                drift=DriftSettings(
                    slot_s=settings.drift.window_s,
                    alarms_per_30_days=settings.drift.alarms_per_30_days,
                    is_on=settings.drift.is_on,
                ),
                captures=settings.capture.limits,
                requests_per_s=settings.api.requests_per_s,
                tls=settings.tls(),
                on_ready=lambda: _banner(settings, broker),
                alerts=Alerting(
                    settings.alerts,
                    settings.alerts.receivers(settings.root),
                    settings.api_url,
                ),
                admission=Admission(
                    listen=settings.devices.address,
                    hosts=settings.devices.hosts,
                    url=settings.devices.url,
                    broker_url=settings.broker.url,
                    root_path=settings.root / "root.json",
                    device_days=settings.devices.certificate_days,
                    reload_broker=broker.reload
                    if broker is not None
                    else lambda: run_reload(settings.broker.reload),
                    broker_log=broker.log_path if broker is not None else settings.broker_log,
                ),
            )
        )


def _found(settings: FleetSettings) -> Path | None:
    """Make what a fleet lacks of keys and tokens; return the file of a token that was made."""
    from fleet import audit, tokens
    from fleet.store.store import Store

    store = Store(settings.database, settings.store_dir)
    try:
        audit.found(settings.root, settings.store_dir, store)
        return tokens.found(settings.root, store)
    finally:
        store.close()


def _start_broker(settings: FleetSettings) -> BrokerProcess:
    kind = settings.broker.kind
    program = find_broker(kind if kind in ("mosquitto", "nats") else None)
    broker = BrokerProcess(
        program,
        settings.broker.port,
        settings.store_dir / "broker",
        pki=settings.pki if settings.broker.is_encrypted else None,
        host=settings.broker.listen_host,
    )
    broker.start()
    return broker


def _banner(settings: FleetSettings, broker: BrokerProcess | None) -> None:
    name = f"{broker.program}, process {broker.pid}" if broker else "yours"
    say(f"broker      {settings.broker.url} ({name})")
    say(f"API         {settings.api_url} (what it offers: {settings.api_url}/openapi.json)")
    say(f"store       {settings.store_dir}{' and PostgreSQL' if settings.store.url else ''}")
    for line in _warnings(settings):
        say(line)
    say(f"devices     {settings.devices.url} (enrolment, renewal)")
    if not settings.broker.is_encrypted:
        say("The broker asks for no certificate: whoever reaches it commands the fleet.")
    say("Ctrl-C ends it.")


def _warnings(settings: FleetSettings) -> list[str]:
    """Return what must be signed soon, or at all, and who must be given a certificate."""
    from fleet.store.store import Store
    from fleet.trust.stored import load

    store = Store(settings.database, settings.store_dir)
    try:
        with store.read() as tx:
            repository, observers = load(tx), tx.identities.observers()
    finally:
        store.close()
    now = now_unix_ms()
    said = list(observer_words(observers, now))
    if repository is None:
        text = (
            "There are no signed documents, and no rollout can start: `fleet keys restore` hands in"
            " what was signed before, `fleet keys found` makes the keys of a fleet without any."
        )
        return [*said, text]
    return [*said, *soon_words(expiries(repository.documents()), now)]


@contextlib.contextmanager
def _kept_alive(broker: BrokerProcess) -> Iterator[None]:
    """Restart the broker when it dies, for as long as the controller runs."""
    ended = threading.Event()

    def keep() -> None:
        while not ended.wait(0.5):
            broker.keep_alive(time.monotonic())

    keeper = threading.Thread(target=keep, name="broker-keeper")
    keeper.start()
    try:
        yield
    finally:
        ended.set()
        keeper.join()


def _detach(settings: FleetSettings) -> None:
    argv = [sys.executable, "-m", "fleet", "up", "--fleet", str(settings.root)]
    try:
        settings.store_dir.mkdir(parents=True, exist_ok=True)
        output = settings.log_path.open("ab")
    except OSError as exc:
        raise StorageError(
            f"cannot write {settings.log_path}: {exc.strerror}",
            code="log_unwritable",
            hint="is the disk full, or does the fleet belong to another user?",
        ) from exc
    with output:
        start = output.tell()
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    deadline_s = time.monotonic() + READY_S
    while not (lease_holder(settings.pid_path) == process.pid and _is_healthy(settings)):
        if process.poll() is not None or time.monotonic() > deadline_s:
            # Half a fleet that nobody asked for must not stay behind.
            process.terminate()
            process.wait()
            raise ConfigError(
                f"it did not come up: {_printed_since(settings.log_path, start)}",
                code="not_up",
                hint=f"its log is {settings.log_path}; `fleet up` without --detach says the same here",
            )
        time.sleep(0.1)
    typer.echo(f"up: broker {settings.broker.url}, API {settings.api_url}")
    typer.echo(f"process {process.pid}, log {settings.log_path}")


def _printed_since(log: Path, start: int) -> str:
    with log.open("rb") as file:
        file.seek(start)
        lines = file.read().decode(errors="replace").strip().splitlines()
    return (
        "; ".join(line.strip().removeprefix("fleet: ") for line in lines[-3:])
        or "it said nothing, as on a full disk"
    )


def _is_healthy(settings: FleetSettings) -> bool:
    import httpx

    try:
        token = find_token(settings.api_url, settings.root)
        path = "/v1/status" if token else "/v1/health"
        headers = {"authorization": f"Bearer {token}"} if token else {}
        answer = httpx.get(
            f"{settings.api_url}{path}",
            headers=headers,
            timeout=2,
            trust_env=False,
            verify=trusted(settings.api_url, settings.root),
        )
    except (httpx.HTTPError, ConfigError):
        return False
    # A token of another's in the environment says nothing against this fleet.
    return answer.is_success or answer.status_code == httpx.codes.UNAUTHORIZED
