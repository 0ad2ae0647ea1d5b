"""The trial of a release as a shadow, before the first phase: what was compared, and what that proves.

Agreement is a share of rows, and its bounds are those of Clopper and Pearson (Biometrika 26, 1934), exact
for rows that are independent. Rows of one sensor are not quite: leave room in the limit for that.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

from wire.latency import padded
from wire.lifecycle import Code
from wire.messages import MAX_INTEGER
from wire.shadow import ShadowTelemetry

from .states import (
    Command,
    DeviceEvidence,
    Rollout,
    Shade,
    ShadowRule,
    ShadowTrial,
    Unshade,
)

ALPHA: Final = 0.05
"""Chance of a bound that is wrong, at the end of the trial: one look."""
EARLY_ALPHA: Final = 1e-4
"""The same at each look before: a trial of an hour is looked at with new rows 240 times."""
MAX_LABELS: Final = 100
"""Labels told apart in a sum; the rows of all others are added up under an empty one."""
DEVICE_FAULTS: Final[frozenset[str]] = frozenset(
    {
        Code.SHADOW_NO_ROOM,
        Code.DISK_FULL,
        Code.DISK_BUDGET,
        Code.STORAGE_ERROR,
        Code.CONTENT_CORRUPT,
        Code.START_FAILED,
    }
)
"""Codes of a shadow that failed by no fault of the release: it is not held against it."""


class Counts(NamedTuple):
    """Rows compared on all devices of a trial, and those in which both releases agreed."""

    row_count: int = 0
    agree_count: int = 0


NONE: Final = Counts()


@dataclass(frozen=True, slots=True)
class Wait:
    """The trial goes on; `reason` says how."""

    reason: str


@dataclass(frozen=True, slots=True)
class Passed:
    """The agreement is proven."""


@dataclass(frozen=True, slots=True)
class Stop:
    """The rollout ends: halted on proof against the release, inconclusive without proof."""

    is_proven: bool
    reason: str


Verdict = Wait | Passed | Stop


@dataclass(frozen=True, slots=True)
class ShadowSums:
    """What one or more windows of a shadow add up to; memory is the largest seen, bytes.

    `classes` is by the active release's label: rows, and those that disagree. Latencies are counts over
    the bins of `wire.latency`, or empty.
    """

    row_count: int = 0
    agree_count: int = 0
    refused_count: int = 0
    failed_count: int = 0
    sampled_count: int = 0
    dropped_count: int = 0
    classes: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    active_latency: tuple[int, ...] = ()
    shadow_latency: tuple[int, ...] = ()
    active_pss_bytes: int = 0
    shadow_pss_bytes: int = 0


def of_record(record: ShadowTelemetry) -> ShadowSums:
    """Return the sums of one record; what is more than the whole of it is cut."""
    rows = record.row_count
    return ShadowSums(
        row_count=rows,
        agree_count=min(record.agree_count, rows),
        refused_count=min(record.refused_count, rows),
        failed_count=min(record.failed_count, rows),
        sampled_count=record.sampled_count,
        dropped_count=record.dropped_count,
        classes=_classes((c.label, c.row_count, c.disagree_count) for c in record.classes),
        active_latency=padded(record.active_latency),
        shadow_latency=padded(record.shadow_latency),
        active_pss_bytes=record.active_pss_bytes,
        shadow_pss_bytes=record.shadow_pss_bytes,
    )


def merged(first: ShadowSums, second: ShadowSums) -> ShadowSums:
    """Return the sum of both."""
    both = [
        (label, rows, disagreed)
        for sums in (first, second)
        for label, (rows, disagreed) in sums.classes.items()
    ]
    return ShadowSums(
        row_count=_add(first.row_count, second.row_count),
        agree_count=_add(first.agree_count, second.agree_count),
        refused_count=_add(first.refused_count, second.refused_count),
        failed_count=_add(first.failed_count, second.failed_count),
        sampled_count=_add(first.sampled_count, second.sampled_count),
        dropped_count=_add(first.dropped_count, second.dropped_count),
        classes=_classes(both),
        active_latency=_added(first.active_latency, second.active_latency),
        shadow_latency=_added(first.shadow_latency, second.shadow_latency),
        active_pss_bytes=max(first.active_pss_bytes, second.active_pss_bytes),
        shadow_pss_bytes=max(first.shadow_pss_bytes, second.shadow_pss_bytes),
    )


def bounds(counts: Counts, alpha: float) -> tuple[float, float]:
    """Return the one-sided lower and upper bound of the true agreement, each wrong with chance `alpha`.

    Args:
        counts: What was compared; of no rows the bounds are 0 and 1.
        alpha: Above 0, below 1.
    """
    from scipy import special  # the controller starts without it

    rows, agreed = counts
    disagreed = rows - agreed
    low = float(special.betaincinv(agreed, disagreed + 1, alpha)) if agreed else 0.0
    high = float(special.betaincinv(agreed + 1, disagreed, 1 - alpha)) if disagreed else 1.0
    return low, high


def rows_needed(rule: ShadowRule) -> int:
    """Return how many rows a trial needs: of fewer not even a full agreement proves enough."""
    proving = math.ceil(math.log(ALPHA) / math.log(rule.min_agreement) * (1 - 1e-12))
    return max(rule.min_rows, proving)


def begin(
    rollout: Rollout, evidence: Mapping[str, DeviceEvidence], now: int
) -> tuple[Rollout, tuple[Command, ...]]:
    """Open the trial on those devices of the first phase that serve another release, confirmed."""
    if rollout.shadow is None:
        return rollout, ()
    commands = tuple(
        Shade(member.device, seen.next_generation)
        for member in rollout.members
        if member.phase == 0
        and member.state == "waiting"
        and (seen := evidence.get(member.device)) is not None
        and seen.active not in (None, rollout.release.manifest)
    )
    devices = tuple((command.device, command.generation) for command in commands)
    trial = replace(rollout.shadow, state="open", opened_unix_ms=now, devices=devices)
    return replace(rollout, shadow=trial), commands


def end(rollout: Rollout, now: int, *, is_passed: bool) -> Rollout:
    """Return the rollout with its trial over."""
    if rollout.shadow is None:
        return rollout
    trial = replace(rollout.shadow, state="passed" if is_passed else "stopped", closed_unix_ms=now)
    return replace(rollout, shadow=trial)


def withdrawals(rollout: Rollout, evidence: Mapping[str, DeviceEvidence]) -> tuple[Unshade, ...]:
    """Return what ends the shadows of an open trial, on the devices that are still the rollout's."""
    trial = rollout.shadow
    if trial is None or trial.state != "open":
        return ()
    shaded = {device for device, _ in trial.devices}
    return tuple(
        Unshade(member.device)
        for member in rollout.members
        if member.device in shaded and member.state == "waiting" and member.device in evidence
    )


def judge(
    rollout: Rollout,
    trial: ShadowTrial,
    evidence: Mapping[str, DeviceEvidence],
    counts: Counts,
    now: int,
) -> Verdict:
    """Return what the trial says by now.

    A shadow that failed on more devices than the rollout tolerates stops it at once, and so does an
    agreement that is surely too low. Everything else waits for the end of the trial.
    """
    if not any(m.phase == 0 and m.state == "waiting" for m in rollout.members):
        return Passed()  # all of them run the release already
    if not trial.devices:
        text = f"shadow: no device of the first phase serves a confirmed release of {rollout.model}"
        return Stop(is_proven=False, reason=f"{text} to compare with")
    failed = _failed(rollout, trial, evidence)
    faults = {device: code for device, code in failed.items() if code not in DEVICE_FAULTS}
    if len(faults) > rollout.tolerance:
        named = ", ".join(f"{device} ({code})" for device, code in sorted(faults.items())[:3])
        more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
        return Stop(is_proven=True, reason=f"shadow: failed on {named}{more}")
    rule = trial.rule
    wanted = f"at least {rule.min_agreement:g} wanted"
    shown = f"{counts.agree_count} of {counts.row_count} rows agree"
    _, surely_below = bounds(counts, EARLY_ALPHA)
    if surely_below < rule.min_agreement:
        return Stop(is_proven=True, reason=f"shadow: {shown}, at most {surely_below:.4f}; {wanted}")
    is_over = now - (trial.opened_unix_ms or 0) >= rule.duration_s * 1000
    if not is_over and len(failed) < len(trial.devices):
        where = "1 device" if len(trial.devices) == 1 else f"{len(trial.devices)} devices"
        return Wait(f"shadow: compared on {where} for {rule.duration_s:g} s; {wanted}")
    if counts.row_count < (needed := rows_needed(rule)):
        why = _absent(rollout, trial, evidence, failed)
        return Stop(
            is_proven=False, reason=f"shadow: too few rows, {counts.row_count} of {needed}{why}"
        )
    low, high = bounds(counts, ALPHA)
    if low >= rule.min_agreement:
        return Passed()
    if high < rule.min_agreement:
        return Stop(is_proven=True, reason=f"shadow: {shown}, at most {high:.4f}; {wanted}")
    return Stop(
        is_proven=False,
        reason=f"shadow: undecided, {shown}, between {low:.4f} and {high:.4f}; {wanted}",
    )


def _failed(
    rollout: Rollout, trial: ShadowTrial, evidence: Mapping[str, DeviceEvidence]
) -> dict[str, str]:
    """Return the devices whose shadow has failed, and why."""
    found = {}
    for device, generation in trial.devices:
        seen = evidence.get(device)
        if seen is None or seen.reported_generation < generation or seen.shadow is None:
            continue
        if seen.shadow.manifest == rollout.release.manifest and seen.shadow.state == "failed":
            found[device] = seen.shadow.code or "failed"
    return found


def _absent(
    rollout: Rollout,
    trial: ShadowTrial,
    evidence: Mapping[str, DeviceEvidence],
    failed: Mapping[str, str],
) -> str:
    """Return, as the end of a sentence, why rows may be missing."""
    old = [
        device
        for device, generation in trial.devices
        if (seen := evidence.get(device)) is not None
        and seen.reported_generation >= generation
        and (seen.shadow is None or seen.shadow.manifest != rollout.release.manifest)
    ]
    words = [f"{device} ({code})" for device, code in sorted(failed.items())[:3]]
    words += [f"{device} runs an agent that knows no shadows" for device in sorted(old)[:3]]
    return f"; {', '.join(words)}" if words else ""


def _add(first: int, second: int) -> int:
    """Return the sum, at most what every reader keeps exact: a device may say anything."""
    return min(MAX_INTEGER, first + second)


def _added(first: tuple[int, ...], second: tuple[int, ...]) -> tuple[int, ...]:
    if not first or not second:
        return first or second
    return tuple(_add(a, b) for a, b in zip(first, second, strict=True))


def _classes(said: Iterable[tuple[str, int, int]]) -> dict[str, tuple[int, int]]:
    found: dict[str, tuple[int, int]] = {}
    for label, rows, disagreed in said:
        place = label if label in found or len(found) < MAX_LABELS else ""
        before = found.get(place, (0, 0))
        found[place] = _add(before[0], rows), _add(before[1], min(disagreed, rows))
    return found
