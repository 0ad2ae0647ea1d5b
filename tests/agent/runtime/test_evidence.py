"""What a runtime tells of a model on trial: true figures of real requests."""

import json

import numpy as np
import pytest

from agent.core.guards import growth_bytes, growth_limit_bytes, observe_memory
from agent.core.states import NO_MEMORY
from agent.ports import Heartbeat
from converter.baseline import make_baseline
from wire.latency import LATENCY_BINS, count_above, latency_quantile
from wire.manifest import BASELINE, MANIFEST, TensorSpec


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


# -- outputs against the baseline

SUMS = TensorSpec(name="Y", datatype="FP32", shape=(-1, 1))


def with_baseline(model, body):
    """Put another baseline into a bundle; the runtime is not the one who checks digests."""
    model.files[BASELINE].write_bytes(body)
    assert json.loads(model.files[MANIFEST].read_bytes())["outputs"][0]["name"] == "Y"
    return model


def logarithms(count, *, low=1.0):
    """Return rows, and what the model `logarithm` answers to them."""
    rows = np.random.default_rng(1).uniform(low, low + 1, (count, 4)).astype(np.float32)
    return rows, np.log(rows).sum(axis=1, keepdims=True)


def until_shifted(bench, row_count):
    while True:
        shift = bench.wait(Heartbeat).models["m"].shift
        if shift is not None and shift.row_count >= row_count:
            return shift


def test_answers_are_compared_with_the_reference_rows(bench, make_model, graphs):
    rows, answers = logarithms(1000)
    made = make_baseline([(TensorSpec(name="X", datatype="FP32", shape=(-1, 4)), rows)],
                         [(SUMS, answers)], "0" * 64)  # fmt: skip
    model = make_model("1", graphs["logarithm"](), data=rows[:8])
    bench.serve(with_baseline(model, made.model_dump_json().encode()))
    for start in range(0, 600, 60):
        bench.infer(rows[start : start + 60].tolist())
    like = until_shifted(bench, 600)
    assert (like.column, like.row_count) == ("Y", 600)
    assert like.excess < 0
    far, _ = logarithms(900, low=2.0)
    for start in range(0, 900, 90):
        bench.infer(far[start : start + 90].tolist())
    shifted = until_shifted(bench, 1500)
    assert (shifted.row_count, shifted.psi > 1, shifted.excess > 1) == (1500, True, True)


def table(edges, counts):
    """Return a baseline of one output with a limit table."""
    column = {"name": "Y", "edges": edges, "counts": counts, "psi_limits": [0.1]}
    body = {"row_count": 9, "inputs": [], "outputs": [column], "limit_row_counts": [1]}
    return json.dumps(body).encode()


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"[" * 100_000, table([1], [9]), table([1], [0, 0]), table([], ["x"])]
)
def test_a_baseline_that_says_nothing_of_use_harms_nobody(bench, make_model, body):
    bench.serve(with_baseline(make_model("1"), body))
    for _ in range(3):
        assert bench.infer()[0] == 200
    assert until_counted(bench, 3).shift is None
    assert bench.infer()[0] == 200
