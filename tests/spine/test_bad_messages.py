"""What comes over MQTT that should not: to the controller, to an agent, on every channel of theirs."""

import itertools
import json
import time

import pytest

from tests.spine.soundness import (
    DEVICE,
    Stranger,
    api,
    check_sound,
    directed,
    events,
    post,
    situation,
    sound_bed,
)
from wire import codec, topics

pytestmark = [pytest.mark.broker, pytest.mark.slow]

ROOT = topics.ROOT
BOOT = "b" * 16
DIGEST = "d" * 64
DAY_MS = 86_400_000
TO_CONTROLLER = ["presence", "reported"] + [
    channel for channel in codec.PAYLOADS if channel.startswith(("event/", "telemetry/"))
]
ORDER = topics.Desired(DEVICE).text
TO_AGENT = [ORDER, topics.Ack(DEVICE).text, topics.ControllerPresence().text]
VITALS = {
    "v": 1, "boot": BOOT, "seq": 1, "at_unix_ms": 0, "uptime_s": 1.0, "cpu_ratio": 0.5,
    "memory_available_bytes": 1, "disk_free_bytes": 1, "supervisor_rss_bytes": 1,
    "runtime_rss_bytes": 1,
}  # fmt: skip
PAYLOADS = {
    "cut": (b'{"v": 1, "boot"', "payload_not_json"),
    "text": (b"online", "payload_not_json"),
    "no-utf8": (b'{"v": "\xff"}', "payload_not_json"),
    "utf16": ('{"v": 1}'.encode("utf-16"), "payload_not_json"),
    "nan": (b'{"v": 1, "seq": NaN}', "payload_not_json"),
    "twice": (b'{"v": 1, "v": 1}', "payload_not_json"),
    "deep": (b"[" * 3000 + b"]" * 3000, "payload_not_json"),
    "digits": (b'{"seq": ' + b"9" * 5000 + b"}", "payload_not_json"),
    "over-8-kB": (b'{"v": 1, "x": "' + b"x" * 8192 + b'"}', "payload_too_large"),
    "over-64-kB": (b"[" * 100_000, "payload_too_large"),
    "nothing-in-it": (b"{}", "payload_invalid"),
    "array": (b"[1]", "payload_invalid"),
    "quoted-number": (b'{"v": "1", "boot": "bbbbbbbbbbbbbbbb", "seq": "1"}', "payload_invalid"),
    "newer": (b'{"v": 2}', "payload_invalid"),
}


@pytest.fixture(scope="module")
def bed(tmp_path_factory, bundles):
    with sound_bed(tmp_path_factory.mktemp("messages"), bundles) as bed:
        yield bed


@pytest.fixture(scope="module")
def stranger(bed):
    with Stranger(bed) as stranger:
        yield stranger


def newest_event(bed):
    return max(event["id"] for event in events(bed))


def records(bed, device, channel=""):
    query = f"?channel={channel}&limit=1000" if channel else "?limit=1000"
    return bed.get(f"/v1/devices/{device}/records{query}")


@pytest.mark.parametrize(("payload", "code"), PAYLOADS.values(), ids=PAYLOADS)
def test_the_controller_drops_what_is_no_message_and_says_whose_it_was(
    request, bed, stranger, payload, code
):
    row = request.node.callspec.id
    names = {f"{row}-{number}": channel for number, channel in enumerate(TO_CONTROLLER)}
    post(bed, "/v1/devices", [{"id": name} for name in names])
    before, after = situation(bed), newest_event(bed)
    for name, channel in names.items():
        topic = f"{ROOT}/device/{name}/{channel}"
        stranger.publish(topic, payload, retain=channel in ("presence", "reported"))

    def complaints():
        found = {e["subject"]: e for e in events(bed, after) if e["kind"] == "alarm"}
        return found if names.keys() <= found.keys() else None

    found = bed.until("the controller tells of all of them", complaints)
    for name, channel in names.items():
        assert found[name]["detail"]["code"] == code, (channel, found[name])
        assert found[name]["detail"]["topic"].endswith(channel)
        assert "dropped" in found[name]["text"], found[name]
        assert records(bed, name) == []
    assert situation(bed) == before
    for name in names:
        assert api(bed).delete(f"/v1/devices/{name}").status_code == 204


def test_nobody_of_the_fleet_is_not_stored_nor_acknowledged(bed, stranger):
    before, after = situation(bed), newest_event(bed)
    stranger.publish(f"{ROOT}/device/nobody/telemetry/vitals", VITALS)
    stranger.publish(f"{ROOT}/device/nobody/telemetry/vitals", VITALS | {"seq": 2})

    def told():
        return [e["text"] for e in events(bed, after) if e["subject"] == "nobody"]

    bed.until("the controller tells of it", told)
    assert told() == ["not in the fleet, ignored; `fleet device add nobody` admits it"]
    assert not [ack for ack in bed.observer.of("ack") if ack.device == "nobody"]
    assert situation(bed) == before


@pytest.mark.parametrize("payload", [b"", b"{", b"x" * 70_000, json.dumps(VITALS).encode()])
@pytest.mark.parametrize(
    "topic",
    [
        f"{ROOT}/device/{DEVICE}/telemetry/nonsense",
        f"{ROOT}/device/{DEVICE}/event/nonsense",
        f"{ROOT}/device/a b/presence",
        f"{ROOT}/device//reported",
        f"{ROOT}/chunk/nonsense",
        f"{ROOT}/chunk/{DIGEST}",
        "fleet/v2/device/x/presence",
    ],
)
def test_topics_of_nobody_change_nothing(bed, stranger, topic, payload):
    before = situation(bed)
    stranger.tries_to_publish(topic, payload)  # nats-server refuses blanks and empty levels itself
    _heard_all(bed, stranger)
    assert situation(bed) == before


_seqs = itertools.count(1000)


def _heard_all(bed, stranger):
    """Return when the controller has worked through everything that the stranger has sent."""
    name = "heard"
    if not any(device["id"] == name for device in bed.get("/v1/devices")):
        post(bed, "/v1/devices", {"id": name})
    seq = next(_seqs)
    message = VITALS | {"seq": seq, "at_unix_ms": time.time_ns() // 1_000_000}
    stranger.publish(f"{ROOT}/device/{name}/telemetry/vitals", message)
    bed.until("it is stored", lambda: seq in {row["seq"] for row in records(bed, name)})
    assert api(bed).delete(f"/v1/devices/{name}").status_code == 204


def alarms(bed):
    return [row["body"] for row in records(bed, DEVICE, "event/alarm")]


def check_alarm(bed, known, topic, code, says=""):
    """The agent raises exactly one new alarm: with this code, naming the topic."""
    fresh = bed.until("the agent complains", lambda: alarms(bed)[: -known or None])
    assert [(alarm["code"], topic in alarm["detail"]) for alarm in fresh] == [(code, True)], fresh
    assert says in fresh[0]["detail"]


@pytest.mark.parametrize("topic", TO_AGENT)
@pytest.mark.parametrize(("payload", "code"), PAYLOADS.values(), ids=PAYLOADS)
def test_an_agent_refuses_what_is_no_message_and_tells(bed, stranger, topic, payload, code):
    before, known = situation(bed), len(alarms(bed))
    # Of a desired state only what is signed is read at all.
    stranger.publish(topic, directed(bed, payload) if topic == ORDER else payload)
    check_alarm(bed, known, topic, code)
    assert bed.devices[DEVICE].ask().version == "1.0.0"
    assert situation(bed) == before


MODEL = {"name": "digits", "version": "6.6.6", "manifest": DIGEST, "index": DIGEST}
DESIRED = {"v": 1, "device": DEVICE, "generation": 10**6, "models": [MODEL]}
ORDERS = {
    "another-device": ({"device": "cam-9"}, "wrong_device", "cam-9"),
    "no-device": ({"device": None}, "payload_invalid", "device"),
    "a-model-twice": ({"models": [MODEL, MODEL]}, "desired_invalid", "a model twice"),
    "nine-models": ({"models": [MODEL | {"name": f"m{n}"} for n in range(9)]}, "payload_invalid",
                    "models"),
    "generation-0": ({"generation": 0}, "payload_invalid", "generation"),
    "generation-in-quotes": ({"generation": "7"}, "payload_invalid", "generation"),
    "generation-too-large": ({"generation": 2**60}, "payload_invalid", "generation"),
    "no-digest": ({"models": [MODEL | {"manifest": "latest"}]}, "payload_invalid", "manifest"),
    "a-path": ({"models": [MODEL | {"index": "../../etc/passwd"}]}, "payload_invalid", "index"),
    "a-name": ({"models": [MODEL | {"name": "../x"}]}, "payload_invalid", "name"),
    "a-mode": ({"models": [MODEL | {"mode": "shadow"}]}, "payload_invalid", "mode"),
    "expired": ({"expires_unix_ms": 1}, "desired_expired", "expired"),
}  # fmt: skip


def test_an_agent_obeys_nobody_who_has_no_key(bed, stranger):
    before, known = situation(bed), len(alarms(bed))
    stranger.publish(ORDER, DESIRED)
    check_alarm(bed, known, ORDER, "unsigned")
    forged = directed(bed, DESIRED).replace(b'"generation": 1000000', b'"generation": 1000001')
    stranger.publish(ORDER, forged)
    check_alarm(bed, known + 1, ORDER, "trust_signature")
    assert bed.devices[DEVICE].ask().version == "1.0.0"
    assert situation(bed) == before


@pytest.mark.parametrize(("change", "code", "says"), ORDERS.values(), ids=ORDERS)
def test_an_agent_obeys_no_order_that_cannot_be(bed, stranger, change, code, says):
    before, known = situation(bed), len(alarms(bed))
    stranger.publish(ORDER, directed(bed, DESIRED | change))
    check_alarm(bed, known, ORDER, code, says)
    assert bed.devices[DEVICE].ask().version == "1.0.0"
    assert situation(bed) == before


@pytest.mark.parametrize(
    ("topic", "payload"),
    [
        (topics.Desired(DEVICE), b""),
        (topics.Ack(DEVICE), {"v": 1, "stored": []}),
        (topics.Ack(DEVICE), {"v": 1, "stored": [{"boot": BOOT, "first": 9, "last": 1}]}),
        (topics.Ack(DEVICE), {"v": 1, "stored": [{"boot": BOOT, "first": 0, "last": 2**53 - 1}]}),
        (topics.ControllerPresence(), {"v": 1, "state": "online", "boot": BOOT, "birth": 1}),
    ],
    ids=["cleared", "no-range", "backwards", "another-boot", "another-controller"],
)
def test_what_is_about_nothing_is_no_news_to_an_agent(bed, stranger, topic, payload):
    before, known = situation(bed), len(alarms(bed))
    stranger.publish(topic.text, payload)
    # An answer to something sent later says that this was worked through.
    stranger.publish(topics.Ack(DEVICE).text, b"marker")
    check_alarm(bed, known, topics.Ack(DEVICE).text, "payload_not_json")
    assert situation(bed) == before


def test_a_device_whose_clock_is_wrong_is_told_of_once_and_loses_nothing(bed, stranger):
    now = time.time_ns() // 1_000_000
    clocks = {
        "ten-years-ahead": (now + 3660 * DAY_MS, "days ahead of the controller's"),
        "an-hour-ahead": (now + DAY_MS // 24, "minutes ahead of the controller's"),
        "in-1970": (0, "a time before 2024"),
        "five-minutes-ahead": (now + 300_000, None),
        "a-month-behind": (now - 30 * DAY_MS, None),
    }
    post(bed, "/v1/devices", [{"id": name} for name in clocks])
    after = newest_event(bed)
    for name, (at_unix_ms, _) in clocks.items():
        for seq in (1, 2, 3):
            message = VITALS | {"seq": seq, "at_unix_ms": at_unix_ms + seq}
            stranger.publish(f"{ROOT}/device/{name}/telemetry/vitals", message)
    _heard_all(bed, stranger)
    told = [e for e in events(bed, after) if e["detail"].get("code") == "clock_off"]
    wrong = {name: says for name, (_, says) in clocks.items() if says is not None}
    assert sorted(event["subject"] for event in told) == sorted(wrong)
    for event in told:
        assert wrong[event["subject"]] in event["text"]
        assert "timedatectl" in event["text"]
    for name in clocks:
        # Newest first by when they came, whatever the device's clock says.
        assert [row["seq"] for row in records(bed, name)] == [3, 2, 1]
        stored = {
            span["last"] for ack in bed.observer.of("ack") if ack.device == name
            for span in ack.body["stored"]
        }  # fmt: skip
        assert max(stored) == 3
        assert api(bed).delete(f"/v1/devices/{name}").status_code == 204


def test_after_all_of_that_the_fleet_works(bed):
    check_sound(bed)
