"""Where a drift is: the world, a group, or one device. One cause is one finding.

A column that drifted on most devices is the fleet's, whatever else drifted with it. Of what is
left, a group explains its devices when more of them drifted than chance would put there, or all of
them did. What no group explains is a device's own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median_low
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import special

from .drift import Alarm, Level
from .shift_test import TOLERANCE, harmonic_rows, pooled, statistic

MIN_TOGETHER: Final = 3
"""Drifted devices that make a group's or the fleet's; two can be a coincidence."""

ENRICHMENT: Final = 1e-3
"""Chance, over all groups together, of so many of the drifted devices in one of them."""


@dataclass(frozen=True, slots=True)
class Part:
    """One device's share in what is known of a column.

    Attributes:
        device: Its id.
        groups: Its tags, as "key=value".
        counts: Of its newest stretch, one per cell of the reference; zeros of one that is silent.
        alarm: Its own, or None.
    """

    device: str
    groups: frozenset[str]
    counts: tuple[int, ...]
    alarm: Alarm | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """One cause, as data.

    Attributes:
        level: Whose it is.
        who: A device's id, a group as "key=value", or empty for the fleet.
        features: The columns that drifted.
        since_unix_ms: When it began, to a window.
        drifted: Devices with an alarm of their own; 0 where it shows only in all together.
        devices: All that were judged in `who`.
    """

    level: Level
    who: str
    features: tuple[str, ...]
    since_unix_ms: int
    drifted: int
    devices: int


def localise(
    feature: str,
    reference: Sequence[int],
    parts: Sequence[Part],
    fleet: Alarm | None,
    groups: Mapping[str, Alarm],
) -> tuple[Finding, ...]:
    """Return whose the drift of one column is, the widest first; without an alarm nothing.

    Args:
        feature: The column.
        reference: Its counts.
        parts: Of the devices that could be judged.
        fleet: The alarm of all of them merged.
        groups: The alarms of groups merged, by "key=value".
    """
    drifted = [part for part in parts if part.alarm is not None]
    if _is_everywhere(reference, parts, drifted, fleet):
        since = _since(drifted, fleet)
        return (Finding(Level.FLEET, "", (feature,), since, len(drifted), len(parts)),)
    findings: list[Finding] = []
    left = list(parts)
    while (name := _most_enriched(left)) is not None:
        own = [part for part in parts if name in part.groups]
        moved = [part for part in left if name in part.groups and part.alarm is not None]
        since = _since(moved, groups.get(name))
        findings.append(Finding(Level.GROUP, name, (feature,), since, len(moved), len(own)))
        left = [part for part in left if part not in moved]
    findings += _hidden(feature, reference, left, groups, {finding.who for finding in findings})
    findings += [
        Finding(Level.DEVICE, part.device, (feature,), part.alarm.since_unix_ms, 1, 1)
        for part in sorted(left, key=lambda part: part.device)
        if part.alarm is not None
    ]
    return tuple(findings)


def by_cause(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Return findings with those of the same level and `who` as one, the widest level first."""
    causes: dict[tuple[Level, str], Finding] = {}
    for finding in findings:
        seen = causes.setdefault((finding.level, finding.who), finding)
        if seen is not finding:
            causes[finding.level, finding.who] = replace(
                seen,
                features=tuple(dict.fromkeys(seen.features + finding.features)),
                since_unix_ms=min(seen.since_unix_ms, finding.since_unix_ms),
                drifted=max(seen.drifted, finding.drifted),
                devices=max(seen.devices, finding.devices),
            )
    order = list(Level)
    return tuple(sorted(causes.values(), key=lambda f: (order.index(f.level), f.who)))


def worded(finding: Finding, since: str) -> str:
    """Return a finding in words, such as "12 of 300 devices in site=lab, feature temp_c, since
    14:10".

    Args:
        finding: What to say.
        since: When it began, as its reader writes an instant.
    """
    match finding.level:
        case Level.DEVICE:
            who = f"device {finding.who}"
        case Level.GROUP if finding.drifted:
            who = f"{finding.drifted} of {finding.devices} devices in {finding.who}"
        case Level.GROUP:
            who = f"{finding.devices} devices in {finding.who} together, no single one"
        case _ if finding.drifted:
            who = f"the whole fleet, {finding.drifted} of {finding.devices} devices"
        case _:
            who = f"the whole fleet of {finding.devices} devices together, no single one"
    named = ", ".join(finding.features[:3])
    more = f" and {len(finding.features) - 3} more" if len(finding.features) > 3 else ""
    plural = "features" if len(finding.features) > 1 else "feature"
    return f"{who}, {plural} {named}{more}, since {since}"


def _is_everywhere(
    reference: Sequence[int], parts: Sequence[Part], drifted: list[Part], fleet: Alarm | None
) -> bool:
    """Whether most devices drifted, or the merged fleet did and not by its drifted devices alone."""
    if len(drifted) >= MIN_TOGETHER and 2 * len(drifted) > len(parts):
        return True
    if fleet is None:
        return False
    named = {part.device for part in drifted}
    # One group's own shift must not count as the fleet's: neither may the others of that group.
    suspects = {name for part in drifted for name in part.groups if _share(name, parts) > 0.5}
    rest = [p for p in parts if p.device not in named and not (suspects & p.groups)]
    return not drifted or _is_shifted(reference, rest)


def _share(name: str, parts: Sequence[Part]) -> float:
    own = [part for part in parts if name in part.groups]
    return sum(part.alarm is not None for part in own) / len(own)


def _hidden(
    feature: str,
    reference: Sequence[int],
    parts: Sequence[Part],
    groups: Mapping[str, Alarm],
    named: set[str],
) -> list[Finding]:
    """Return groups in alarm whose devices are too little shifted for alarms of their own."""
    found = []
    for name in sorted(set(groups) - named):
        own = [part for part in parts if name in part.groups]
        quiet = [part for part in own if part.alarm is None]
        if _is_shifted(reference, quiet):
            since = groups[name].since_unix_ms
            found.append(Finding(Level.GROUP, name, (feature,), since, 0, len(own)))
    return found


def _is_shifted(reference: Sequence[int], parts: Sequence[Part]) -> bool:
    """Whether devices together are further from the reference than the tolerance, as estimated.

    Of those that are silent all that is known is the alarm, which lasts.
    """
    if not parts:
        return False
    cells = np.asarray(reference, dtype=np.float64)
    counts = np.sum([part.counts for part in parts], axis=0)
    n, m = float(cells.sum()), float(counts.sum())
    if n <= 0:
        return False
    if m <= 0:
        return True
    both = pooled(cells, counts, n + m)
    value = float(statistic(both[0], both[1], n, m))
    return bool((value - (both.shape[1] - 1)) / harmonic_rows(n, m) > TOLERANCE)


def _most_enriched(parts: Sequence[Part]) -> str | None:
    """Return the group that has most more of the drifted devices than its size explains."""
    drifted = sum(part.alarm is not None for part in parts)
    names = sorted({name for part in parts for name in part.groups})
    best: tuple[float, int, str] | None = None
    for name in names:
        own = [part for part in parts if name in part.groups]
        inside = sum(part.alarm is not None for part in own)
        if inside < MIN_TOGETHER or len(own) == len(parts):
            continue
        chance = len(names) * _at_least(inside, drifted, len(own), len(parts))
        # All of a group are its own even in a fleet too small to tell that from chance.
        if (chance < ENRICHMENT or inside == len(own)) and (
            best is None or (chance, len(own), name) < best
        ):
            best = (chance, len(own), name)
    return None if best is None else best[2]


def _at_least(inside: int, drifted: int, size: int, total: int) -> float:
    """Return the chance that `inside` or more of `drifted` devices are in a group of `size`.

    Of `total` in all: Fisher's exact test, one-sided.
    """
    numbers = np.arange(inside, min(drifted, size) + 1)
    logs = (
        _log_choose(size, numbers)
        + _log_choose(total - size, drifted - numbers)
        - _log_choose(total, np.asarray(drifted))
    )
    return float(np.exp(logs).sum())


def _log_choose(total: int, numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    with np.errstate(invalid="ignore"):
        logs = -np.log(total + 1) - special.betaln(total - numbers + 1.0, numbers + 1.0)
    return np.where((numbers >= 0) & (numbers <= total), logs, -np.inf)


def _since(moved: Sequence[Part], alarm: Alarm | None) -> int:
    """Return when most of them had begun; of all together where no single one moved."""
    starts = [part.alarm.since_unix_ms for part in moved if part.alarm is not None]
    if starts:
        return median_low(starts)
    return alarm.since_unix_ms if alarm is not None else 0
