"""The table of rights, and what is written from it for the brokers that are not run here."""

import json
import os
from pathlib import Path

import pytest

from fleet.pki import brokers
from fleet.pki.folder import PkiFolder
from fleet.pki.grants import (
    AUDITOR_NAME,
    CONTROLLER_NAME,
    DEVICE,
    OBSERVER_NAME,
    grants,
    observer_name,
)
from wire import topics
from wire.errors import PeerError
from wire.ids import parse_name

GOLDEN = Path(__file__).parents[1] / "golden/brokers"


def test_what_a_device_subscribes_to_is_what_it_may_read():
    readable = {grant.of("cam-01") for grant in grants() if grant.device_reads}
    assert set(topics.device_filters("cam-01")) <= readable
    assert topics.Chunk("+").text in readable
    assert topics.ModelTrust("+").text in readable


def test_nobody_but_a_device_writes_what_it_says_and_it_writes_nothing_else():
    for grant in grants():
        is_to_it = grant.filter.endswith(("/desired", "/ack", "/feedback"))
        assert grant.device_writes == (grant.is_own and not is_to_it)
        assert grant.controller_writes


def test_a_device_can_make_up_no_topic_for_a_broker_to_retain_something_on():
    writable = {grant.of("cam-01") for grant in grants() if grant.device_writes}
    assert all(topics.parse(topic) != topics.Unknown(topic) for topic in writable)
    retained = set(topics.retained_topics("cam-01"))
    assert retained == writable | {topics.Desired("cam-01").text}, "a removal would leave some"


def test_aws_lets_a_device_retain_its_state_alone():
    policy = json.loads(brokers.aws_iot().partition("\n")[2])
    (retain,) = (s for s in policy["Statement"] if "iot:RetainPublish" in s["Action"])
    assert [one.rpartition("/")[2] for one in retain["Resource"]] == ["presence", "reported"]


def test_limits_leave_room_for_a_thousand_devices_and_none_for_the_end_of_the_machine():
    listener = brokers.Listener("127.0.0.1", 1, Path(), Path())
    said = dict(
        line.split() for line in brokers.mosquitto(listener).splitlines()
        if line.startswith(("max_connections ", "memory_limit ", "persistent_client_expiration "))
    )  # fmt: skip
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert memory / 2 < int(said["memory_limit"]) < memory
    assert int(said["max_connections"]) >= 5_000
    assert said["persistent_client_expiration"] == "1h"
    assert "max_connections: 10000\n" in brokers.nats(listener)


def test_a_devices_rights_name_no_device_but_itself():
    for grant in grants():
        if "/device/" in grant.filter:
            assert grant.filter.split("/")[3] == DEVICE


@pytest.mark.parametrize("name", [CONTROLLER_NAME, OBSERVER_NAME, AUDITOR_NAME])
def test_no_device_can_have_the_name_of_a_program(name):
    with pytest.raises(PeerError):
        parse_name(name, what="device id")


@pytest.mark.parametrize("name", [CONTROLLER_NAME, OBSERVER_NAME, observer_name("eve")])
def test_what_is_written_in_a_programs_name_is_no_devices_word(name):
    for grant in grants():
        if grant.is_own:
            topic = grant.of(name)
            assert topics.parse(topic) == topics.Unknown(topic)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("mosquitto.acl", brokers.mosquitto_acl),
        ("nats-users.conf", lambda: brokers.nats_users([("0" * 40, "cam-01")])),
        ("emqx.conf", lambda: brokers.emqx(PkiFolder(Path("store/pki")))),
        ("aws-iot.json", brokers.aws_iot),
    ],
)
def test_rights_are_as_they_were_read_by_a_person(name, text):
    """A change of the table changes these files: read them, then replace them with what is new."""
    assert text() == (GOLDEN / name).read_text()


def test_the_policy_for_aws_is_json_within_its_limit():
    first, _, body = brokers.aws_iot().partition("\n")
    assert "NOT RUN" in first
    policy = json.loads(body)
    assert len(json.dumps(policy, separators=(",", ":"))) <= 2048
    assert "NOT RUN" in brokers.emqx(PkiFolder(Path("store/pki")))
