"""An independent MQTT subscriber: what went over the wire, in the order of arrival."""

import json
import time
from dataclasses import dataclass

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from tests.spine.processes import until

FILTER = "fleet/v1/device/#"


@dataclass(frozen=True)
class Seen:
    """One message of or to a device; `at_s` is monotonic."""

    at_s: float
    device: str
    channel: str
    body: dict
    is_retained: bool


class Observer:
    """Collects every message from `start` to `stop`; with a broker that dies, what it still sent.

    It shows the certificate that `fleet init` made for those who watch.
    """

    def __init__(self, port, pki):
        self._port = port
        self._pki = pki
        self._client = mqtt.Client(
            CallbackAPIVersion.VERSION2, client_id="observer", protocol=mqtt.MQTTv311
        )
        self._client.reconnect_delay_set(1, 1)
        self._client.on_connect = lambda client, *_: client.subscribe(FILTER, qos=1)
        self._client.on_subscribe = self._on_subscribe
        self._client.on_message = self._on_message
        self._is_listening = False
        self.seen = []

    def start(self):
        """Return when the broker has confirmed the subscription."""
        self._client.tls_set(
            str(self._pki / "ca.pem"),
            str(self._pki / "observer.pem"),
            str(self._pki / "observer.key"),
        )
        self._client.connect("127.0.0.1", self._port)
        self._client.loop_start()
        until("the observer listens", lambda: self._is_listening)

    def stop(self):
        self._client.disconnect()
        self._client.loop_stop()

    def of(self, channel):
        """Return the messages of a channel (`desired`, `event/update`, `telemetry/`) or below."""
        return [
            one for one in list(self.seen)
            if one.channel == channel or (channel.endswith("/") and one.channel.startswith(channel))
        ]  # fmt: skip

    def records(self):
        """Return every record seen, as (device, boot, seq) to (channel, body)."""
        return {
            (one.device, one.body["boot"], one.body["seq"]): (one.channel, one.body)
            for one in (*self.of("event/"), *self.of("telemetry/"))
            if "seq" in one.body  # a request for chunks is no record
        }

    def acknowledged(self):
        """Return the keys of the records that a controller said it has stored."""
        return {
            (one.device, span["boot"], seq)
            for one in self.of("ack")
            for span in one.body["stored"]
            for seq in range(span["first"], span["last"] + 1)
        }

    def given(self, rollout):
        """Return when each device was first seen to be given the release of a rollout."""
        first = {}
        for one in self.of("desired"):
            if any(model["rollout"] == rollout for model in one.body["models"]):
                first.setdefault(one.device, one.at_s)
        return first

    # On paho's thread: what escapes from here would end it silently.

    def _on_subscribe(self, *_):
        self._is_listening = True

    def _on_message(self, _client, _data, message):
        device, _, channel = message.topic.removeprefix("fleet/v1/device/").partition("/")
        try:
            # A desired state has its signature on a second line.
            body = json.loads(message.payload.partition(b"\n")[0])
        except (ValueError, RecursionError):
            body = {"unreadable": repr(message.payload)}
        self.seen.append(Seen(time.monotonic(), device, channel, body, bool(message.retain)))
