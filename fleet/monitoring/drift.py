"""Watches the windows of the fleet for drift, slot by slot, in a thread of its own.

What is open is in the store: a controller that is killed goes on where it was, and judges the slots
that ended meanwhile.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, ParamSpec, Self, TypeVar

from fleet.alerts.watch import Finding, Watch
from fleet.store.devices import Selection
from fleet.store.drift import FindingRow
from fleet.store.journal import EventRow
from fleet.store.releases import ReleaseRow
from fleet.store.store import Store, Tx
from wire.errors import ModelfleetError, StorageError

from .windows import WindowKeeper

if TYPE_CHECKING:
    from fleet.core import localise
    from fleet.core.drift import Alarm
    from fleet.core.streams import Budget, Evidence, Judged, Stream
    from wire.histogram import Baseline

log = logging.getLogger(__name__)

P = ParamSpec("P")
ResultT = TypeVar("ResultT")

LOOK_S: Final = 1.0
LATE_MS: Final = 60_000
"""How long after its end a slot is waited for, at most: windows come within seconds as a rule."""
MAX_CATCH_UP: Final = 4
"""Slots that are judged one by one after a pause; of a longer one, the newest alone."""
MAX_TEXT_CHARS: Final = 300
NOT_SERVED: Final = "no device serves it any more"


@dataclass(frozen=True, slots=True)
class DriftSettings:
    """How drift is watched for.

    Attributes:
        slot_s: How long a slot is, seconds; what devices have as `[telemetry] window_s`.
        alarms_per_30_days: How many false alarms there may be, in the whole fleet.
        is_on: Whether it is.
    """

    slot_s: float = 900.0
    alarms_per_30_days: float = 1.0
    is_on: bool = True

    @property
    def slot_ms(self) -> int:
        """The same in milliseconds."""
        return max(1000, int(self.slot_s * 1000))


class DriftWatch:
    """See the module. `look` is one round."""

    def __init__(
        self,
        store: Store,
        keeper: WindowKeeper,
        clock: Callable[[], int],
        settings: DriftSettings,
        alerts: Watch | None = None,
    ) -> None:
        self._store = store
        self._keeper = keeper
        self._clock = clock
        self._settings = settings
        self._alerts = alerts or Watch()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="drift", daemon=True)
        self._judged_unix_ms: int | None = None
        self._has_failed = False

    def __enter__(self) -> Self:
        """Begin to watch, or end what an earlier watch found, if that is off."""
        if self._settings.is_on:
            self._thread.start()
            return self
        try:
            with self._store.write() as tx:
                self._give_up(tx, self._clock())
        except StorageError as exc:
            log.error("what drift was found cannot be closed: %s; %s", exc, exc.hint)  # noqa: TRY400
        return self

    def __exit__(self, *_: object) -> None:
        """End after the column under way."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._stopping.wait(LOOK_S):
            try:
                self.look()
                self._has_failed = False
            except StorageError as exc:
                if not self._has_failed:
                    log.error("drift is not judged now: %s; %s", exc, exc.hint)  # noqa: TRY400
                self._has_failed = True
            except Exception:
                # Our bug: the controller goes on, and says so.
                log.exception("drift could not be judged; it is tried again in a minute")
                self._stopping.wait(60)

    def look(self) -> bool:
        """Judge the slots that have ended and are not judged yet; return whether there was one."""
        slot_ms = self._settings.slot_ms
        now = self._clock()
        ended = (now - min(LATE_MS, slot_ms // 5)) // slot_ms * slot_ms
        if self._judged_unix_ms is None:
            with self._store.read() as tx:
                self._judged_unix_ms = tx.drift.judged_unix_ms() or ended - slot_ms
        if self._judged_unix_ms > now:
            self._judged_unix_ms = ended  # the clock was set back
        if ended <= self._judged_unix_ms:
            return False
        first = max(self._judged_unix_ms, ended - MAX_CATCH_UP * slot_ms) + slot_ms
        for end in range(first, ended + 1, slot_ms):
            self._judge(end, now)
            self._judged_unix_ms = end
        return True

    def _judge(self, end_unix_ms: int, now: int) -> None:
        from fleet.core.drift import HISTORY
        from fleet.core.streams import Budget, stream_counts

        slot_ms = self._settings.slot_ms
        with self._store.read() as tx:
            stored = tx.drift.alarms()
            sent = tx.windows.manifests(end_unix_ms - HISTORY * slot_ms, end_unix_ms)
            # Those that fell silent too: an alarm lasts, but not beyond its device.
            manifests = sorted({*sent, *(m for m, rows in stored.items() if rows)})
            releases = [r for m in manifests if (r := tx.releases.by_manifest(m)) is not None]
            failed: dict[str, Finding] = {}
            evidence = {
                release: one
                for release in releases
                if (one := _guarded(failed, release, self._gather, tx, release, end_unix_ms))
            }
        streams = stream_counts(evidence.values())
        budget = Budget(self._settings.alarms_per_30_days, slot_ms / 1000, streams)
        judged: dict[ReleaseRow, Judged] = {}
        for release, one in evidence.items():
            rows, newest = stored.get(release.manifest, []), end_unix_ms - slot_ms
            found = _guarded(failed, release, self._judged, one, rows, newest, budget)
            if self._stopping.is_set():
                return  # the next start judges this slot
            if found is not None:
                judged[release] = found
        with self._store.write() as tx:
            ended: list[Finding] = []
            for release, result in judged.items():
                tx.drift.set_alarms(release.manifest, _as_rows(result.alarms), end_unix_ms)
                ended += _keep(tx, release, evidence[release], result.findings, now)
            ended += _close_the_unused(tx, now)
            self._alerts.report(tx, "drift", [*ended, *_as_alerts(tx), *failed.values()], now)

    def _give_up(self, tx: Tx, now: int) -> None:
        """Close all that was found: nobody would see it end."""
        why = "drift is not watched any more ([drift] is_on = false)"
        for manifest in tx.drift.alarms():
            tx.drift.drop_alarms(manifest)
        for row in tx.drift.findings():
            _close(tx, row, why, now)
        self._alerts.report(tx, "drift", (), now, over=why)

    def _judged(
        self, evidence: Evidence, stored: Sequence[Sequence[Any]], newest: int, budget: Budget
    ) -> Judged:
        """Return what came of a release; of its first columns only, when the end is asked for."""
        from fleet.core.streams import by_column, total

        parts = []
        for part in by_column(evidence, _alarms_of(stored), newest, budget):
            parts.append(part)
            if self._stopping.is_set():
                break
        return total(parts)

    def _gather(self, tx: Tx, release: ReleaseRow, end_unix_ms: int) -> Evidence | None:
        from fleet.core.drift import HISTORY

        try:
            baseline = self._keeper.baselines.of(release)
        except ModelfleetError:
            return None  # the keeper has told
        since = end_unix_ms - HISTORY * self._settings.slot_ms
        return gather(
            tx,
            release.manifest,
            baseline,
            Selection(),
            since_unix_ms=since,
            until_unix_ms=end_unix_ms,
        )


def _guarded(
    failed: dict[str, Finding],
    release: ReleaseRow,
    do: Callable[P, ResultT],
    /,
    *args: P.args,
    **more: P.kwargs,
) -> ResultT | None:
    """Return what `do` does for one release; a bug that its windows met is told, and costs no other's."""
    try:
        return do(*args, **more)
    except StorageError:
        raise
    except Exception as exc:
        name = f"{release.model}:{release.version}"
        log.exception("drift of %s could not be judged; it is tried again at the next slot", name)
        text = f"drift of {name} cannot be judged: {type(exc).__name__}: {exc}"
        subject = f"{name} not judged"
        failed[subject] = Finding(subject, is_breached=True, text=text[:MAX_TEXT_CHARS])
        return None


def gather(
    tx: Tx,
    manifest: str,
    baseline: Baseline,
    selection: Selection,
    *,
    since_unix_ms: int,
    until_unix_ms: int,
) -> Evidence:
    """Return what the selected devices answered with a release in slots that began in a span."""
    from fleet.core.drift import reference_of
    from fleet.core.streams import Evidence, Slot

    slots: dict[str, list[Slot]] = {}
    for row in tx.windows.rows(
        manifest, selection, since_unix_ms=since_unix_ms, until_unix_ms=until_unix_ms
    ):
        slots.setdefault(row.device, []).append(Slot(row.start_unix_ms, row.sums))
    serving = tx.releases.serving(manifest)
    tags = tx.devices.tags(Selection())
    columns = (*baseline.inputs, *baseline.outputs)
    return Evidence(
        names=tuple(column.name for column in columns),
        references=tuple(reference_of(column) for column in columns),
        slots=slots,
        groups={
            device: frozenset(f"{key}={value}" for key, value in tags.get(device, {}).items())
            for device in slots.keys() | serving
        },
        serving=serving,
    )


def _alarms_of(rows: Sequence[Sequence[Any]]) -> dict[Stream, Alarm]:
    from fleet.core.drift import Alarm, Level
    from fleet.core.streams import Stream

    return {
        Stream(Level(level), who, column): Alarm(since, windows, quiet)
        for level, who, column, since, windows, quiet in rows
    }


def _as_rows(alarms: Mapping[Stream, Alarm]) -> list[list[object]]:
    return [
        [str(s.level), s.who, s.column, alarm.since_unix_ms, alarm.windows, alarm.quiet]
        for s, alarm in sorted(alarms.items())
    ]


def _keep(
    tx: Tx,
    release: ReleaseRow,
    evidence: Evidence,
    found: Sequence[localise.Finding],
    now: int,
) -> list[Finding]:
    """Open, change and close the findings of a release, as they are now; return those that ended."""
    lasting = {
        (row.level, row.who): row
        for row in tx.drift.findings(model=release.model)
        if row.manifest == release.manifest
    }
    for finding in found:
        before = lasting.pop((str(finding.level), finding.who), None)
        row = FindingRow(
            model=release.model,
            manifest=release.manifest,
            level=str(finding.level),
            who=finding.who,
            features=finding.features,
            since_unix_ms=finding.since_unix_ms,
            drifted_count=finding.drifted,
            device_count=finding.devices,
            opened_unix_ms=now,
        )
        if before is None:
            tx.drift.open(row)
            _tell(tx, row, words_of(row), now)
            continue
        features = tuple(dict.fromkeys((*before.features, *row.features)))
        after = replace(
            row,
            id=before.id,
            features=features,
            since_unix_ms=min(before.since_unix_ms, row.since_unix_ms),
            opened_unix_ms=before.opened_unix_ms,
        )
        if after != before:
            tx.drift.change(after)
        if features != before.features:
            _tell(tx, after, words_of(after), now)
    return [_close(tx, row, _why_over(row, evidence), now) for row in lasting.values()]


def _why_over(row: FindingRow, evidence: Evidence) -> str:
    """Return why a finding is over where it is not by its rows."""
    if not evidence.serving:
        return NOT_SERVED
    groups = (evidence.groups.get(device, frozenset()) for device in evidence.serving)
    if row.level == "device" and row.who not in evidence.serving:
        return "the device does not serve it any more"
    if row.level == "group" and not any(row.who in own for own in groups):
        return "no device of the group serves it any more"
    return ""


def _close(tx: Tx, row: FindingRow, why: str, now: int) -> Finding:
    """Close a finding and tell; return the end of its alert."""
    tx.drift.close(row.id, now)
    _tell(tx, row, "over: " + "; ".join(filter(None, (why, words_of(row)))), now)
    return Finding(_subject_of(row), is_breached=False, text="", over=why)


def _as_alerts(tx: Tx) -> list[Finding]:
    """Return the findings that last as what is told of them; a subject is told once."""
    found: dict[str, Finding] = {}
    for row in tx.drift.findings():
        subject = _subject_of(row)
        device = row.who if row.level == "device" else None
        found.setdefault(
            subject, Finding(subject, is_breached=True, text=words_of(row), device=device)
        )
    return list(found.values())


def _subject_of(row: FindingRow) -> str:
    return f"{row.model} {row.who or 'fleet'}"


def _close_the_unused(tx: Tx, now: int) -> list[Finding]:
    """Close what was found of releases that no device serves any more; return what ended."""
    served = tx.releases.device_counts(Selection())
    for manifest in tx.drift.alarms().keys() - served.keys():
        tx.drift.drop_alarms(manifest)
    return [
        _close(tx, row, NOT_SERVED, now)
        for row in tx.drift.findings()
        if row.manifest not in served
    ]


def words_of(row: FindingRow) -> str:
    """Return a finding in words, its instant in UTC."""
    from fleet.core.drift import Level
    from fleet.core.localise import Finding as Cause
    from fleet.core.localise import worded

    finding = Cause(
        Level(row.level),
        row.who,
        row.features,
        row.since_unix_ms,
        row.drifted_count,
        row.device_count,
    )
    since = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(row.since_unix_ms / 1000))
    return worded(finding, since)


def _tell(tx: Tx, row: FindingRow, text: str, now: int) -> None:
    release = tx.releases.by_manifest(row.manifest)
    subject = f"{row.model}:{release.version}" if release else row.model
    log.warning("drift of %s: %s", subject, text)
    detail: dict[str, object] = {
        "manifest": row.manifest,
        "level": row.level,
        "who": row.who,
        "features": list(row.features),
        "since_unix_ms": row.since_unix_ms,
    }
    tx.journal.note([EventRow("drift", subject, text, detail)], now)
