"""Tries of a release: counted where the agent goes down with it, and not where somebody stops it."""

import contextlib
import signal
import sqlite3

import pytest

from agent.core.endings import MAX_TRIES
from agent.core.update import MAX_PROBATION_STARTS
from tests.spine.claims import check_end
from tests.spine.test_hostile_models import ROWS, bundle

pytestmark = [pytest.mark.broker, pytest.mark.slow, pytest.mark.timeout(300)]

DEVICE = "cam-0"


@pytest.fixture
def bed(make_bed):
    """A bed whose device serves 1.0.0 and may be given 2.0.0."""
    bed = make_bed("mosquitto")
    bed.add(DEVICE)
    bed.install("1.0.0")
    bed.push("2.0.0")
    return bed


def end_of(bed, rollout):
    """Return how the device's update ended, once the rollout has."""
    bed.until_ended(rollout)
    member = bed.members(rollout)[DEVICE]
    return member["state"], member["code"]


def is_taken_down(bed, known):
    """Kill the agent with each candidate of a version; return whether none got to say how it went.

    What the agent had logged before is `known`, characters.
    """
    device = bed.devices[DEVICE]

    def is_ready():
        return "-> on_probation" in device.log.read_text()[known:]

    for _ in range(MAX_TRIES):
        bed.until("a candidate loads", lambda: len(device.runtimes()) == 2 or is_ready())
        if not is_ready():
            candidate = device.runtimes()[-1]
            candidate.suspend()
            device.end(signal.SIGKILL)
            candidate.kill()
        if is_ready():
            break
        device.start()
    else:
        return True
    if not device.is_alive:
        device.start()
    return False


def test_a_candidate_that_takes_the_agent_down_with_it_is_not_tried_for_ever(bed):
    device = bed.devices[DEVICE]
    serving = "1.0.0"
    for version in ("2.0.0", "3.0.0", "4.0.0", "5.0.0"):
        bed.push(version)
        known = len(device.log.read_text())
        rollout = bed.roll_out(version)
        is_down = is_taken_down(bed, known)
        ended = end_of(bed, rollout)
        if is_down:
            break
        # A busy machine looked too late, and the candidate had been ready: the next one, then.
        serving = bed.model(DEVICE)["active_version"]
    assert is_down, "each time a candidate was ready before it could be stopped"
    assert ended == ("rejected", "crash_loop")
    assert [q["code"] for q in bed.device(DEVICE)["quarantined"]] == ["crash_loop"]
    bed.until_served(DEVICE, serving)
    assert version not in device.client.versions()
    check_end(bed)


def test_a_device_that_is_stopped_on_probation_may_be_stopped_as_often_as_one_likes(bed):
    device = bed.devices[DEVICE]
    rollout = bed.roll_out("2.0.0", min_s=8)
    for _ in range(MAX_PROBATION_STARTS + 1):
        bed.until("it is on probation", lambda: bed.model(DEVICE).get("state") == "on_probation")
        bed.until_served(DEVICE, "2.0.0")
        device.end()
        bed.until_online(DEVICE, is_online=False)
        device.start()
        bed.until_online(DEVICE)
    assert end_of(bed, rollout)[0] == "confirmed"
    check_end(bed)


def test_a_device_that_goes_down_on_probation_again_and_again_goes_back(bed):
    device = bed.devices[DEVICE]
    rollout = bed.roll_out("2.0.0", min_s=600)
    for _ in range(MAX_PROBATION_STARTS + 1):
        bed.until("it is on probation", lambda: bed.model(DEVICE).get("state") == "on_probation")
        bed.until_served(DEVICE, "2.0.0")
        device.end(signal.SIGKILL)
        device.start()
    assert end_of(bed, rollout) == ("rolled_back", "crash_loop")
    bed.until_served(DEVICE, "1.0.0")
    check_end(bed)


def test_no_candidate_starts_before_its_try_is_on_disk(bed, bundles):
    """The state cannot be written just when what is staged might be tried; serving goes on without."""
    device = bed.devices[DEVICE]
    state = bed.fleet_dir / "devices" / DEVICE / "state" / "state.db"
    endless = bundle(bundles.path("1.0.0"), "6.0.0", ROWS["load that takes hours"])
    path = bed.fleet_dir / "endless.bundle"
    path.write_bytes(endless)
    bed.push_file(path)
    rollout = bed.roll_out("6.0.0")
    bed.until("a candidate loads", lambda: len(device.runtimes()) == 2)

    def tail(known):
        return device.log.read_text()[known:]

    with contextlib.closing(sqlite3.connect(state, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        known = len(device.log.read_text())
        device.runtimes()[0].kill()
        bed.until("its death is known", lambda: "another is started" in tail(known))
        bed.until_served(DEVICE, "1.0.0")
        known = len(device.log.read_text())
        bed.until("the state is tried again", lambda: tail(known).count("is locked") >= 2)
        assert "(trying)" not in device.log.read_text()
        assert len(device.runtimes()) == 1
        other.execute("ROLLBACK")
    bed.until("the try begins", lambda: "(trying)" in tail(known))
    bed.command(rollout, "abort")
    bed.until_served(DEVICE, "1.0.0")
    check_end(bed)
