"""Counts of what each model answered: since the start, and over the telemetry window."""

from __future__ import annotations

import time
from bisect import bisect_right
from dataclasses import dataclass
from typing import Final

import msgspec

from agent.control import Checks, Columns, Model, Tally, Window, in_parts
from agent.core.ring import Ring
from agent.measured import Labelled, RefusedLabels
from wire.histogram import Baseline
from wire.latency import LATENCY_BINS, LATENCY_EDGES_MS, merged
from wire.manifest import Manifest
from wire.windows import MAX_COLUMNS

from .checks import InputChecks
from .columns import ColumnCounts, Run
from .labels import Labelling
from .outputs import OutputShift

CAUSES: Final = ("runtime", "deadline", "client", "non_finite")


MAX_PART_BYTES: Final = 96 * 1024
"""Of columns in one report; below `MAX_DATAGRAM_BYTES` with all that stands beside them."""


class _Opened:
    """The instant at which a window began."""

    def __init__(self) -> None:
        self.unix_ms = time.time_ns() // 1_000_000
        self._at_s = time.monotonic()

    def duration_s(self) -> float:
        return round(time.monotonic() - self._at_s, 3)


@dataclass(slots=True)
class _Sums:
    request_count: int = 0
    row_count: int = 0
    runtime: int = 0
    deadline: int = 0
    client: int = 0
    non_finite: int = 0

    def add(self, rows: int, cause: str | None) -> None:
        self.request_count += 1
        self.row_count += rows
        if cause is not None:
            setattr(self, cause, getattr(self, cause) + 1)

    def tally(self) -> Tally:
        return Tally(
            self.request_count,
            self.row_count,
            self.runtime,
            self.deadline,
            self.client,
            self.non_finite,
        )


class ModelCounters:
    """Counts of one model; touched by the event loop's thread only."""

    def __init__(
        self,
        model: Model,
        manifest: Manifest,
        baseline: Baseline | None,
        checks: InputChecks,
        ring: Ring,
    ) -> None:
        self._model = model
        self.columns = ColumnCounts(baseline, manifest.inputs, manifest.outputs, checks)
        self.labelling = Labelling(
            manifest, baseline, max_rows=ring.max_rows, max_bytes=ring.max_bytes
        )
        self._shift = OutputShift(baseline)
        self._columns_open = _Opened()
        self._total = _Sums()
        self._earlier: tuple[int, ...] = ()
        self._open_window()

    def count(self, *, rows: int, cause: str | None, latency_ms: float) -> None:
        """Count one request, after its answer was sent.

        Args:
            rows: Rows that were answered.
            cause: None for a good answer, else one of `CAUSES`.
            latency_ms: From the whole request to the whole answer; bad requests do not count.
        """
        self._total.add(rows, cause)
        self._window.add(rows, cause)
        if cause != "client":
            self._latency[bisect_right(LATENCY_EDGES_MS, latency_ms)] += 1

    def total(self) -> Tally:
        """Return the counts since the start, with how far the answers have shifted."""
        return msgspec.structs.replace(self.so_far(), shift=self._shift.furthest(self.columns))

    def so_far(self) -> Tally:
        """Return the counts since the start alone, which costs next to nothing."""
        latency = merged(self._earlier, self._latency)
        return msgspec.structs.replace(self._total.tally(), latency=latency)

    def close_window(self) -> Window:
        """Return the window and begin the next one."""
        latency = self._latency
        self._earlier = merged(self._earlier, latency)
        window = Window(
            model=self._model.name,
            start_unix_ms=self._opened.unix_ms,
            duration_s=self._opened.duration_s(),
            tally=msgspec.structs.replace(self._window.tally(), latency=tuple(latency)),
        )
        self._open_window()
        return window

    def close_columns(self) -> list[Columns]:
        """Return the window of the columns in as many parts as it takes, none where no row came."""
        opened = self._columns_open
        window = self.columns.close_window()
        if not window.row_count and not window.rejected:
            return []
        has_first = bool(window.runs) and window.runs[0].first == 0
        runs = window.runs if has_first else (Run(0), *window.runs)
        return [
            Columns(
                model=self._model.name,
                start_unix_ms=opened.unix_ms,
                duration_s=opened.duration_s(),
                row_count=window.row_count,
                first=run.first + begin,
                columns=run.columns[begin:end],
                between=run.between[begin:end],
                scores=window.scores if run.first + begin == 0 else (),
                flagged=Checks(**window.flagged) if window.flagged else None,
                rejected=Checks(**window.rejected) if window.rejected else None,
            )
            for run in runs
            for begin, end in in_parts(
                run.columns, max_columns=MAX_COLUMNS, max_bytes=MAX_PART_BYTES
            )
        ]

    def close_labels(self) -> list[Labelled]:
        """Return what was counted of labels over the window of the columns, and begin the next one."""
        opened, self._columns_open = self._columns_open, _Opened()
        counted = self.labelling.close_window()
        if counted is None:
            return []
        return [
            Labelled(
                model=self._model.name,
                start_unix_ms=opened.unix_ms,
                duration_s=opened.duration_s(),
                labelled=counted.labelled,
                correct=counted.correct,
                confusion=counted.confusion,
                scores=counted.scores,
                score_correct=counted.score_correct,
                score_sums=counted.score_sums,
                errors=counted.errors,
                refused=RefusedLabels(**counted.refused) if counted.refused else None,
            )
        ]

    def _open_window(self) -> None:
        self._window = _Sums()
        self._latency = [0] * LATENCY_BINS
        self._opened = _Opened()
