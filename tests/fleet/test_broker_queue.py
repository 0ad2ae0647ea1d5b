"""Many devices that come back at once: the broker keeps their records for a busy controller."""

import os
import socket

import paho.mqtt.client as mqtt
import pytest

from fleet.broker import BrokerProcess, find_broker
from wire.errors import ConfigError

DEVICES, WINDOW = 50, 64
RECORD = b"x" * 450
TOPIC = "fleet/v1/device/cam-01/telemetry/inference"


@pytest.fixture(params=["mosquitto", "nats"])
def broker(request, tmp_path):
    try:
        program = find_broker(request.param)
    except ConfigError as exc:
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI must have this broker: {exc}")
        pytest.skip(f"NOT TESTED: {exc}")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = BrokerProcess(program, port, tmp_path)
    process.start()
    yield process
    process.stop()


def client(broker, name):
    made = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=name)
    made.connect("127.0.0.1", broker.port)
    return made


@pytest.mark.broker
def test_records_of_fifty_devices_wait_for_a_controller_that_does_not_read(broker):
    controller, received, granted = client(broker, "controller"), [], []
    controller.on_message = lambda _client, _data, message: received.append(message.payload)
    controller.on_subscribe = lambda *_: granted.append(True)
    controller.on_connect = lambda made, *_: made.subscribe(TOPIC, qos=1)
    while not granted:
        controller.loop(1.0)
    # From here on the controller does nothing, as during a long transaction.
    devices = client(broker, "devices")
    devices.loop_start()
    sent = [devices.publish(TOPIC, RECORD, qos=1) for _ in range(DEVICES * WINDOW)]
    for info in sent:
        info.wait_for_publish(timeout=120)
    devices.disconnect()
    devices.loop_stop()
    idle_rounds = 0
    while len(received) < len(sent) and idle_rounds < 5:
        before = len(received)
        controller.loop(1.0)
        idle_rounds = 0 if len(received) > before else idle_rounds + 1
    controller.disconnect()
    assert len(received) == len(sent)
