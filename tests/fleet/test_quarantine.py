"""Quarantines that a person lifts: to whom it goes, how often it is said, and when no longer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fleet.api import schemas, views
from fleet.api.schemas import QuarantineLiftIn
from fleet.store.devices import Selection
from tests.fleet.peers import Fleet, confirms, refuses
from wire.errors import PeerError


@pytest.fixture
def fleet(tmp_path: Path, where: Path | str) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path, where=where)
    fleet.settle()
    yield fleet
    fleet.controller.stop()
    fleet.store.close()


def quarantining(fleet: Fleet, *names: str) -> str:
    """Have devices confirm 1.0.0 and roll 2.0.0 back; return its manifest."""
    fleet.add(*names, verdict=refuses("2.0.0"))
    fleet.release("1.0.0")
    fleet.roll_out("1.0.0")
    manifest = fleet.release("2.0.0").manifest
    fleet.roll_out("2.0.0")
    assert all(list(fleet.devices[name].quarantined) == [manifest] for name in names)
    return manifest


def lift(fleet: Fleet, manifest: str | None, **who: object) -> dict[str, str]:
    """Lift on the devices meant; return why not, by device."""
    result = fleet.controller.lift_quarantine(
        QuarantineLiftIn.model_validate({"manifest": manifest, **who})
    )
    fleet.settle()
    assert all(row.is_lifted == (not row.reason) for row in result.devices)
    return {row.device: row.reason for row in result.devices}


def shown(fleet: Fleet, device: str) -> schemas.Device:
    with fleet.store.read() as tx:
        return views.devices(tx, Selection(device=device))[0]


@pytest.mark.parametrize("is_every", [True, False])
def test_a_lifted_bundle_is_tried_again_by_the_next_rollout(
    fleet: Fleet, *, is_every: bool
) -> None:
    manifest = quarantining(fleet, "a")
    assert [q.version for q in shown(fleet, "a").quarantined] == ["2.0.0"]
    rollout = fleet.roll_out("2.0.0")
    assert fleet.states(rollout) == {"a": "rejected"}
    assert lift(fleet, None if is_every else manifest) == {"a": ""}
    assert fleet.devices["a"].quarantined == {}
    assert (shown(fleet, "a").quarantined, shown(fleet, "a").lifted) == ([], [])
    assert fleet.devices["a"].active() == "1.0.0", "a lift starts nothing by itself"
    fleet.devices["a"].verdict = confirms
    assert fleet.states(fleet.roll_out("2.0.0")) == {"a": "confirmed"}


def test_a_device_that_is_away_hears_of_it_when_it_returns(fleet: Fleet) -> None:
    manifest = quarantining(fleet, "a")
    fleet.devices["a"].cut()
    fleet.settle()
    assert lift(fleet, manifest) == {"a": ""}
    assert [word.manifest for word in shown(fleet, "a").lifted] == [manifest]
    fleet.release("3.0.0")
    fleet.roll_out("3.0.0")  # a later desired state takes the place of the one that said it
    fleet.restart()
    fleet.devices["a"].back()
    fleet.settle()
    assert fleet.devices["a"].quarantined == {}
    assert shown(fleet, "a").lifted == []
    fleet.release("4.0.0")
    fleet.roll_out("4.0.0")
    assert fleet.devices["a"].desired[-1].lifted == (), "it is said no longer"


def test_only_devices_that_have_something_to_forget_get_a_new_desired_state(fleet: Fleet) -> None:
    manifest = quarantining(fleet, "a")
    fleet.add("b", "new")
    fleet.roll_out("1.0.0", match={"site": "lab"})
    fleet.controller.set_tags("new", {"site": "none"})
    before = {name: device.generation for name, device in fleet.devices.items()}
    assert lift(fleet, manifest) == {
        "a": "",
        "b": "it has not quarantined this bundle",
        "new": "it has not quarantined this bundle",
    }
    after = {name: device.generation for name, device in fleet.devices.items()}
    assert {name for name in after if after[name] != before[name]} == {"a"}
    assert lift(fleet, None, device="a") == {"a": "it has nothing quarantined"}


def test_models_that_came_from_elsewhere_are_not_taken_away_by_a_lift(fleet: Fleet) -> None:
    fleet.add("a")
    fleet.devices["a"].quarantined["f" * 64] = 0
    fleet.devices["a"].report()
    fleet.settle()
    assert "never given anything" in lift(fleet, None)["a"]
    assert fleet.devices["a"].desired == []


def test_who_is_not_there_is_named(fleet: Fleet) -> None:
    fleet.add("a")
    with pytest.raises(PeerError) as unknown:
        lift(fleet, None, device="b")
    assert unknown.value.code == "unknown_device"
    with pytest.raises(PeerError) as nobody:
        lift(fleet, None, match={"site": "moon"})
    assert nobody.value.code == "no_device_matches"


def test_more_lifts_than_a_desired_state_holds_are_refused(fleet: Fleet) -> None:
    quarantining(fleet, "a")
    device = fleet.devices["a"]
    digests = [f"{number:064x}" for number in range(8)]
    device.quarantined = dict.fromkeys(digests, 1)
    device.report()
    fleet.settle()
    device.cut()
    for digest in digests:
        assert lift(fleet, digest) == {"a": ""}
    with pytest.raises(PeerError) as full:
        lift(fleet, "e" * 64)  # a full report may not name all
    assert full.value.code == "too_many_lifts"
    assert lift(fleet, None) == {"a": ""}
    device.back()
    fleet.settle()
    assert device.quarantined == {}
