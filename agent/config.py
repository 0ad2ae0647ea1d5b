"""The agent's configuration file: TOML, every unknown key an error that names file and key."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_core import ErrorDetails

from wire.capture import MAX_CAPTURE_LIMIT
from wire.endpoint import TlsFiles, parse_broker_url
from wire.enrolment import TOKEN_PATTERN
from wire.errors import ConfigError
from wire.ids import DeviceId
from wire.packs import MAX_LEFT_OUT

from .core.captured import CaptureRules
from .core.records import LEAST_BYTES, MAX_BYTES
from .core.ring import Ring

CORRECT: Final = (
    "correct it; `fleet-agent check-config` judges it, systemd/agent.toml has every key"
)


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    @field_validator("*")
    @classmethod
    def _is_a_path(cls, value: object) -> object:
        if isinstance(value, Path) and "\0" in str(value):
            raise ValueError("a path cannot have a NUL character in it")
        return value


class DeviceSection(_Section):
    """`[device]`: who this is."""

    id: DeviceId


class BrokerSection(_Section):
    """`[broker]`: where the MQTT broker is, for a device that was not enrolled but set up by hand.

    `certificate` and `key` are what the device shows to it, PEM files both.
    """

    url: str
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    @field_validator("url")
    @classmethod
    def _is_broker_url(cls, url: str) -> str:
        try:
            parse_broker_url(url)
        except ConfigError as exc:
            raise ValueError(f"{exc}; {exc.hint}") from exc
        return url


class EnrollSection(_Section):
    """`[enroll]`: how the first start gets key, certificate, root of trust and broker address.

    The token works once; afterwards the section is of no use, and does no harm.
    """

    url: Annotated[str, Field(pattern=r"^https://[^/\s]+$")]
    token: Annotated[str, Field(pattern=rf"^{TOKEN_PATTERN}$")]


class ServeSection(_Section):
    """`[serve]`: where applications on this device ask for inference, and how models are swapped.

    `swap` is "overlap" (two runtimes for a moment) or "replace" (one at a time, for devices with
    little memory). An empty `listen` leaves the unix socket alone.
    """

    listen: Annotated[str, Field(pattern=r"^([A-Za-z0-9.:\[\]-]+:[0-9]{1,5})?$")] = "127.0.0.1:8600"
    socket: Path | None = None
    swap: Literal["overlap", "replace"] = "overlap"
    start_timeout_s: Annotated[float, Field(ge=1, le=3600)] = 60.0
    drain_s: Annotated[float, Field(ge=0, le=600)] = 10.0
    request_deadline_s: Annotated[float, Field(ge=0.1, le=3600)] = 30.0

    @field_validator("listen")
    @classmethod
    def _port_exists(cls, listen: str) -> str:
        if listen and not 0 < int(listen.rpartition(":")[2]) < 65_536:
            raise ValueError(f"{listen!r} has no port between 1 and 65535")
        return listen

    @property
    def address(self) -> tuple[str, int] | None:
        """The TCP address to listen on, or None."""
        if not self.listen:
            return None
        host, _, port = self.listen.rpartition(":")
        return host.strip("[]"), int(port)


class StateSection(_Section):
    """`[state]`: where everything that must survive is kept.

    `max_bytes` is what bundles may take of the disk, one that is being fetched included; an update
    that does not fit fails with `disk_budget`. Without it, they may take all but 16 MB.
    """

    dir: Path = Path("/var/lib/modelfleet")
    max_bytes: Annotated[int, Field(ge=1024 * 1024)] | None = None


class TelemetrySection(_Section):
    """`[telemetry]`: how often requests and vitals are reported, and how features and answers fell.

    `interval_s` is of the former; `window_s` of the latter, which take more bytes. `max_bytes` is what
    records that the controller has not acknowledged may take of the disk. Beyond it the oldest vitals
    go, then the oldest windows, then the oldest events.
    """

    interval_s: Annotated[float, Field(ge=1, le=86_400)] = 60.0
    window_s: Annotated[float, Field(ge=1, le=86_400)] = 900.0
    max_bytes: Annotated[int, Field(ge=LEAST_BYTES, le=2**40)] = MAX_BYTES


class FeedbackSection(_Section):
    """`[feedback]`: how many answers are remembered, so that labels may still come for them.

    `max_rows` is for each model, `max_bytes` of the runtime's memory for all together. Only requests with an
    `id` are remembered; when there is no room the oldest go. 0 rows is none.
    """

    max_rows: Annotated[int, Field(ge=0, le=10_000_000)] = Ring().max_rows
    max_bytes: Annotated[int, Field(ge=0, le=2**30)] = Ring().max_bytes


class CaptureSection(_Section):
    """`[capture]`: whether rows that were answered are kept here, with the answers. Off without this section.

    Kept is a share `sample` of all rows, and each whose highest class probability is below
    `uncertain_below`; at most `max_rows` of them, in `max_mb` of disk, none older than `max_age_days`, the oldest
    going first. Values of the columns in `leave_out`, named as the model's inputs name them, are blank; of
    a model that lacks one of these names nothing is kept. What is kept leaves this device only when an operator asks for it, by `fleet capture request`.
    """

    sample: Annotated[float, Field(ge=0, le=1)] = 0.01
    uncertain_below: Annotated[float, Field(ge=0, le=1)] = 0.6
    max_mb: Annotated[int, Field(ge=1, le=1_048_576)] = 64
    max_rows: Annotated[int, Field(ge=1, le=MAX_CAPTURE_LIMIT)] = 100_000
    max_age_days: Annotated[float, Field(gt=0, le=3650)] = 30.0
    leave_out: Annotated[
        tuple[Annotated[str, Field(pattern=r"^[ -~]{1,128}$")], ...],
        Field(max_length=MAX_LEFT_OUT),
    ] = ()

    @property
    def rules(self) -> CaptureRules:
        """What the runtime needs to know of it."""
        return CaptureRules(self.sample, self.uncertain_below, self.leave_out)


class TrustSection(_Section):
    """`[trust]`: the root of trust of a device that was not enrolled over the network.

    `root` is the fleet's `root.json`, as it was when this device was let in. One that was enrolled
    has its own beside its key, and needs none here; where there is one here, it is the one that counts.
    """

    root: Path | None = None


class AgentConfig(_Section):
    """The whole file."""

    device: DeviceSection
    broker: BrokerSection | None = None
    enroll: EnrollSection | None = None
    serve: ServeSection = ServeSection()
    state: StateSection = StateSection()
    telemetry: TelemetrySection = TelemetrySection()
    feedback: FeedbackSection = FeedbackSection()
    trust: TrustSection = TrustSection()
    capture: CaptureSection | None = None


def load_config(path: Path) -> AgentConfig:
    """Return the configuration in `path`; relative paths in it start from its directory.

    Raises:
        ConfigError: `config_unreadable` or `config_invalid`.
    """
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise ConfigError(
            f"cannot read {path}: {exc.strerror}",
            code="config_unreadable",
            hint="`fleet device add NAME --output FILE` writes one",
        ) from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{path}: {exc}", code="config_invalid", hint=CORRECT) from exc
    try:
        config = AgentConfig.model_validate(raw)
    except ValidationError as exc:
        faults = [
            f"{'.'.join(str(part) for part in fault['loc'])}: {_in_words(fault)}"
            for fault in exc.errors(include_url=False)
        ]
        raise ConfigError(
            f"{path}: {'; '.join(faults)}", code="config_invalid", hint=CORRECT
        ) from exc
    return _anchored(config, path.resolve().parent)


def _in_words(fault: ErrorDetails) -> str:
    match fault["type"]:
        case "extra_forbidden":
            return "unknown key"
        case "missing":
            return "is missing"
        case _:
            return fault["msg"].removeprefix("Value error, ")


def check_certificates(config: AgentConfig, path: Path) -> None:
    """Check that the files which `[broker]` names can be used.

    Args:
        config: As `load_config` gives it.
        path: Where that was read, for the message.

    Raises:
        ConfigError: `config_invalid`.
    """
    broker = config.broker
    if broker is None:
        return
    try:
        TlsFiles(broker.ca, broker.certificate, broker.key).context()
    except OSError as exc:  # ssl's errors are among them
        named = [str(file) for file in (broker.ca, broker.certificate, broker.key) if file]
        raise ConfigError(
            f"{path}: broker.ca: cannot use {' and '.join(named)} as certificates: "
            f"{exc.strerror or exc}",
            code="config_invalid",
            hint=CORRECT,
        ) from exc


def _anchored(config: AgentConfig, base: Path) -> AgentConfig:
    socket, broker, root = config.serve.socket, config.broker, config.trust.root
    if broker is not None:
        files = {name: getattr(broker, name) for name in ("ca", "certificate", "key")}
        broker = broker.model_copy(
            update={name: base / path for name, path in files.items() if path is not None}
        )
    return config.model_copy(
        update={
            "broker": broker,
            "serve": config.serve.model_copy(
                update={"socket": base / socket if socket is not None else None}
            ),
            "state": config.state.model_copy(update={"dir": base / config.state.dir}),
            "trust": config.trust.model_copy(
                update={"root": base / root if root is not None else None}
            ),
        }
    )
