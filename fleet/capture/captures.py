"""Captured rows: asked for by people, given by devices, kept for a time.

A request is part of the desired state of each device that is meant, so that it is signed, reaches
those that are away, and is acted on once. It cannot switch capture on. What comes is held against what was
asked: by whom, of which model, how many rows; and against the caps of `[capture]`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from fleet import acts, desired, registry
from fleet.api.capture_schemas import (
    CaptureDeletionIn,
    CaptureExportIn,
    CaptureRequestDevice,
    CaptureRequestIn,
    CaptureRequestResult,
)
from fleet.core.rights import WHOLE_FLEET, Scope, is_within
from fleet.store.captures import Asked, PackFilter, PackRow, Wish
from fleet.store.devices import Selection
from fleet.store.journal import EventRow
from fleet.store.states import ReportedRow
from fleet.store.store import Store, Tx
from fleet.tokens import out_of_scope
from wire.errors import PeerError
from wire.manifest import digest_of
from wire.packs import PackTaken

from .limits import CaptureLimits
from .packs import PackRows, read_pack

MEDIA_TYPE: Final = "application/vnd.modelfleet.packs"


def request(
    tx: Tx,
    wish: CaptureRequestIn,
    now_unix_ms: int,
    *,
    by: str = "",
    scope: Scope = WHOLE_FLEET,
) -> CaptureRequestResult:
    """Ask the devices meant for rows of a model that they have captured.

    Those that capture nothing, by their last report, are left alone.

    Raises:
        PeerError: `unknown_device`, `out_of_scope` or `no_device_matches`.
    """
    acts.about(_words(wish.model, wish.device, wish.match))
    selection = _selection(tx, wish.device, wish.match, scope)
    devices = registry.matched(tx, selection)
    reports = tx.states.reports(selection)
    generations = tx.states.generations(selection)
    reasons = {
        device: _why_not(reports.get(device), generations.get(device, 0)) for device in devices
    }
    asked = [device for device in devices if not reasons[device]]
    stored = tx.captures.add_wish(
        Wish(
            number=0,
            model=wish.model,
            limit=wish.limit,
            is_uncertain_first=wish.uncertain_first,
            created_unix_ms=now_unix_ms,
            created_by=by,
            until_unix_ms=now_unix_ms + int(wish.for_s * 1000),
        ),
        asked,
    )
    for device in asked:
        desired.renumber(tx, device, desired.generation_after(tx, device))
    text = f"captured rows of {wish.model} asked of {len(asked)} of {len(devices)} ({stored.id})"
    subject = wish.device or f"{len(devices)} devices"
    tx.journal.note([EventRow("device", subject, text, {"request": stored.id})], now_unix_ms)
    return CaptureRequestResult(
        id=stored.id,
        model=wish.model,
        devices=[
            CaptureRequestDevice(device=device, is_asked=not why, reason=why)
            for device, why in reasons.items()
        ],
    )


def take(
    store: Store, device: str, body: bytes, now_unix_ms: int, limits: CaptureLimits
) -> PackTaken:
    """Store a pack that a device gives; one that is here already is no news.

    Args:
        store: The controller's.
        device: Who gives it, by its certificate.
        body: As it came.
        now_unix_ms: The time.
        limits: What may be kept.

    Raises:
        PeerError: `capture_invalid`, `capture_not_wanted` or `capture_full`.
        StorageError: The store failed.
    """
    given = _Given(device, body, digest_of(body), read_pack(body), now_unix_ms)
    pack, digest = given.pack, given.digest
    with store.write() as tx:
        asked = tx.captures.asked_of(device)
        if asked is None or asked.wish.id != pack.head.request:
            raise given.not_wanted()
        is_known = tx.captures.has(device, digest)
        if is_known or (pack.head.is_last and not asked.is_open and not pack.row_count):
            return PackTaken(digest=digest, is_wanted=asked.is_open)
        _check(tx, asked, given, limits)
        count = asked.row_count + pack.row_count
        is_open = not pack.head.is_last and count < asked.wish.limit
        if pack.row_count:
            tx.captures.add(given.row(asked), body)
        tx.captures.note_rows(device, pack.row_count, is_open=is_open)
        if not is_open:
            text = f"gave {count} captured rows of {asked.wish.model} ({asked.wish.id})"
            event = EventRow("device", device, text, {"request": asked.wish.id})
            tx.journal.note([event], now_unix_ms)
    return PackTaken(digest=digest, is_wanted=is_open)


@dataclass(frozen=True, slots=True)
class _Given:
    """A pack, and who gave it when."""

    device: str
    body: bytes
    digest: str
    pack: PackRows
    at_unix_ms: int

    def not_wanted(self) -> PeerError:
        head = self.pack.head
        return PeerError(
            f"{self.device} was not asked for these rows of {head.model} by {head.request}",
            code="capture_not_wanted",
        )

    def row(self, asked: Asked) -> PackRow:
        groups = self.pack.groups
        return PackRow(
            device=self.device,
            digest=self.digest,
            request=asked.wish.number,
            model=self.pack.head.model,
            row_count=self.pack.row_count,
            size_bytes=len(self.body),
            first_unix_ms=min(int(rows.at_unix_ms.min()) for rows in groups),
            last_unix_ms=max(int(rows.at_unix_ms.max()) for rows in groups),
            received_unix_ms=self.at_unix_ms,
        )


def export(
    store: Store, wish: CaptureExportIn, now_unix_ms: int, *, scope: Scope = WHOLE_FLEET
) -> Iterator[bytes]:
    """Return the packs meant: before each, a line of JSON with `device`, `digest` and `size_bytes`.

    Raises:
        PeerError: `unknown_device`, `out_of_scope` or `no_captures`, before anything is returned.
    """
    acts.about(_words(wish.model, wish.device, wish.match))
    with store.read() as tx:
        selection = _selection(tx, wish.device, wish.match, scope)
        since = now_unix_ms - int(wish.since_s * 1000) if wish.since_s is not None else 0
        packs = tx.captures.packs(PackFilter(wish.model, selection, since_unix_ms=since))
    if not packs:
        raise PeerError(
            f"there are no captured rows of {wish.model}",
            code="no_captures",
            hint="`fleet capture request` asks devices for some, `fleet capture list` shows what came",
        )
    return _stream(store, packs)


def delete(tx: Tx, wish: CaptureDeletionIn, now_unix_ms: int, *, scope: Scope = WHOLE_FLEET) -> int:
    """Delete rows of a model for good; return how many.

    Raises:
        PeerError: `unknown_device` or `out_of_scope`.
    """
    acts.about(_words(wish.model, wish.device, wish.match))
    selection = _selection(tx, wish.device, wish.match, scope)
    before = None
    if wish.older_than_s is not None:
        before = now_unix_ms - int(wish.older_than_s * 1000)
    count = tx.captures.delete(PackFilter(wish.model, selection, before_unix_ms=before))
    text = f"{count} captured rows of {wish.model} deleted"
    tx.journal.note([EventRow("device", wish.device or wish.model, text, {})], now_unix_ms)
    return count


def _stream(store: Store, packs: list[PackRow]) -> Iterator[bytes]:
    for pack in packs:
        with store.read() as tx:
            body = tx.captures.body(pack.device, pack.digest)
        if body is None:
            continue  # deleted meanwhile
        line = {"device": pack.device, "digest": pack.digest, "size_bytes": len(body)}
        yield json.dumps(line).encode() + b"\n" + body


def _selection(tx: Tx, device: str | None, match: dict[str, str], scope: Scope) -> Selection:
    if device is not None:
        registry.require_device(tx, device, scope)
    elif not is_within(match, scope):
        raise out_of_scope(scope, "the devices must match these tags")
    return Selection(device=device, match=match)


def _words(model: str, device: str | None, match: dict[str, str]) -> str:
    return f"{model} on {device or match or 'all devices'}"


def _why_not(report: ReportedRow | None, generation: int) -> str:
    if report is None:
        return "it has never reported"
    if generation == 0:
        # A first desired state from here would take its models away.
        return "it was never given anything by this controller; start a rollout to it first"
    if report.inventory.capture is None:
        return "it captures nothing; only [capture] in its own configuration changes that"
    return ""


def _check(tx: Tx, asked: Asked, given: _Given, limits: CaptureLimits) -> None:
    """Hold a pack against what was asked for, and what there is room for."""
    wish, device, size_bytes = asked.wish, asked.device, len(given.body)
    is_late = given.at_unix_ms >= wish.until_unix_ms
    is_over = asked.row_count + given.pack.row_count > wish.limit
    if not asked.is_open or is_late or is_over or given.pack.head.model != wish.model:
        raise given.not_wanted()
    if tx.captures.size_bytes(device) + size_bytes > limits.device_max_bytes:
        raise PeerError(
            f"{device} has given all that is kept of one device",
            code="capture_full",
            hint="`fleet capture delete` makes room, or [capture] device_max_mb in fleet.toml",
        )
    if tx.captures.size_bytes() + size_bytes > limits.max_bytes:
        raise PeerError(
            "there is no room for more captured rows",
            code="capture_full",
            hint="`fleet capture delete` makes room, or [capture] max_mb in fleet.toml",
        )
