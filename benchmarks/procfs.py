"""What the kernel says of processes: memory, processor time, wake-ups, children, placement."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

PROC = Path("/proc")


def family(pid: int) -> list[int]:
    """Return a process and all that descends from it, as far as they live."""
    found = [pid]
    for member in found:
        try:
            for task in (PROC / str(member) / "task").iterdir():
                found += [int(child) for child in (task / "children").read_text().split()]
        except OSError:
            continue  # it, or one of its threads, has just ended
    return found


def pss_bytes(pid: int) -> int:
    """Return the proportional set size: shared pages count by their share. 0 when it has ended."""
    try:
        text = (PROC / str(pid) / "smaps_rollup").read_text()
    except OSError:
        return 0
    for line in text.splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0


def family_pss_bytes(pid: int) -> int:
    """Return the PSS of a process and its descendants together."""
    return sum(pss_bytes(member) for member in family(pid))


@dataclass(frozen=True, slots=True)
class Activity:
    """What processes have done since they began."""

    cpu_s: float
    switch_count: int

    def since(self, earlier: Activity) -> Activity:
        return Activity(self.cpu_s - earlier.cpu_s, self.switch_count - earlier.switch_count)


def activity(pids: Iterable[int]) -> Activity:
    """Return processor time and context switches of all threads, as the scheduler counted them."""
    cpu_ns = switches = 0
    for pid in pids:
        for task in (PROC / str(pid) / "task").iterdir():
            cpu_ns += int((task / "schedstat").read_text().split()[0])
            for line in (task / "status").read_text().splitlines():
                if "ctxt_switches" in line:
                    switches += int(line.split()[1])
    return Activity(cpu_ns / 1e9, switches)


def pin(pids: Iterable[int], core: int) -> None:
    """Keep every thread of these processes on one core."""
    for pid in pids:
        for task in (PROC / str(pid) / "task").iterdir():
            os.sched_setaffinity(int(task.name), {core})


def cores() -> list[int]:
    """Return the cores that this process may use."""
    return sorted(os.sched_getaffinity(0))


class Peak(threading.Thread):
    """Reads a size again and again and keeps the highest value."""

    def __init__(self, read: Callable[[], int], *, every_s: float = 0.005) -> None:
        super().__init__(name="peak", daemon=True)
        self._read = read
        self._every_s = every_s
        self._ended = threading.Event()
        self.highest = 0
        self.count = 0

    def run(self) -> None:
        while not self._ended.wait(self._every_s):
            self.highest = max(self.highest, self._read())
            self.count += 1

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self.join()
