"""What each rule looks at: in what was just received, and, for what expires, now and then."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from fleet.core import alerts as core
from fleet.core.counts import MAX_COUNTED
from fleet.core.performance import wilson
from fleet.evidence import Sight
from fleet.expiries import certificate_end, expiries, observer_label
from fleet.ingest import Outcome
from fleet.metrics import KNOWN_CODES, OTHER
from fleet.store.devices import BATCH, Selection
from fleet.store.store import Store, Tx
from fleet.trust.stored import load
from wire import codec
from wire import messages as m

from .watch import Finding, Watch

MINUTE_MS: Final = 60_000
REQUESTS_EVERY_MS: Final = 10_000
"""How often the share of errors is looked at; devices tell of it once a minute."""
MAX_PAGES: Final = 10
"""Pages of alerts in one tick; what is left waits for the next."""
VITALS: Final = "telemetry/vitals"
_PREDECESSORS: Final = 3
"""Newest vitals that are looked through for the one before; they may come out of order."""


def look(watch: Watch, store: Store, sight: Sight) -> None:
    """Do what a tick does for the alerts: judge those whose time has come, tell those that waited."""
    now, is_connected = sight.now_unix_ms, sight.since_unix_ms is not None
    if not 0 < watch.next_requests_unix_ms - now <= REQUESTS_EVERY_MS:
        watch.next_requests_unix_ms = now + REQUESTS_EVERY_MS
        with store.write() as tx:
            look_at_requests(watch, tx, sight)
    if not 0 < watch.next_labels_unix_ms - now <= MINUTE_MS:
        watch.next_labels_unix_ms = now + MINUTE_MS
        with store.write() as tx:
            look_at_labels(watch, tx, now)
    with store.read() as tx:
        has_more = watch.is_due(tx, now, is_connected=is_connected)
    pages = 0
    while has_more and pages < MAX_PAGES:
        pages += 1
        with store.write() as tx:
            has_more = watch.tick(tx, now, is_connected=is_connected)
        watch.committed()


def take_in(watch: Watch, tx: Tx, outcome: Outcome, now_unix_ms: int) -> None:
    """Note what a batch of deliveries says, in its transaction."""
    watch.observe(tx, "device_offline", _offline(outcome), now_unix_ms)
    alarms, gaps = [], []
    counts: dict[tuple[str, int], tuple[int, int]] = {}
    vitals: dict[str, list[m.VitalsTelemetry]] = {}
    for device, record in outcome.fresh:
        match record:
            case m.AlarmEvent():
                alarms.append(_alarm(device, record))
            case m.GapEvent(count=count):
                gaps.append(_lost(device, count))
            case m.VitalsTelemetry():
                vitals.setdefault(device, []).append(record)
            case m.InferenceTelemetry():
                _count(counts, record, now_unix_ms, int(watch.settings.error_ratio.window_s))
            case _:
                pass
    watch.pulse(tx, "device_alarm", alarms, now_unix_ms)
    newest = _newest(tx, vitals)
    for device, current in newest.items():
        gaps += _dropped(tx, device, current, vitals[device])
    watch.pulse(tx, "records_dropped", gaps, now_unix_ms)
    watch.observe(tx, "disk_low", _disks(watch, tx, newest), now_unix_ms)
    if "error_ratio" in watch.rules and counts:
        released = {key[0] for key in counts if tx.releases.by_manifest(key[0]) is not None}
        tx.alerts.add_counts({key: value for key, value in counts.items() if key[0] in released})


def _offline(outcome: Outcome) -> Iterator[Finding]:
    for event in outcome.events:
        if event.kind == "presence":
            is_gone = event.detail.get("state") == "offline"
            yield Finding(event.subject, is_gone, f"{event.subject} is offline", event.subject)


def _alarm(device: str, alarm: m.AlarmEvent) -> Finding:
    """Return what an alarm says. A code that a device made up makes no alert of its own."""
    code = alarm.code if alarm.code in KNOWN_CODES else OTHER
    text = f"{device}: {alarm.code} {alarm.detail}".rstrip()
    return Finding(f"{device}/{code}", True, text, device)


def _lost(device: str, count: int) -> Finding:
    return Finding(device, True, f"{device} lost {count:,} records", device)


def _newest(tx: Tx, vitals: Mapping[str, list[m.VitalsTelemetry]]) -> dict[str, m.VitalsTelemetry]:
    """Return the vitals that say how devices are now: the newest that there are of the current boot.

    What has waited on a device comes after what is new, and says how it was. A device that was
    never seen has only these.
    """
    ids = sorted(vitals)
    boots: dict[str, str] = {}
    for start in range(0, len(ids), BATCH):
        among = Selection(among=frozenset(ids[start : start + BATCH]))
        boots |= {device: row.boot for device, row in tx.devices.presence(among).items()}
    found = {}
    for device, records in vitals.items():
        boot = boots.get(device)
        newest = max(
            (v for v in records if boot in (None, v.boot)), key=lambda v: v.seq, default=None
        )
        if newest is None:
            continue
        (stored,) = tx.journal.of_boot(device, newest.boot, channel=VITALS, limit=1)
        if stored.key.seq == newest.seq:
            found[device] = newest
    return found


def _dropped(
    tx: Tx, device: str, newest: m.VitalsTelemetry, records: list[m.VitalsTelemetry]
) -> Iterator[Finding]:
    """Yield the loss that a device tells of, if its count has grown since the vitals before."""
    if newest.records_dropped == 0:
        return
    before = 0
    fresh = {(v.boot, v.seq) for v in records}
    for row in tx.journal.of_boot(
        device,
        newest.boot,
        channel=VITALS,
        below_seq=newest.seq,
        limit=_PREDECESSORS + len(records),
    ):
        if (row.key.boot, row.key.seq) in fresh:
            continue
        stored = codec.decode(m.VitalsTelemetry, row.body.encode())
        before = max(before, stored.records_dropped)
    if newest.records_dropped > before:
        yield _lost(device, newest.records_dropped - before)


def _disks(watch: Watch, tx: Tx, newest: Mapping[str, m.VitalsTelemetry]) -> Iterator[Finding]:
    limits = watch.settings.disk_low
    for device, vitals in newest.items():
        free = vitals.disk_free_bytes
        is_low = core.below(free, raise_at=limits.raise_bytes, clear_at=limits.clear_bytes)
        if is_low is not None:
            text = f"{device} has {free // 1_000_000:,} MB of disk left"
            yield Finding(device, is_low, text, device)


def _count(
    counts: dict[tuple[str, int], tuple[int, int]],
    record: m.InferenceTelemetry,
    now_unix_ms: int,
    window_s: int,
) -> None:
    """Add a window to the minute that it is received in, unless it is of long ago.

    What waited in an outbox says nothing of now. A device whose clock is behind is not heard here,
    and an alarm says so.
    """
    end_unix_ms = record.start_unix_ms + int(record.duration_s * 1000)
    if end_unix_ms < now_unix_ms - window_s * 1000:
        return
    failed = record.error_count
    key = (record.manifest, now_unix_ms // MINUTE_MS)
    requests, errors = counts.get(key, (0, 0))
    bad = failed.runtime + failed.deadline + failed.non_finite
    asked = min(record.request_count, MAX_COUNTED)
    counts[key] = (requests + asked, errors + min(bad, asked))


def look_at_requests(watch: Watch, tx: Tx, sight: Sight) -> None:
    """Judge each release by what the fleet answered with it lately."""
    limits, now_unix_ms = watch.settings.error_ratio, sight.now_unix_ms
    if "error_ratio" not in watch.rules or sight.since_unix_ms is None:
        return
    window_ms = int(limits.window_s * 1000)
    counts = tx.alerts.counts((now_unix_ms - window_ms) // MINUTE_MS + 1)
    known = tx.alerts.open_of("error_ratio")
    findings, judged = [], set()
    for manifest, (requests, errors) in counts.items():
        release = tx.releases.by_manifest(manifest)
        if release is None or requests < limits.min_requests:
            continue
        name = f"{release.model}:{release.version}"
        judged.add(name)
        is_bad = core.above(
            errors / requests, raise_at=limits.raise_ratio, clear_at=limits.clear_ratio
        )
        if is_bad is not None:
            text = f"{name} failed {errors:,} of {requests:,} requests"
            findings.append(Finding(name, is_bad, text))
    if now_unix_ms - sight.since_unix_ms >= window_ms:
        # For a whole window too few have asked that release, or nobody: what failed before is over.
        findings += [Finding(name, False, "") for name in known if name not in judged]
    watch.observe(tx, "error_ratio", findings, now_unix_ms)
    tx.alerts.prune_counts((now_unix_ms - 2 * window_ms) // MINUTE_MS)


def look_at_labels(watch: Watch, tx: Tx, now_unix_ms: int) -> None:
    """Judge each release by the labels that came for it lately; what was estimated is no evidence."""
    limits = watch.settings.accuracy_low
    if "accuracy_low" not in watch.rules:
        return
    findings = []
    since_unix_ms = now_unix_ms - int(limits.window_s * 1000)
    # Without any limit nothing is read, but what an earlier one raised still comes to its end.
    has_limits = limits.limit_ratio is not None or bool(limits.models)
    totals = tx.performance.totals(since_unix_ms) if has_limits else {}
    for manifest, (rows, right) in totals.items():
        release = tx.releases.by_manifest(manifest)
        limit = limits.limit_of(release.model) if release is not None else None
        if release is None or limit is None or not rows:
            continue
        found = wilson(right, rows)
        if found.high < limit:
            name = f"{release.model}:{release.version}"
            text = (
                f"{name} was right in {right:,} of {rows:,} labelled rows, at most"
                f" {found.high:.1%}; the limit is {limit:.1%}"
            )
            findings.append(Finding(name, True, text))
    watch.report(tx, "accuracy_low", findings, now_unix_ms)


def look_at_expiries(watch: Watch, tx: Tx, now_unix_ms: int) -> None:
    """Judge what only a person can renew: signed documents, and observers' certificates."""
    if "expiry" not in watch.rules:
        return
    ends: dict[str, int] = {}
    if (repository := load(tx)) is not None:
        ends |= expiries(repository.documents())
    ends |= {observer_label(row): row.not_after_unix_ms for row in tx.identities.observers()}
    for name, path in watch.certificates.items():
        if (end := certificate_end(path)) is not None:
            ends[name] = end
    within_ms = int(watch.settings.expiry.within_s * 1000)
    watch.report(tx, "expiry", _expiring(ends.items(), now_unix_ms, within_ms), now_unix_ms)


def _expiring(
    ends: Iterable[tuple[str, int]], now_unix_ms: int, within_ms: int
) -> Iterator[Finding]:
    for subject, end_unix_ms in ends:
        left_ms = end_unix_ms - now_unix_ms
        days = left_ms // (24 * 60 * MINUTE_MS)
        said = "has expired" if left_ms < 0 else f"expires in {days} days"
        yield Finding(subject, left_ms <= within_ms, f"{subject} {said}")
