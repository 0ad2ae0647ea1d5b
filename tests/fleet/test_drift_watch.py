"""A whole controller watches windows as devices send them: findings open, change, last and close."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient

from fleet.api.app import build_app
from fleet.monitoring.drift import DriftSettings, DriftWatch, words_of
from fleet.store.devices import Selection
from tests.fleet.bundles import bundle
from tests.fleet.peers import Fleet
from wire import codec, topics
from wire.histogram import Baseline, CategoryColumn, Column
from wire.manifest import digest_of
from wire.windows import WindowTelemetry

SLOT_MS = 900_000
ROWS = 500
EVEN = np.full(10, 0.1)
SHIFTED = np.array([0.02, 0.03, 0.05, 0.05, 0.1, 0.1, 0.15, 0.15, 0.15, 0.2])
"""PSI of 0.36 from even shares."""
LABELS = np.array([0.7, 0.3])
EDGES = tuple(float(edge) for edge in range(1, 10))
BASELINE = Baseline(
    row_count=10_000,
    inputs=(Column(name="temp_c", edges=EDGES, counts=(1000,) * 10, low=0.0, high=10.0),),
    outputs=(CategoryColumn(name="label", categories=("ok", "bad"), counts=(7000, 3000)),),
)
LAB = ("lab-1", "lab-2", "lab-3", "lab-4")
HALL = ("hall-1", "hall-2", "hall-3", "hall-4")


def between_blocks(positions: np.ndarray) -> float:
    """Return what a device sends beside the counts; see `WindowTelemetry.between`."""
    size = 1 << (-(-len(positions) // 16) - 1).bit_length()
    blocks = [positions[start : start + size] for start in range(0, len(positions), size)]
    whole = float(positions.sum()) ** 2 / len(positions)
    return max(0.0, sum(float(block.sum()) ** 2 / len(block) for block in blocks) - whole)


class Plant:
    """Devices that answer the same number of rows in each slot, and the watch over them."""

    def __init__(self, folder: Path) -> None:
        self.fleet = Fleet(folder)
        self.fleet.settle()
        self.fleet.now_unix_ms = self.fleet.now_unix_ms // SLOT_MS * SLOT_MS
        self.fleet.add(*LAB, *HALL)
        for name in HALL:
            self.fleet.controller.set_tags(name, {"site": "hall"})
        path = folder / "digits.bundle"
        path.write_bytes(bundle(baseline=codec.encode(BASELINE)))
        release = self.fleet.controller.push_bundle(path).release
        self.manifest = release.manifest
        self.fleet.sign("digits", "1.0.0", release.manifest_body.encode())
        assert digest_of(release.manifest_body.encode()) == release.manifest
        self.fleet.roll_out("1.0.0", "100%")
        self.fleet.wait(3)
        self.fleet.now_unix_ms = self.fleet.now_unix_ms // SLOT_MS * SLOT_MS
        self.random = np.random.default_rng(7)
        self.seq = 1000
        self.shares = dict.fromkeys((*LAB, *HALL), EVEN)
        self.watch = self.new_watch()

    def new_watch(self) -> DriftWatch:
        controller = self.fleet.controller
        return DriftWatch(
            controller.store, controller.windows, lambda: self.fleet.now_unix_ms, DriftSettings()
        )

    def send(self, name: str, counts: list[list[int]], between: tuple[float, ...] = ()) -> None:
        device = self.fleet.devices[name]
        self.seq += 1
        record = WindowTelemetry(
            boot=device.boot,
            seq=self.seq,
            start_unix_ms=self.fleet.now_unix_ms - SLOT_MS,
            duration_s=SLOT_MS / 1000 - 1,
            model="digits",
            version="1.0.0",
            manifest=self.manifest,
            row_count=ROWS,
            columns=counts,
            between=between,
        )
        device.send(topics.Telemetry(name, "window"), codec.encode(record))

    def slot(self, count: int = 1) -> None:
        """Let slots go by, with a window of each device in them, and judge each."""
        for _ in range(count):
            self.fleet.now_unix_ms += SLOT_MS
            for name, shares in self.shares.items():
                drawn = [
                    self.random.choice(len(chances), size=ROWS, p=chances)
                    for chances in (shares, LABELS)
                ]
                counts = [np.bincount(rows, minlength=2).tolist() for rows in drawn]
                self.send(name, counts, tuple(between_blocks(rows) for rows in drawn))
            self.fleet.settle()
            self.fleet.now_unix_ms += 120_000
            assert self.watch.look()
            self.fleet.now_unix_ms -= 120_000

    def findings(self) -> list[tuple[str, str, tuple[str, ...]]]:
        with self.fleet.store.read() as tx:
            return [(row.level, row.who, row.features) for row in tx.drift.findings()]


@pytest.fixture
def plant(tmp_path: Path) -> Iterator[Plant]:
    plant = Plant(tmp_path)
    yield plant
    plant.fleet.controller.stop()
    plant.fleet.store.close()


def test_a_group_that_drifts_is_found_named_and_closed(plant: Plant) -> None:
    plant.slot(24)
    assert plant.findings() == []
    for name in LAB:
        plant.shares[name] = SHIFTED
    plant.slot(4)
    assert plant.findings() == [("group", "site=lab", ("temp_c",))]
    (told,) = plant.fleet.events("drift")
    assert "devices in site=lab" in told
    assert ", feature temp_c, since " in told
    plant.watch = plant.new_watch()  # a controller that starts again says nothing twice
    plant.slot(4)
    assert plant.findings() == [("group", "site=lab", ("temp_c",))]
    assert len(plant.fleet.events("drift")) == 1
    with plant.fleet.store.read() as tx:
        (row,) = tx.drift.findings()
    assert words_of(row).startswith("4 of 4 devices in site=lab, feature temp_c, since ")
    for name in LAB:
        plant.shares[name] = EVEN
    plant.slot(30)
    assert plant.findings() == []
    assert plant.fleet.events("drift")[-1].startswith("over: ")


def test_one_device_and_the_whole_fleet(plant: Plant) -> None:
    plant.slot(24)
    plant.shares["hall-2"] = SHIFTED
    plant.slot(4)
    assert plant.findings() == [("device", "hall-2", ("temp_c",))]
    plant.shares = dict.fromkeys(plant.shares, SHIFTED)
    plant.slot(6)
    assert plant.findings() == [("fleet", "", ("temp_c",))]


def test_a_window_that_comes_twice_counts_once_and_a_late_one_finds_its_slot(plant: Plant) -> None:
    plant.fleet.now_unix_ms += SLOT_MS
    plant.send("lab-1", [[50] * 10, [350, 150]])
    plant.seq -= 1
    plant.send("lab-1", [[50] * 10, [350, 150]])
    late = plant.fleet.now_unix_ms
    plant.fleet.now_unix_ms += 5 * SLOT_MS
    plant.fleet.settle()
    with plant.fleet.store.read() as tx:
        found = list(
            tx.windows.rows(plant.manifest, Selection(), since_unix_ms=0, until_unix_ms=2**62)
        )
    assert [(row.device, row.sums.row_count) for row in found] == [("lab-1", ROWS)]
    assert found[0].start_unix_ms == late - SLOT_MS
    assert found[0].sums.columns[0].counts == (50,) * 10


def test_old_slots_become_hours_and_days_and_lose_no_row(plant: Plant) -> None:
    plant.slot(8)
    day_ms = 24 * 3_600_000
    plant.fleet.now_unix_ms += 3 * day_ms
    with plant.fleet.store.write() as tx:
        assert not plant.fleet.controller.windows.tidy(tx, plant.fleet.now_unix_ms)
    with plant.fleet.store.read() as tx:
        rows = list(
            tx.windows.rows(plant.manifest, Selection(), since_unix_ms=0, until_unix_ms=2**62)
        )
    assert {row.length_ms for row in rows} == {3_600_000}
    assert sum(row.sums.row_count for row in rows) == 8 * 8 * ROWS
    assert sum(sum(row.sums.columns[1].counts) for row in rows) == 8 * 8 * ROWS


def test_the_api_shows_each_column_beside_its_baseline(plant: Plant) -> None:
    for name in LAB:
        plant.shares[name] = SHIFTED
    plant.slot(3)
    app = build_app(plant.fleet.controller)
    with TestClient(app, headers=plant.fleet.bearer()) as api:
        report = api.get("/v1/models/digits/drift", params={"match": "site=lab"}).json()
        assert (report["version"], report["device_count"]) == ("1.0.0", 4)
        assert report["row_count"] == 3 * 4 * ROWS
        temp, label = report["columns"]
        assert (temp["name"], temp["is_output"], temp["kind"]) == ("temp_c", False, "number")
        assert temp["psi"] == pytest.approx(0.36, abs=0.1)
        assert [b["reference_ratio"] for b in temp["bins"][:10]] == [0.1] * 10
        assert label["psi"] < 0.02
        assert label["bins"][0]["label"] == "ok"
        nobody = api.get("/v1/models/digits/drift", params={"device": "hall-1", "since_s": 1})
        assert (nobody.json()["row_count"], nobody.json()["columns"][0]["verdict"]) == (
            0,
            "too_few_rows",
        )
        assert api.get("/v1/models/faces/drift").status_code == 404
        assert api.get("/v1/models/digits/drift", params={"version": "9"}).status_code == 404


def test_a_scope_sees_findings_about_its_own_devices_alone(plant: Plant) -> None:
    plant.slot(24)
    for name in LAB:
        plant.shares[name] = SHIFTED
    plant.slot(4)
    app = build_app(plant.fleet.controller)
    with TestClient(app) as api:

        def seen(**scope: str) -> list[str]:
            bearer = plant.fleet.bearer(f"viewer-{len(scope)}-{scope.get('site')}", **scope)
            return [row["who"] for row in api.get("/v1/drift", headers=bearer).json()]

        assert seen() == ["site=lab"]
        assert seen(site="lab") == ["site=lab"]
        assert seen(site="hall") == []


def test_what_was_found_ends_with_the_release(plant: Plant) -> None:
    plant.slot(24)
    plant.shares["hall-2"] = SHIFTED
    plant.slot(4)
    assert len(plant.findings()) == 1
    plant.fleet.release("2.0.0")
    plant.fleet.roll_out("2.0.0", "100%")
    plant.fleet.wait(3)
    plant.shares = {}
    plant.fleet.now_unix_ms = plant.fleet.now_unix_ms // SLOT_MS * SLOT_MS
    plant.slot()
    assert plant.findings() == []
    assert "no device serves it any more" in plant.fleet.events("drift")[-1]
