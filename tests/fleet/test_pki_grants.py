"""The table of rights, and what is written from it for the brokers that are not run here."""

import json
from pathlib import Path

import pytest

from fleet.pki import brokers
from fleet.pki.folder import PkiFolder
from fleet.pki.grants import AUDITOR_NAME, CONTROLLER_NAME, DEVICE, OBSERVER_NAME, grants
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
        assert grant.device_writes or grant.controller_writes


def test_a_devices_rights_name_no_device_but_itself():
    for grant in grants():
        if "/device/" in grant.filter:
            assert grant.filter.split("/")[3] == DEVICE


@pytest.mark.parametrize("name", [CONTROLLER_NAME, OBSERVER_NAME, AUDITOR_NAME])
def test_no_device_can_have_the_name_of_a_program(name):
    with pytest.raises(PeerError):
        parse_name(name, what="device id")


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
