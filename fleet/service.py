"""The controller as a process: store, link, loop and HTTP API put together."""

from __future__ import annotations

import contextlib
import logging
import shutil
import signal
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Final

from fleet.alerts.courier import Courier
from fleet.alerts.settings import AlertsSection, Receiver
from fleet.alerts.watch import Watch
from fleet.api.app import build_app
from fleet.api.device_app import build_device_app
from fleet.api.patience import MAX_CONNECTIONS
from fleet.capture.limits import CaptureLimits
from fleet.pki.access import Access, found_pki
from fleet.pki.authority import CertificateAuthority
from fleet.pki.door import Door
from fleet.pki.enrolment import Enrolment
from fleet.pki.folder import PkiFolder
from fleet.pki.grants import DEVICE_DAYS
from fleet.sections import DEFAULT_REQUESTS_PER_S
from fleet.server import Server, make_server
from fleet.store.store import Store
from fleet.trust.authority import Authority
from fleet.trust.ceremony import online_dir
from wire.endpoint import TlsFiles
from wire.errors import ConfigError, ModelfleetError, StorageError
from wire.link_paho import PahoLink

from .audit import KEY_FILE, Witness
from .controller import Controller
from .monitoring.drift import DriftSettings, DriftWatch

__all__ = ["Controller", "ControllerSettings", "run_controller"]

log = logging.getLogger(__name__)

GRACE_S: Final = 3
"""How long requests under way may go on after the end was asked for; watchers are cut off."""
JOIN_S: Final = 15.0


@dataclass(frozen=True, slots=True)
class Admission:
    """How devices get in.

    Attributes:
        listen: Host and port of the HTTPS listener for devices; port 0 takes a free one.
        hosts: Names and addresses by which devices reach this machine, beside loopback.
        url: The listener's, as devices use it; empty for its address.
        broker_url: The broker's, as devices use it; empty where it is the controller's own.
        root_path: The root of trust that devices are given; none where there is no such file.
        device_days: Life of their certificates.
        reload_broker: Has our broker read its files again; nothing for a broker of another's.
        broker_log: Where the broker writes whom it refused; None where that is not known.
    """

    listen: tuple[str, int] = ("127.0.0.1", 0)
    hosts: tuple[str, ...] = ()
    url: str = ""
    broker_url: str = ""
    root_path: Path | None = None
    device_days: float = DEVICE_DAYS
    reload_broker: Callable[[], None] = lambda: None
    broker_log: Path | None = None


@dataclass(frozen=True, slots=True)
class Alerting:
    """What is watched, and who is told.

    Attributes:
        settings: `[alerts]`.
        receivers: Its webhooks.
        url: The API's, for people who follow an alert.
    """

    settings: AlertsSection = field(default_factory=AlertsSection)
    receivers: tuple[Receiver, ...] = ()
    url: str = ""


@dataclass(frozen=True, slots=True)
class ControllerSettings:
    """What `run_controller` needs to know.

    Attributes:
        broker_url: `mqtt://HOST:PORT` and its kin.
        listen: Host and port of the HTTP API; port 0 takes a free one.
        database: The SQLite file, made when absent, or the URL of PostgreSQL.
        data_dir: Where chunk payloads, uploads in progress and online keys are kept.
        checkpoints_path: The file that witnesses the audit log.
        approval_limit: Part of the fleet, 0 to 1, that one person may move; None is all of it.
        requests_per_s: How many requests a second one token may send to the API.
        tls: Files of the API's certificate and key; None is plain HTTP, for loopback only.
        controller_id: MQTT client id.
        on_ready: Called once, when the API accepts connections; from the API's thread.
        admission: How devices get in.
        drift: How drift is watched for.
        alerts: What is watched, and who is told.
        captures: What is kept of devices' captured rows.
    """

    broker_url: str
    listen: tuple[str, int]
    database: Path | str
    data_dir: Path
    checkpoints_path: Path
    approval_limit: float | None = None
    requests_per_s: float = DEFAULT_REQUESTS_PER_S
    tls: tuple[Path, Path] | None = None
    controller_id: str = "controller"
    on_ready: Callable[[], None] | None = None
    admission: Admission = Admission()
    drift: DriftSettings = field(default_factory=DriftSettings)
    alerts: Alerting = Alerting()
    captures: CaptureLimits = field(default_factory=CaptureLimits)


def run_controller(settings: ControllerSettings) -> None:
    """Run the controller in the foreground until SIGINT or SIGTERM; a second one hurries.

    The broker need not be there yet: the API answers without it, and the link keeps trying.

    Raises:
        ConfigError: `port_taken`, `broker_url`, `audit_key` or `api_certificate`.
        StorageError: The store cannot be used, or another controller has taken it.
        RuntimeError: The loop ended by itself; the process must be started again.
    """
    if settings.tls is not None:
        _check_tls(settings.tls)
    listener = _bind(settings.listen, "the API", "api")
    certificates = found_pki(
        PkiFolder(settings.data_dir / "pki"), settings.admission.hosts, unix_ms()
    )
    pair = certificates.folder.controller
    files = TlsFiles(certificates.folder.ca.certificate, pair.certificate, pair.key)
    link = PahoLink(settings.broker_url, settings.controller_id, tls=files)
    store = Store(settings.database, settings.data_dir, is_sole=True)
    authority = Authority(online_dir(settings.data_dir))
    witness = Witness(store, settings.data_dir / "trust" / KEY_FILE, settings.checkpoints_path)
    courier = Courier(store, settings.alerts.receivers, unix_ms)
    controller = Controller(
        store,
        link,
        unix_ms,
        authority,
        broker_url=settings.broker_url,
        witness=witness,
        approval_limit=settings.approval_limit,
        drift=settings.drift,
        alerts=_watch(settings, certificates.folder, courier),
        captures=settings.captures,
    )
    door = _make_door(settings, certificates, store, controller)
    uploads = settings.data_dir / "uploads"
    shutil.rmtree(uploads, ignore_errors=True)  # what a killed controller was receiving
    server = make_server(
        build_app(controller, upload_dir=uploads, rate_per_s=settings.requests_per_s),
        tls=settings.tls,
        max_connections=MAX_CONNECTIONS,
        grace_s=GRACE_S,
    )
    server.on_ready = settings.on_ready

    failure: list[ModelfleetError] = []

    def work() -> None:
        try:
            _work(controller, failure)
        finally:
            server.should_exit = True

    loop = threading.Thread(target=work, name="controller-loop")
    with _signals(controller, server):
        controller.start()
        door.start()
        courier.start()
        loop.start()
        try:
            with DriftWatch(store, controller.windows, unix_ms, settings.drift, controller.alerts):
                server.run(sockets=[listener])
        finally:
            was_asked = controller.is_stopping
            controller.stop()
            door.stop()
            loop.join(timeout=JOIN_S)
            courier.stop()
            _witness_last(witness)
            store.close()
            listener.close()
    if failure:
        raise failure[0]
    if not was_asked:
        raise RuntimeError("the controller's loop ended by itself; see the log above")


def _work(controller: Controller, failure: list[ModelfleetError]) -> None:
    try:
        controller.run()
    except ModelfleetError as exc:
        failure.append(exc)
    except Exception:
        log.exception("the controller's loop failed")


def _witness_last(witness: Witness) -> None:
    try:
        witness.look(unix_ms(), is_last=True)
    except StorageError as exc:
        log.error("the newest audit rows are not witnessed: %s", exc)  # noqa: TRY400 - no bug


def _watch(settings: ControllerSettings, pki: PkiFolder, courier: Courier) -> Watch:
    certificates = {"authority of the fleet": pki.ca.certificate}
    if settings.tls is not None:
        certificates["API certificate"] = settings.tls[0]
    return Watch(
        settings.alerts.settings,
        receivers=settings.alerts.receivers,
        certificates=certificates,
        url=settings.alerts.url,
        wake=courier.wake,
    )


def _make_door(
    settings: ControllerSettings,
    authority: CertificateAuthority,
    store: Store,
    controller: Controller,
) -> Door:
    admission = settings.admission
    listener = _bind(admission.listen, "the listener for devices", "devices")
    host, port = listener.getsockname()[:2]
    access = Access(
        authority,
        store,
        unix_ms,
        broker_url=settings.broker_url,
        reload=admission.reload_broker,
        broker_log=admission.broker_log,
    )

    def root() -> str:
        try:
            return (
                admission.root_path.read_bytes().decode() if admission.root_path is not None else ""
            )
        except FileNotFoundError:
            return ""

    enrolment = Enrolment(
        authority,
        store,
        access,
        unix_ms,
        broker_url=admission.broker_url or settings.broker_url,
        door_url=admission.url or f"https://{host}:{port}",
        root=root,
        device_days=admission.device_days,
    )
    controller.admit_by(enrolment)
    return Door(
        build_device_app(enrolment, store, controller.ingest.has_ignored, settings.captures),
        listener,
        authority=authority,
        enrolment=enrolment,
        access=access,
        hosts=admission.hosts,
        clock=unix_ms,
    )


def unix_ms() -> int:
    """Return the time in milliseconds of the Unix epoch, by this machine's clock."""
    return time.time_ns() // 1_000_000


def _check_tls(files: tuple[Path, Path]) -> None:
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(*files)
    except (OSError, ValueError) as exc:
        raise ConfigError(
            f"[api] certificate {files[0]} and key {files[1]} cannot be used: {exc}",
            code="api_certificate",
            hint="give a PEM certificate and the unencrypted key that it is for",
        ) from exc


def _bind(listen: tuple[str, int], what: str, section: str) -> socket.socket:
    host, port = listen
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(256)
    except OSError as exc:
        raise ConfigError(
            f"{what} cannot listen on {host}:{port}: {exc.strerror}",
            code="port_taken",
            hint=f"is another controller running? `fleet down` ends it; or give [{section}] listen in"
            " fleet.toml another port",
        ) from exc
    return listener


@contextlib.contextmanager
def _signals(controller: Controller, server: Server) -> Iterator[None]:
    """End in good order on SIGINT and SIGTERM; outside the main thread leave signals alone."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def on_signal(number: int, frame: FrameType | None) -> None:
        if server.should_exit:
            server.force_exit = True
        server.should_exit = True
        controller.ask_to_stop()

    former = {
        number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
