"""A rollout to much of the fleet waits for a second person, whatever happens meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient

from fleet.api.app import build_app
from fleet.core import rollout as engine
from fleet.core.rights import Role
from fleet.core.states import DeviceEvidence, Member, ReleaseKey, Rollout
from tests.fleet.peers import Fleet
from wire.errors import PeerError

KEY = ReleaseKey("1.1.0", "a" * 64)


@pytest.fixture
def fleet(tmp_path: Path, where: Path | str) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path, approval_limit=0.5, where=where)
    fleet.add("a", "b", "c", "d")
    for version in ("1.0.0", "1.1.0"):
        fleet.release(version)
    yield fleet
    fleet.controller.stop()
    fleet.store.close()


@pytest.fixture
def ask(fleet: Fleet) -> Iterator[Any]:
    with TestClient(build_app(fleet.controller), raise_server_exceptions=False) as client:
        heads = {
            name: fleet.bearer(name, role)
            for name, role in (
                ("ann", Role.RELEASER),
                ("bob", Role.RELEASER),
                ("op", Role.OPERATOR),
            )
        }

        def ask(who: str, path: str, body: object = None) -> Any:
            return client.post(f"/v1/rollouts{path}", json=body, headers=heads[who])

        yield ask


def body(*phases: str, version: str = "1.0.0") -> dict[str, object]:
    return {"model": "digits", "version": version, "phases": list(phases), "soak_s": 0}


def generations(fleet: Fleet) -> set[int]:
    return {device.generation for device in fleet.devices.values()}


def test_it_waits_through_restarts_until_another_approves(fleet: Fleet, ask: Any) -> None:
    started = ask("ann", "", body("1", "100%")).json()
    assert (started["state"], started["approval"]["asked_by"]) == ("proposed", "ann")
    assert "fleet rollout approve r-1" in started["reason"]
    for _ in range(3):
        fleet.wait(3600, step_s=600)
        fleet.restart()
    assert fleet.rollout("r-1").state == "proposed"
    assert generations(fleet) == {0}
    with TestClient(build_app(fleet.controller)) as client:
        by = {
            name: fleet.bearer(f"{name}-2", role)
            for name, role in (("carl", Role.RELEASER), ("op", Role.OPERATOR))
        }
        denied = client.post("/v1/rollouts/r-1/approve", headers=by["op"])
        assert (denied.status_code, denied.json()["code"]) == (403, "no_right")
        for verb in ("resume", "pause"):
            held = client.post(f"/v1/rollouts/r-1/{verb}", headers=by["op"])
            assert (held.status_code, held.json()["code"]) == (409, "rollout_proposed")
        approved = client.post("/v1/rollouts/r-1/approve", headers=by["carl"]).json()
        assert approved["state"] == "running"
        assert approved["approval"]["approved_by"] == "carl-2"
    fleet.settle()
    assert fleet.rollout("r-1").state == "finished"
    fleet.restart()
    assert fleet.rollout("r-1").approval == engine.Approval("ann", 0.5, "carl-2", fleet.now_unix_ms)


def test_who_asked_cannot_approve_and_that_is_noted(fleet: Fleet, ask: Any) -> None:
    ask("ann", "", body("100%"))
    refused = ask("ann", "/r-1/approve")
    assert (refused.status_code, refused.json()["code"]) == (403, "same_person")
    with fleet.store.read() as tx:
        newest = tx.audit.newest()
    assert newest is not None
    assert (newest.who, newest.outcome, newest.code) == ("ann", "denied", "same_person")
    assert fleet.rollout("r-1").state == "proposed"
    assert ask("bob", "/r-1/approve").json()["state"] == "running"
    again = ask("bob", "/r-1/approve")
    assert (again.status_code, again.json()["code"]) == (409, "not_proposed")


@pytest.mark.parametrize(
    ("asks", "approves", "words"),
    [
        ("root", "root", "root asked for r-1: somebody else"),
        ("root", "ann", "root asked for r-1, and the token ann comes from theirs"),
        ("root", "second", "the token second comes from theirs"),
        ("ann", "second", "the token second comes from theirs"),
        ("ann", "root", ""),
        ("second", "root", ""),
        ("second", "ann", ""),
        ("second", "bob", ""),
        ("bob", "second", ""),
    ],
)
def test_nobody_makes_their_own_second_person(
    fleet: Fleet, asks: str, approves: str, words: str
) -> None:
    with TestClient(build_app(fleet.controller)) as client:
        heads = {"root": fleet.bearer("root")}
        for maker, name in (("root", "ann"), ("root", "bob"), ("ann", "second")):
            wanted = {"name": name, "role": "admin"}
            made = client.post("/v1/tokens", json=wanted, headers=heads[maker]).json()
            heads[name] = {"authorization": f"Bearer {made['token']}"}
        if "ann" not in {asks, approves}:  # a token that has ended still has made what it made
            client.delete("/v1/tokens/ann", headers=heads["bob"])
        client.post("/v1/rollouts", json=body("100%"), headers=heads[asks])
        answer = client.post("/v1/rollouts/r-1/approve", headers=heads[approves])
    if not words:
        assert answer.json()["state"] == "running"
        return
    assert (answer.status_code, answer.json()["code"]) == (403, "same_person")
    assert words in answer.json()["message"]
    assert f"not made by {asks}" in answer.json()["hint"]
    assert fleet.rollout("r-1").state == "proposed"


@pytest.mark.parametrize(("phases", "state"), [(("2",), "running"), (("3",), "proposed")])
def test_only_more_than_the_share_waits(
    fleet: Fleet, ask: Any, phases: tuple[str, ...], state: str
) -> None:
    assert ask("ann", "", body(*phases)).json()["state"] == state


def test_no_token_is_named_as_who_works_on_the_machine(fleet: Fleet) -> None:
    with pytest.raises(PeerError, match="local is, or was, somebody's name"):
        fleet.token("local")


def test_a_proposal_takes_nothing_over_and_can_be_aborted(fleet: Fleet, ask: Any) -> None:
    ask("ann", "", body("2"))
    fleet.settle()
    ask("ann", "", body("100%", version="1.1.0"))
    assert "superseded" not in fleet.states("r-1").values()
    twice = ask("bob", "", body("100%", version="1.1.0"))
    assert (twice.status_code, twice.json()["code"]) == (409, "rollout_running")
    before = generations(fleet)
    assert ask("op", "/r-2/abort").json()["state"] == "aborted"
    fleet.settle()
    assert generations(fleet) == before
    assert ask("bob", "/r-2/approve").json()["code"] == "not_proposed"


def test_devices_that_were_removed_meanwhile_get_nothing(fleet: Fleet, ask: Any) -> None:
    ask("ann", "", body("100%"))
    fleet.controller.remove_device("b")
    ask("bob", "/r-1/approve")
    fleet.settle()
    assert fleet.states("r-1") == dict.fromkeys("acd", "confirmed") | {"b": "superseded"}


def test_a_scope_holds_for_approval(fleet: Fleet, ask: Any) -> None:
    ask("ann", "", body("100%"))
    with pytest.raises(PeerError, match="r-1"):
        fleet.controller.approve_rollout("r-1", by="bob", scope={"site": "lab"})


def tag(fleet: Fleet, **sites: str) -> None:
    for site, devices in sites.items():
        for device in devices:
            fleet.controller.set_tags(device, {"site": site})


def test_two_halves_of_the_fleet_are_the_whole_of_it(fleet: Fleet, ask: Any) -> None:
    tag(fleet, north="ab", south="cd")
    north, south = ({"match": {"site": site}} for site in ("north", "south"))
    assert ask("ann", "", body("100%") | north).json()["state"] == "running"
    second = ask("bob", "", body("100%") | south).json()
    assert second["state"] == "proposed"
    assert "4 of 4 devices, those of r-1 included," in second["reason"]
    assert ask("ann", "", body("100%", version="1.1.0") | south).json()["state"] == "running"
    ask("ann", "/r-2/approve")
    fleet.settle()
    assert {fleet.states("r-2")[device] for device in "cd"} == {"confirmed"}


def test_halves_a_week_apart_wait_for_nobody(fleet: Fleet, ask: Any) -> None:
    tag(fleet, north="ab", south="cd")
    ask("ann", "", body("100%") | {"match": {"site": "north"}})
    fleet.settle()
    fleet.wait(engine.ALONE_MS / 1000 + 1, step_s=86_400)
    assert fleet.rollout("r-1").state == "finished"
    ask("ann", "", body("100%") | {"match": {"site": "south"}})
    assert fleet.rollout("r-2").state == "running"


def test_devices_that_left_the_fleet_count_no_more(fleet: Fleet, ask: Any) -> None:
    tag(fleet, north="ab", south="cd")
    ask("ann", "", body("100%") | {"match": {"site": "north"}})
    fleet.settle()
    for device in "ab":
        fleet.controller.remove_device(device)
    fleet.add("e", "f")
    ask("ann", "", body("100%") | {"match": {"site": "south"}})
    assert fleet.rollout("r-2").state == "running"


NOW = 10 * engine.ALONE_MS
GIVEN = {"generation": 1}


def other(*members: Member, manifest: str = KEY.manifest, **more: Any) -> Rollout:
    whole = {"created_unix_ms": NOW - 1, "approval": None, "state": "finished"} | more
    return Rollout(
        id="r-1",
        model=str(whole.pop("model", "digits")),
        release=ReleaseKey("1.1.0", manifest),
        soak_s=0,
        tolerance=0,
        phases=(),
        members=members,
        **whole,
    )


@pytest.mark.parametrize(
    ("earlier", "moved"),
    [
        (other(Member("a", 0, "confirmed", **GIVEN)), "a"),
        (other(Member("a", 0, "pending", **GIVEN)), "a"),
        (other(Member("a", 0, "rolled_back", **GIVEN), state="halted"), "a"),
        (other(Member("a", 0, "superseded", **GIVEN), state="aborted"), "a"),
        (other(Member("a", 0, "withdrawn", **GIVEN), state="aborted"), ""),
        (other(Member("a", 0, "waiting"), state="aborted"), ""),
        (other(Member("a", 0, "waiting"), state="running"), "a"),
        (other(Member("a", 0, "waiting"), state="paused"), "a"),
        (other(Member("a", 0, "superseded"), state="running"), ""),
        (other(Member("a", 0, "confirmed"), state="running"), ""),
        (other(Member("a", 0, "confirmed", **GIVEN), created_unix_ms=NOW - engine.ALONE_MS), None),
        (other(Member("a", 0, "waiting"), created_unix_ms=0, state="running"), "a"),
        (other(Member("a", 0, "confirmed", **GIVEN), created_unix_ms=NOW + 1), "a"),
        (other(Member("a", 0, "confirmed", **GIVEN), manifest="b" * 64), None),
        (other(Member("a", 0, "confirmed", **GIVEN), model="faces"), None),
        (other(Member("a", 0, "waiting"), state="proposed", approval=engine.Approval("ann", 0.5)), None),
        (other(Member("a", 0, "waiting"), state="running", approval=engine.Approval("ann", 0.5, "bob", 1)), None),
    ],
)  # fmt: skip
def test_what_a_release_moved_without_a_second_person(earlier: Rollout, moved: str | None) -> None:
    new = replace(other(), id="r-2")
    expected = {} if moved is None else {"r-1": frozenset(moved)}
    assert engine.moved_alone(new, [earlier], NOW) == expected


@pytest.mark.parametrize(
    ("members", "alone", "state", "words"),
    [
        ("ab", {}, "running", ""),
        ("ab", {"r-1": "ab"}, "running", ""),
        (
            "ab",
            {"r-1": "bc"},
            "proposed",
            "3 of 4 devices, those of r-1 included, are more than 50%",
        ),
        (
            "a",
            {"r-1": "b", "r-2": "c"},
            "proposed",
            "3 of 4 devices, those of r-1, r-2 included, are",
        ),
        ("abc", {"r-1": "a"}, "proposed", "3 of 4 devices are more than 50% of the fleet"),
    ],
)
def test_devices_count_once_whoever_moved_them(
    members: str, alone: dict[str, str], state: str, words: str
) -> None:
    new = other(*(Member(device, 0) for device in members), state="running")
    made = engine.propose(new, by="ann", limit=0.5, fleet_count=4, alone=alone)
    assert made.state == state
    assert words in made.reason


@given(
    count=st.integers(1, 40),
    limit=st.integers(1, 100),
    online=st.lists(st.booleans(), min_size=40, max_size=40),
    times=st.lists(st.integers(0, 10**9), max_size=5),
)
def test_no_step_moves_a_device_before_approval(
    count: int, limit: int, online: list[bool], times: list[int]
) -> None:
    devices = {f"d{n}": False for n in range(count)}
    new = engine.plan(
        rollout="r-1",
        model="digits",
        release=KEY,
        devices=devices,
        shares=("100%",),
        soak_s=0,
        tolerance=0,
        now_unix_ms=0,
    )
    new = engine.propose(new, by="ann", limit=limit / 100, fleet_count=count + 3)
    evidence = {
        name: DeviceEvidence(is_online=online[n], next_generation=1)
        for n, name in enumerate(devices)
    }
    is_large = count * 100 > limit * (count + 3)
    assert (new.state == "proposed") == is_large
    for now in times:
        stepped, commands = engine.step(new, evidence, now)
        if is_large:
            assert (stepped, commands) == (new, ())
    assert engine.approve(new, by="ann", now_unix_ms=1) == new
    assert engine.approve(new, by="bob", made_by=["eve", "ann"], now_unix_ms=1) == new
    if is_large:
        approved = engine.approve(new, by="bob", now_unix_ms=1)
        _, commands = engine.step(approved, evidence, 1)
        assert len(commands) == count
