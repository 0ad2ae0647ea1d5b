"""What Prometheus reads at the controller: counts that are true, and labels nobody can make up."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from fleet.api.app import build_app
from fleet.core.rights import Role
from tests.fleet.peers import Device, Fleet
from wire import codec, topics
from wire import messages as m
from wire.latency import LATENCY_BINS, LATENCY_EDGES_MS, trimmed

FOREIGN = "f" * 64


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path)
    fleet.settle()
    yield fleet
    fleet.controller.stop()
    fleet.store.close()


@pytest.fixture
def api(fleet: Fleet) -> Iterator[TestClient]:
    with TestClient(build_app(fleet.controller), headers=fleet.bearer()) as client:
        yield client


def counted(*values_ms: float) -> list[int]:
    counts = [0] * LATENCY_BINS
    for value in values_ms:
        counts[bisect_right(LATENCY_EDGES_MS, value)] += 1
    return counts


def scraped(api: TestClient) -> dict[tuple[str, ...], float]:
    """Return all samples: by name and label values, in the order of the labels' names."""
    answer = api.get("/metrics")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def send_window(
    cam: Device, seq: int, manifest: str, version: str, bins: tuple[int, ...] = ()
) -> None:
    record = m.InferenceTelemetry(
        boot=cam.boot,
        seq=seq,
        start_unix_ms=1,
        duration_s=60,
        model="digits",
        version=version,
        manifest=manifest,
        request_count=7,
        row_count=70,
        error_count=m.ErrorCount(client=2),
        latency_bins=bins,
    )
    cam.send(topics.Telemetry(cam.name, "inference"), codec.encode(record))


def send_alarm(cam: Device, seq: int, code: str) -> None:
    record = m.AlarmEvent(boot=cam.boot, seq=seq, at_unix_ms=1, code=code)
    cam.send(topics.Event(cam.name, "alarm"), codec.encode(record))


def test_the_fleet_as_it_stands(fleet: Fleet, api: TestClient) -> None:
    fleet.add("a", "b", "c")
    assert api.post("/v1/devices", json={"id": "never"}).status_code == 201
    fleet.devices["c"].cut()
    row = fleet.release("1.0.0")
    fleet.roll_out("1.0.0", "100%")
    fleet.wait(3)
    found = scraped(api)
    assert found["modelfleet_devices", "online"] == 2
    assert found["modelfleet_devices", "offline"] == 1
    assert found["modelfleet_devices", "never_seen"] == 1
    assert found["modelfleet_release_devices", row.model, "1.0.0"] == 2
    assert found["modelfleet_broker_connected",] == 1
    assert found["modelfleet_publications_waiting",] == 0
    assert sum(value for key, value in found.items() if key[0] == "modelfleet_rollouts") == 1
    fleet.broker.cut("controller")
    fleet.settle()
    assert scraped(api)["modelfleet_broker_connected",] == 0


def test_records_count_once_however_often_they_come(fleet: Fleet, api: TestClient) -> None:
    fleet.add("cam")
    cam = fleet.devices["cam"]
    row = fleet.release("1.0.0")
    for _ in range(3):
        send_window(cam, 1, row.manifest, "1.0.0")
        cam.send_record(2)
        fleet.settle()
    send_window(cam, 3, row.manifest, "1.0.0")
    fleet.settle()
    found = scraped(api)
    assert found["modelfleet_records_stored_total", "telemetry/inference"] == 2
    assert found["modelfleet_records_stored_total", "telemetry/vitals"] == 1
    assert found["modelfleet_inference_requests_total", "digits", "1.0.0"] == 14
    assert found["modelfleet_inference_rows_total", "digits", "1.0.0"] == 140
    assert found["modelfleet_inference_errors_total", "client", "digits", "1.0.0"] == 4


def test_latency_of_a_release_adds_up_over_devices(fleet: Fleet, api: TestClient) -> None:
    fleet.add("a", "b", "c")
    row = fleet.release("1.0.0")
    fast, slow = trimmed(counted(0.5, 0.5, 0.5)), trimmed(counted(40.0, 200_000.0))
    assert len(fast) < len(slow) == LATENCY_BINS
    for name, bins in (("a", fast), ("b", slow), ("c", ())):  # the last one is an older agent
        send_window(fleet.devices[name], 1, row.manifest, "1.0.0", bins)
    send_window(fleet.devices["a"], 2, FOREIGN, "1.0.0", fast)
    fleet.settle()
    found, metric = scraped(api), "modelfleet_inference_latency_seconds"

    def below(edge: str) -> float:
        return found[f"{metric}_bucket", edge, "digits", "1.0.0"]

    reached = [below(edge) for edge in ("0.000316228", "0.001", "0.0316228", "0.1", "100", "+Inf")]
    assert reached == [0, 3, 3, 4, 4, 5]
    assert found[f"{metric}_count", "digits", "1.0.0"] == 5
    assert found[f"{metric}_sum", "digits", "1.0.0"] == pytest.approx(0.0415 + 100, rel=0.01)
    assert found[f"{metric}_count", "other", "other"] == 3


def test_what_a_device_makes_up_is_no_label(fleet: Fleet, api: TestClient) -> None:
    fleet.add("cam")
    cam = fleet.devices["cam"]
    for seq in range(20):
        send_window(cam, 2 * seq, f"{seq:064x}", f"9.{seq}")
        send_alarm(cam, 2 * seq + 1, f"made_up_{seq}")
    send_alarm(cam, 100, "disk_full")
    cam.send(topics.Telemetry(cam.name, "vitals"), b"{}")
    fleet.settle()
    found = scraped(api)
    requests = {key: value for key, value in found.items() if "requests_total" in key[0]}
    assert requests == {("modelfleet_inference_requests_total", "other", "other"): 140}
    alarms = {key[1]: value for key, value in found.items() if "alarms_total" in key[0]}
    assert alarms == {"other": 20, "disk_full": 1}
    assert found["modelfleet_messages_dropped_total", "malformed"] == 1


def test_it_takes_a_token_for_the_whole_fleet(fleet: Fleet, api: TestClient) -> None:
    viewer = fleet.bearer("prometheus", Role.VIEWER)
    assert api.get("/metrics", headers=viewer).status_code == 200
    scoped = fleet.bearer("lab", Role.VIEWER, site="lab")
    assert api.get("/metrics", headers=scoped).status_code == 403
    assert api.get("/metrics", headers={"authorization": ""}).status_code == 401
