from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fleet.api.schemas import DeviceIn, GuardsIn, ProbationIn, RolloutIn
from fleet.core.gate import SILENCE_LIMIT_MS
from tests.fleet.peers import Device, Fleet, dawdles, refuses
from wire import topics
from wire.errors import PeerError


@pytest.fixture
def fleet(tmp_path: Path, where: Path | str) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path, where=where)
    fleet.settle()
    yield fleet
    fleet.controller.stop()
    fleet.store.close()


def active(fleet: Fleet) -> list[str | None]:
    return [device.active() for device in fleet.devices.values()]


def test_a_release_reaches_all_devices_phase_by_phase(fleet: Fleet) -> None:
    fleet.add("a", "b", "c")
    fleet.release("1.0.0")
    rollout = fleet.roll_out("1.0.0", "1", "50%", "100%", soak_s=10)
    assert sorted(fleet.states(rollout).values()) == ["confirmed", "waiting", "waiting"]
    fleet.wait(11)
    assert sorted(fleet.states(rollout).values()) == ["confirmed", "confirmed", "waiting"]
    fleet.wait(22)
    assert fleet.rollout(rollout).state == "finished"
    assert active(fleet) == ["1.0.0"] * 3


def test_without_a_soak_no_time_has_to_pass(fleet: Fleet) -> None:
    fleet.add("a", "b", "c")
    fleet.release("1.0.0")
    rollout = fleet.roll_out("1.0.0", "1", "50%", "100%")
    assert fleet.rollout(rollout).state == "finished"


def test_each_device_gets_one_desired_state_per_decision(fleet: Fleet) -> None:
    fleet.add("a", "b", "c")
    fleet.release("1.0.0")
    fleet.roll_out("1.0.0", "1", "100%")
    for device in fleet.devices.values():
        assert [d.generation for d in device.desired] == [1]


def test_the_desired_state_carries_what_was_asked_for(fleet: Fleet) -> None:
    fleet.add("a")
    release = fleet.release("1.0.0")
    probation = ProbationIn(min_s=1, max_s=2, min_inferences=3)
    guards = GuardsIn(error_ratio=0.5)
    rollout = fleet.roll_out("1.0.0", probation=probation, guards=guards)
    model = fleet.devices["a"].desired[0].models[0]
    assert (model.name, model.version, model.manifest) == ("digits", "1.0.0", release.manifest)
    assert (model.index, model.rollout) == (release.index_digest, rollout)
    assert model.probation.model_dump() == probation.model_dump()
    assert model.guards.model_dump() == guards.model_dump()


def test_a_failing_canary_halts_and_the_others_never_see_the_release(fleet: Fleet) -> None:
    fleet.add("a", "b", "c", verdict=refuses("2.0.0"))
    fleet.release("1.0.0")
    fleet.release("2.0.0")
    fleet.roll_out("1.0.0")
    rollout = fleet.roll_out("2.0.0", "1", "100%")
    found = fleet.rollout(rollout)
    assert found.state == "halted"
    assert sorted(fleet.states(rollout).values()) == ["rolled_back", "waiting", "waiting"]
    assert active(fleet) == ["1.0.0"] * 3
    canary = fleet.devices[found.members[0].device]
    assert [d.models[0].version for d in canary.desired] == ["1.0.0", "2.0.0", "1.0.0"]
    for member in found.members[1:]:
        seen = [d.models[0].version for d in fleet.devices[member.device].desired]
        assert seen == ["1.0.0"]


def test_a_halt_of_the_first_release_removes_the_model(fleet: Fleet) -> None:
    fleet.add("a", verdict=refuses("1.0.0"))
    fleet.release("1.0.0")
    rollout = fleet.roll_out("1.0.0")
    assert fleet.rollout(rollout).state == "halted"
    assert [len(d.models) for d in fleet.devices["a"].desired] == [1, 0]


def test_a_halt_keeps_the_other_models_of_a_device(fleet: Fleet) -> None:
    fleet.add("a", verdict=refuses("2.0.0"))
    fleet.release("1.0.0", model="other")
    fleet.release("2.0.0")
    fleet.roll_out("1.0.0", model="other")
    fleet.roll_out("2.0.0")
    assert [m.name for m in fleet.devices["a"].desired[-1].models] == ["other"]


def test_a_device_that_is_away_picks_its_release_up_when_it_returns(fleet: Fleet) -> None:
    fleet.add("a", "b")
    fleet.add("away", is_online=False)
    fleet.release("1.0.0")
    rollout = fleet.roll_out("1.0.0")
    assert fleet.rollout(rollout).state == "finished"
    assert fleet.states(rollout)["away"] == "pending"
    fleet.devices["away"].back()
    fleet.settle()
    assert fleet.devices["away"].active() == "1.0.0"
    assert fleet.states(rollout)["away"] == "confirmed"


def test_a_device_that_leaves_in_a_phase_blocks_it_only_for_a_while(fleet: Fleet) -> None:
    fleet.add("a")
    fleet.add("b", verdict=dawdles)
    fleet.release("1.0.0")
    rollout = fleet.roll_out("1.0.0")
    fleet.devices["b"].cut()
    fleet.settle()
    fleet.wait(SILENCE_LIMIT_MS / 1000 - 1, step_s=30)
    assert fleet.rollout(rollout).state == "running"
    fleet.wait(2)
    assert fleet.rollout(rollout).state == "finished"


def test_while_the_broker_is_away_nothing_is_judged(fleet: Fleet) -> None:
    fleet.add("a")
    fleet.add("b", verdict=dawdles)
    fleet.release("1.0.0")
    rollout = fleet.roll_out("1.0.0")
    fleet.broker.cut("controller")
    fleet.wait(3600, step_s=600)
    assert fleet.states(rollout)["b"] == "in_progress"
    fleet.link.connect()
    fleet.settle()
    assert fleet.states(rollout)["b"] == "in_progress"  # silence counts from now on


def test_a_rollout_started_without_a_broker_begins_when_it_is_there(fleet: Fleet) -> None:
    fleet.add("a")
    fleet.release("1.0.0")
    fleet.broker.cut("controller")
    fleet.settle()
    rollout = fleet.roll_out("1.0.0")
    assert fleet.states(rollout) == {"a": "waiting"}
    fleet.link.connect()
    fleet.settle()
    assert fleet.rollout(rollout).state == "finished"


def test_pause_resume_and_abort(fleet: Fleet) -> None:
    fleet.add("a", "b", verdict=dawdles)
    fleet.release("1.0.0")
    rollout = fleet.roll_out("1.0.0", "1", "100%")
    canary = fleet.devices[fleet.rollout(rollout).members[0].device]
    fleet.controller.pause_rollout(rollout)
    canary.verdict = refuses()
    canary.settle()
    fleet.wait(5)
    assert sorted(fleet.states(rollout).values()) == ["confirmed", "waiting"]
    fleet.controller.resume_rollout(rollout)
    fleet.settle()
    assert sorted(fleet.states(rollout).values()) == ["confirmed", "in_progress"]
    fleet.controller.abort_rollout(rollout)
    fleet.settle()
    assert sorted(fleet.states(rollout).values()) == ["confirmed", "withdrawn"]
    assert canary.active() == "1.0.0"
    for act in (
        fleet.controller.pause_rollout,
        fleet.controller.resume_rollout,
        fleet.controller.abort_rollout,
    ):
        with pytest.raises(PeerError) as caught:
            act(rollout)
        assert caught.value.code == "rollout_ended"


def test_a_newer_rollout_takes_devices_over(fleet: Fleet) -> None:
    fleet.add("a", "b", verdict=dawdles)
    fleet.release("1.0.0")
    fleet.release("2.0.0")
    first = fleet.roll_out("1.0.0")
    second = fleet.roll_out("2.0.0")
    assert fleet.rollout(first).state == "aborted"
    assert set(fleet.states(first).values()) == {"superseded"}
    assert second in fleet.rollout(first).members[0].detail
    for device in fleet.devices.values():
        device.verdict = refuses()
        device.settle()
    fleet.settle()
    assert active(fleet) == ["2.0.0", "2.0.0"]


def test_the_same_rollout_twice_is_refused_while_it_runs(fleet: Fleet) -> None:
    fleet.add("a", verdict=dawdles)
    fleet.release("1.0.0")
    fleet.roll_out("1.0.0")
    with pytest.raises(PeerError) as caught:
        fleet.roll_out("1.0.0")
    assert caught.value.code == "rollout_running"


@pytest.mark.parametrize(
    ("version", "match", "code"),
    [("9.9.9", {}, "unknown_release"), ("1.0.0", {"site": "moon"}, "no_device_matches")],
)
def test_a_rollout_that_cannot_be_is_refused(
    fleet: Fleet, version: str, match: dict[str, str], code: str
) -> None:
    fleet.add("a")
    fleet.release("1.0.0")
    with pytest.raises(PeerError) as caught:
        fleet.controller.start_rollout(RolloutIn(model="digits", version=version, match=match))
    assert caught.value.code == code
    assert caught.value.hint


def test_devices_that_run_it_already_end_the_rollout_at_once(fleet: Fleet) -> None:
    fleet.add("a")
    fleet.release("1.0.0")
    fleet.roll_out("1.0.0")
    again = fleet.roll_out("1.0.0", soak_s=60)
    assert fleet.rollout(again).state == "finished"
    assert "already" in fleet.rollout(again).reason
    assert len(fleet.devices["a"].desired) == 1


def test_a_device_added_later_is_not_part_of_a_running_rollout(fleet: Fleet) -> None:
    fleet.add("a", verdict=dawdles)
    fleet.release("1.0.0")
    rollout = fleet.roll_out("1.0.0")
    fleet.add("late")
    fleet.wait(3)
    assert list(fleet.states(rollout)) == ["a"]
    assert fleet.devices["late"].desired == []


def test_a_ninth_model_is_refused(fleet: Fleet) -> None:
    fleet.add("a")
    for number in range(9):
        fleet.release("1.0.0", model=f"m{number}")
    for number in range(8):
        fleet.roll_out("1.0.0", model=f"m{number}")
    with pytest.raises(PeerError) as caught:
        fleet.roll_out("1.0.0", model="m8")
    assert caught.value.code == "too_many_models"


def test_a_broker_that_forgot_everything_is_told_again(fleet: Fleet) -> None:
    fleet.add("a")
    fleet.release("1.0.0")
    fleet.roll_out("1.0.0")
    fleet.broker._retained.clear()
    fleet.broker.cut("controller")
    fleet.link.connect()
    fleet.settle()
    assert topics.Desired("a").text in fleet.broker._retained


def test_a_device_that_lags_is_told_again(fleet: Fleet) -> None:
    fleet.add("a", is_online=False)
    fleet.release("1.0.0")
    fleet.roll_out("1.0.0")
    fleet.broker._retained.pop(topics.Desired("a").text)
    fleet.wait(10)
    fleet.devices["a"].back()
    fleet.settle()
    assert fleet.devices["a"].active() == "1.0.0"


def test_a_store_that_was_set_back_numbers_above_what_devices_have_seen(fleet: Fleet) -> None:
    fleet.add("a")
    fleet.devices["a"].generation = 41
    fleet.release("1.0.0")
    fleet.devices["a"].report()
    fleet.settle()
    fleet.roll_out("1.0.0")
    assert fleet.devices["a"].desired[-1].generation == 42
    fleet.devices["a"].generation = 99
    fleet.devices["a"].report()
    fleet.settle()
    assert fleet.devices["a"].desired[-1].generation == 100


@pytest.mark.parametrize("cut_after", range(12))
def test_a_controller_killed_at_any_round_repeats_and_never_doubles(
    tmp_path: Path, cut_after: int
) -> None:
    fleet = Fleet(tmp_path)
    fleet.settle()
    fleet.add("a", "b", "c", "d", verdict=refuses("2.0.0"))
    fleet.release("1.0.0")
    fleet.release("2.0.0")
    fleet.roll_out("1.0.0")
    for device in fleet.devices.values():
        device.desired.clear()
    rollout = fleet.controller.start_rollout(
        RolloutIn(model="digits", version="2.0.0", phases=["1", "100%"], soak_s=0)
    )
    for _ in range(cut_after):
        fleet.controller.run_once()
    fleet.restart()
    fleet.wait(3)
    assert fleet.rollout(rollout.id).state == "halted"
    assert sum(1 for state in fleet.states(rollout.id).values() if state == "rolled_back") == 1
    for device in fleet.devices.values():
        assert device.active() == "1.0.0"
        # Said again after the restart, but never a new decision: the same generations, in order.
        generations = [d.generation for d in device.desired]
        assert generations == sorted(generations)
        assert len({(d.generation, d.models) for d in device.desired}) == len(set(generations))
        was_canary = any(m.version == "2.0.0" for d in device.desired for m in d.models)
        assert set(generations) <= ({1, 2, 3} if was_canary else {1})
    fleet.controller.stop()
    fleet.store.close()


def test_the_controller_says_when_it_comes_and_when_it_goes(fleet: Fleet) -> None:
    topic = topics.ControllerPresence().text
    assert b'"online"' in fleet.broker._retained[topic]
    fleet.broker.cut("controller")
    assert b'"offline"' in fleet.broker._retained[topic]
    fleet.link.connect()
    fleet.settle()
    assert b'"birth":2' in fleet.broker._retained[topic]
    fleet.controller.stop()
    assert b'"offline"' in fleet.broker._retained[topic]


def test_a_removed_device_leaves_nothing_behind(fleet: Fleet) -> None:
    fleet.add("a", "b", verdict=dawdles)
    fleet.release("1.0.0")
    rollout = fleet.roll_out("1.0.0")
    for rogue in (topics.Telemetry("a", "vitals"), topics.Event("a", "update")):
        fleet.devices["a"].send(rogue, b"what a rogue may retain", retain=True)
    fleet.devices["a"].link.stop()
    fleet.controller.remove_device("a")
    fleet.settle()
    assert not [t for t in fleet.broker._retained if "/a/" in t]
    fleet.wait(2)
    assert fleet.states(rollout) == {"a": "superseded", "b": "in_progress"}


def test_a_device_that_was_there_before_it_was_added_is_heard_at_once(fleet: Fleet) -> None:
    early = Device(fleet.broker, "early")
    fleet.settle()
    assert any("fleet device add early" in text for text in fleet.events("device"))
    early.link.stop()
    fleet.devices["early"] = Device(fleet.broker, "early")
    fleet.settle()
    fleet.add("other")
    fleet.controller.add_devices([DeviceIn(id="early")])
    fleet.settle()
    assert fleet.presence("early") == "online"


def test_the_watch_tells_the_story_of_a_halt(fleet: Fleet) -> None:
    fleet.add("a", verdict=refuses("1.0.0"))
    fleet.release("1.0.0")
    rollout = fleet.roll_out("1.0.0")
    told = "\n".join(fleet.events("rollout"))
    for part in ("started: digits:1.0.0", "phase 1 of 1 opened", "a rolled back", "halted:"):
        assert part in told
    assert rollout == "r-1"
