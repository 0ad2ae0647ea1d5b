"""From `fleet rollout start` to the last of 3, 30 and 100 agents confirmed."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Self

from fleets import DIGITS_INFER, Fleet
from load import Asker, request_bytes
from models import Models
from observer import Observer, Step
from procfs import cores
from programs import wait_for
from result import Line, Outcome
from runtime_alone import Start, start_runtime

VERSIONS = ("1.0.0", "2.0.0", "3.0.0")
"""In turn: a third one makes the device forget the first, so that each is fetched again."""
BATCH = 10
"""Agents started side by side: a hundred at once would take longer than they wait for each other."""
ASK_EVERY_S = 0.25
FINISH_S = 180


@dataclass(frozen=True, slots=True)
class Run:
    """One rollout, in seconds.

    Attributes:
        whole: From the command's start to the last confirmation.
        command: Of which the command itself.
        fetch, trial, probation: Median over the devices: from the assignment to the content on
            disk, from there to the first request served, and from there to the confirmation.
    """

    whole: float
    command: float
    fetch: float
    trial: float
    probation: float


class Crowd(threading.Thread):
    """An application on every device: asks each a few times a second over a kept connection."""

    def __init__(self, body: bytes) -> None:
        super().__init__(name="crowd", daemon=True)
        self._request = request_bytes(DIGITS_INFER, body)
        self._askers: list[Asker] = []
        self._ended = threading.Event()

    def add(self, port: int) -> None:
        """Ask one more device from now on."""
        self._askers.append(Asker(port, self._request))

    def run(self) -> None:
        while not self._ended.wait(ASK_EVERY_S):
            for asker in list(self._askers):
                asker.ask()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self.join()


def measure(directory: Path, models: Models, *, is_quick: bool) -> Outcome:
    """Grow the fleet from 3 to 30 to 100 real agents, and roll out to all of them each time."""
    plan = {3: 2, 10: 1} if is_quick else {3: 5, 30: 3, 100: 2}
    runs: dict[int, list[Run]] = {}
    body, number, started_s = models.digits_body(), 0, 0.0
    with (
        Fleet(directory) as fleet,
        Observer(fleet) as observer,
        Crowd(body) as crowd,
    ):
        for version in VERSIONS:
            fleet.push(models.digits(version))
        names: list[str] = []
        for size, count in plan.items():
            began_s = time.monotonic()
            _grow(fleet, names, size, crowd)
            started_s = time.monotonic() - began_s
            for _ in range(count):
                version = VERSIONS[number % len(VERSIONS)]
                runs.setdefault(size, []).append(_roll_out(fleet, observer, names, version))
                number += 1
        last = fleet.api("/v1/models/digits/releases")
        manifest = next(r["manifest"] for r in last if r["version"] == version)
        state = fleet.directory / "agents" / "devices" / names[0] / "state"
        fleet.stop_agents()
        starts = [start_runtime(state, manifest, body) for _ in range(3)]
    return _outcome(runs, starts, started_s)


def _outcome(runs: dict[int, list[Run]], starts: list[Start], started_s: float) -> Outcome:
    ready_s, cpu_s = median(s.ready_s for s in starts), median(s.cpu_s for s in starts)
    lines, notes = [], []
    for size, ours in runs.items():
        whole = [run.whole for run in ours]
        shared_s = max(ready_s, size * cpu_s / len(cores()))
        lines += [
            Line(f"{size} agents", "s", whole, "probation and one candidate's start", [ready_s]),
            Line(f"{size} agents", "s", whole, "all candidates' starts on these cores", [shared_s]),
        ]
        parts = ", ".join(
            f"{name} {median(getattr(run, name) for run in ours):.2f} s"
            for name in ("command", "fetch", "trial", "probation")
        )
        notes.append(f"{size} agents, medians: {parts}.")
    notes.append(
        f"A candidate alone is ready after {ready_s:.2f} s and takes {cpu_s:.2f} s of a core. "
        f"The last agents came up {BATCH} at a time, in {started_s:.0f} s."
    )
    return Outcome(
        title="A rollout's time",
        how=(
            "Real agents with their runtimes, all on this machine; one phase of 100 %, no soak, "
            "`--probation-min 0s --min-inferences 1`, and a client that asks each agent four times "
            "a second. From the start of the command to the last agent's confirmation, as an MQTT "
            "subscriber hears it. Of this, *command* is `fleet rollout start` itself, *fetch* "
            "brings the content to the disk, *trial* is the candidate's start with its golden rows "
            "and the swap, and *probation* ends with the first heartbeat after a request was "
            "served: there is one a second. Devices of a real "
            "fleet start their candidates each on its own processor: the first floor is theirs. "
            "Here they all share one, which the second floor accounts for."
        ),
        lines=lines,
        notes=notes,
        why=(
            "With few agents the command's own start (Python and its imports) and the second until the "
            "first heartbeat are most of it. With many it is processor time on this one machine, of which "
            "the second floor is what the starts of the new runtimes take."
        ),
    )


def _grow(fleet: Fleet, names: list[str], size: int, crowd: Crowd) -> None:
    """Add devices and start their agents until there are `size`."""
    fresh = [f"cam-{number:03}" for number in range(len(names), size)]
    fleet.add_devices(fresh)
    for start in range(0, len(fresh), BATCH):
        batch = fresh[start : start + BATCH]
        for name in batch:
            fleet.start_agent(name)
        fleet.wait_until_online(batch)
        for name in batch:
            crowd.add(fleet.ports[name])
    names += fresh


def _roll_out(fleet: Fleet, observer: Observer, names: list[str], version: str) -> Run:
    began_s = fleet.start_rollout(f"digits:{version}", match="group=fleet")
    command_s = time.monotonic() - began_s

    def confirmed() -> dict[str, Step] | None:
        steps = observer.of("confirmed", since_s=began_s)
        return steps if steps.keys() >= set(names) else None

    ends = wait_for(f"all to confirm {version}", confirmed, timeout_s=FINISH_S)
    wait_for("the rollout to finish", lambda: _is_over(fleet), timeout_s=FINISH_S)
    steps = {
        code: observer.of(code, since_s=began_s) for code in ("assigned", "fetched", "activated")
    }

    def usual_s(earlier: dict[str, Step], later: dict[str, Step]) -> float:
        return median(later[name].told_s - earlier[name].told_s for name in names)

    return Run(
        whole=max(step.heard_s for step in ends.values()) - began_s,
        command=command_s,
        fetch=usual_s(steps["assigned"], steps["fetched"]),
        trial=usual_s(steps["fetched"], steps["activated"]),
        probation=usual_s(steps["activated"], ends),
    )


def _is_over(fleet: Fleet) -> bool:
    return bool(fleet.api("/v1/rollouts")[0]["state"] == "finished")
