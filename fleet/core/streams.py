"""From windows to findings: every stream of a release is judged, and what drifted is traced to its cause.

A *stream* is what one device, one group of devices, or all of them answered, over time. Pure: the
alarms that lasted before come in, those that last now go out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from .drift import (
    HISTORY,
    Alarm,
    History,
    Level,
    Reference,
    Verdict,
    chance_per_test,
    follow,
    judge,
)
from .localise import MIN_TOGETHER, Finding, Part, by_cause, localise
from .windows import NO_BLOCKS, WindowSums

MAX_WINDOW_ROWS: Final = 10**12
"""Of one device in a slot. A window that claims more is not judged; those of 100,000 devices in a stretch
of 64 add up to less than an integer of 64 bits holds."""

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


class Stream(NamedTuple):
    """One column of what is judged: `who` is a device's id, "key=value", or empty for the fleet."""

    level: Level
    who: str
    column: int


@dataclass(frozen=True, slots=True)
class Slot:
    """What one device answered in one slot."""

    start_unix_ms: int
    sums: WindowSums


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that is judged of one release.

    Attributes:
        names: Of the columns.
        references: Theirs; None where the baseline has nothing to hold a column against.
        slots: Of each device, oldest first.
        groups: The tags of each device, as "key=value".
        serving: The devices that have the release active, whether or not they send.
    """

    names: Sequence[str]
    references: Sequence[Reference | None]
    slots: Mapping[str, Sequence[Slot]]
    groups: Mapping[str, frozenset[str]]
    serving: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Budget:
    """How many false alarms there may be, and among how many streams of columns in the whole fleet.

    Attributes:
        alarms_per_30_days: Together.
        window_s: How long a slot is.
        streams: By level; a column of a device's release is one.
    """

    alarms_per_30_days: float
    window_s: float
    streams: Mapping[Level, int]

    def chance(self, level: Level) -> float:
        """Return the chance that one test at a level may have to be a false alarm."""
        return chance_per_test(
            level,
            self.streams.get(level, 1),
            1,
            alarms_per_30_days=self.alarms_per_30_days,
            window_s=self.window_s,
        )


@dataclass(frozen=True, slots=True)
class Judged:
    """What came of it.

    Attributes:
        alarms: Those that last.
        findings: What they are traced to, the widest first.
    """

    alarms: Mapping[Stream, Alarm]
    findings: tuple[Finding, ...]


def members(evidence: Evidence) -> dict[tuple[Level, str], tuple[str, ...]]:
    """Return the devices of everything that is judged together: each one, groups, and all."""
    return _together(evidence.slots, evidence.groups)


def _together(
    names: Iterable[str], groups: Mapping[str, frozenset[str]]
) -> dict[tuple[Level, str], tuple[str, ...]]:
    devices = tuple(sorted(names))
    found: dict[tuple[Level, str], tuple[str, ...]] = {
        (Level.DEVICE, device): (device,) for device in devices
    }
    by_group: dict[str, list[str]] = {}
    for device in devices:
        for group in groups.get(device, ()):
            by_group.setdefault(group, []).append(device)
    for group, own in sorted(by_group.items()):
        if MIN_TOGETHER <= len(own) < len(devices):
            found[Level.GROUP, group] = tuple(own)
    if len(devices) > 1:
        found[Level.FLEET, ""] = devices
    return found


def stream_counts(evidence: Iterable[Evidence]) -> dict[Level, int]:
    """Return how many columns of streams all releases have, by level; see `Budget`."""
    counts = dict.fromkeys(Level, 0)
    for one in evidence:
        judged = sum(reference is not None for reference in one.references)
        for level, _ in members(one):
            counts[level] += judged
    return counts


def total(judged: Iterable[Judged]) -> Judged:
    """Return what came of all columns of a release; one cause of several is one finding."""
    parts = list(judged)
    alarms = {stream: alarm for part in parts for stream, alarm in part.alarms.items()}
    return Judged(alarms, by_cause(finding for part in parts for finding in part.findings))


def by_column(
    evidence: Evidence, alarms: Mapping[Stream, Alarm], newest: int, budget: Budget
) -> Iterator[Judged]:
    """Judge all streams that have rows in the newest slot.

    The alarms of others last while their devices have the release active: silence is no all-clear.

    Args:
        evidence: Of one release.
        alarms: Those that lasted until now.
        newest: Start of the newest slot, Unix milliseconds.
        budget: Of the whole fleet.

    Yields:
        What came of each column, so that nobody has to wait for all of them.
    """
    together = members(evidence)
    may_send = _together(evidence.serving, evidence.groups)
    for column, reference in enumerate(evidence.references):
        if reference is None:
            continue
        own = {
            device: history_of(slots, column, len(reference.counts))
            for device, slots in evidence.slots.items()
        }
        verdicts: dict[str, Verdict] = {}
        lasting = {
            stream: alarm
            for stream, alarm in alarms.items()
            if stream.column == column and (stream.level, stream.who) in may_send
        }
        for (level, who), devices in together.items():
            history = own[who] if level is Level.DEVICE else together_of([own[d] for d in devices])
            stream = Stream(level, who, column)
            if not history.starts.size or int(history.starts[-1]) != newest:
                continue
            verdict = judge(
                reference, history, budget.chance(level), is_merged=level is not Level.DEVICE
            )
            lasting.pop(stream, None)
            if (after := follow(alarms.get(stream), verdict)) is not None:
                lasting[stream] = after
            if level is Level.DEVICE:
                verdicts[who] = verdict
        yield Judged(lasting, _findings(evidence, column, own, verdicts, lasting))


def together_of(histories: Sequence[History]) -> History:
    """Return the history of several devices as one: their windows of equal times added up."""
    starts = np.unique(np.concatenate([history.starts for history in histories]))[-HISTORY:]
    cells = max(history.counts.shape[1] for history in histories)
    counts: IntArray = np.zeros((starts.size, cells), np.int64)
    blocks: FloatArray = np.zeros((starts.size, len(NO_BLOCKS)), np.float64)
    for history in histories:
        is_new = history.starts >= (starts[0] if starts.size else 0)
        places = np.searchsorted(starts, history.starts[is_new])
        np.add.at(counts, places, history.counts[is_new])
        np.add.at(blocks, places, history.blocks[is_new])
    return History(starts, counts, blocks)


def history_of(slots: Sequence[Slot], column: int, cells: int) -> History:
    """Return the newest slots of one device in which a column had rows.

    Args:
        slots: Oldest first.
        column: Its position.
        cells: How many counts divide its rows.
    """
    kept = [
        (slot.start_unix_ms, sums)
        for slot in slots
        if (sums := slot.sums.columns.get(column)) is not None
        and 0 < sum(sums.counts[:cells]) <= MAX_WINDOW_ROWS
    ][-HISTORY:]
    counts: IntArray = np.zeros((len(kept), cells), np.int64)
    for row, (_, sums) in enumerate(kept):
        head = sums.counts[:cells]
        counts[row, : len(head)] = head
    return History(
        np.array([start for start, _ in kept], np.int64),
        counts,
        np.array([sums.blocks for _, sums in kept], np.float64).reshape(-1, len(NO_BLOCKS)),
    )


def _findings(
    evidence: Evidence,
    column: int,
    own: Mapping[str, History],
    verdicts: Mapping[str, Verdict],
    lasting: Mapping[Stream, Alarm],
) -> tuple[Finding, ...]:
    reference = evidence.references[column]
    if reference is None:
        return ()
    parts = []
    for device, history in sorted(own.items()):
        if not history.starts.size:
            continue
        windows = verdicts[device].windows if device in verdicts else 1
        stretch = history.counts[-max(1, windows) :].sum(axis=0)
        parts.append(
            Part(
                device,
                evidence.groups.get(device, frozenset()),
                tuple(int(count) for count in stretch),
                lasting.get(Stream(Level.DEVICE, device, column)),
            )
        )
    parts += _silent(evidence, column, {part.device for part in parts}, lasting)
    groups = {
        stream.who: alarm
        for stream, alarm in lasting.items()
        if stream.level is Level.GROUP and stream.column == column
    }
    fleet = lasting.get(Stream(Level.FLEET, "", column))
    return localise(evidence.names[column], reference.counts, parts, fleet, groups)


def _silent(
    evidence: Evidence, column: int, heard: set[str], lasting: Mapping[Stream, Alarm]
) -> Iterator[Part]:
    """Yield the devices without rows that an alarm is about: their own, or one of what is silent as a whole.

    Where nobody has rows these are all, so that silence does not make a part of the fleet the whole.
    """
    reference = evidence.references[column]
    nothing = (0,) * (len(reference.counts) if reference is not None else 0)
    speaking = {group for device in heard for group in evidence.groups.get(device, ())}
    for device in sorted(evidence.serving - heard):
        groups = evidence.groups.get(device, frozenset())
        alarm = lasting.get(Stream(Level.DEVICE, device, column))
        is_meant = (
            alarm is not None
            or any(Stream(Level.GROUP, name, column) in lasting for name in groups - speaking)
            or (lasting and not heard)
        )
        if is_meant:
            yield Part(device, groups, nothing, alarm)
