"""Closes the telemetry windows on time and reports vitals."""

from __future__ import annotations

import math
import time
from functools import partial

from wire import topics
from wire.messages import ErrorCount, InferenceTelemetry, LatencyMs, VitalsTelemetry
from wire.performance import PerformanceTelemetry
from wire.windows import MAX_PART_BYTES, MAX_PART_COLUMNS, WindowTelemetry

from . import control
from .adapters.host import Host
from .adapters.starts import StartCounter
from .core.backoff import SETTLED_S
from .ports import (
    ColumnsClosed,
    ColumnStats,
    Heartbeat,
    LabelsClosed,
    LabelStats,
    WindowClosed,
    WindowStats,
)
from .runtimes import Runtimes
from .uplink import Uplink


class TelemetryReporter:
    """Turns windows and vitals into records; used by the loop's thread only."""

    def __init__(
        self,
        *,
        device: str,
        interval_s: float,
        window_s: float,
        host: Host,
        runtimes: Runtimes,
        uplink: Uplink,
        starts: StartCounter,
    ) -> None:
        self._device = device
        self._interval_s = interval_s
        self._window_s = window_s
        self._host = host
        self._runtimes = runtimes
        self._uplink = uplink
        self._starts = starts
        self._settled_at_s = time.monotonic() + SETTLED_S
        self._due_at_s = time.monotonic() + interval_s
        self._columns_due_at_s = time.monotonic() + window_s
        self._runtime_rss_bytes = 0

    def tick(self, now_s: float) -> None:
        """Close windows and report vitals when their intervals have passed; see a start settle."""
        if now_s >= self._settled_at_s:
            self._settled_at_s = math.inf
            self._starts.settled()
        if now_s >= self._columns_due_at_s:
            self._columns_due_at_s = max(self._columns_due_at_s + self._window_s, now_s)
            self._runtimes.close_columns()
        if now_s < self._due_at_s:
            return
        # From the due time, not from now, so that the intervals do not drift; never in a burst.
        self._due_at_s = max(self._due_at_s + self._interval_s, now_s)
        self._runtimes.close_window()
        self._report_vitals()

    def observe(self, item: object) -> None:
        """Take what the runtimes tell."""
        match item:
            case Heartbeat(rss_bytes=rss_bytes):
                self._runtime_rss_bytes = rss_bytes
            case WindowClosed(windows=windows):
                for window in windows:
                    self._report_window(window)
            case ColumnsClosed(stats=stats):
                self._report_columns(stats)
            case LabelsClosed(stats=stats):
                self._uplink.record(
                    topics.Telemetry(self._device, "performance"),
                    partial(performance_record, stats),
                )
            case _:
                pass

    def _report_window(self, window: WindowStats) -> None:
        counters = window.counters
        self._uplink.record(
            topics.Telemetry(self._device, "inference"),
            lambda boot, seq: InferenceTelemetry(
                boot=boot,
                seq=seq,
                start_unix_ms=window.start_unix_ms,
                duration_s=window.duration_s,
                model=window.model,
                version=window.version,
                manifest=window.manifest,
                request_count=counters.request_count,
                row_count=counters.row_count,
                error_count=ErrorCount(
                    runtime=counters.runtime,
                    deadline=counters.deadline,
                    client=counters.client,
                    non_finite=counters.non_finite,
                ),
                latency_ms=LatencyMs(p50=window.p50_ms, p99=window.p99_ms),
            ),
        )

    def _report_columns(self, stats: ColumnStats) -> None:
        """Record a window of columns, in as many records as it takes."""
        for part in control.in_parts(
            stats.columns, max_columns=MAX_PART_COLUMNS, max_bytes=MAX_PART_BYTES
        ):
            self._uplink.record(
                topics.Telemetry(self._device, "window"), partial(_window_record, stats, part)
            )

    def _report_vitals(self) -> None:
        vitals = self._host.vitals()
        now_unix_ms = time.time_ns() // 1_000_000
        self._uplink.record(
            topics.Telemetry(self._device, "vitals"),
            lambda boot, seq: VitalsTelemetry(
                boot=boot,
                seq=seq,
                at_unix_ms=now_unix_ms,
                uptime_s=vitals.uptime_s,
                cpu_ratio=vitals.cpu_ratio,
                memory_available_bytes=vitals.memory_available_bytes,
                disk_free_bytes=vitals.disk_free_bytes,
                supervisor_rss_bytes=vitals.supervisor_rss_bytes,
                runtime_rss_bytes=self._runtime_rss_bytes,
                temperature_c=vitals.temperature_c,
                cpu_is_throttled=vitals.is_throttled,
                clock_is_synchronized=vitals.clock.is_synchronized,
                clock_error_ms=vitals.clock.error_ms,
                runtime_restarts=self._runtimes.restart_count,
                records_dropped=self._uplink.dropped_count,
                agent_restarts=self._starts.starts.restart_count,
            ),
        )


def _window_record(
    stats: ColumnStats, part: tuple[int, int], boot: str, seq: int
) -> WindowTelemetry:
    begin, end = part
    first = stats.first + begin
    return WindowTelemetry(
        boot=boot,
        seq=seq,
        start_unix_ms=stats.start_unix_ms,
        duration_s=stats.duration_s,
        model=stats.model,
        version=stats.version,
        manifest=stats.manifest,
        row_count=stats.row_count,
        first=first,
        columns=stats.columns[begin:end],
        between=stats.between[begin:end],
        scores=stats.scores if first == 0 else (),
        flagged=stats.flagged if first == 0 else None,
        rejected=stats.rejected if first == 0 else None,
    )


def performance_record(stats: LabelStats, boot: str, seq: int) -> PerformanceTelemetry:
    """Return the record of a window of labels."""
    return PerformanceTelemetry(
        boot=boot,
        seq=seq,
        start_unix_ms=stats.start_unix_ms,
        duration_s=stats.duration_s,
        model=stats.model,
        version=stats.version,
        manifest=stats.manifest,
        labelled_count=stats.labelled_count,
        correct_count=stats.correct_count,
        confusion=stats.confusion,
        scores=stats.scores,
        score_correct=stats.score_correct,
        score_sums=stats.score_sums,
        errors=stats.errors,
        refused=stats.refused,
    )
