"""What devices send, into the store: parsed, checked, each record once, then acknowledged.

`Ingest.apply` runs inside the caller's transaction and returns what to do after it is committed;
nothing is acknowledged that is not on disk.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from fleet.core import clock, gate
from fleet.core.reconcile import Remedy, remedy
from fleet.core.states import DeviceEvidence
from fleet.store.devices import PresenceRow, Selection
from fleet.store.journal import EventRow, RecordKey, RecordRow
from fleet.store.store import Tx
from wire import codec, topics
from wire import messages as m
from wire.errors import PeerError
from wire.link import Delivered

from . import desired, live
from .ratelimit import RateLimit

log = logging.getLogger(__name__)

COMPLAIN_EVERY_MS: Final = 60_000
"""Shortest time between two complaints about the same device and fault."""
UNKNOWN_EVERY_MS: Final = 24 * 3_600_000
"""An unknown device is told of once, and again the next day."""
CLOCK_EVERY_MS: Final = 24 * 3_600_000
"""So is a device whose clock is wrong."""


@dataclass(slots=True)
class Outcome:
    """What to do once the transaction is committed.

    Attributes:
        stored: Records to acknowledge, duplicates included.
        changed: Devices whose presence or report is new.
        lagging: Devices that act on an older generation than the newest.
        missing: Chunks that a device waits for in vain.
        events: Events to store, for watchers.
        heard: Devices that sent something just now.
        fresh: Records that were not there before, by device.
    """

    stored: list[RecordKey] = field(default_factory=list)
    changed: set[str] = field(default_factory=set)
    lagging: set[str] = field(default_factory=set)
    missing: set[str] = field(default_factory=set)
    events: list[EventRow] = field(default_factory=list)
    heard: set[str] = field(default_factory=set)
    fresh: list[tuple[str, m.Record]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Parsed:
    device: str
    topic: topics.Topic
    message: m.Message
    is_retained: bool


class Ingest:
    """Turns deliveries into rows. Used by the controller's loop only.

    Attributes:
        malformed_count: Messages that were dropped because they could not be parsed.
        unknown_count: Messages of devices that are not in the fleet.
    """

    def __init__(self) -> None:
        self.malformed_count = 0
        self.unknown_count = 0
        self._complaints = RateLimit(COMPLAIN_EVERY_MS)
        self._strangers = RateLimit(UNKNOWN_EVERY_MS)
        self._clocks = RateLimit(CLOCK_EVERY_MS)

    def has_ignored(self, device: str) -> bool:
        """Return whether something came in the name of a device that is not in the fleet; from any thread."""
        return device in self._strangers

    def apply(self, tx: Tx, deliveries: Iterable[Delivered], now_unix_ms: int) -> Outcome:
        """Store a batch; total over what deliveries may hold.

        Raises:
            StorageError: The store failed; the caller's transaction is void.
        """
        outcome = Outcome()
        parsed = [p for d in deliveries if (p := self._parse(d, now_unix_ms, outcome)) is not None]
        known = tx.devices.known(p.device for p in parsed)
        records: list[RecordRow] = []
        by_key: dict[RecordKey, m.Record] = {}
        for item in parsed:
            if item.device not in known:
                self._ignore_stranger(item.device, now_unix_ms, outcome)
                continue
            if not item.is_retained:
                outcome.heard.add(item.device)
            match item.message:
                case m.Presence() as presence:
                    _apply_presence(tx, item, presence, now_unix_ms, outcome)
                case m.Reported() as report:
                    _apply_report(tx, item, report, now_unix_ms, outcome)
                case m.ChunksMissing(chunks=chunks):
                    outcome.missing.update(chunks)
                case m.Record() as record:
                    self._check_clock(item.device, record, now_unix_ms, outcome)
                    row = _row(item, record, now_unix_ms)
                    records.append(row)
                    by_key.setdefault(row.key, record)
        fresh = tx.journal.add_records(records)
        outcome.stored.extend(row.key for row in records)
        for row in fresh:
            record = by_key[row.key]
            outcome.fresh.append((row.key.device, record))
            if (event := _event_of(tx, row.key.device, record)) is not None:
                outcome.events.append(event)
        tx.devices.touch(outcome.heard, now_unix_ms)
        tx.journal.note(outcome.events, now_unix_ms)
        return outcome

    def _parse(self, delivery: Delivered, now: int, outcome: Outcome) -> _Parsed | None:
        topic = topics.parse(delivery.topic)
        kind = codec.PAYLOADS.get(codec.channel_of(topic) or "")
        if not isinstance(
            topic, (topics.Presence, topics.Reported, topics.Event, topics.Telemetry)
        ):
            self.malformed_count += 1
            return None
        if not delivery.payload or kind is None:
            return None  # a retained message was cleared
        try:
            message = codec.decode(kind, delivery.payload)
        except PeerError as exc:
            self.malformed_count += 1
            if self._complaints.allows(f"{topic.device}/{exc.code}", now):
                log.warning("dropped a message on %s: %s", delivery.topic, exc)
                text = f"sent a message that was dropped: {exc}"
                outcome.events.append(
                    EventRow("alarm", topic.device, text, {"code": exc.code, "topic": topic.text})
                )
            return None
        return _Parsed(topic.device, topic, message, delivery.retained)

    def _ignore_stranger(self, device: str, now: int, outcome: Outcome) -> None:
        self.unknown_count += 1
        if self._strangers.allows(device, now):
            log.warning("unknown device %s is ignored", device)
            text = f"not in the fleet, ignored; `fleet device add {device}` admits it"
            outcome.events.append(EventRow("device", device, text, {"code": "unknown_device"}))

    def _check_clock(self, device: str, record: m.Record, now: int, outcome: Outcome) -> None:
        match record:
            case m.InferenceTelemetry(start_unix_ms=said):
                fault = clock.fault_of(said, now)
            case m.VitalsTelemetry() | m.UpdateEvent() | m.AlarmEvent():
                fault = clock.fault_of(record.at_unix_ms, now)
            case _:
                return
        if fault is not None and self._clocks.allows(device, now):
            text = f"{fault}: its records carry wrong times; set it, such as with `timedatectl`"
            log.warning("%s: %s", device, text)
            outcome.events.append(EventRow("alarm", device, text, {"code": "clock_off"}))


def _apply_presence(tx: Tx, item: _Parsed, said: m.Presence, now: int, outcome: Outcome) -> None:
    old = tx.devices.presence(Selection(device=item.device)).get(item.device)
    if old is not None and not _is_current(old, said, is_retained=item.is_retained):
        return
    is_same = old is not None and old.state == said.state and old.boot == said.boot
    if old is not None and is_same and old.birth == said.birth:
        return
    tx.devices.set_presence(
        item.device,
        PresenceRow(
            state=said.state,
            boot=said.boot,
            birth=said.birth,
            former_boot="" if old is None else _former(old, said.boot),
            agent=said.agent or (old.agent if old else ""),
            since_unix_ms=old.since_unix_ms if old and old.state == said.state else now,
        ),
    )
    tx.live.doubt(item.device)
    outcome.changed.add(item.device)
    if said.state == "online":
        _check_generation(tx, item.device, outcome)
    if not is_same:
        detail: dict[str, object] = {"state": said.state}
        outcome.events.append(EventRow("presence", item.device, said.state, detail))


def _former(old: PresenceRow, boot: str) -> str:
    return old.former_boot if old.boot == boot else old.boot


def _is_current(old: PresenceRow, said: m.Presence, *, is_retained: bool) -> bool:
    """Whether a presence message is newer than what is known.

    A will may arrive after the birth of the connection that replaced its own: an offline counts
    only with the boot and birth that are current. The exception is a retained one of a boot never
    heard of, on subscribing: the device came and went while the controller was away.
    """
    if said.boot == old.boot:
        return said.birth >= old.birth
    if said.state == "online":
        return said.boot != old.former_boot or not is_retained
    return is_retained and said.boot != old.former_boot


def _apply_report(tx: Tx, item: _Parsed, report: m.Reported, now: int, outcome: Outcome) -> None:
    device = item.device
    old = tx.states.reports(Selection(device=device)).get(device)
    if old is not None and old.boot == report.boot and report.seq <= old.seq:
        return
    if old is not None and old.boot != report.boot and _is_former(tx, device, report.boot):
        return
    tx.states.set_reported(device, report, now)
    live.take_in(tx, device, report, now, is_retained=item.is_retained)
    tx.states.drop_lifted(device, report.generation)
    outcome.changed.add(device)
    wanted = {row.model.name: row for row in tx.states.desired(Selection(device=device))}
    for model in report.models:
        row = wanted.get(model.name)
        if row is None:
            continue
        if gate.is_confirmed(row.model.manifest, row.generation, _evidence(report, model)):
            tx.states.add_confirmed(device, row.model, now)
    _check_generation(tx, device, outcome)


def _is_former(tx: Tx, device: str, boot: str) -> bool:
    """Whether a report comes late, of the boot before the one that has reported since."""
    presence = tx.devices.presence(Selection(device=device)).get(device)
    return presence is not None and presence.former_boot == boot


def _check_generation(tx: Tx, device: str, outcome: Outcome) -> None:
    selection = Selection(device=device)
    report = tx.states.reports(selection).get(device)
    match remedy(
        desired_generation=tx.states.generations(selection).get(device, 0),
        reported_generation=report.generation if report else 0,
    ):
        case Remedy.REPUBLISH:
            outcome.lagging.add(device)
        case Remedy.RENUMBER:
            desired.renumber(tx, device, desired.generation_after(tx, device))
        case Remedy.NOTHING:
            pass


def _evidence(report: m.Reported, model: m.ReportedModel) -> DeviceEvidence:
    return DeviceEvidence(
        is_online=True,
        next_generation=0,
        reported_generation=report.generation,
        active=model.active.manifest if model.active else None,
        state=model.state,
        target=model.target.manifest if model.target else None,
        outcome=model.outcome,
    )


def _row(item: _Parsed, record: m.Record, now: int) -> RecordRow:
    # The parsed message is stored, not the bytes: nothing unchecked gets into the store.
    return RecordRow(
        RecordKey(item.device, record.boot, record.seq),
        codec.channel_of(item.topic) or "",
        now,
        codec.encode(record).decode(),
    )


def _event_of(tx: Tx, device: str, record: m.Record) -> EventRow | None:
    match record:
        case m.UpdateEvent() as update:
            release = tx.releases.by_manifest(update.manifest) if update.manifest else None
            name = f"{update.model}:{release.version}" if release else update.model
            text = f"{name} {update.from_} -> {update.to} ({update.code})"
            return EventRow("update", device, f"{text} {update.detail}".rstrip(), _shown(update))
        case m.AlarmEvent(code=code, detail=detail):
            return EventRow("alarm", device, f"{code} {detail}".rstrip(), {"code": code})
        case m.GapEvent() as gap:
            text = f"dropped {gap.count} records ({gap.reason})"
            told = {"boot": gap.lost_boot, "first": gap.first, "last": gap.last, "count": gap.count}
            return EventRow("alarm", device, text, {"code": gap.reason, **told})
        case _:
            return None


def _shown(update: m.UpdateEvent) -> dict[str, object]:
    return update.model_dump(mode="json", by_alias=True, exclude={"v", "boot", "seq"})


def ack_messages(stored: Iterable[RecordKey]) -> list[tuple[str, m.Ack]]:
    """Return the acknowledgements of stored records, by device, in ranges without gaps."""
    series: dict[str, dict[str, set[int]]] = {}
    for key in stored:
        series.setdefault(key.device, {}).setdefault(key.boot, set()).add(key.seq)
    messages: list[tuple[str, m.Ack]] = []
    for device, boots in series.items():
        ranges = [r for boot, seqs in boots.items() for r in _ranges(boot, sorted(seqs))]
        for start in range(0, len(ranges), m.MAX_ACK_RANGES):
            part = tuple(ranges[start : start + m.MAX_ACK_RANGES])
            messages.append((device, m.Ack(stored=part)))
    return messages


def _ranges(boot: str, seqs: list[int]) -> list[m.StoredRange]:
    ranges: list[m.StoredRange] = []
    first = last = seqs[0]
    for seq in seqs[1:]:
        if seq != last + 1:
            ranges.append(m.StoredRange(boot=boot, first=first, last=last))
            first = seq
        last = seq
    ranges.append(m.StoredRange(boot=boot, first=first, last=last))
    return ranges
