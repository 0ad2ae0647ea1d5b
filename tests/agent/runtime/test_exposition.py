"""What a runtime tells Prometheus is in its format, and what was counted."""

import http.client

import pytest
from prometheus_client.parser import text_string_to_metric_families

from agent.control import Tally
from agent.runtime.exposition import Served, render
from wire.latency import LATENCY_BINS, LATENCY_EDGES_MS


def samples(text):
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_counts_are_told_as_they_are():
    latency = [0] * LATENCY_BINS
    latency[0], latency[100], latency[-1] = 3, 4, 2
    tally = Tally(11, 110, 1, 0, 2, 0, latency=tuple(latency))
    text = render({"digits": Served("1.0.0", tally)}, runtime='a"b\\', rss_bytes=42).decode()
    found = samples(text)
    assert found["modelfleet_inference_requests_total", "digits", "1.0.0"] == 11
    assert found["modelfleet_inference_rows_total", "digits", "1.0.0"] == 110
    assert found["modelfleet_inference_errors_total", "client", "digits", "1.0.0"] == 2
    assert found["modelfleet_runtime_resident_memory_bytes",] == 42
    assert found["modelfleet_runtime_info", 'a"b\\'] == 1
    bucket = "modelfleet_inference_latency_seconds_bucket"
    assert found[bucket, "1e-05", "digits", "1.0.0"] == 3
    at = LATENCY_EDGES_MS[100] / 1000
    assert found[bucket, f"{at:.6g}", "digits", "1.0.0"] == 7
    assert found[bucket, "+Inf", "digits", "1.0.0"] == 9
    assert found["modelfleet_inference_latency_seconds_count", "digits", "1.0.0"] == 9


def test_buckets_rise_and_a_model_that_was_never_asked_has_zeros():
    found = samples(render({"digits": Served("1", Tally())}, runtime="", rss_bytes=0).decode())
    buckets = [v for key, v in found.items() if key[0].endswith("_bucket")]
    assert len(buckets) == 16
    assert set(buckets) == {0}


@pytest.mark.parametrize("count", [0, 3])
def test_a_real_runtime_tells_what_it_answered(bench, make_model, count):
    bench.serve(make_model("1"))
    for _ in range(count):
        assert bench.infer()[0] == 200
    client = http.client.HTTPConnection("127.0.0.1", bench.port, timeout=120)
    client.request("GET", "/metrics")
    answer = client.getresponse()
    text = answer.read().decode()
    client.close()
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    found = samples(text)
    assert found["modelfleet_inference_requests_total", "m", "1"] == count
    assert found["modelfleet_inference_latency_seconds_count", "m", "1"] == count
    assert found["modelfleet_runtime_resident_memory_bytes",] > 2**20
    assert bench.request("POST", "/metrics", b"")[0] == 405
