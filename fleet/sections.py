"""The sections of `fleet.toml`, but for `[alerts]`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import Field, field_validator, model_validator

from wire.endpoint import parse_broker_url
from wire.errors import ConfigError

from .alerts.settings import LOOPBACK
from .broker import EVERYWHERE, HOST
from .capture.limits import CaptureLimits
from .pki.grants import DEVICE_DAYS
from .section import Section

DEFAULT_BROKER_PORT: Final = 8883
DEFAULT_API_PORT: Final = 8700
DEFAULT_REQUESTS_PER_S: Final = 200.0
DEFAULT_DEVICES_PORT: Final = 8800


class BrokerSection(Section):
    """`[broker]`."""

    kind: Literal["auto", "mosquitto", "nats", "external"] = "auto"
    url: str = f"mqtts://{HOST}:{DEFAULT_BROKER_PORT}"
    reload: tuple[str, ...] = ()
    """For a broker of your own: the command, with its arguments, that has it read its files again."""
    log: Path | None = None
    """For a broker of your own: its log on this machine."""

    @field_validator("url")
    @classmethod
    def _is_broker_url(cls, url: str) -> str:
        try:
            parse_broker_url(url)
        except ConfigError as exc:
            raise ValueError(f"{exc}; {exc.hint}") from exc
        return url

    @model_validator(mode="after")
    def _ours_is_encrypted_or_on_loopback(self) -> Self:
        address = parse_broker_url(self.url)
        if self.kind != "external" and (
            address.scheme != "mqtts" and (address.scheme, address.host) != ("mqtt", HOST)
        ):
            raise ValueError(
                f"kind = {self.kind!r} starts a broker that asks for certificates: write"
                ' mqtts://HOST:PORT, or kind = "external"'
            )
        return self

    @property
    def is_encrypted(self) -> bool:
        """Whether devices reach it over TLS."""
        return parse_broker_url(self.url).is_encrypted

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return parse_broker_url(self.url).port

    @property
    def listen_host(self) -> str:
        """The address that our own broker listens on."""
        return HOST if parse_broker_url(self.url).host in LOOPBACK else EVERYWHERE

    @property
    def local_url(self) -> str:
        """Where the controller finds it: our own broker is on the same machine."""
        if self.kind == "external" or not self.is_encrypted:
            return self.url
        return f"mqtts://{HOST}:{self.port}"


Listen = Annotated[str, Field(pattern=r"^[A-Za-z0-9.:\[\]-]+:[0-9]{1,5}$")]
"""HOST:PORT."""


class _Listener(Section):
    listen: Listen

    @field_validator("listen")
    @classmethod
    def _port_exists(cls, listen: str) -> str:
        if not 0 < int(listen.rpartition(":")[2]) < 65_536:
            raise ValueError(f"{listen!r} has no port between 1 and 65535")
        return listen

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        host, _, port = self.listen.rpartition(":")
        return host.strip("[]"), int(port)


class ApiSection(_Listener):
    """`[api]`."""

    listen: Listen = f"{HOST}:{DEFAULT_API_PORT}"
    certificate: Path | None = None
    """PEM of the certificate and those that lead to the authority's; with it the API is HTTPS."""
    key: Path | None = None
    ca: Path | None = None
    """What clients check the certificate by; without it, what their machine trusts."""
    url: Annotated[str, Field(pattern=r"^https?://[A-Za-z0-9.:\[\]-]+$")] | None = None
    """How clients reach it, where that is not what it listens on."""
    requests_per_s: Annotated[float, Field(gt=0, le=1_000_000)] = DEFAULT_REQUESTS_PER_S
    """How many requests a second one token may send."""

    @model_validator(mode="after")
    def _certificate_has_a_key(self) -> Self:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key go together")
        return self


class DevicesSection(_Listener):
    """`[devices]`."""

    listen: Listen = f"{HOST}:{DEFAULT_DEVICES_PORT}"
    hosts: Annotated[
        tuple[Annotated[str, Field(pattern=r"^[A-Za-z0-9.:-]{1,253}$")], ...], Field(max_length=32)
    ] = ()
    certificate_days: Annotated[float, Field(gt=0, le=3650)] = DEVICE_DAYS

    @property
    def url(self) -> str:
        """The listener's URL, as devices use it."""
        host = self.hosts[0] if self.hosts else HOST
        return f"https://{f'[{host}]' if ':' in host else host}:{self.address[1]}"


class StoreSection(Section):
    """`[store]`."""

    dir: Path = Path("store")
    url: Annotated[str, Field(pattern=r"^postgres(ql)?://")] | None = None
    """PostgreSQL, as libpq names it; without it the database is SQLite, in `dir`."""

    @field_validator("url")
    @classmethod
    def _has_no_control_character(cls, url: str | None) -> str | None:
        if url is not None and not url.isprintable():
            raise ValueError("it cannot have control characters in it")
        return url


class ApprovalSection(Section):
    """`[approval]`."""

    share: Annotated[str, Field(pattern=r"^([1-9][0-9]?|100)%$")] | None = None
    """A rollout to more of the fleet waits for a second person; by default none does."""

    @property
    def limit(self) -> float | None:
        """The share, 0 to 1."""
        return int(self.share.rstrip("%")) / 100 if self.share is not None else None


class DriftSection(Section):
    """`[drift]`."""

    is_on: bool = True
    window_s: Annotated[float, Field(ge=1, le=86_400)] = 900.0
    """How long a slot is."""
    alarms_per_30_days: Annotated[float, Field(gt=0, le=1_000_000)] = 1.0
    """How many false alarms there may be, in the whole fleet."""


class CaptureSection(Section):
    """`[capture]`: what of devices' captured rows is kept here, once they were asked for."""

    keep_days: Annotated[float, Field(gt=0, le=3650)] = 90.0
    """How long after they came."""
    max_mb: Annotated[int, Field(ge=1, le=1_048_576)] = 1024
    """Of all devices."""
    device_max_mb: Annotated[int, Field(ge=1, le=1_048_576)] = 64
    """Of one device."""

    @property
    def limits(self) -> CaptureLimits:
        """The same, as the controller takes it."""
        return CaptureLimits(
            keep_ms=int(self.keep_days * 86_400_000),
            max_bytes=self.max_mb * 2**20,
            device_max_bytes=self.device_max_mb * 2**20,
        )


class AuditSection(Section):
    """`[audit]`."""

    checkpoints: Path | None = None
    """Where checkpoints go; by default `audit.checkpoints` in the store's directory."""
