"""Clocks that are ten years off, on devices and on the controller, and then set right."""

import os

import pytest

from tests.spine.bed import Device
from tests.spine.claims import check_end, check_records, check_serving
from tests.spine.processes import free_port
from tests.spine.soundness import DEVICE, events, sound_bed

pytestmark = [pytest.mark.broker, pytest.mark.slow, pytest.mark.timeout(300)]

YEARS_MS = 3650 * 86_400_000
AHEAD, BEHIND, RIGHT = YEARS_MS // 1000, -YEARS_MS // 1000, 0
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


@pytest.fixture(scope="module")
def bed(tmp_path_factory, bundles):
    """A bed with a device whose clock is right, one that is ahead and one that is behind."""
    with sound_bed(tmp_path_factory.mktemp("clock"), bundles) as bed:
        for name, seconds in (("ahead", AHEAD), ("behind", BEHIND)):
            device = Device(name, free_port(), bed.fleet_dir)
            listen = f"127.0.0.1:{device.port}"
            bed.fleet("device", "add", name, "--tag", "site=lab", "--output", f"{name}.toml",
                      "--listen", listen)  # fmt: skip
            with (bed.fleet_dir / f"{name}.toml").open("a") as file:
                file.write("\n[telemetry]\ninterval_s = 1\n")
            shifted(device, seconds)
            bed.devices[name] = device
            device.start()
            device.client.start()
        for name in bed.devices:
            bed.until_online(name)
        yield bed


def install(bed, version):
    bed.push(version)
    ended = bed.until_ended(bed.roll_out(version, phases=("1", "100%"), soak_s=1))
    assert ended["counts"] == {"confirmed": 3}, ended
    check_serving(bed, dict.fromkeys(bed.devices, version))


def complaints(bed):
    return {
        event["subject"]: event["text"] for event in events(bed)
        if event["detail"].get("code") == "clock_off"
    }  # fmt: skip


def test_devices_that_live_in_other_years_are_updated_and_told_of(bed):
    install(bed, "2.0.0")
    told = bed.until("both are told of", lambda: len(complaints(bed)) == 2 and complaints(bed))
    assert "days ahead of the controller's" in told["ahead"]
    assert "a time before 2024" in told["behind"]
    rows = {
        name: bed.get(f"/v1/devices/{name}/records?channel=telemetry/vitals&limit=1")
        for name in bed.devices
    }
    offsets = {
        name: row["body"]["at_unix_ms"] - row["received_unix_ms"] for name, (row,) in rows.items()
    }
    assert offsets["ahead"] > YEARS_MS - 60_000, "it was not ahead: this proves nothing"
    assert offsets["behind"] < 60_000 - YEARS_MS
    assert abs(offsets[DEVICE]) < 60_000
    uptimes = {name: row["body"]["uptime_s"] for name, (row,) in rows.items()}
    assert max(uptimes.values()) - min(uptimes.values()) < 600, uptimes
    check_records(bed)


def test_a_controller_whose_clock_jumps_ahead_and_back_loses_nothing(bed):
    known = {key for key, _ in bed.stored()}
    assert bed.controller.end() == 0
    shifted(bed.controller, AHEAD)
    bed.start_controller()
    bed.until_connected()
    install(bed, "3.0.0")
    assert DEVICE not in complaints(bed), "being behind is no fault: a record may have waited"
    assert known <= {key for key, _ in bed.stored()}

    bed.push("4.0.0")
    rollout = bed.roll_out("4.0.0", phases=("1", "100%"), soak_s=3)
    bed.until("it soaks", lambda: "soaking" in bed.rollout(rollout)["reason"])
    assert bed.controller.end() == 0
    shifted(bed.controller, RIGHT)
    bed.start_controller()
    ended = bed.until_ended(rollout)
    assert ended["counts"] == {"confirmed": 3}, ended
    check_serving(bed, dict.fromkeys(bed.devices, "4.0.0"))
    install(bed, "5.0.0")
    check_records(bed)


def test_after_all_of_that_everything_ends_in_good_order(bed):
    check_end(bed)
