"""What the supervisor records of the windows that a runtime closed."""

from bisect import bisect_right

import pytest

from agent.ports import Counters, WindowStats
from agent.telemetry import inference_record
from wire import codec
from wire.latency import LATENCY_BINS, LATENCY_EDGES_MS, latency_quantile, merged, padded
from wire.messages import MAX_INTEGER, InferenceTelemetry

BOOT = "b" * 16


def window(values_ms, **counters):
    latency = [0] * LATENCY_BINS
    for value in values_ms:
        latency[bisect_right(LATENCY_EDGES_MS, value)] += 1
    counted = Counters(request_count=len(values_ms), latency=tuple(latency), **counters)
    return WindowStats("digits", "1.0.0", "a" * 64, 1, 60.0, counted)


def told(stats):
    """Return the record as the controller has it."""
    return codec.decode(InferenceTelemetry, codec.encode(inference_record(stats, BOOT, 1)))


def test_a_window_has_its_quantiles():
    record = told(window([1.0] * 90 + [10.0] * 7 + [100.0] * 3, non_finite=4))
    found = (record.latency_ms.p50, record.latency_ms.p95, record.latency_ms.p99)
    assert found == pytest.approx((1, 10, 100), rel=0.13)
    assert record.error_count.non_finite == 4


def test_the_quantiles_of_a_fleet_come_of_its_windows():
    one, two = [1.0] * 99 + [3.0], [40.0] * 20
    bins = [padded(told(window(values)).latency_bins) for values in (one, two)]
    assert latency_quantile(merged(*bins), 0.95) == pytest.approx(40, rel=0.13)
    assert merged(*bins) == window(one + two).counters.latency


def test_a_window_without_requests_has_no_latency():
    record = told(window([]))
    assert record.latency_bins == ()
    assert record.latency_ms.p95 is None


def test_the_longest_record_fits():
    stats = window([1.0])
    longest = inference_record(stats, BOOT, MAX_INTEGER).model_copy(
        update={"latency_bins": (MAX_INTEGER,) * LATENCY_BINS}
    )
    assert len(codec.encode(longest)) < codec.MAX_MESSAGE_BYTES / 8
