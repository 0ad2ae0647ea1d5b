"""What a runtime tells of a model on trial: true figures of real requests."""

import pytest

from agent.core.guards import growth_bytes, growth_limit_bytes, observe_memory
from agent.core.states import NO_MEMORY
from agent.ports import Heartbeat
from wire.latency import LATENCY_BINS, count_above, latency_quantile


def until_counted(bench, number):
    """Return the counters of the first beat that has so many requests."""
    while True:
        counters = bench.wait(Heartbeat).models["m"]
        if counters.request_count >= number:
            return counters


def test_latency_is_counted_from_the_start_whatever_windows_are_closed(bench, make_model, graphs):
    bench.serve(make_model("1", graphs["slow"](300_000)))
    for _ in range(5):
        bench.infer()
    bench.host.close_window()
    bench.infer([(500, 1, 1, 1)])
    bench.request("POST", "/v2/models/m/infer", b"nonsense")
    counters = until_counted(bench, 7)
    assert len(counters.latency) == LATENCY_BINS
    assert sum(counters.latency) == 6, "a client's fault has no latency"
    slowest_ms = latency_quantile(counters.latency, 1.0)
    assert slowest_ms > 10 * latency_quantile(counters.latency, 0.5), "one of them looped"
    assert count_above(counters.latency, slowest_ms / 2) == 1


@pytest.mark.slow
def test_a_model_that_takes_more_memory_with_each_request_is_found_to_grow(
    bench, make_model, graphs
):
    bench.serve(make_model("1", graphs["growing"](), name="m"))
    trace, thousands = NO_MEMORY, 0
    while not growth_bytes(trace) > growth_limit_bytes(trace, 32, None):
        assert thousands < 50_000, f"400 MB taken and no growth seen: {trace}"
        thousands += 500
        assert bench.infer([(thousands, 0, 0, 0)])[0] == 200
        trace = observe_memory(trace, bench.wait(Heartbeat).rss_bytes)
    steady = NO_MEMORY
    for _ in range(20):
        bench.infer([(thousands, 0, 0, 0)])
        steady = observe_memory(steady, bench.wait(Heartbeat).rss_bytes)
    assert growth_bytes(steady) < growth_limit_bytes(steady, 32, None), steady
