"""The kill matrix: one process is killed at an instant that nobody chose, and everything still holds.

A seed draws the broker, the number of agents, the victim and the instant, uniformly between the first
desired state of a rollout and the end of one that was not disturbed. `make fire SEED=7` fires that
shot again, `make fire SEEDS=100-130` fires others.
"""

import os
import signal
import time
from dataclasses import dataclass

import numpy as np
import psutil
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

DEFAULT_SEEDS = "1-12"
VICTIMS = ("runtime", "supervisor", "controller", "broker")
PHASES = ("1", "100%")


@dataclass(frozen=True)
class Shot:
    """What a seed draws; `fraction` is the instant, as a share of an undisturbed rollout."""

    broker: str
    agent_count: int
    victim: str
    victim_count: int
    fraction: float

    @classmethod
    def drawn(cls, seed):
        chance = np.random.default_rng(seed)
        agent_count = int(chance.integers(2, 4))
        return cls(
            broker=str(chance.choice(["mosquitto", "nats"])),
            agent_count=agent_count,
            victim=str(chance.choice(VICTIMS)),
            victim_count=int(chance.integers(1, agent_count + 1)),
            fraction=float(chance.random()),
        )


def seeds():
    """Return what FIRE_SEEDS asks for: numbers and ranges, such as `7` or `1-12,40`."""
    found = []
    for part in os.environ.get("FIRE_SEEDS", DEFAULT_SEEDS).split(","):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


def kill_one_runtime(device):
    """Kill one of the runtimes that a device has at this instant; it has none while one starts."""
    for runtime in device.runtimes()[-1:]:
        try:
            runtime.kill()
        except psutil.NoSuchProcess:  # it has just ended by itself
            continue


def fire(bed, shot, targets):
    """Kill the victim, and start again what nothing else does."""
    match shot.victim:
        case "runtime":
            for device in targets:
                kill_one_runtime(device)
        case "supervisor":
            for device in targets:
                device.send(signal.SIGKILL)
            for device in targets:
                device.end(signal.SIGKILL)
                device.start()
        case "controller":
            bed.controller.end(signal.SIGKILL)
            bed.start_controller()
        case "broker":
            bed.kill_broker()
            bed.start_broker()


def check_halt(bed, rollout, targets):
    """A runtime killed on trial is the model's fault by design: that device rolls back, all halts.

    Nobody else may be the reason, and the trial must really have been under way.
    """
    blamed = [m for m in bed.members(rollout).values() if m["state"] in ("rolled_back", "rejected")]
    assert blamed, bed.rollout(rollout)
    for member in blamed:
        assert member["device"] in {device.name for device in targets}, member
        assert member["code"] == "runtime_died", member
        events = [e for e in bed.updates(member["device"]) if e["code"] == "runtime_died"]
        assert events[0]["from"] in ("self_testing", "on_probation"), events


def roll_out(bed, version):
    """Start a rollout; return it with the instant at which its first desired state was seen."""
    rollout = bed.roll_out(version, phases=PHASES)
    bed.until("a desired state is published", lambda: bed.observer.given(rollout))
    return rollout, min(bed.observer.given(rollout).values())


@pytest.mark.parametrize("seed", seeds(), ids="seed-{}".format)
def test_a_kill_at_any_instant(make_bed, seed):
    shot = Shot.drawn(seed)
    print(f"seed {seed}: {shot}")  # noqa: T201 - to fire it again
    bed = make_bed(shot.broker)
    bed.add(*(f"cam-{number}" for number in range(shot.agent_count)))
    bed.push("1.0.0")
    undisturbed, begun_s = roll_out(bed, "1.0.0")
    assert bed.until_ended(undisturbed)["state"] == "finished"
    duration_s = time.monotonic() - begun_s
    manifest = bed.push("2.0.0")
    targets = list(bed.devices.values())[: shot.victim_count]

    rollout, begun_s = roll_out(bed, "2.0.0")
    time.sleep(max(0.0, begun_s + shot.fraction * duration_s - time.monotonic()))  # the instant
    fired_s = time.monotonic()
    fire(bed, shot, targets)

    ended = bed.until_ended(rollout)
    if ended["state"] == "halted" and shot.victim == "runtime":
        check_halt(bed, rollout, targets)
    else:
        assert ended["state"] == "finished", ended["reason"]
        for name in bed.devices:
            bed.until(
                f"{name} has confirmed",
                lambda name=name: bed.members(rollout)[name]["state"] == "confirmed",
            )
        check_forward(bed)
    states = {name: member["state"] for name, member in bed.members(rollout).items()}
    check_serving(
        bed, {n: "2.0.0" if state == "confirmed" else "1.0.0" for n, state in states.items()}
    )
    touched = {device.name for device in targets if shot.victim in ("runtime", "supervisor")}
    check_unbroken(bed, bed.devices.keys() - touched, since_s=fired_s)
    check_phases(bed, rollout, manifest)
    check_records(bed)
    check_answers(bed)
    check_end(bed)
