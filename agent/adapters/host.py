"""What this machine is and how it is doing."""

from __future__ import annotations

import os
import platform
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from .clock_quality import ClockQuality, clock_quality
from .throttling import Throttling


@dataclass(frozen=True, slots=True)
class Vitals:
    """One look at the machine; `cpu_ratio` is over the time since the look before."""

    uptime_s: float
    cpu_ratio: float
    memory_available_bytes: int
    disk_free_bytes: int
    supervisor_rss_bytes: int
    temperature_c: float | None
    is_throttled: bool | None
    clock: ClockQuality


class Host:
    """Reads the machine's figures; used by the loop's thread only."""

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir
        self._process = psutil.Process()
        self._throttling = Throttling()
        psutil.cpu_percent()  # the first call has no span to speak of

    def vitals(self) -> Vitals:
        """Return the figures of this moment."""
        return Vitals(
            uptime_s=time.clock_gettime(time.CLOCK_BOOTTIME),
            cpu_ratio=min(1.0, psutil.cpu_percent() / 100),
            memory_available_bytes=psutil.virtual_memory().available,
            disk_free_bytes=_disk_free_bytes(self._state_dir),
            supervisor_rss_bytes=self._process.memory_info().rss,
            temperature_c=_temperature_c(),
            is_throttled=self._throttling.is_throttled(),
            clock=clock_quality(),
        )


def _disk_free_bytes(directory: Path) -> int:
    """Return what is free where a directory is; 0 where the disk does not say, since nothing can be written."""
    try:
        return int(psutil.disk_usage(str(directory)).free)
    except OSError:
        return 0


def architecture() -> str:
    """Return the machine's architecture, such as x86_64 or aarch64."""
    return platform.machine()


def core_count() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0))


def memory_bytes() -> int:
    """Return the machine's memory."""
    return int(psutil.virtual_memory().total)


def pss_bytes(pid: int | None) -> int:
    """Return the proportional memory of a process of ours; 0 where it is gone or the kernel is mute."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        return next(int(line.split()[1]) * 1024 for line in text.splitlines() if "Pss:" in line[:4])
    except (OSError, ValueError, LookupError, StopIteration):
        return 0


def _temperature_c() -> float | None:
    """Return the hottest reading of the kernel's thermal zones, or None without any."""
    readings: list[float] = []
    for path in Path("/sys/class/thermal").glob("thermal_zone*/temp"):
        try:
            readings.append(int(path.read_text()) / 1000)
        except (OSError, ValueError):
            continue
    return max(readings, default=None)
