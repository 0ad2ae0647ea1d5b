"""`[alerts]` of `fleet.toml`: every rule with its limits, and who is told.

This is the one list of the rules. What a rule looks at is in `fleet.alerts.evidence`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from fleet.core.alerts import Rule, Severity
from fleet.section import Section
from wire.ids import ModelName

MAX_WEBHOOKS: Final = 8
LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})
MAX_LIMITS: Final = 1000
MAX_WAIT_S: Final = 30 * 86_400
Wait = Annotated[float, Field(ge=0, le=MAX_WAIT_S)]
"""Seconds, up to 30 days."""
Repeat = Annotated[float, Field(ge=1, le=MAX_WAIT_S)]


class RuleSection(Section):
    """`[alerts.<rule>]`: what every rule has."""

    enabled: bool = True
    severity: Severity = "warning"
    clear_for_s: Wait = 0
    """How long there must be no breach before the alert resolves."""


class LevelSection(RuleSection):
    """A rule about something that is so, or is not."""

    for_s: Wait = 0
    """How long the breach must last before the alert fires."""
    repeat_s: Repeat | None = None
    """After how long to tell again; by default as `[alerts] repeat_s`."""


class DeviceOffline(LevelSection):
    """A device that was there once is offline."""

    for_s: Wait = 900
    clear_for_s: Wait = 60


class DeviceAlarm(RuleSection):
    """A device raised an alarm; one alert for each device and code."""

    clear_for_s: Wait = 86_400


class RolloutStopped(LevelSection):
    """A rollout halted, or ended inconclusive."""

    severity: Severity = "critical"


class ErrorRatio(LevelSection):
    """Too large a share of the requests to one release fails, over the whole fleet."""

    severity: Severity = "critical"
    window_s: Annotated[float, Field(ge=60, le=3600)] = 900
    """The span that is looked at, to the minute."""
    raise_ratio: Annotated[float, Field(gt=0, le=1)] = 0.05
    clear_ratio: Annotated[float, Field(ge=0, le=1)] = 0.02
    min_requests: Annotated[int, Field(ge=1, le=1_000_000_000)] = 100
    """Fewer prove nothing."""

    @model_validator(mode="after")
    def _clears_below(self) -> Self:
        if self.clear_ratio > self.raise_ratio:
            raise ValueError("clear_ratio is above raise_ratio")
        return self


class AccuracyLow(LevelSection):
    """Labels show that a release is right too seldom: the whole interval of its accuracy is below the limit."""

    limit_ratio: Annotated[float, Field(gt=0, le=1)] | None = None
    """Of every model; without one, and none of its own, a model is not judged."""
    models: dict[ModelName, Annotated[float, Field(gt=0, le=1)]] = Field(
        default_factory=dict, max_length=MAX_LIMITS
    )
    """Limits of single models."""
    window_s: Annotated[float, Field(ge=900, le=30 * 86_400)] = 86_400
    """Labels that came in this span are looked at."""
    clear_for_s: Wait = 3600

    def limit_of(self, model: str) -> float | None:
        """Return a model's limit, if it has one."""
        return self.models.get(model, self.limit_ratio)


class DiskLow(LevelSection):
    """Little space is left where the agent keeps its state."""

    raise_bytes: Annotated[int, Field(ge=0)] = 500_000_000
    """Fewer free bytes than this raise the alert; a bundle or two, and a log that grows."""
    clear_bytes: Annotated[int, Field(ge=0)] = 1_000_000_000

    @model_validator(mode="after")
    def _clears_above(self) -> Self:
        if self.clear_bytes < self.raise_bytes:
            raise ValueError("clear_bytes is below raise_bytes")
        return self


class RecordsDropped(RuleSection):
    """A device lost records that the controller never got."""

    clear_for_s: Wait = 86_400


class Expiry(LevelSection):
    """A certificate or a signed document expires that only a person can renew."""

    within_s: Annotated[float, Field(ge=0, le=366 * 86_400)] = 30 * 86_400
    repeat_s: Repeat | None = 86_400


class BrokerLost(LevelSection):
    """The controller cannot reach the broker: no other rule about devices sees anything."""

    severity: Severity = "critical"
    for_s: Wait = 300
    clear_for_s: Wait = 60


class Drift(LevelSection):
    """The inputs or outputs of a model are not what they were."""

    repeat_s: Repeat | None = 86_400


class RetrainingStopped(LevelSection):
    """Models that triggers had trained were refused in a row: the triggers wait for a person."""

    repeat_s: Repeat | None = 86_400


class WebhookSection(Section):
    """`[[alerts.webhook]]`: who is told over HTTP."""

    url: Annotated[str, Field(max_length=2000)]
    token_file: Path | None = None
    """The file with what is sent as `Authorization: Bearer`."""
    ca: Path | None = None
    """What its certificate is checked by; without it, what this machine trusts."""

    @field_validator("url")
    @classmethod
    def _is_safe(cls, url: str) -> str:
        try:
            parts = urlsplit(url)
            host, _ = parts.hostname, parts.port
        except ValueError as exc:
            raise ValueError(f"is no URL: {exc}") from exc
        if parts.scheme not in ("http", "https") or not host or not url.isprintable():
            raise ValueError("write https://HOST/PATH")
        if parts.scheme == "http" and host not in LOOPBACK:
            raise ValueError("http:// goes to this machine only: write https://")
        if parts.username or parts.password:
            raise ValueError("has a password in it: write token_file")
        return url


@dataclass(frozen=True, slots=True)
class Receiver:
    """A webhook with absolute paths.

    Attributes:
        name: What it is called in lists and logs: without the path, which may be a secret.
        url: Where it is.
        token_path: The file with its token.
        ca_path: The file of the authority that its certificate is checked by.
    """

    name: str
    url: str
    token_path: Path | None = None
    ca_path: Path | None = None


class AlertsSection(Section):
    """`[alerts]`."""

    group_s: Annotated[float, Field(ge=0, le=3600)] = 30
    """Alerts of one rule that come within this time are told together."""
    repeat_s: Repeat = 4 * 3600
    """After how long receivers are told again of what nobody has acknowledged."""
    device_offline: DeviceOffline = DeviceOffline()
    device_alarm: DeviceAlarm = DeviceAlarm()
    rollout_stopped: RolloutStopped = RolloutStopped()
    error_ratio: ErrorRatio = ErrorRatio()
    accuracy_low: AccuracyLow = AccuracyLow()
    disk_low: DiskLow = DiskLow()
    records_dropped: RecordsDropped = RecordsDropped()
    expiry: Expiry = Expiry()
    broker_lost: BrokerLost = BrokerLost()
    drift: Drift = Drift()
    retraining_stopped: RetrainingStopped = RetrainingStopped()
    webhook: Annotated[tuple[WebhookSection, ...], Field(max_length=MAX_WEBHOOKS)] = ()

    @model_validator(mode="after")
    def _what_is_over_at_once_is_told(self) -> Self:
        for name in ("device_alarm", "records_dropped"):
            if getattr(self, name).clear_for_s <= self.group_s:
                raise ValueError(f"{name}: clear_for_s is not above group_s: nobody would be told")
        return self

    @model_validator(mode="after")
    def _each_is_told_once(self) -> Self:
        urls = [hook.url for hook in self.webhook]
        if len(set(urls)) != len(urls):
            raise ValueError("webhook: a url is there twice")
        return self

    def rules(self) -> dict[str, Rule]:
        """Return the rules that are switched on, by name."""
        found = {}
        for name in type(self).model_fields:
            section = getattr(self, name)
            if isinstance(section, RuleSection) and section.enabled:
                found[name] = self._rule(name, section)
        return found

    def receivers(self, root: Path) -> tuple[Receiver, ...]:
        """Return the webhooks; paths in the file start at `root`."""
        return tuple(
            Receiver(
                name=f"{urlsplit(hook.url).hostname}-{hashlib.sha256(hook.url.encode()).hexdigest()[:8]}",
                url=hook.url,
                token_path=root / hook.token_file if hook.token_file is not None else None,
                ca_path=root / hook.ca if hook.ca is not None else None,
            )
            for hook in self.webhook
        )

    def _rule(self, name: str, section: RuleSection) -> Rule:
        level = section if isinstance(section, LevelSection) else LevelSection()
        return Rule(
            name=name,
            severity=section.severity,
            for_ms=int(level.for_s * 1000),
            clear_for_ms=int(section.clear_for_s * 1000),
            repeat_ms=int((level.repeat_s or self.repeat_s) * 1000),
            is_over_when_acknowledged=isinstance(section, RolloutStopped),
        )
