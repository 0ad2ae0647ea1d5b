from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fleet.core import rollout as engine
from fleet.core.states import BAD, Assign, DeviceEvidence, ReleaseKey, Rollout
from fleet.store.rollouts import Order
from fleet.store.store import Store
from wire import messages as m
from wire.lifecycle import Outcome, UpdateState

TARGET = ReleaseKey("2.0.0", "2" * 64)
BODY = m.DesiredModel(name="digits", version="2.0.0", manifest="2" * 64, index="3" * 64)
NUMBERS = itertools.count(1)

ACTIONS = st.one_of(
    st.tuples(
        st.sampled_from(["confirm", "roll_back", "fail", "fetch", "vanish", "return"]),
        st.integers(0, 11),
    ),
    st.tuples(st.just("wait"), st.sampled_from([1, 5, 30, 130, 700])),
    st.tuples(st.sampled_from(["pause", "resume"]), st.just(0)),
)
PLANS = st.tuples(
    st.integers(1, 12),
    st.sampled_from([("1", "50%", "100%"), ("100%",), ("1", "2", "3", "100%"), ("25%", "75%")]),
    st.integers(0, 2),
    st.sampled_from([0.0, 5.0]),
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    folder: Path = tmp_path_factory.mktemp("store")
    store = Store(folder / "fleet.db", folder)
    yield store
    store.close()


class Fleet:
    """A fleet that does what the drawn actions say; time is a number."""

    def __init__(self, count: int, shares: tuple[str, ...], tolerance: int, soak_s: float) -> None:
        self.now = 10_000_000
        self.names = [f"d{n}" for n in range(count)]
        self.seen = {
            name: DeviceEvidence(is_online=True, next_generation=1, last_seen_unix_ms=self.now)
            for name in self.names
        }
        self.rollout = engine.plan(
            rollout=f"r-{next(NUMBERS)}",
            model="digits",
            release=TARGET,
            devices=dict.fromkeys(self.names, False),
            shares=shares,
            soak_s=soak_s,
            tolerance=tolerance,
            now_unix_ms=self.now,
        )

    def act(self, action: str, number: int) -> None:
        name = self.names[number % len(self.names)]
        seen = self.seen[name]
        match action:
            case "confirm" if seen.is_online:
                self.report(name, Outcome.CONFIRMED)
            case "roll_back" if seen.is_online:
                self.report(name, Outcome.ROLLED_BACK)
            case "fail" if seen.is_online:
                self.report(name, Outcome.FAILED)
            case "fetch" if seen.is_online:
                self.report(name, None)
            case "vanish":
                self.seen[name] = replace(seen, is_online=False, offline_since_unix_ms=self.now)
            case "return":
                self.seen[name] = replace(seen, is_online=True, last_seen_unix_ms=self.now)
            case "wait":
                self.now += number * 1000
            case "pause" if self.rollout.state == "running":
                self.rollout = engine.pause(self.rollout)
            case "resume" if self.rollout.state == "paused":
                self.rollout = engine.resume(self.rollout)

    def report(self, name: str, outcome: Outcome | None) -> None:
        seen = self.seen[name]
        self.seen[name] = replace(
            seen,
            reported_generation=seen.next_generation - 1,
            last_seen_unix_ms=self.now,
            active=TARGET.manifest if outcome is Outcome.CONFIRMED else None,
            state=UpdateState.FETCHING if outcome is None else UpdateState.IDLE,
            target=TARGET.manifest,
            outcome=outcome,
            code=None if outcome is None else "code",
        )

    def step(self) -> None:
        before = self.rollout
        after, commands = engine.step(before, self.seen, self.now)
        check(before, after, commands)
        for command in commands:
            seen = self.seen[command.device]
            assert command.generation >= seen.next_generation  # never one that was used
            self.seen[command.device] = replace(seen, next_generation=command.generation + 1)
        self.rollout = after
        again, more = engine.step(after, self.seen, self.now)
        assert (again, more) == (after, ())  # a step repeated does nothing


def check(before: Rollout, after: Rollout, commands: tuple[object, ...]) -> None:
    given_out = [m for m in after.members if m.generation is not None]
    opened = [p.size for p in after.phases if p.state != "waiting"]
    assert len(given_out) <= max(opened, default=0)
    bad = [m for m in after.members if m.state in BAD]
    assigned = [c for c in commands if isinstance(c, Assign)]
    if len(bad) > after.tolerance:
        assert after.state not in ("running", "paused", "inconclusive")
        assert not assigned
    if before.state != "running":
        assert not assigned
    for number, phase in enumerate(after.phases):
        if phase.state == "passed":
            assert all(p.state == "passed" for p in after.phases[:number])
        if phase.state == "passed" and before.phases[number].state == "open":
            own = [m for m in after.members if m.phase == number]
            assert any(m.state == "confirmed" for m in own)
            assert all(m.state != "in_progress" for m in own)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(PLANS, st.lists(ACTIONS, max_size=40), st.lists(st.integers(0, 40), max_size=4))
def test_limits_hold_and_a_restart_at_any_step_changes_nothing(
    store: Store,
    plan: tuple[int, tuple[str, ...], int, float],
    actions: list[tuple[str, int]],
    restarts: list[int],
) -> None:
    fleet = Fleet(*plan)
    stored = fleet.rollout
    with store.write() as tx:
        tx.rollouts.add(stored, Order({}, BODY))
    for number, action in enumerate(actions):
        fleet.act(*action)
        fleet.step()
        if number in restarts:
            with store.write() as tx:
                tx.rollouts.save(stored, fleet.rollout)
                stored = tx.rollouts.get(fleet.rollout.id)
            assert stored == fleet.rollout


@settings(max_examples=150)
@given(PLANS, st.lists(ACTIONS, max_size=40))
def test_once_all_devices_are_there_and_well_every_rollout_comes_to_an_end(
    plan: tuple[int, tuple[str, ...], int, float], actions: list[tuple[str, int]]
) -> None:
    fleet = Fleet(*plan)
    for action in actions:
        fleet.act(*action)
        fleet.step()
    fleet.act("resume", 0)
    for _ in range(len(fleet.rollout.phases) + 2):
        for member in fleet.rollout.members:
            fleet.act("return", fleet.names.index(member.device))
            if member.state not in BAD:
                fleet.act("confirm", fleet.names.index(member.device))
        fleet.step()
        fleet.act("wait", 5)
        fleet.step()
    assert fleet.rollout.state not in ("running", "paused")
