"""Whether the processors are slowed down by heat or by a weak supply."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

_PI_NOW: Final = 0b1111
"""Under-voltage, frequency capped, throttled, soft temperature limit; as the Raspberry Pi's firmware
numbers them for this moment (`vcgencmd get_throttled`). Higher bits are of the time since its start."""
_COOLING: Final = ("processor", "cpufreq", "thermal-cpufreq", "thermal-cpu")
"""How kernels name the cooling devices that slow a processor; fans are cooling devices, too."""


class Throttling:
    """Reads what the kernel tells of it; remembers counts, so that a look covers the time since the last."""

    def __init__(self, sysfs: Path = Path("/sys")) -> None:
        self._sysfs = sysfs
        self._count = self._throttle_count()

    def is_throttled(self) -> bool | None:
        """Return whether processors are, or were since the last look, slowed; None where nothing tells."""
        count, before = self._throttle_count(), self._count
        self._count = count
        said = [
            *self._by_firmware(),
            *self._by_cooling(),
            *(() if count is None or before is None else (count > before,)),
        ]
        return any(said) if said else None

    def _by_firmware(self) -> Iterator[bool]:
        for path in self._sysfs.glob("devices/platform/soc/soc:firmware/get_throttled"):
            for value in _numbers([path], 16):
                yield bool(value & _PI_NOW)

    def _by_cooling(self) -> Iterator[bool]:
        for device in self._sysfs.glob("class/thermal/cooling_device*"):
            try:
                kind = (device / "type").read_text().strip().lower()
            except (OSError, ValueError):
                continue
            if kind.startswith(_COOLING):
                yield from (value > 0 for value in _numbers([device / "cur_state"], 10))

    def _throttle_count(self) -> int | None:
        """Return how often Intel's processors throttled since the start, over cores and packages."""
        found = list(
            _numbers(
                self._sysfs.glob("devices/system/cpu/cpu*/thermal_throttle/*_throttle_count"), 10
            )
        )
        return sum(found) if found else None


def _numbers(paths: Iterable[Path], base: int) -> Iterator[int]:
    for path in paths:
        try:
            yield int(path.read_text(), base)
        except (OSError, ValueError):
            continue
