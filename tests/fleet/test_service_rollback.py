from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fleet.api.schemas import RollbackIn
from tests.fleet.peers import Fleet
from wire import topics


@pytest.fixture
def fleet(tmp_path: Path, where: Path | str) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path, where=where)
    fleet.settle()
    yield fleet
    fleet.controller.stop()
    fleet.store.close()


def rollback(fleet: Fleet, **match: str) -> dict[str, str | None]:
    result = fleet.controller.rollback(RollbackIn(model="digits", match=match))
    fleet.settle()
    return {device.device: device.to_version for device in result.devices}


def active(fleet: Fleet) -> list[str | None]:
    return [device.active() for device in fleet.devices.values()]


def test_a_rollback_returns_to_the_release_confirmed_before_and_then_further(
    fleet: Fleet,
) -> None:
    fleet.add("a")
    for version in "1.0.0", "2.0.0", "3.0.0":
        fleet.release(version)
        fleet.roll_out(version)
    assert rollback(fleet) == {"a": "2.0.0"}
    assert active(fleet) == ["2.0.0"]
    assert rollback(fleet) == {"a": "1.0.0"}  # further back, not to and fro
    assert active(fleet) == ["1.0.0"]
    assert rollback(fleet) == {"a": None}
    assert active(fleet) == ["1.0.0"]


def test_a_rollback_goes_by_device_and_only_where_it_matches(fleet: Fleet) -> None:
    fleet.add("a", "b", "new")
    fleet.release("1.0.0")
    fleet.release("2.0.0")
    fleet.controller.set_tags("a", {"site": "hall"})
    fleet.controller.set_tags("new", {"site": "none"})
    fleet.roll_out("1.0.0", match={"site": "lab"})
    fleet.roll_out("1.0.0", match={"site": "hall"})
    fleet.roll_out("2.0.0")
    assert rollback(fleet, site="hall") == {"a": "1.0.0"}
    assert active(fleet) == ["1.0.0", "2.0.0", "2.0.0"]
    assert rollback(fleet) == {"a": None, "b": "1.0.0", "new": None}


def test_a_rollback_ends_the_rollout_that_it_contradicts(fleet: Fleet) -> None:
    fleet.add("a", "b")
    fleet.release("1.0.0")
    fleet.release("2.0.0")
    fleet.roll_out("1.0.0")
    rollout = fleet.roll_out("2.0.0", "1", "100%", soak_s=60)
    canary = fleet.rollout(rollout).members[0].device
    # The canary runs 2.0.0; the other device confirmed nothing before 1.0.0 and stays.
    moved = rollback(fleet)
    assert moved == {device: ("1.0.0" if device == canary else None) for device in ("a", "b")}
    fleet.wait(200, step_s=20)
    assert fleet.rollout(rollout).state == "aborted"
    assert active(fleet) == ["1.0.0", "1.0.0"]


def test_a_late_report_cannot_bring_back_what_was_rolled_back(fleet: Fleet) -> None:
    fleet.add("a")
    for version in "1.0.0", "2.0.0":
        fleet.release(version)
        fleet.roll_out(version)
    device = fleet.devices["a"]
    device.link.unsubscribe([topics.Desired("a").text])
    rollback(fleet)
    device.report()  # still on 2.0.0: it has not heard of the rollback yet
    fleet.settle()
    device.cut()
    device.back()
    fleet.settle()
    assert device.active() == "1.0.0"
    assert rollback(fleet) == {"a": None}
