"""What a device costs that nobody asks anything: processor time and wake-ups."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from fleets import Fleet
from models import Models
from procfs import activity, family
from programs import Program
from result import Line, Outcome

DEVICE = "cam-01"
VERSION = "1.0.0"
SETTLE_S = 10.0
FLOOR = "bare Python with paho connected"
BARE = """\
import sys, threading
import paho.mqtt.client as mqtt
client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id="bench-idle")
client.tls_set("ca.pem", "idle.pem", "idle.key")
client.connect("127.0.0.1", int(sys.argv[1]), keepalive=30)
client.loop_start()
threading.Event().wait()
"""


def measure(directory: Path, models: Models, *, is_quick: bool) -> Outcome:
    """Watch an agent and a bare client through the same minute."""
    span_s = 5.0 if is_quick else 20.0
    with Fleet(directory) as fleet:
        fleet.push(models.digits(VERSION))
        fleet.add_devices([DEVICE])
        fleet.serve_digits(models, DEVICE, VERSION).close()
        supervisor = fleet.agents[DEVICE].pid
        runtime = family(supervisor)[1]
        argv = [sys.executable, "-c", BARE, str(fleet.broker_port)]
        fleet.watcher("idle")
        with Program("bare client", argv, cwd=fleet.directory) as bare:
            groups = {"supervisor": [supervisor], "runtime": [runtime], "bare": [bare.pid]}
            time.sleep(SETTLE_S)
            spans = [_watch(groups, span_s) for _ in range(3)]
    ours = [(s["supervisor"], s["runtime"]) for s in spans]
    bare_cpu, bare_switches = zip(*(s["bare"] for s in spans), strict=True)
    sums = [(a[0] + b[0], a[1] + b[1]) for a, b in ours]
    cpu, rate = "% of one core", "per second"
    return Outcome(
        title="An idle agent",
        how=(
            f"An agent that serves the digits, connected, asked nothing, over three spans of "
            f"{span_s:g} s; processor time and context switches of all its threads as the "
            "scheduler counts them, telemetry every 60 s included. The floor is a Python process "
            "whose only work is a paho client with the same keep-alive, on the same broker at the "
            "same time."
        ),
        why=(
            "By thread, in voluntary switches a second: four in the supervisor's loop, one in the thread that "
            "reads the runtime's reports, one in each of the link's two threads, one in the runtime."
        ),
        lines=[
            Line("processor, whole agent", cpu, [s[0] for s in sums], FLOOR, bare_cpu),
            Line("processor, supervisor", cpu, [a[0] for a, _ in ours], FLOOR, bare_cpu),
            Line("processor, runtime", cpu, [b[0] for _, b in ours]),
            Line("context switches, whole agent", rate, [s[1] for s in sums], FLOOR, bare_switches),
            Line("context switches, supervisor", rate, [a[1] for a, _ in ours], FLOOR, bare_switches),
            Line("context switches, runtime", rate, [b[1] for _, b in ours]),
        ],
    )  # fmt: skip


def _watch(groups: dict[str, list[int]], span_s: float) -> dict[str, tuple[float, float]]:
    """Return percent of a core and context switches per second of each group over a span."""
    before = {name: activity(pids) for name, pids in groups.items()}
    began_s = time.monotonic()
    time.sleep(span_s)
    took_s = time.monotonic() - began_s
    done = {name: activity(pids).since(before[name]) for name, pids in groups.items()}
    return {name: (100 * a.cpu_s / took_s, a.switch_count / took_s) for name, a in done.items()}
