"""An MQTT subscriber beside the fleet: which update steps its devices told, and when."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass
from typing import Self

import paho.mqtt.client as mqtt
from fleets import Fleet
from paho.mqtt.enums import CallbackAPIVersion
from programs import HOST, wait_for

UPDATES = "fleet/v1/device/+/event/update"


@dataclass(frozen=True, slots=True)
class Step:
    """One step of an update.

    Attributes:
        device: Whose.
        code: What happened, such as `fetched` or `confirmed`.
        told_s: When the device did it, by the wall clock that all share here.
        heard_s: When it arrived here; monotonic.
    """

    device: str
    code: str
    told_s: float
    heard_s: float


class Observer:
    """Collects the steps of all devices; ends with the `with` block."""

    def __init__(self, fleet: Fleet) -> None:
        """Take note of the fleet to watch; it must be up."""
        self._subscribed = threading.Event()
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="bench-observer")
        self._client.on_connect = lambda client, *_: client.subscribe(UPDATES, qos=1)
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        self._client.on_message = self._take
        self._fleet = fleet
        self.steps: list[Step] = []

    def __enter__(self) -> Self:
        self._client.tls_set_context(self._fleet.watcher("observer").context())
        self._client.connect(HOST, self._fleet.broker_port)
        self._client.loop_start()
        wait_for("the observer's subscription", self._subscribed.is_set)
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def of(self, code: str, *, since_s: float = 0.0) -> dict[str, Step]:
        """Return each device's first step with this code since an instant; monotonic."""
        found: dict[str, Step] = {}
        for step in list(self.steps):
            if step.code == code and step.heard_s >= since_s:
                found.setdefault(step.device, step)
        return found

    def _take(self, _client: mqtt.Client, _data: object, message: mqtt.MQTTMessage) -> None:
        told = json.loads(message.payload)
        device = message.topic.split("/")[3]
        step = Step(device, told["code"], told["at_unix_ms"] / 1000, time.monotonic())
        self.steps.append(step)
