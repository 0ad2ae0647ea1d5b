"""An independent MQTT subscriber: what really went over the wire, in the order of arrival."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

FILTERS = ("fleet/v1/device/#", "fleet/v1/controller/#", "fleet/v1/chunk/+")


@dataclass(frozen=True, slots=True)
class Seen:
    """One message. `retained` means that it came from the broker's memory, not live."""

    at_s: float
    topic: str
    payload: bytes
    retained: bool


class Observer:
    """Collects all messages under `fleet/v1/` from `start` until `stop`."""

    def __init__(
        self, url: str, certificates: Path, now_s: Callable[[], float], *, name: str = "observer"
    ) -> None:
        """Take note of where to look; `fleet observer NAME` has put its files into `certificates`."""
        self.url = url
        self.certificates = certificates
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 8883
        self._now_s = now_s
        self._subscribed = threading.Event()
        self._disconnects = 0
        self.seen: list[Seen] = []
        client = mqtt.Client(
            CallbackAPIVersion.VERSION2, client_id=f"demo-{name}", protocol=mqtt.MQTTv311
        )
        client.tls_set(
            str(certificates / "ca.pem"),
            str(certificates / f"{name}.pem"),
            str(certificates / f"{name}.key"),
        )
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_message
        client.on_disconnect = self._on_disconnect
        self._client = client

    @property
    def disconnects(self) -> int:
        """How often the connection was lost; with any, the log may have holes."""
        return self._disconnects

    def start(self, timeout_s: float = 15) -> None:
        """Connect and subscribe; return when the broker has confirmed it.

        Raises:
            TimeoutError: The broker did not confirm.
        """
        self._client.connect(self._host, self._port)
        self._client.loop_start()
        if not self._subscribed.wait(timeout_s):
            raise TimeoutError(f"the broker at {self._host}:{self._port} took no subscription")

    def stop(self) -> None:
        """Disconnect and end the thread."""
        self._client.on_disconnect = None
        self._client.disconnect()
        self._client.loop_stop()

    def messages(self) -> list[dict[str, Any]]:
        """Return the live messages of devices and controller as evidence, chunks excepted."""
        return [
            {"at_s": one.at_s, "topic": one.topic, "body": _parsed(one.payload)}
            for one in list(self.seen)
            if not one.retained and not one.topic.startswith("fleet/v1/chunk/")
        ]

    def retained(self) -> dict[str, Any]:
        """Return what the broker had kept, topic to body, chunks excepted."""
        return {
            one.topic: _parsed(one.payload)
            for one in list(self.seen)
            if one.retained and not one.topic.startswith("fleet/v1/chunk/")
        }

    def chunks(self) -> list[Seen]:
        """Return the chunks that were published while we listened; empty ones are retirements."""
        return [
            one
            for one in list(self.seen)
            if not one.retained and one.payload and one.topic.startswith("fleet/v1/chunk/")
        ]

    # Callbacks run on paho's thread and must not raise: an exception would end it silently.

    def _on_connect(self, client: mqtt.Client, _data: object, *_rest: object) -> None:
        client.subscribe([(topic, 1) for topic in FILTERS])

    def _on_subscribe(self, *_rest: object) -> None:
        self._subscribed.set()

    def _on_disconnect(self, *_rest: object) -> None:
        self._disconnects += 1

    def _on_message(self, _client: mqtt.Client, _data: object, message: mqtt.MQTTMessage) -> None:
        self.seen.append(
            Seen(self._now_s(), message.topic, bytes(message.payload), bool(message.retain))
        )


def _parsed(payload: bytes) -> Any:
    try:
        return json.loads(payload.partition(b"\n")[0])  # the second line is a signature
    except ValueError:
        return {"unreadable": payload[:200].decode(errors="replace")}
