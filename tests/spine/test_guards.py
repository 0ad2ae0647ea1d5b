"""Guards on real devices: what the runtime measures reaches the verdict, and the verdict the gate."""

import json

import pytest

from tests.spine.claims import check_end, check_records

pytestmark = [pytest.mark.broker, pytest.mark.slow, pytest.mark.timeout(300)]

DEVICE = "cam-0"


def start(bed, version, *options):
    """Start a rollout as an operator does; return how it ended, and how its device did."""
    command = ["rollout", "start", f"digits:{version}", "--match", "site=lab", "--phases", "100%"]
    command += ["--soak", "0s", "--probation-min", "3s", *options]
    rollout = bed.fleet(*command).split("next: fleet rollout show ")[1].split()[0]
    return bed.until_ended(rollout), bed.members(rollout)[DEVICE]


def check_shown(bed, code, evidence):
    """What a guard saw stands in `fleet device show`, for people and for programs."""
    text = bed.fleet("device", "show", DEVICE)
    assert f"rolled_back ({code})" in text, text
    assert evidence in text, text
    (model,) = json.loads(bed.fleet("device", "show", DEVICE, "--json"))["models"]
    last = model["last_update"]
    assert (last["state"], last["code"], last["detail"]) == ("rolled_back", code, evidence)


def test_a_release_that_is_too_slow_or_answers_otherwise_goes_back(make_bed):
    bed = make_bed("mosquitto")
    bed.add(DEVICE)
    bed.install("1.0.0")
    bed.push("2.0.0")
    ended, member = start(bed, "2.0.0", "--p99-ms", "0.01")  # no model answers in 10 us
    assert ended["state"] == "halted"
    assert (member["state"], member["code"]) == ("rolled_back", "latency_budget")
    assert "0.01 ms allowed" in member["detail"]
    bed.until_served(DEVICE, "1.0.0")
    assert [q["code"] for q in bed.device(DEVICE)["quarantined"]] == ["latency_budget"]
    check_shown(bed, "latency_budget", member["detail"])

    bed.push("3.0.0")
    ended, member = start(bed, "3.0.0", "--p99-ms", "60000")
    assert (ended["state"], member["state"]) == ("finished", "confirmed"), ended

    # Its training rows get four answers, the live ones always the same.
    bed.push("4.0.0-varied")
    ended, member = start(bed, "4.0.0-varied", "--output-psi", "0.25", "--min-inferences", "100")
    assert ended["state"] == "halted"
    assert (member["state"], member["code"]) == ("rolled_back", "output_drift")
    assert "PSI" in member["detail"]
    check_shown(bed, "output_drift", member["detail"])
    bed.until_served(DEVICE, "3.0.0")
    check_records(bed)
    check_end(bed)
