"""Windows and labelled answers of devices, into the store: added up by device, release and slot, in the ingest's transaction."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from fleet.core import performance
from fleet.core.windows import of_record, slot_start
from fleet.store.content import ChunkFolder
from fleet.store.slots import SlotRow
from fleet.store.store import Store, Tx
from wire.errors import ModelfleetError, StorageError
from wire.messages import Record
from wire.performance import PerformanceTelemetry
from wire.windows import WindowTelemetry

if TYPE_CHECKING:
    from .baselines import Baselines

log = logging.getLogger(__name__)

HOUR_MS: Final = 3_600_000
DAY_MS: Final = 24 * HOUR_MS
KEEP_SLOTS_MS: Final = 2 * DAY_MS
"""How long slots are kept as they are: twice what the judgement of drift looks back over."""
KEEP_HOURS_MS: Final = 30 * DAY_MS
KEEP_DAYS_MS: Final = 730 * DAY_MS
ROLL_UP_AT_ONCE: Final = 500
"""Windows merged in one transaction, a few milliseconds each, so that others get their turn."""


class WindowKeeper:
    """Adds up what devices counted. Used by the controller's loop only, but for `baselines`."""

    def __init__(self, chunks: ChunkFolder, slot_ms: int) -> None:
        self.slot_ms = slot_ms
        self._chunks = chunks
        self._baselines: Baselines | None = None
        self._unusable: set[str] = set()
        self._cells_of: dict[str, tuple[int, ...]] = {}
        self._next_tidy_unix_ms = 0

    @property
    def baselines(self) -> Baselines:
        """The baselines of releases; the first use brings numpy, which the start does without."""
        if self._baselines is None:
            from .baselines import Baselines

            self._baselines = Baselines(self._chunks)
        return self._baselines

    def add(self, tx: Tx, device: str, record: WindowTelemetry, now_unix_ms: int) -> None:
        """Add a record that was not stored before; one of a release that is not here says nothing."""
        cells = self._cells(tx, record.manifest)
        if cells is None:
            return
        ended_unix_ms = record.start_unix_ms + int(record.duration_s * 1000)
        start = slot_start(ended_unix_ms, now_unix_ms, self.slot_ms)
        sums = of_record(record, cells)
        tx.windows.add(SlotRow(device, record.manifest, start, self.slot_ms, sums))

    def _cells(self, tx: Tx, manifest: str) -> tuple[int, ...] | None:
        """Return the cells of a release's columns; a release never changes, so it is read once."""
        known = self._cells_of.get(manifest)
        release = tx.releases.by_manifest(manifest) if known is None else None
        if release is None:
            return known
        from .baselines import cells_of

        try:
            cells = cells_of(self.baselines.of(release))
        except ModelfleetError as exc:
            if manifest not in self._unusable:
                self._unusable.add(manifest)
                log.warning(
                    "%s:%s cannot be watched for drift: %s", release.model, release.version, exc
                )
            return None
        self._cells_of[manifest] = cells
        return cells

    def take_in(self, tx: Tx, fresh: Iterable[tuple[str, Record]], now_unix_ms: int) -> None:
        """Add the windows and the labelled answers among records that were not stored before."""
        for device, record in fresh:
            match record:
                case WindowTelemetry():
                    self.add(tx, device, record, now_unix_ms)
                case PerformanceTelemetry():
                    self._add_labelled(tx, device, record, now_unix_ms)
                case _:
                    pass

    def _add_labelled(
        self, tx: Tx, device: str, record: PerformanceTelemetry, now_unix_ms: int
    ) -> None:
        if tx.releases.by_manifest(record.manifest) is None:
            return
        ended_unix_ms = record.start_unix_ms + int(record.duration_s * 1000)
        start = slot_start(ended_unix_ms, now_unix_ms, self.slot_ms)
        sums = performance.of_record(record)
        tx.performance.add(SlotRow(device, record.manifest, start, self.slot_ms, sums))

    def look(self, store: Store, now_unix_ms: int) -> None:
        """Tidy up once an hour, a little at each call; never right after the clock has jumped.

        Raises:
            StorageError: The store does not work.
        """
        wait_ms = self._next_tidy_unix_ms - now_unix_ms
        if 0 < wait_ms <= HOUR_MS:
            return
        if -HOUR_MS < wait_ms <= 0:
            try:
                with store.write() as tx:
                    if self.tidy(tx, now_unix_ms):
                        return
            except StorageError:
                raise
            except Exception:
                # Our bug, met by one device's windows: rollouts and all else go on.
                log.exception("old windows could not be merged; it is tried again in an hour")
        self._next_tidy_unix_ms = now_unix_ms + HOUR_MS

    def tidy(self, tx: Tx, now_unix_ms: int) -> bool:
        """Merge old slots into hours and old hours into days; return whether there is more to do."""
        merged = 0
        for slots in (tx.windows, tx.performance):
            for age_ms, length_ms in ((KEEP_SLOTS_MS, HOUR_MS), (KEEP_HOURS_MS, DAY_MS)):
                merged += slots.roll_up(now_unix_ms - age_ms, length_ms, limit=ROLL_UP_AT_ONCE)
            slots.prune(now_unix_ms - KEEP_DAYS_MS)
        return merged >= ROLL_UP_AT_ONCE
