"""A shadow on real devices: a good one is activated, any other never serves and harms nobody."""

import json
import os
import signal

import pytest

from tests.spine.claims import check_answers, check_records, check_unbroken

pytestmark = [pytest.mark.broker, pytest.mark.slow, pytest.mark.timeout(500)]

DEVICE = "cam-0"
ALL = ("--shadow-sample", "100%", "--min-shadow-rows", "150")


def start(bed, version, shadow_s, *options):
    """Start a rollout with a shadow as an operator does; return its id."""
    command = ["rollout", "start", f"digits:{version}", "--match", "site=lab", "--phases", "100%"]
    command += ["--soak", "0s", "--probation-min", "1s", "--shadow", f"{shadow_s}s", *ALL, *options]
    return bed.fleet(*command).split("next: fleet rollout show ")[1].split()[0]


def shown(bed, rollout):
    return json.loads(bed.fleet("rollout", "show", rollout, "--json"))["shadow"]


def shadows(bed):
    """Return the shadow processes of the device."""
    return [p for p in bed.devices[DEVICE].runtimes() if "--aside" in p.cmdline()]


def until_compared(bed, rollout, rows):
    """Return the device's shadow process once it has compared so many rows."""
    bed.until(
        f"{rows} rows are compared", lambda: bed.rollout(rollout)["shadow"]["row_count"] >= rows
    )
    (process,) = shadows(bed)
    return process


def served(bed):
    return set(bed.devices[DEVICE].client.versions())


def test_only_what_agrees_is_activated_and_no_request_waits_for_a_shadow(make_bed):
    bed = make_bed("mosquitto")
    bed.add(DEVICE)
    bed.install("1.0.0")
    bed.until_served(DEVICE, "1.0.0")
    asked = bed.devices[DEVICE].client.answers[-1].sent_s

    bed.push("2.0.0")  # answers otherwise
    rollout = start(bed, "2.0.0", 600)
    ended = bed.until_ended(rollout)
    assert (ended["state"], ended["shadow"]["state"]) == ("halted", "stopped")
    assert "0 of " in ended["reason"]
    assert "rows agree" in ended["reason"]
    assert served(bed) == {"1.0.0"}
    bed.until("its shadow is gone", lambda: not shadows(bed))
    assert "agreement" in bed.fleet("rollout", "show", rollout)

    bed.push("1.0.2")  # answers the same, and is killed
    rollout = start(bed, "1.0.2", 600)
    until_compared(bed, rollout, 20).kill()
    ended = bed.until_ended(rollout)
    assert ended["state"] == "halted"
    assert f"{DEVICE} (shadow_died)" in ended["reason"]

    rollout = start(bed, "1.0.2", 600)  # the same again, and hangs
    process = until_compared(bed, rollout, 20)
    os.kill(process.pid, signal.SIGSTOP)
    ended = bed.until_ended(rollout)
    assert f"{DEVICE} (shadow_stuck)" in ended["reason"]
    assert served(bed) == {"1.0.0"}
    bed.until("it is ended all the same", lambda: not shadows(bed))

    rollout = start(bed, "1.0.2", 15, "--min-agreement", "0.97")
    until_compared(bed, rollout, 50)
    assert served(bed) == {"1.0.0"}, "a shadow serves nobody"
    ended = bed.until_ended(rollout)
    assert ended["state"] == "finished", ended["reason"]
    trial = shown(bed, rollout)
    assert (trial["state"], trial["agreement"]) == ("passed", 1.0)
    assert trial["agreement_low"] >= 0.97
    assert min(trial["active_pss_bytes"], trial["shadow_pss_bytes"]) > 10_000_000
    assert trial["shadow_p99_ms"] > 0
    bed.until_served(DEVICE, "1.0.2")
    assert not shadows(bed)

    check_unbroken(bed, [DEVICE], since_s=asked)
    check_answers(bed)
    check_records(bed)
    codes = [event["code"] for event in bed.updates(DEVICE)]
    assert codes.count("shadow_started") == 4
    assert set(bed.end().values()) == {0}
    assert not bed.tracebacks()


def test_a_kill_of_anything_but_the_shadow_only_takes_time(make_bed):
    bed = make_bed("mosquitto")
    bed.add(DEVICE)
    bed.install("1.0.0")
    bed.push("1.0.2")
    rollout = start(bed, "1.0.2", 60)
    until_compared(bed, rollout, 20)

    agent = bed.devices[DEVICE]
    agent.end(signal.SIGKILL)
    agent.start()
    before = bed.rollout(rollout)["shadow"]["row_count"]
    until_compared(bed, rollout, before + 20)

    (serving,) = [p for p in agent.runtimes() if "--aside" not in p.cmdline()]
    serving.kill()
    serving.wait()
    before = bed.rollout(rollout)["shadow"]["row_count"]
    until_compared(bed, rollout, before + 40)

    bed.controller.end(signal.SIGKILL)
    bed.start_controller()
    before = bed.rollout(rollout)["shadow"]["row_count"]
    until_compared(bed, rollout, before + 20)

    bed.kill_broker()
    bed.start_broker()
    ended = bed.until_ended(rollout)
    assert ended["state"] == "finished", ended["reason"]
    assert shown(bed, rollout)["agreement"] == 1.0
    bed.until_served(DEVICE, "1.0.2")
    check_answers(bed)
    check_records(bed)
