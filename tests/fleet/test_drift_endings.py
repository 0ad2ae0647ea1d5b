"""How a finding ends: by its rows, with its device, or with the watch; never by silence."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fleet.alerts.watch import Watch
from fleet.monitoring.drift import DriftSettings, DriftWatch
from fleet.registry import remove_device
from tests.fleet.test_drift_watch import EVEN, SHIFTED, SLOT_MS, Plant

FOUND = [("device", "hall-2", ("temp_c",))]


@pytest.fixture
def drifted(tmp_path: Path) -> Iterator[Plant]:
    """A plant one of whose devices has drifted."""
    plant = Plant(tmp_path)
    plant.watch = watch(plant, Watch())
    plant.slot(20)
    plant.shares["hall-2"] = SHIFTED
    plant.slot(2)
    assert plant.findings() == FOUND
    yield plant
    plant.fleet.controller.stop()
    plant.fleet.store.close()


def watch(plant: Plant, alerts: Watch, *, is_on: bool = True) -> DriftWatch:
    fleet = plant.fleet
    settings = DriftSettings(is_on=is_on)
    keeper = fleet.controller.windows
    return DriftWatch(fleet.store, keeper, lambda: fleet.now_unix_ms, settings, alerts)


def later(plant: Plant) -> None:
    """Let so much time go by that nothing of what was sent is looked at any more."""
    plant.fleet.now_unix_ms += 120 * SLOT_MS
    plant.slot(2)


def remove(plant: Plant, device: str) -> None:
    plant.fleet.controller.command(lambda tx: remove_device(tx, device, plant.fleet.now_unix_ms))


def alert(plant: Plant, subject: str) -> tuple[bool, str]:
    with plant.fleet.store.read() as tx:
        row = tx.alerts.open_of("drift")[subject]
    return row.alert.is_breached, row.text


def test_a_device_that_falls_silent_is_no_all_clear_and_its_rows_are(drifted: Plant) -> None:
    del drifted.shares["hall-2"]
    later(drifted)
    assert drifted.findings() == FOUND
    assert len(drifted.fleet.events("drift")) == 1
    assert alert(drifted, "digits hall-2")[0]
    drifted.shares["hall-2"] = EVEN
    drifted.slot(8)
    assert drifted.findings() == []
    assert drifted.fleet.events("drift")[-1].startswith("over: device hall-2, feature temp_c")


def test_a_finding_ends_with_its_device_in_those_words(drifted: Plant) -> None:
    del drifted.shares["hall-2"]
    remove(drifted, "hall-2")
    drifted.slot()
    assert drifted.findings() == []
    over = "over: the device does not serve it any more; device hall-2, feature temp_c"
    assert drifted.fleet.events("drift")[-1].startswith(over)


def test_where_nobody_sends_a_finding_lasts_and_ends_with_its_device(drifted: Plant) -> None:
    drifted.shares = {}
    later(drifted)
    assert drifted.findings() == FOUND
    remove(drifted, "hall-2")
    drifted.slot()
    assert drifted.findings() == []
    assert "the device does not serve it any more" in drifted.fleet.events("drift")[-1]


def test_what_was_found_ends_when_drift_is_no_longer_watched(drifted: Plant) -> None:
    alerts = Watch()
    drifted.fleet.now_unix_ms += SLOT_MS
    with drifted.fleet.store.write() as tx:
        alerts.tick(tx, drifted.fleet.now_unix_ms, is_connected=True)
        alerts.tick(tx, drifted.fleet.now_unix_ms + 60_000, is_connected=True)
    assert alert(drifted, "digits hall-2")[0]
    with watch(drifted, alerts, is_on=False):
        pass
    assert drifted.findings() == []
    why = "drift is not watched any more ([drift] is_on = false)"
    assert drifted.fleet.events("drift")[-1].startswith(f"over: {why}; device hall-2")
    with drifted.fleet.store.read() as tx:
        assert tx.alerts.open_of("drift") == {}
        (row,) = tx.alerts.to_tell("drift", "resolved", limit=10)
    text = row.text
    assert text.startswith("device hall-2, feature temp_c")
    assert text.endswith(f"; over: {why}")
    with watch(drifted, alerts, is_on=False):
        pass
    assert len(drifted.fleet.events("drift")) == 2, "told once"
    drifted.shares = dict.fromkeys(drifted.shares, EVEN)
    later(drifted)
    assert drifted.findings() == [], "nothing is left of it"
