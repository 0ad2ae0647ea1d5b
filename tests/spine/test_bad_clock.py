"""Clocks that are ten years off, on devices and on the controller, and then set right."""

import os

import pytest

from tests.spine.bed import Device
from tests.spine.claims import check_end, check_records, check_serving
from tests.spine.processes import free_port
from tests.spine.soundness import DEVICE, events, sound_bed

pytestmark = [pytest.mark.broker, pytest.mark.slow, pytest.mark.timeout(300)]

YEARS_MS = 3650 * 86_400_000
AHEAD_ID, BEHIND_ID = "ahead", "behind"
AHEAD, BEHIND, RIGHT = YEARS_MS // 1000, -YEARS_MS // 1000, 0
WEEKS_AHEAD = 20 * 86_400
"""Further, a real controller's certificates would begin in the future."""
EXPIRED = ("trust_expired", "desired_expired")
SHIFT = """\
import os, time

shift_s, now, now_ns = int(os.environ["SHIFT_S"]), time.time, time.time_ns
time.time = lambda: now() + shift_s
time.time_ns = lambda: now_ns() + shift_s * 10**9
"""


def shifted(program, seconds):
    """Let a program, and its children, live at another time from its next start on.

    Its timers run as ever: only what the interpreter says of the date is moved. (libfaketime stops
    the waits of Python's locks, which it does not know.)
    """
    folder = program.log.parent / "shift"
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(SHIFT)
    path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    words = ["/usr/bin/env", f"PYTHONPATH={path}"]
    plain = program._argv[3:] if program._argv[:2] == words else program._argv
    program._argv = [*words, f"SHIFT_S={seconds}", *plain]


def join(bed, name, site, shift_s):
    """Let a device in that lives at another time."""
    device = Device(name, free_port(), bed.fleet_dir)
    listen = f"127.0.0.1:{device.port}"
    bed.fleet("device", "add", name, "--tag", f"site={site}", "--output", f"{name}.toml",
              "--listen", listen)  # fmt: skip
    with (bed.fleet_dir / f"{name}.toml").open("a") as file:
        file.write("\n[telemetry]\ninterval_s = 1\n")
    shifted(device, shift_s)
    bed.devices[name] = device
    device.start()
    device.client.start()
    bed.until_online(name)


def move(bed, name, shift_s):
    """Let a device live at another time from now on."""
    device = bed.devices[name]
    assert device.end() == 0
    shifted(device, shift_s)
    device.start()
    bed.until_online(name)


@pytest.fixture(scope="module")
def bed(tmp_path_factory, bundles):
    """A bed with a device whose clock is right, one without a clock, and one that will be ahead."""
    with sound_bed(tmp_path_factory.mktemp("clock"), bundles) as bed:
        join(bed, BEHIND_ID, "lab", BEHIND)
        join(bed, AHEAD_ID, "far", RIGHT)
        bed.push("2.0.0")
        finish(bed, "2.0.0", "lab", 2)
        finish(bed, "2.0.0", "far", 1)
        move(bed, AHEAD_ID, AHEAD)
        yield bed


def finish(bed, version, site, count):
    """Roll a version out to a site, and see so many devices confirm it."""
    ended = bed.until_ended(bed.roll_out(version, site=site, phases=("1", "100%"), soak_s=1))
    assert ended["counts"] == {"confirmed": count}, ended


def complaints(bed, *codes):
    return {
        event["subject"]: event["text"] for event in events(bed)
        if event["detail"].get("code") in (codes or ("clock_off",))
    }  # fmt: skip


def newest_vitals(bed):
    return {
        name: bed.get(f"/v1/devices/{name}/records?channel=telemetry/vitals&limit=1")[0]
        for name in bed.devices
    }


def ahead(rows):
    """Return how far each device's clock is ahead, once the one that is ahead has reported."""
    offsets = {
        name: row["body"]["at_unix_ms"] - row["received_unix_ms"] for name, row in rows.items()
    }
    return offsets[AHEAD_ID] > YEARS_MS - 60_000 and offsets


def test_devices_that_live_in_other_years_serve_and_are_told_of(bed):
    check_serving(bed, dict.fromkeys(bed.devices, "2.0.0"))
    told = bed.until("both are told of", lambda: len(complaints(bed)) == 2 and complaints(bed))
    assert "days ahead of the controller's" in told[AHEAD_ID]
    assert "a time before 2024" in told[BEHIND_ID]
    offsets = bed.until("its vitals are of its own time", lambda: ahead(newest_vitals(bed)))
    assert offsets[BEHIND_ID] < 60_000 - YEARS_MS
    assert abs(offsets[DEVICE]) < 60_000
    uptimes = {name: row["body"]["uptime_s"] for name, row in newest_vitals(bed).items()}
    assert max(uptimes.values()) - min(uptimes.values()) < 600, uptimes
    check_records(bed)


def test_to_a_clock_that_is_ahead_all_metadata_has_expired_until_it_is_set(bed):
    bed.push("3.0.0")
    rollout = bed.roll_out("3.0.0", site="far")
    bed.until("it says why it waits", lambda: AHEAD_ID in complaints(bed, *EXPIRED))
    check_serving(bed, {AHEAD_ID: "2.0.0"})
    move(bed, AHEAD_ID, RIGHT)
    assert bed.until_ended(rollout)["counts"] == {"confirmed": 1}
    check_serving(bed, {AHEAD_ID: "3.0.0"})


def test_a_controller_whose_clock_jumps_ahead_and_back_loses_nothing(bed):
    """What it signed meanwhile ages nothing on a device whose clock is right."""
    known = {key for key, _ in bed.stored()}
    assert bed.controller.end() == 0
    shifted(bed.controller, WEEKS_AHEAD)
    bed.start_controller()
    bed.until_connected()
    finish(bed, "2.0.0", "far", 1)
    assert DEVICE not in complaints(bed), "being behind is no fault: a record may have waited"
    assert known <= {key for key, _ in bed.stored()}

    bed.push("4.0.0")
    rollout = bed.roll_out("4.0.0", site="far", soak_s=3)
    bed.until("it soaks", lambda: "soaking" in bed.rollout(rollout)["reason"])
    assert bed.controller.end() == 0
    shifted(bed.controller, RIGHT)
    bed.start_controller()
    ended = bed.until_ended(rollout)
    assert ended["counts"] == {"confirmed": 1}, ended
    check_serving(bed, {AHEAD_ID: "4.0.0"})
    bed.push("5.0.0")
    finish(bed, "5.0.0", "far", 1)
    check_records(bed)


def test_after_all_of_that_everything_ends_in_good_order(bed):
    check_end(bed)
