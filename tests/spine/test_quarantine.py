"""A bundle that fails on a device stays refused, under any version, until a person lifts that."""

import json

import pytest

from tests.spine.claims import check_end, check_records

pytestmark = [pytest.mark.broker, pytest.mark.slow, pytest.mark.timeout(300)]

DEVICE = "cam-0"
LIVE = 7.0
"""A first feature that a fragile model fails on."""


def member(bed, rollout):
    return bed.members(rollout)[DEVICE]


def test_an_equal_model_stays_quarantined_until_a_person_lifts_it(make_bed):
    bed = make_bed("mosquitto")
    bed.add(DEVICE)
    bed.install("1.0.0")
    device = bed.devices[DEVICE]
    device.client.feature = LIVE
    bed.push("2.0.0-fragile")
    rollout = bed.roll_out("2.0.0-fragile", min_s=60)
    assert bed.until_ended(rollout)["state"] == "halted"
    assert (member(bed, rollout)["state"], member(bed, rollout)["code"]) == (
        "rolled_back", "error_ratio",
    )  # fmt: skip
    bed.until_served(DEVICE, "1.0.0")

    # The same model.onnx under another version: other bytes in the manifest, the same model.
    bed.push("2.0.0-fragile-again")
    rollout = bed.roll_out("2.0.0-fragile-again", min_s=60)
    assert bed.until_ended(rollout)["state"] == "halted"
    assert (member(bed, rollout)["state"], member(bed, rollout)["code"]) == (
        "rejected", "quarantined",
    )  # fmt: skip
    assert "2.0.0-fragile-again" not in device.client.versions()

    shown = bed.fleet("device", "show", DEVICE)
    assert "digits:2.0.0-fragile" in shown
    assert "error_ratio" in shown
    (listed,) = json.loads(bed.fleet("quarantine", "list", "--json"))
    assert (listed["device"], listed["version"]) == (DEVICE, "2.0.0-fragile")

    # The lift reaches a device that is away, and survives its restart.
    device.client.feature = 1.0
    device.end()
    bed.until_online(DEVICE, is_online=False)
    bed.fleet("quarantine", "lift", listed["manifest"][:12], "--device", DEVICE, "--yes")
    assert "lifted, as soon as it answers" in bed.fleet("device", "show", DEVICE)
    device.start()
    bed.until("it has forgotten", lambda: not bed.device(DEVICE)["quarantined"])
    assert bed.device(DEVICE)["lifted"] == []

    rollout = bed.roll_out("2.0.0-fragile-again")
    assert bed.until_ended(rollout)["state"] == "finished"
    bed.until_served(DEVICE, "2.0.0-fragile-again")
    codes = [event["code"] for event in bed.updates(DEVICE)]
    assert "quarantine_lifted" in codes
    check_records(bed)
    check_end(bed)
