"""A device that makes its counts up costs nobody else anything: not the controller, the watch nor the API."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import update

from fleet.alerts.watch import Watch
from fleet.api.app import build_app
from fleet.core.counts import MAX_COUNTED, MAX_SUM
from fleet.core.performance import PerformanceSums
from fleet.core.windows import ColumnSums, WindowSums
from fleet.monitoring.drift import DriftSettings, DriftWatch
from fleet.store.devices import Selection
from fleet.store.slots import SlotRow
from fleet.store.watch_schema import WINDOWS
from tests.fleet.bundles import bundle
from tests.fleet.test_drift_watch import BASELINE, SHIFTED, SLOT_MS, Plant
from wire import codec, topics
from wire.messages import MAX_INTEGER
from wire.performance import PerformanceTelemetry
from wire.windows import WindowTelemetry

DAY_MS = 86_400_000
HOUR_MS = 3_600_000
CLAIMS = (0, 1, 500, MAX_COUNTED, MAX_COUNTED + 1, 2**40, MAX_INTEGER)


@pytest.fixture
def plant(tmp_path: Path) -> Iterator[Plant]:
    plant = Plant(tmp_path)
    yield plant
    plant.fleet.controller.stop()
    plant.fleet.store.close()


def lie(plant: Plant, random: np.random.Generator) -> None:
    """Send what a device may make up within the wire's limits: windows and labelled answers."""
    device = plant.fleet.devices["hall-1"]
    plant.seq += 2
    rows, *labels = (int(random.choice(CLAIMS)) for _ in range(3))
    columns = [[int(random.choice(CLAIMS)) for _ in range(cells)] for cells in (13, 3)]
    head = {
        "boot": device.boot,
        "start_unix_ms": plant.fleet.now_unix_ms - SLOT_MS,
        "duration_s": SLOT_MS / 1000 - 1,
        "model": "digits",
        "version": "1.0.0",
        "manifest": plant.manifest,
    }
    window = WindowTelemetry.model_validate(
        head | {"seq": plant.seq, "row_count": rows, "columns": columns, "between": (1e20, 0.0)}
    )
    labelled = PerformanceTelemetry.model_validate(
        head | {"seq": plant.seq + 1, "labelled_count": labels[0], "correct_count": labels[1]}
    )
    device.send(topics.Telemetry("hall-1", "window"), codec.encode(window))
    device.send(topics.Telemetry("hall-1", "performance"), codec.encode(labelled))


def check_the_api(plant: Plant) -> None:
    bearer = plant.fleet.bearer(f"viewer-{plant.fleet.now_unix_ms}")
    with TestClient(build_app(plant.fleet.controller), headers=bearer) as api:
        week = {"since_s": 7 * 86_400}
        for path in ("/v1/models/digits/drift", "/v1/models/digits/performance", "/v1/drift"):
            answer = api.get(path, params=week)
            assert answer.status_code == 200, answer.text
        report = api.get("/v1/models/digits/drift", params=week).json()
        assert 0 < report["row_count"] <= MAX_SUM


@pytest.mark.parametrize("seed", range(3))
def test_counts_that_are_made_up_cost_nobody_else_anything(plant: Plant, seed: int) -> None:
    random = np.random.default_rng(seed)
    plant.slot(20)
    plant.shares["lab-2"] = SHIFTED
    for _ in range(4):
        for _ in range(20):
            lie(plant, random)
        plant.slot()
    assert ("device", "lab-2", ("temp_c",)) in plant.findings()
    check_the_api(plant)
    with plant.fleet.store.read() as tx:
        rows = list(
            tx.windows.rows(plant.manifest, Selection(), since_unix_ms=0, until_unix_ms=2**62)
        )
    assert max(row.sums.row_count for row in rows) <= 21 * MAX_COUNTED
    plant.fleet.now_unix_ms += 3 * DAY_MS
    plant.fleet.settle()
    plant.fleet.wait(2 * HOUR_MS / 1000, step_s=600)
    with plant.fleet.store.read() as tx:
        rows = list(
            tx.windows.rows(plant.manifest, Selection(), since_unix_ms=0, until_unix_ms=2**62)
        )
    assert {row.length_ms for row in rows} == {HOUR_MS}
    check_the_api(plant)


def test_sums_beyond_all_bounds_that_an_older_controller_kept_end_nothing(plant: Plant) -> None:
    plant.slot(4)
    huge = WindowSums(2**62, {0: ColumnSums((2**63,) * 10), 1: ColumnSums((2**62, 2**62))})
    hour = plant.fleet.now_unix_ms // HOUR_MS * HOUR_MS
    with plant.fleet.store.write() as tx:
        for start in (hour, hour + SLOT_MS):
            tx.windows.add(SlotRow("hall-1", plant.manifest, start, SLOT_MS // 2, huge))
            labelled = PerformanceSums(labelled_count=2**62, correct_count=2**62)
            tx.performance.add(SlotRow("hall-1", plant.manifest, start, SLOT_MS // 2, labelled))
    plant.slot(4)
    check_the_api(plant)
    plant.fleet.now_unix_ms += 3 * DAY_MS
    with plant.fleet.store.write() as tx:
        plant.fleet.controller.windows.tidy(tx, plant.fleet.now_unix_ms)
    with plant.fleet.store.read() as tx:
        rows = tx.windows.rows(plant.manifest, Selection(), since_unix_ms=0, until_unix_ms=2**62)
        assert max(row.sums.row_count for row in rows) == MAX_SUM
        labelled_rows = tx.performance.rows(
            plant.manifest, Selection(), since_unix_ms=0, until_unix_ms=2**62
        )
        assert [row.sums.labelled_count for row in labelled_rows] == [MAX_SUM]


def spoil(plant: Plant, manifest: str, body: str) -> None:
    """Put a body that nobody can read where a window of a release is."""
    start = plant.fleet.now_unix_ms // SLOT_MS * SLOT_MS
    with plant.fleet.store.write() as tx:
        tx.windows.add(SlotRow("hall-1", manifest, start, SLOT_MS, WindowSums(1)))
        tx.windows._connection.execute(
            update(WINDOWS).where(WINDOWS.c.manifest == manifest).values(body=body)
        )


def test_a_release_that_cannot_be_judged_is_told_and_costs_no_other_its_judgement(
    plant: Plant, tmp_path: Path
) -> None:
    alerts = Watch()
    plant.watch = DriftWatch(
        plant.fleet.store,
        plant.fleet.controller.windows,
        lambda: plant.fleet.now_unix_ms,
        DriftSettings(),
        alerts,
    )
    path = tmp_path / "other.bundle"
    path.write_bytes(bundle("0.9.0", model=b"other", baseline=codec.encode(BASELINE)))
    other = plant.fleet.controller.push_bundle(path).release
    plant.slot(20)
    plant.shares["hall-2"] = SHIFTED
    spoil(plant, other.manifest, "rubbish")
    plant.slot(4)
    assert plant.findings() == [("device", "hall-2", ("temp_c",))]
    with plant.fleet.store.read() as tx:
        told = tx.alerts.open_of("drift")
    assert set(told) == {"digits hall-2", "digits:0.9.0 not judged"}
    assert told["digits:0.9.0 not judged"].text.startswith("drift of digits:0.9.0 cannot be judged")
    spoil(plant, other.manifest, '{"rows":1,"columns":{},"scores":[]}')
    plant.slot()
    with plant.fleet.store.read() as tx:
        assert set(tx.alerts.open_of("drift")) == {"digits hall-2"}


def test_rows_that_cannot_be_merged_do_not_end_the_controller(
    plant: Plant, caplog: pytest.LogCaptureFixture
) -> None:
    plant.slot(2)
    spoil(plant, plant.manifest, "rubbish")
    plant.fleet.now_unix_ms += 3 * DAY_MS
    with caplog.at_level(logging.ERROR):
        plant.fleet.wait(2 * HOUR_MS / 1000, step_s=600)
    assert "old windows could not be merged" in caplog.text
    assert plant.fleet.rollout(plant.fleet.roll_out("1.0.0", "100%")).state == "finished"
