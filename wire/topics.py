"""The topic grammar: build and parse, with writer, quality of service and retention per channel.

Laws, kept by tests: `parse(topic.text) == topic`; every topic has at most 7 slashes and 128 bytes,
and levels of `[A-Za-z0-9_-]` only (the strictest of mosquitto, NATS, EMQX and AWS IoT Core).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar, Final, Literal

from .ids import DIGEST_PATTERN, NAME_PATTERN

ROOT: Final = "fleet/v1"
MAX_TOPIC_BYTES: Final = 128
MAX_FILTERS_PER_SUBSCRIBE: Final = 8  # AWS IoT Core's limit
MAX_SUBSCRIPTIONS: Final = 50  # AWS IoT Core's limit per connection

Qos = Literal[0, 1]
Writer = Literal["device", "controller"]
EventKind = Literal["update", "chunks_missing", "gap", "alarm"]
TelemetryKind = Literal["inference", "window", "performance", "shadow", "vitals"]
EVENT_KINDS: Final[tuple[EventKind, ...]] = ("update", "chunks_missing", "gap", "alarm")
TELEMETRY_KINDS: Final[tuple[TelemetryKind, ...]] = (
    "inference",
    "window",
    "performance",
    "shadow",
    "vitals",
)
TRUST_PATTERN: Final = r"^(timestamp|snapshot|targets|root-[1-9][0-9]{0,8})$"


@dataclass(frozen=True, slots=True)
class Presence:
    """Whether a device is connected; written by the device and by its will."""

    writer: ClassVar[Writer] = "device"
    qos: ClassVar[Qos] = 1
    retain: ClassVar[bool] = True
    device: str

    @property
    def text(self) -> str:
        return f"{ROOT}/device/{self.device}/presence"


@dataclass(frozen=True, slots=True)
class Desired:
    """What the controller wants of a device."""

    writer: ClassVar[Writer] = "controller"
    qos: ClassVar[Qos] = 1
    retain: ClassVar[bool] = True
    device: str

    @property
    def text(self) -> str:
        return f"{ROOT}/device/{self.device}/desired"


@dataclass(frozen=True, slots=True)
class Reported:
    """What the agent says is true; the whole of it, each time."""

    writer: ClassVar[Writer] = "device"
    qos: ClassVar[Qos] = 1
    retain: ClassVar[bool] = True
    device: str

    @property
    def text(self) -> str:
        return f"{ROOT}/device/{self.device}/reported"


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened on a device."""

    writer: ClassVar[Writer] = "device"
    qos: ClassVar[Qos] = 1
    retain: ClassVar[bool] = False
    device: str
    kind: EventKind

    @property
    def text(self) -> str:
        return f"{ROOT}/device/{self.device}/event/{self.kind}"


@dataclass(frozen=True, slots=True)
class Telemetry:
    """What a device measured over a span of time."""

    writer: ClassVar[Writer] = "device"
    qos: ClassVar[Qos] = 1
    retain: ClassVar[bool] = False
    device: str
    kind: TelemetryKind

    @property
    def text(self) -> str:
        return f"{ROOT}/device/{self.device}/telemetry/{self.kind}"


@dataclass(frozen=True, slots=True)
class Ack:
    """Which records of a device are safely in the controller's store."""

    writer: ClassVar[Writer] = "controller"
    qos: ClassVar[Qos] = 1
    retain: ClassVar[bool] = False
    device: str

    @property
    def text(self) -> str:
        return f"{ROOT}/device/{self.device}/ack"


@dataclass(frozen=True, slots=True)
class Feedback:
    """Labels for what a device answered; its own applications tell its runtime instead."""

    writer: ClassVar[Writer] = "controller"
    qos: ClassVar[Qos] = 1
    retain: ClassVar[bool] = False
    device: str

    @property
    def text(self) -> str:
        return f"{ROOT}/device/{self.device}/feedback"


@dataclass(frozen=True, slots=True)
class Chunk:
    """One piece of content; the digest in its name is its proof."""

    writer: ClassVar[Writer] = "controller"
    qos: ClassVar[Qos] = 1
    retain: ClassVar[bool] = True
    digest: str

    @property
    def text(self) -> str:
        return f"{ROOT}/chunk/{self.digest}"


@dataclass(frozen=True, slots=True)
class Trust:
    """A signed document of one of TUF's top-level roles, as it is; each version of the root has its own."""

    writer: ClassVar[Writer] = "controller"
    qos: ClassVar[Qos] = 1
    retain: ClassVar[bool] = True
    role: str

    @property
    def text(self) -> str:
        return f"{ROOT}/trust/{self.role}"


@dataclass(frozen=True, slots=True)
class ModelTrust:
    """The signed document of the role that signs a model's releases."""

    writer: ClassVar[Writer] = "controller"
    qos: ClassVar[Qos] = 1
    retain: ClassVar[bool] = True
    model: str

    @property
    def text(self) -> str:
        return f"{ROOT}/trust/model/{self.model}"


@dataclass(frozen=True, slots=True)
class ControllerPresence:
    """Whether the controller is connected; written by it and by its will."""

    writer: ClassVar[Writer] = "controller"
    qos: ClassVar[Qos] = 1
    retain: ClassVar[bool] = True

    @property
    def text(self) -> str:
        return f"{ROOT}/controller/presence"


@dataclass(frozen=True, slots=True)
class ControllerAlert:
    """What is worth a person's attention, told once; for observers, no device may read it."""

    writer: ClassVar[Writer] = "controller"
    qos: ClassVar[Qos] = 1
    retain: ClassVar[bool] = False

    @property
    def text(self) -> str:
        return f"{ROOT}/controller/alert"


@dataclass(frozen=True, slots=True)
class Unknown:
    """A topic outside the grammar; counted, never acted on."""

    text: str


Topic = (
    Presence
    | Desired
    | Reported
    | Event
    | Telemetry
    | Ack
    | Feedback
    | Chunk
    | Trust
    | ModelTrust
    | ControllerPresence
    | ControllerAlert
    | Unknown
)

CONTROLLER_FILTERS: Final = (
    f"{ROOT}/device/+/presence",
    f"{ROOT}/device/+/reported",
    f"{ROOT}/device/+/event/+",
    f"{ROOT}/device/+/telemetry/+",
)
"""What the controller subscribes to."""

TRUST_FILTER: Final = f"{ROOT}/trust/+"


def device_filters(device: str) -> tuple[str, ...]:
    """Return what a device subscribes to at all times.

    Chunks and the signed documents of its models come and go beside these.
    """
    own = (Desired(device).text, Ack(device).text, Feedback(device).text)
    return (*own, ControllerPresence().text, TRUST_FILTER)


def retained_topics(device: str) -> tuple[str, ...]:
    """Return the topics of a device on which a broker may hold something.

    No broker can be told that a device retains its state alone: a rogue may retain its records too.
    """
    state = (Desired(device).text, Reported(device).text, Presence(device).text)
    events = (Event(device, kind).text for kind in EVENT_KINDS)
    return (*state, *events, *(Telemetry(device, kind).text for kind in TELEMETRY_KINDS))


def parse(text: str) -> Topic:
    """Return the topic that `text` names; total, never raises."""
    match text.split("/"):
        case ["fleet", "v1", "device", device, *channel] if re.fullmatch(NAME_PATTERN, device):
            return _parse_device(text, device, channel)
        case ["fleet", "v1", "chunk", digest] if re.fullmatch(DIGEST_PATTERN, digest):
            return Chunk(digest)
        case ["fleet", "v1", "trust", role] if re.fullmatch(TRUST_PATTERN, role):
            return Trust(role)
        case ["fleet", "v1", "trust", "model", model] if re.fullmatch(NAME_PATTERN, model):
            return ModelTrust(model)
        case ["fleet", "v1", "controller", "presence"]:
            return ControllerPresence()
        case ["fleet", "v1", "controller", "alert"]:
            return ControllerAlert()
        case _:
            return Unknown(text)


def _parse_device(text: str, device: str, channel: list[str]) -> Topic:
    match channel:
        case ["presence"]:
            return Presence(device)
        case ["desired"]:
            return Desired(device)
        case ["reported"]:
            return Reported(device)
        case ["ack"]:
            return Ack(device)
        case ["feedback"]:
            return Feedback(device)
        case ["event", kind]:
            return next((Event(device, k) for k in EVENT_KINDS if k == kind), Unknown(text))
        case ["telemetry", kind]:
            return next((Telemetry(device, k) for k in TELEMETRY_KINDS if k == kind), Unknown(text))
        case _:
            return Unknown(text)
