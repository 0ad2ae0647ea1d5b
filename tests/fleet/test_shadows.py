"""Rollouts that begin with a shadow, through the controller, its store and its API."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fleet.api import views
from fleet.api.schemas import RollbackIn
from fleet.api.shadow_schemas import RolloutShadow, ShadowIn
from tests.fleet.peers import Device, Fleet
from wire import codec, topics
from wire import messages as m
from wire.errors import PeerError
from wire.shadow import ShadowClass, ShadowTelemetry

HOUR = ShadowIn(duration_s=3600)


@pytest.fixture
def fleet(tmp_path: Path, where: Path | str) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path, where=where)
    fleet.settle()
    fleet.add("a", "b")
    fleet.release("1.0.0")
    fleet.roll_out("1.0.0")
    fleet.release("1.1.0")
    yield fleet
    fleet.controller.stop()
    fleet.store.close()


def tell(fleet: Fleet, device: Device, seq: int, rows: int, agree: int, **more: object) -> None:
    """Say what a device compared of the shadow that it was last asked for."""
    shadow = device.desired[-1].shadow
    assert shadow is not None
    record = {
        "boot": device.boot, "seq": seq, "start_unix_ms": fleet.now_unix_ms, "duration_s": 15,
        "model": shadow.model, "version": shadow.version, "manifest": shadow.manifest,
        "active_manifest": "0" * 64, "rollout": shadow.rollout, "row_count": rows,
        "agree_count": agree, "sampled_count": rows, "active_latency": (0,) * 40 + (min(rows, 1000),),
        "shadow_latency": (0,) * 50 + (min(rows, 1000),), "shadow_pss_bytes": 50_000_000,
    }  # fmt: skip
    message = ShadowTelemetry.model_validate({**record, **more})
    device.send(topics.Telemetry(device.name, "shadow"), codec.encode(message))
    fleet.settle()


def shown(fleet: Fleet, rollout: str) -> RolloutShadow:
    with fleet.store.read() as tx:
        found = views.rollout(tx, fleet.rollout(rollout)).shadow
    assert found is not None
    return found


def shaded(fleet: Fleet) -> list[str]:
    return [name for name, device in fleet.devices.items() if device.desired[-1].shadow]


def test_a_shadow_is_asked_for_beside_what_serves_and_gives_way_to_the_release(
    fleet: Fleet,
) -> None:
    rollout = fleet.roll_out("1.1.0", "1", "100%", shadow=HOUR)
    (name,) = shaded(fleet)
    device = fleet.devices[name]
    wanted = device.desired[-1]
    assert wanted.shadow is not None
    assert (wanted.models[0].version, wanted.shadow.version) == ("1.0.0", "1.1.0")
    tell(fleet, device, 1, 400, 400)
    tell(
        fleet, device, 2, 400, 400, classes=(ShadowClass(label="x", row_count=9, disagree_count=2),)
    )
    fleet.wait(3598, step_s=600)
    assert {d.active() for d in fleet.devices.values()} == {"1.0.0"}
    trial = shown(fleet, rollout)
    assert (trial.row_count, trial.agreement, trial.devices[0].state) == (800, 1.0, "running")
    assert [c.model_dump() for c in trial.classes] == [
        {"label": "x", "row_count": 9, "disagree_count": 2}
    ]
    assert (trial.active_p50_ms or 0) < (trial.shadow_p50_ms or 0)
    fleet.wait(3)
    assert fleet.rollout(rollout).state == "finished"
    assert {d.active() for d in fleet.devices.values()} == {"1.1.0"}
    assert shaded(fleet) == []
    assert shown(fleet, rollout).state == "passed"


def test_a_record_counts_once_and_one_of_a_stranger_never(fleet: Fleet) -> None:
    rollout = fleet.roll_out("1.1.0", "1", "100%", shadow=HOUR)
    (name,) = shaded(fleet)
    device = fleet.devices[name]
    other = next(d for n, d in fleet.devices.items() if n != name)
    tell(fleet, device, 1, 100, 90)
    tell(fleet, device, 1, 100, 90)
    tell(fleet, device, 2, 100, 90, rollout="r-99")
    tell(fleet, device, 3, 100, 90, manifest="f" * 64)
    other.desired.append(device.desired[-1])
    tell(fleet, other, 1, 100, 90)
    assert shown(fleet, rollout).row_count == 100


def test_a_restart_of_the_controller_goes_on_where_it_was(fleet: Fleet) -> None:
    rollout = fleet.roll_out("1.1.0", "100%", shadow=HOUR)
    tell(fleet, fleet.devices["a"], 1, 1000, 700)
    fleet.wait(1)
    assert fleet.rollout(rollout).state == "halted", "at once: that many are proof"
    rollout = fleet.roll_out("1.1.0", "100%", shadow=HOUR)
    tell(fleet, fleet.devices["a"], 2, 1000, 1000)
    fleet.wait(1800, step_s=600)
    fleet.restart()
    assert shaded(fleet) == ["a", "b"]
    fleet.wait(1801, step_s=600)
    assert fleet.rollout(rollout).state == "finished"


def test_a_shadow_that_failed_halts_and_is_taken_back(fleet: Fleet) -> None:
    rollout = fleet.roll_out("1.1.0", "1", "100%", shadow=HOUR)
    (name,) = shaded(fleet)
    device = fleet.devices[name]
    assert device.shadow is not None
    device.shadow = device.shadow.model_copy(update={"state": "failed", "code": "shadow_died"})
    device.report()
    fleet.settle()
    assert fleet.rollout(rollout).state == "halted"
    assert "shadow_died" in fleet.rollout(rollout).reason
    assert shaded(fleet) == []
    assert device.active() == "1.0.0"


def test_an_older_agent_serves_on_and_is_named(fleet: Fleet) -> None:
    for device in fleet.devices.values():
        device.knows_shadows = False
    rollout = fleet.roll_out("1.1.0", "1", "100%", shadow=HOUR)
    fleet.wait(3601, step_s=600)
    ended = fleet.rollout(rollout)
    assert ended.state == "inconclusive"
    assert "runs an agent that knows no shadows" in ended.reason
    assert {d.active() for d in fleet.devices.values()} == {"1.0.0"}


def test_a_newer_rollout_and_a_rollback_end_it(fleet: Fleet) -> None:
    first = fleet.roll_out("1.1.0", "100%", shadow=HOUR)
    fleet.release("1.2.0")
    second = fleet.roll_out("1.2.0", "1", "100%", shadow=HOUR)
    assert fleet.rollout(first).state == "aborted"
    (name,) = shaded(fleet)
    shadow = fleet.devices[name].desired[-1].shadow
    assert shadow is not None
    assert shadow.rollout == second
    fleet.controller.rollback(RollbackIn(model="digits"))
    fleet.settle()
    assert shaded(fleet) == []


def test_a_device_has_one_shadow_at_a_time(fleet: Fleet) -> None:
    fleet.roll_out("1.1.0", "100%", shadow=HOUR)
    fleet.release("1.0.0", model="faces")
    with pytest.raises(PeerError, match="runs a shadow of digits already") as caught:
        fleet.roll_out("1.0.0", model="faces", shadow=HOUR)
    assert caught.value.code == "shadow_running"
    fleet.roll_out("1.0.0", model="faces")
    assert shaded(fleet) == ["a", "b"], "another model's rollout leaves it alone"


def test_what_a_lying_device_sums_up_to_stays_a_number(fleet: Fleet) -> None:
    rollout = fleet.roll_out("1.1.0", "100%", shadow=HOUR)
    for seq in range(1, 6):
        tell(fleet, fleet.devices["a"], seq, 999_999_999, 999_999_999)
    assert shown(fleet, rollout).row_count == 5 * 999_999_999
    assert shown(fleet, rollout).row_count < m.MAX_INTEGER
