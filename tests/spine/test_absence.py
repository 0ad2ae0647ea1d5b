"""What is away comes back and goes on: devices, the controller, the broker and its memory."""

import signal
import time

import pytest

from tests.spine.claims import (
    check_answers,
    check_end,
    check_forward,
    check_phases,
    check_records,
    check_serving,
    check_unbroken,
)

pytestmark = [pytest.mark.broker, pytest.mark.slow, pytest.mark.timeout(300)]

ENDS = [
    pytest.param("mosquitto", signal.SIGKILL, id="mosquitto-KILL"),
    pytest.param("nats", signal.SIGTERM, id="nats-TERM"),
]
"""Which broker it is and how a process ends have nothing to do with each other: not all pairs."""


def test_devices_that_are_switched_off_get_their_state_when_they_return(bed):
    names = [f"cam-{number}" for number in range(5)]
    bed.add(*names)
    bed.install("1.0.0")
    manifest = bed.push("2.0.0")
    rollout = bed.roll_out("2.0.0", phases=["1", "100%"])
    bed.command(rollout, "pause")  # so that they go before their phase opens
    canary, stays, *leaving = (member["device"] for member in bed.rollout(rollout)["members"])
    signals = dict(zip(leaving, (signal.SIGTERM, signal.SIGKILL, signal.SIGTERM), strict=True))
    for name, number in signals.items():
        bed.devices[name].end(number)
    for name in leaving:
        bed.until_online(name, is_online=False)
    bed.command(rollout, "resume")

    ended = bed.until_ended(rollout)
    assert ended["state"] == "finished", ended["reason"]
    states = {name: member["state"] for name, member in bed.members(rollout).items()}
    assert states == {canary: "confirmed", stays: "confirmed"} | dict.fromkeys(leaving, "pending")

    *returning, lost = leaving
    for name in returning:
        bed.devices[name].start()
    for name in returning:
        bed.until(
            f"{name} has confirmed",
            lambda name=name: bed.members(rollout)[name]["state"] == "confirmed",
        )
    assert bed.members(rollout)[lost]["state"] == "pending"
    check_serving(bed, dict.fromkeys([canary, stays, *returning], "2.0.0"))
    assert bed.devices[canary].client.versions() == ["1.0.0", "2.0.0"]
    check_phases(bed, rollout, manifest)
    check_records(bed)
    check_answers(bed)
    check_end(bed)


@pytest.mark.parametrize(("bed", "number"), ENDS, indirect=["bed"])
def test_a_device_switched_off_on_probation_goes_on_when_it_returns(bed, number):
    bed.add("cam-0", "cam-1")
    bed.install("1.0.0")
    manifest = bed.push("2.0.0")
    rollout = bed.roll_out("2.0.0", phases=["1", "100%"], min_s=4)
    canary, other = (member["device"] for member in bed.rollout(rollout)["members"])
    device = bed.devices[canary]
    bed.until("it is on probation", lambda: bed.model(canary).get("state") == "on_probation")
    device.end(number)
    bed.until_online(canary, is_online=False)
    assert bed.members(rollout)[canary]["state"] == "in_progress"
    assert bed.members(rollout)[other]["state"] == "waiting"
    assert bed.model(other)["active_version"] == "1.0.0"
    device.start()

    ended = bed.until_ended(rollout)
    assert ended["counts"] == {"confirmed": 2}, ended
    check_serving(bed, {canary: "2.0.0", other: "2.0.0"})
    check_forward(bed)
    check_phases(bed, rollout, manifest)
    check_records(bed)
    check_answers(bed)
    check_end(bed)


def test_an_agent_that_starts_without_a_broker_serves_what_it_confirmed(bed):
    bed.add("cam-0")
    bed.install("1.0.0")
    device = bed.devices["cam-0"]
    assert device.end() == 0
    assert bed.controller.end() == 0
    bed.kill_broker()
    device.start()
    check_serving(bed, {"cam-0": "1.0.0"})

    bed.start_broker(is_empty=True)
    bed.start_controller()
    bed.until_online("cam-0")
    bed.install("2.0.0")
    check_serving(bed, {"cam-0": "2.0.0"})
    check_records(bed)
    check_end(bed)


def test_a_broker_that_forgets_everything_in_the_middle_of_a_rollout_changes_nothing(bed):
    bed.add("cam-0", "cam-1", "cam-2")
    bed.install("1.0.0")
    manifest = bed.push("2.0.0")
    rollout = bed.roll_out("2.0.0", phases=["1", "2", "100%"], min_s=2)
    second = bed.rollout(rollout)["members"][1]["device"]
    bed.until("phase 2 is open", lambda: bed.members(rollout)[second]["state"] == "in_progress")
    disturbed_s = time.monotonic()
    bed.kill_broker()
    bed.start_broker(is_empty=True)

    ended = bed.until_ended(rollout)
    assert ended["counts"] == {"confirmed": 3}, ended
    check_serving(bed, dict.fromkeys(bed.devices, "2.0.0"))
    check_phases(bed, rollout, manifest)
    check_records(bed)
    check_forward(bed)
    check_unbroken(bed, bed.devices, since_s=disturbed_s)
    check_end(bed)


@pytest.mark.parametrize(("bed", "number"), ENDS, indirect=["bed"])
def test_a_controller_that_starts_again_in_the_middle_of_a_rollout_skips_no_phase(bed, number):
    bed.add("cam-0", "cam-1", "cam-2")
    bed.install("1.0.0")
    manifest = bed.push("2.0.0")
    rollout = bed.roll_out("2.0.0", phases=["1", "2", "100%"], min_s=5)
    second = bed.rollout(rollout)["members"][1]["device"]
    bed.until("phase 2 is open", lambda: bed.members(rollout)[second]["state"] == "in_progress")
    disturbed_s = time.monotonic()
    bed.controller.end(number)
    bed.start_controller()

    ended = bed.until_ended(rollout)
    assert ended["counts"] == {"confirmed": 3}, ended
    assert [phase["state"] for phase in ended["phases"]] == ["passed"] * 3
    check_serving(bed, dict.fromkeys(bed.devices, "2.0.0"))
    check_phases(bed, rollout, manifest)
    check_records(bed)
    check_forward(bed)
    check_unbroken(bed, bed.devices, since_s=disturbed_s)
    check_end(bed)
