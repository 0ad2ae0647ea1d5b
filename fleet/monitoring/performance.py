"""How right a model's releases were, by the labels that came and by the scores, out of the store."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import reduce
from typing import TYPE_CHECKING

from fleet.api.performance_schemas import (
    Errors,
    Estimated,
    PerformanceReport,
    Refusals,
    ReleasePerformance,
)
from fleet.core import cbpe, performance
from fleet.core.performance import Interval, PerformanceSums
from fleet.core.windows import WindowSums, merged
from fleet.store.devices import Selection
from fleet.store.releases import ReleaseRow
from fleet.store.store import Tx
from wire.errors import ModelfleetError
from wire.manifest import parse_manifest
from wire.performance import confusion_side

if TYPE_CHECKING:
    from wire.histogram import Baseline

    from .windows import WindowKeeper

OTHER = "(other)"


@dataclass(slots=True)
class _Device:
    answered: WindowSums = field(default_factory=WindowSums)
    labelled: PerformanceSums = field(default_factory=PerformanceSums)


def report(
    tx: Tx,
    keeper: WindowKeeper,
    head: PerformanceReport,
    selection: Selection,
    *,
    version: str | None,
    group: str | None,
) -> PerformanceReport:
    """Fill in how right each release was that answered or got labels in the report's span.

    Args:
        tx: The store.
        keeper: Has the baselines.
        head: Says which model, and since when.
        selection: The devices.
        version: This release only, whether or not it did.
        group: Key of a tag; a row for each of its values too.
    """
    since, until = head.since_unix_ms, head.until_unix_ms + 1
    seen = {*tx.windows.manifests(since, until), *tx.performance.manifests(since, until)}
    tags = tx.devices.tags(selection) if group is not None else {}
    values = {device: own[group] for device, own in tags.items() if group in own}
    for release in tx.releases.by_model(head.model):
        if release.version == version or (version is None and release.manifest in seen):
            devices = _devices(tx, release.manifest, selection, since, until)
            head.releases += _rows(keeper, release, devices, group, values)
    return head


def _devices(
    tx: Tx, manifest: str, selection: Selection, since: int, until: int
) -> dict[str, _Device]:
    found: dict[str, _Device] = {}
    span = {"since_unix_ms": since, "until_unix_ms": until}
    for window in tx.windows.rows(manifest, selection, **span):
        device = found.setdefault(window.device, _Device())
        # Of the columns nothing is asked here.
        sums = WindowSums(window.sums.row_count, {}, window.sums.scores)
        device.answered = merged(device.answered, sums)
    for slot in tx.performance.rows(manifest, selection, **span):
        device = found.setdefault(slot.device, _Device())
        device.labelled = performance.merged(device.labelled, slot.sums)
    return found


def _rows(
    keeper: WindowKeeper,
    release: ReleaseRow,
    devices: Mapping[str, _Device],
    key: str | None,
    values: Mapping[str, str],
) -> Iterator[ReleasePerformance]:
    try:
        baseline = keeper.baselines.of(release)
    except ModelfleetError:
        baseline = None  # the keeper tells of it when windows come
    yield _row(release, baseline, "", list(devices.values()))
    for value in sorted({values[device] for device in devices if device in values}):
        members = [sums for device, sums in devices.items() if values.get(device) == value]
        yield _row(release, baseline, f"{key}={value}", members)


def _row(
    release: ReleaseRow, baseline: Baseline | None, group: str, devices: list[_Device]
) -> ReleasePerformance:
    answered = reduce(merged, (device.answered for device in devices), WindowSums())
    sums = reduce(performance.merged, (device.labelled for device in devices), PerformanceSums())
    expected = _estimate(baseline, answered)
    is_measured = sums.labelled_count > 0
    classes = _classes(release, baseline)
    confusion = performance.confusion_rows(sums, confusion_side(len(classes)))
    basis = "measured" if is_measured else "none" if expected.accuracy is None else "estimate"
    refused = sums.refused
    return ReleasePerformance(
        version=release.version,
        manifest=release.manifest,
        group=group,
        device_count=len(devices),
        row_count=answered.row_count,
        labelled_count=sums.labelled_count,
        basis=basis,
        accuracy=_shown(performance.accuracy(sums)),
        errors=_errors(sums),
        calibration_error=performance.calibration_error(sums),
        classes=[*classes[: len(confusion) - 1], OTHER] if confusion else [],
        confusion=[list(cells) for cells in confusion],
        refused=Refusals(
            unknown_id=refused.unknown_id,
            already_labelled=refused.already_labelled,
            wrong_type=refused.wrong_type,
            other_version=refused.other_version,
        ),
        estimate=None if is_measured else _shown(expected.accuracy),
        estimate_verdict="replaced" if is_measured else expected.verdict,
    )


def _estimate(baseline: Baseline | None, answered: WindowSums) -> cbpe.Estimate:
    if baseline is None:
        return cbpe.estimate(answered.scores, (), row_count=answered.row_count)
    return cbpe.estimate(
        answered.scores,
        cbpe.calibrate(baseline.scores, baseline.score_correct),
        row_count=answered.row_count,
        has_scores=bool(baseline.probabilities),
    )


def _classes(release: ReleaseRow, baseline: Baseline | None) -> tuple[str, ...]:
    from wire.histogram import class_names

    if baseline is None:
        return ()
    return class_names(parse_manifest(release.manifest_body.encode()).outputs, baseline)


def _errors(sums: PerformanceSums) -> Errors | None:
    found = performance.regression(sums)
    if found is None:
        return None
    return Errors(
        mean=_estimated(found.mean),
        mean_absolute=_estimated(found.absolute),
        root_mean_square=found.root_mean_square,
    )


def _shown(interval: Interval | None) -> Estimated | None:
    return None if interval is None else _estimated(interval)


def _estimated(interval: Interval) -> Estimated:
    return Estimated(value=interval.value, low=interval.low, high=interval.high)
