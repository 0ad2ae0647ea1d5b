"""Closes the telemetry windows on time and reports vitals."""

from __future__ import annotations

import math
import time
from functools import partial
from typing import Final

from wire import topics
from wire.latency import latency_quantile, trimmed
from wire.messages import ErrorCount, InferenceTelemetry, LatencyMs, VitalsTelemetry
from wire.performance import PerformanceTelemetry
from wire.shadow import MAX_WINDOW_COUNT, ShadowClass, ShadowTelemetry
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
    ShadowClosed,
    ShadowStats,
    TapStats,
    WindowClosed,
    WindowStats,
)
from .runtimes import Runtimes, Shadowed
from .uplink import Uplink

SHADOW_INTERVAL_S: Final = 15.0
"""Longest window of a shadow: what the last one of a shadow that ends has counted is lost."""


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
        self._shadow_interval_s = min(interval_s, SHADOW_INTERVAL_S)
        self._shadow_due_at_s = time.monotonic()
        self._runtime_rss_bytes = 0

    def tick(self, now_s: float) -> None:
        """Close windows and report vitals when their intervals have passed; see a start settle."""
        if now_s >= self._settled_at_s:
            self._settled_at_s = math.inf
            self._starts.settled()
        if now_s >= self._columns_due_at_s:
            self._columns_due_at_s = max(self._columns_due_at_s + self._window_s, now_s)
            self._runtimes.close_columns()
        if now_s >= self._shadow_due_at_s:
            self._shadow_due_at_s = max(self._shadow_due_at_s + self._shadow_interval_s, now_s)
            self._runtimes.close_shadow()
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
                    self._uplink.record(
                        topics.Telemetry(self._device, "inference"),
                        partial(inference_record, window),
                    )
            case ColumnsClosed(stats=stats):
                self._report_columns(stats)
            case LabelsClosed(stats=stats):
                self._uplink.record(
                    topics.Telemetry(self._device, "performance"),
                    partial(performance_record, stats),
                )
            case ShadowClosed():
                self._report_shadow(item)
            case _:
                pass

    def _report_columns(self, stats: ColumnStats) -> None:
        """Record a window of columns, in as many records as it takes."""
        for part in control.in_parts(
            stats.columns, max_columns=MAX_PART_COLUMNS, max_bytes=MAX_PART_BYTES
        ):
            self._uplink.record(
                topics.Telemetry(self._device, "window"), partial(_window_record, stats, part)
            )

    def _report_shadow(self, closed: ShadowClosed) -> None:
        if (known := self._runtimes.shadowed(closed.incarnation)) is None:
            return
        shadowed, given = known
        if not (closed.stats.row_count or given.sampled_count):
            return  # an idle device says nothing
        self._uplink.record(
            topics.Telemetry(self._device, "shadow"),
            partial(_shadow_record, shadowed, given, closed.stats),
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


def _shadow_record(
    shadowed: Shadowed, given: TapStats, stats: ShadowStats, boot: str, seq: int
) -> ShadowTelemetry:
    wish = shadowed.wish
    return ShadowTelemetry(
        boot=boot,
        seq=seq,
        start_unix_ms=stats.start_unix_ms,
        duration_s=stats.duration_s,
        model=wish.assignment.name,
        version=shadowed.version,
        manifest=wish.manifest,
        active_manifest=shadowed.active_manifest,
        rollout=wish.rollout,
        sampled_count=min(given.sampled_count, MAX_WINDOW_COUNT),
        dropped_count=min(given.dropped_count, MAX_WINDOW_COUNT),
        row_count=stats.row_count,
        agree_count=stats.agree_count,
        refused_count=stats.refused_count,
        failed_count=stats.failed_count,
        classes=tuple(
            ShadowClass(label=label, row_count=rows, disagree_count=disagreed)
            for label, rows, disagreed in stats.classes
        ),
        active_latency=trimmed(stats.active_latency),
        shadow_latency=trimmed(stats.shadow_latency),
        active_pss_bytes=stats.active_pss_bytes,
        shadow_pss_bytes=stats.shadow_pss_bytes,
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


def inference_record(window: WindowStats, boot: str, seq: int) -> InferenceTelemetry:
    """Return the record of a window of requests."""
    counters = window.counters
    p50, p95, p99 = (latency_quantile(counters.latency, share) for share in (0.5, 0.95, 0.99))
    return InferenceTelemetry(
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
        latency_ms=LatencyMs(p50=p50, p95=p95, p99=p99),
        latency_bins=trimmed(counters.latency),
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
