"""`fleet.toml`: where a fleet's broker, API and store are; and how a command finds them."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Self

from pydantic import ValidationError, model_validator
from pydantic_core import ErrorDetails

from wire.endpoint import parse_broker_url
from wire.errors import ConfigError

from .alerts.settings import LOOPBACK, AlertsSection
from .broker import HOST
from .pki.folder import PkiFolder
from .section import Section as _Section
from .sections import (
    DEFAULT_DEVICES_PORT,
    ApiSection,
    ApprovalSection,
    AuditSection,
    BrokerSection,
    CaptureSection,
    DevicesSection,
    DriftSection,
    StoreSection,
)

FILE_NAME: Final = "fleet.toml"
CORRECT: Final = "correct it; `fleet init` writes one with every key"
TOKEN_FILE_NAME: Final = "admin.token"  # noqa: S105 - its name, not one
"""Beside `fleet.toml`: the token that `fleet init` made."""
MAX_TOKEN_CHARS: Final = 128
"""More than any token of the API has; longer ones are not even hashed."""

EXAMPLE_STORE: Final = '# url = "postgresql://modelfleet@db.example/modelfleet"'

_TEMPLATE: Final = """\
# A fleet: one broker, one controller, any number of devices. `fleet up` starts it.

[broker]
# "auto" starts mosquitto where it is installed, else nats-server; or name one of the two;
# "external" uses the broker of the url.
kind = "{kind}"
url = "{url}"
# Run when a device comes or goes, for "external" only, where its broker reads the files in store/pki:
# reload = ["systemctl", "reload", "mosquitto"]
# Where that broker writes whom it refused; `fleet broker audit` looks whether it does:
# log = "/var/log/mosquitto/mosquitto.log"

[api]
# The controller's HTTP API. Another address than loopback needs a certificate.
listen = "{listen}"
# certificate = "api.pem"
# key = "api.key"
# ca = "ca.pem"
# url = "https://fleet.example:8700"

[devices]
# The controller's HTTPS listener for devices: here they enrol, and renew their certificates.
listen = "{devices}"
# Names and addresses by which devices reach this machine; its certificate is for them and loopback.
hosts = {hosts}

[store]
# Everything the controller knows: SQLite, chunks, certificates, logs of the broker.
dir = "store"
# PostgreSQL in place of SQLite; the rest stays in dir. The password comes from PGPASSFILE.
{store_url}

# [approval]
# A rollout to more of the fleet than this waits until a second person approves it.
# share = "50%"

# [drift]
# Inputs and answers are held against the baseline in slots of this length: what agents have as
# [telemetry] window_s. At so many false alarms a month, in the whole fleet, something is said.
# window_s = 900
# alarms_per_30_days = 1

# [capture]
# Captured rows that devices were asked for go after so many days; beyond so much nothing more is taken.
# keep_days = 90
# max_mb = 1024
# device_max_mb = 64

# [audit]
# The file that witnesses the audit log: best on another disk, or one that only adds.
# checkpoints = "/mnt/other/audit.checkpoints"

# Who is told when something is wrong; the rules are in docs/runbook.md.
# [[alerts.webhook]]
# url = "https://alerts.example/hook"
# token_file = "hook.token"
"""


class FleetSettings(_Section):
    """The whole file, with the directory that it was found in."""

    root: Path
    broker: BrokerSection = BrokerSection()
    api: ApiSection = ApiSection()
    devices: DevicesSection = DevicesSection()
    store: StoreSection = StoreSection()
    audit: AuditSection = AuditSection()
    approval: ApprovalSection = ApprovalSection()
    drift: DriftSection = DriftSection()
    capture: CaptureSection = CaptureSection()
    alerts: AlertsSection = AlertsSection()

    @model_validator(mode="after")
    def _our_broker_has_a_certificate_for_its_name(self) -> Self:
        host = parse_broker_url(self.broker.url).host
        if self.broker.kind != "external" and host not in LOOPBACK | set(self.devices.hosts):
            raise ValueError(
                f"broker.url names {host}, for which our broker would have no certificate: add it to"
                ' [devices] hosts, or write kind = "external"'
            )
        return self

    @property
    def pki(self) -> PkiFolder:
        """Where the certificate authority is."""
        return PkiFolder(self.store_dir / "pki")

    @property
    def store_dir(self) -> Path:
        """Where the controller keeps everything, absolute."""
        return self.root / self.store.dir

    @property
    def database(self) -> Path | str:
        """The controller's database: SQLite's file, or PostgreSQL's URL."""
        return self.store.url or self.sqlite_path

    @property
    def sqlite_path(self) -> Path:
        """Where SQLite's file is, used or not."""
        return self.store_dir / "fleet.db"

    @property
    def checkpoints_path(self) -> Path:
        """Where the audit log is witnessed."""
        return self.root / (self.audit.checkpoints or self.store_dir / "audit.checkpoints")

    @property
    def broker_log(self) -> Path | None:
        """Where a broker of another's logs, absolute; None where it is not said."""
        return self.root / self.broker.log if self.broker.log is not None else None

    @property
    def pid_path(self) -> Path:
        """Where `fleet up` writes its process id."""
        return self.store_dir / "fleet.pid"

    @property
    def log_path(self) -> Path:
        """Where `fleet up --detach` writes what it would print."""
        return self.store_dir / "fleet.log"

    @property
    def api_url(self) -> str:
        """The base URL of the API."""
        if self.api.url is not None:
            return self.api.url
        return f"{'https' if self.api.certificate else 'http'}://{self.api.listen}"

    def tls(self) -> tuple[Path, Path] | None:
        """Return the files of the API's certificate and key, absolute; None is without TLS."""
        if self.api.certificate is None or self.api.key is None:
            return None
        return self.root / self.api.certificate, self.root / self.api.key

    def check_loopback(self) -> None:
        """Refuse to listen anywhere but on loopback without TLS.

        Raises:
            ConfigError: `not_loopback`.
        """
        host, _ = self.api.address
        if self.api.certificate is None and host not in LOOPBACK:
            raise ConfigError(
                f"[api] listen = {self.api.listen!r} is open to the network, and there is no TLS:"
                " tokens would pass in the clear",
                code="not_loopback",
                hint="give [api] certificate and key, or use 127.0.0.1 and reach it through SSH: "
                f"ssh -L 8700:127.0.0.1:{self.api.address[1]} HOST",
            )


def write_settings(
    root: Path,
    *,
    kind: str,
    url: str,
    listen: str,
    devices: str = f"{HOST}:{DEFAULT_DEVICES_PORT}",
    hosts: Sequence[str] = (),
    store_url: str | None = None,
) -> Path:
    """Write a new `fleet.toml` and return its path.

    Raises:
        ConfigError: `fleet_exists`, `config_unwritable` or `config_invalid`.
    """
    path = root / FILE_NAME
    if path.exists():
        raise ConfigError(
            f"{path} exists already", code="fleet_exists", hint="choose another directory"
        )
    text = _TEMPLATE.format(
        kind=kind,
        url=url,
        listen=listen,
        devices=devices,
        hosts=json.dumps(list(hosts)),
        store_url=f"url = {json.dumps(store_url)}" if store_url is not None else EXAMPLE_STORE,
    )
    parse_settings(text, path).check_loopback()
    try:
        root.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    except OSError as exc:
        raise ConfigError(f"cannot write {path}: {exc.strerror}", code="config_unwritable") from exc
    return path


def parse_settings(text: str, path: Path) -> FleetSettings:
    """Return the settings that `text` holds.

    Raises:
        ConfigError: `config_invalid`, naming file and key.
    """
    try:
        raw = tomllib.loads(text)
        if "root" in raw:
            raise ConfigError(f"{path}: root: unknown key", code="config_invalid", hint=CORRECT)
        return FleetSettings.model_validate({**raw, "root": path.resolve().parent})
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError(f"{path}: {exc}", code="config_invalid", hint=CORRECT) from exc
    except ValidationError as exc:
        faults = [
            f"{'.'.join(str(part) for part in fault['loc'])}: {_in_words(fault)}"
            for fault in exc.errors(include_url=False)
        ]
        raise ConfigError(
            f"{path}: {'; '.join(faults)}", code="config_invalid", hint=CORRECT
        ) from exc


def _in_words(fault: ErrorDetails) -> str:
    match fault["type"]:
        case "extra_forbidden":
            return "unknown key"
        case "missing":
            return "is missing"
        case _:
            return fault["msg"].removeprefix("Value error, ")


def find_settings(start: Path) -> FleetSettings | None:
    """Return the settings of the nearest `fleet.toml` in `start` or above, or None.

    Raises:
        ConfigError: The file there is cannot be read or is wrong.
    """
    start = start.resolve()
    for directory in (start, *start.parents):
        path = directory / FILE_NAME
        try:
            return parse_settings(path.read_text(encoding="utf-8"), path)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, UnicodeDecodeError) as exc:
            raise ConfigError(
                f"cannot read {path}: {exc}", code="config_unreadable", hint=CORRECT
            ) from exc
    return None


def require_settings(directory: Path | None) -> FleetSettings:
    """Return the settings of the fleet that a command is about.

    Args:
        directory: `--fleet`, or None to search from the working directory upwards.

    Raises:
        ConfigError: `no_fleet`, or as `find_settings`.
    """
    try:
        settings = find_settings(directory or Path.cwd())
    except FileNotFoundError as exc:
        raise ConfigError(
            "the working directory is gone", code="no_fleet", hint="`cd` into one that exists"
        ) from exc
    if settings is None:
        raise ConfigError(
            f"there is no {FILE_NAME} in {directory or 'this directory'} or above",
            code="no_fleet",
            hint="make a fleet with `fleet init DIR`, then `cd DIR`",
        )
    return settings


def find_api_url(controller: str | None, directory: Path | None) -> str:
    """Return the API's base URL: `--controller`, then `FLEET_CONTROLLER`, then `fleet.toml`.

    Raises:
        ConfigError: `no_fleet`, or as `find_settings`.
    """
    given = controller or os.environ.get("FLEET_CONTROLLER")
    if given:
        return given.rstrip("/") if "://" in given else f"http://{given.rstrip('/')}"
    return require_settings(directory).api_url
