from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from fleet.core import gate
from fleet.core import rollout as engine
from fleet.core.states import (
    Assign,
    Command,
    DeviceEvidence,
    Member,
    ReleaseKey,
    Rollout,
    Withdraw,
)
from wire.lifecycle import SUCCESSES, Outcome, UpdateState

TARGET = ReleaseKey("2.0.0", "2" * 64)
OLD = ReleaseKey("1.0.0", "1" * 64)


@dataclass
class World:
    """Devices as the engine sees them, and a rollout that is stepped over them."""

    rollout: Rollout
    seen: dict[str, DeviceEvidence]
    now: int = 1_000_000

    def step(self) -> tuple[Command, ...]:
        self.rollout, commands = engine.step(self.rollout, self.seen, self.now)
        self.obey(commands)
        return commands

    def obey(self, commands: tuple[Command, ...]) -> None:
        for command in commands:
            seen = self.seen[command.device]
            assert command.generation == seen.next_generation
            self.seen[command.device] = replace(seen, next_generation=command.generation + 1)

    def member(self, device: str) -> Member:
        return next(m for m in self.rollout.members if m.device == device)

    def of_phase(self, number: int) -> list[str]:
        return [m.device for m in self.rollout.members if m.phase == number]

    def say(self, device: str, outcome: Outcome | None, *, code: str = "x") -> None:
        seen = self.seen[device]
        is_good = outcome is Outcome.CONFIRMED
        self.seen[device] = replace(
            seen,
            reported_generation=seen.next_generation - 1,
            active=TARGET.manifest if is_good else OLD.manifest,
            state=UpdateState.IDLE if outcome else UpdateState.FETCHING,
            target=TARGET.manifest,
            outcome=outcome,
            code=code,
        )

    def confirm(self, *devices: str) -> None:
        for device in devices:
            self.say(device, Outcome.CONFIRMED)

    def offline(self, device: str) -> None:
        self.seen[device] = replace(
            self.seen[device], is_online=False, offline_since_unix_ms=self.now
        )

    def pass_time(self, seconds: float) -> None:
        self.now += int(seconds * 1000)
        for device, seen in self.seen.items():
            if seen.is_online:
                self.seen[device] = replace(seen, last_seen_unix_ms=self.now)


def world(
    count: int = 4,
    shares: tuple[str, ...] = ("1", "50%", "100%"),
    *,
    tolerance: int = 0,
    offline: tuple[int, ...] = (),
    soak_s: float = 10.0,
) -> World:
    names = [f"d{n}" for n in range(count)]
    rollout = engine.plan(
        rollout="r-1",
        model="digits",
        release=TARGET,
        devices=dict.fromkeys(names, False),
        shares=shares,
        soak_s=soak_s,
        tolerance=tolerance,
        now_unix_ms=1_000_000,
    )
    order = [m.device for m in rollout.members]
    seen = {
        name: DeviceEvidence(
            is_online=position not in offline,
            next_generation=5,
            offline_since_unix_ms=1_000_000,
            last_seen_unix_ms=1_000_000,
            previous=OLD,
        )
        for position, name in enumerate(order)
    }
    return World(rollout, seen)


def test_phases_open_one_after_the_other_each_after_its_soak() -> None:
    w = world()
    commands = w.step()
    assert [c.device for c in commands] == w.of_phase(0)
    assert all(isinstance(c, Assign) for c in commands)
    w.confirm(*w.of_phase(0))
    assert w.step() == ()
    w.pass_time(9.9)
    assert w.step() == ()
    w.pass_time(0.1)
    assert [c.device for c in w.step()] == w.of_phase(1)
    w.confirm(*w.of_phase(1))
    w.step()
    w.pass_time(10)
    assert [c.device for c in w.step()] == w.of_phase(2)
    w.confirm(*w.of_phase(2))
    w.step()
    w.pass_time(10)
    w.step()
    assert w.rollout.state == "finished"
    assert [p.state for p in w.rollout.phases] == ["passed"] * 3


def test_the_soak_counts_from_the_last_confirmation_of_the_phase() -> None:
    w = world(count=2, shares=("2",))
    w.step()
    w.confirm("d0")
    w.step()
    w.pass_time(60)
    assert w.rollout.state == "running"
    w.confirm("d1")
    w.step()
    w.pass_time(9)
    w.step()
    assert w.rollout.state == "running"
    w.pass_time(1)
    w.step()
    assert w.rollout.state == "finished"


BAD_ENDS = sorted(set(Outcome) - SUCCESSES)


@pytest.mark.parametrize("outcome", BAD_ENDS)
def test_a_failure_halts_and_sets_back_everyone_who_is_not_confirmed(outcome: Outcome) -> None:
    w = world(count=4, shares=("1", "100%"))
    w.step()
    canary = w.of_phase(0)[0]
    w.confirm(canary)
    w.step()
    w.pass_time(10)
    w.step()
    bad, busy, _other = w.of_phase(1)
    w.say(bad, outcome, code="error_ratio")
    w.say(busy, None)
    commands = w.step()
    assert w.rollout.state == "halted"
    assert {c.device for c in commands} == set(w.of_phase(1))
    assert all(isinstance(c, Withdraw) and c.previous == OLD for c in commands)
    assert w.member(bad).state == outcome.value
    assert w.member(busy).state == "withdrawn"
    assert w.member(canary).state == "confirmed"
    assert bad in w.rollout.reason
    assert "error_ratio" in w.rollout.reason
    assert "1 confirmed stay on 2.0.0" in w.rollout.reason
    assert w.step() == ()  # a halted rollout does nothing more


def test_an_outcome_of_another_release_or_an_older_generation_is_no_news() -> None:
    w = world(count=1, shares=("1",))
    w.step()
    seen = w.seen["d0"]
    w.seen["d0"] = replace(
        seen,
        reported_generation=4,
        target=TARGET.manifest,
        outcome=Outcome.REJECTED,
        state=UpdateState.IDLE,
    )
    w.step()
    assert w.member("d0").state == "in_progress"
    w.seen["d0"] = replace(
        seen,
        reported_generation=5,
        target=OLD.manifest,
        outcome=Outcome.FAILED,
        state=UpdateState.IDLE,
    )
    w.step()
    assert w.member("d0").state == "in_progress"


@pytest.mark.parametrize("state", [s for s in UpdateState if s is not UpdateState.IDLE])
def test_active_is_not_enough_while_the_device_is_at_work(state: UpdateState) -> None:
    w = world(count=1, shares=("1",))
    w.step()
    w.confirm("d0")
    w.seen["d0"] = replace(w.seen["d0"], state=state)
    w.step()
    assert w.member("d0").state == "in_progress"


def test_active_without_an_outcome_is_not_a_success() -> None:
    w = world(count=1, shares=("1",))
    w.step()
    w.confirm("d0")
    w.seen["d0"] = replace(w.seen["d0"], outcome=None)
    w.step()
    assert w.member("d0").state == "in_progress"


def test_a_device_that_is_offline_gets_its_desired_state_and_blocks_nobody() -> None:
    w = world(count=3, shares=("1", "100%"), offline=(1,))
    w.step()
    w.confirm(*w.of_phase(0))
    w.step()
    w.pass_time(10)
    commands = w.step()
    away, here = w.of_phase(1)
    assert {c.device for c in commands} == {away, here}
    assert w.member(away).state == "pending"
    w.confirm(here)
    w.step()
    w.pass_time(10)
    w.step()
    assert w.rollout.state == "finished"
    assert "1 offline" in w.rollout.reason
    w.confirm(away)
    assert w.step() == ()
    assert w.member(away).state == "confirmed"  # it arrived after the end


def test_a_phase_whose_devices_are_all_offline_waits_and_says_so() -> None:
    w = world(count=2, shares=("1", "2"), offline=(0,))
    w.step()
    w.pass_time(100_000)
    assert w.step() == ()
    assert w.rollout.state == "running"
    assert "offline" in w.rollout.reason


def test_a_pending_device_may_still_fail_and_halt_the_rollout() -> None:
    w = world(count=3, shares=("2", "3"), offline=(0,))
    w.step()
    w.confirm(w.of_phase(0)[1])
    w.step()
    w.say(w.of_phase(0)[0], Outcome.REJECTED)
    w.step()
    assert w.rollout.state == "halted"


def test_going_offline_in_a_phase_is_forgiven_for_two_minutes() -> None:
    w = world(count=2, shares=("2",))
    w.step()
    w.offline("d0")
    w.confirm("d1")
    w.pass_time(119)
    w.step()
    assert w.member("d0").state == "in_progress"
    w.pass_time(1)
    w.step()
    assert w.member("d0").state == "pending"


def test_a_device_that_is_said_to_be_online_but_never_heard_becomes_pending() -> None:
    w = world(count=1, shares=("1",))
    w.step()
    w.now += gate.STALE_LIMIT_MS
    w.step()
    assert w.member("d0").state == "pending"


def test_tolerated_failures_do_not_halt_but_alone_they_are_inconclusive() -> None:
    w = world(count=4, shares=("1", "100%"), tolerance=1)
    w.step()
    w.say(w.of_phase(0)[0], Outcome.FAILED, code="disk_full")
    assert w.step() == ()
    assert w.rollout.state == "inconclusive"
    assert w.rollout.phases[0].state == "stopped"
    w.pass_time(1000)
    assert w.step() == ()


def test_one_failure_more_than_tolerated_halts() -> None:
    w = world(count=4, shares=("4",), tolerance=1)
    w.step()
    w.say("d0", Outcome.FAILED)
    w.step()
    assert w.rollout.state == "running"
    w.say("d1", Outcome.FAILED)
    w.step()
    assert w.rollout.state == "halted"


def test_a_paused_rollout_opens_nothing_and_still_halts() -> None:
    w = world()
    w.step()
    w.confirm(*w.of_phase(0))
    w.rollout = engine.pause(w.rollout)
    w.pass_time(60)
    assert w.step() == ()
    assert w.rollout.state == "paused"
    resumed = replace(w, rollout=engine.resume(w.rollout), seen=dict(w.seen))
    resumed.step()
    resumed.pass_time(10)
    assert [c.device for c in resumed.step()] == w.of_phase(1)
    w.say(w.of_phase(0)[0], Outcome.ROLLED_BACK)
    assert len(w.step()) == 1
    assert w.rollout.state == "halted"


def test_abort_sets_unconfirmed_devices_back() -> None:
    w = world(count=2, shares=("2",))
    w.step()
    w.confirm("d0")
    w.step()
    w.rollout, commands = engine.abort(w.rollout, w.seen, w.now)
    assert [(c.device, type(c)) for c in commands] == [("d1", Withdraw)]
    assert w.rollout.state == "aborted"


def test_devices_that_run_the_release_already_are_not_touched() -> None:
    rollout = engine.plan(
        rollout="r-1",
        model="digits",
        release=TARGET,
        devices={"a": True, "b": True},
        shares=("1", "100%"),
        soak_s=60,
        tolerance=0,
        now_unix_ms=0,
    )
    seen = {name: DeviceEvidence(is_online=True, next_generation=2) for name in "ab"}
    rollout, commands = engine.step(rollout, seen, 0)
    assert commands == ()
    assert rollout.state == "finished"
    assert "already" in rollout.reason


def test_a_rollout_whose_devices_were_all_taken_over_is_aborted() -> None:
    w = world(count=2, shares=("1", "2"))
    w.step()
    w.rollout = engine.supersede(w.rollout, frozenset({"d0", "d1"}), "taken over by r-2")
    assert w.step() == ()
    assert w.rollout.state == "aborted"
    assert "taken over" in w.rollout.reason


def test_a_phase_whose_devices_were_taken_over_is_inconclusive_while_others_wait() -> None:
    w = world(count=3, shares=("1", "3"))
    w.step()
    w.rollout = engine.supersede(w.rollout, frozenset(w.of_phase(0)), "taken over")
    assert w.step() == ()
    assert w.rollout.state == "inconclusive"


def test_a_removed_device_counts_as_taken_over() -> None:
    w = world(count=2, shares=("2",))
    w.step()
    del w.seen["d0"]
    w.confirm("d1")
    w.step()
    assert w.member("d0").state == "superseded"
    w.pass_time(10)
    w.step()
    assert w.rollout.state == "finished"


def test_a_confirmed_device_that_rolls_back_later_counts_while_the_rollout_runs() -> None:
    w = world(count=2, shares=("1", "2"))
    w.step()
    canary = w.of_phase(0)[0]
    w.confirm(canary)
    w.step()
    w.say(canary, Outcome.ROLLED_BACK)
    w.pass_time(60)
    commands = w.step()
    assert w.rollout.state == "halted"
    assert [type(c) for c in commands] == [Withdraw]
