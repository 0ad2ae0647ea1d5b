"""Aliases on both databases, by the API: set, one step back, deleted, moved by a rollout."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from fleet import aliases
from fleet.api.app import build_app
from tests.fleet.peers import Fleet, dawdles, refuses
from wire.errors import PeerError

CHAMPION = "/v1/models/digits/aliases/champion"


@pytest.fixture
def fleet(tmp_path: Path, where: Path | str) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path, where=where)
    fleet.settle()
    for version in ("1.0.0", "1.1.0", "1.2.0"):
        fleet.release(version)
        fleet.now_unix_ms += 1000
    yield fleet
    fleet.controller.stop()
    fleet.store.close()


@pytest.fixture
def api(fleet: Fleet) -> Iterator[TestClient]:
    app = build_app(fleet.controller)
    with TestClient(app, raise_server_exceptions=False, headers=fleet.bearer("ada")) as client:
        yield client


def means(api: TestClient) -> dict[str, str]:
    return {found["alias"]: found["version"] for found in api.get("/v1/aliases").json()}


def put(api: TestClient, version: str, why: str = "") -> Any:
    answer = api.put(CHAMPION, json={"version": version, "why": why})
    assert answer.status_code == 200, answer.text
    return answer.json()


def back(api: TestClient, status: int = 200) -> Any:
    answer = api.post(f"{CHAMPION}/rollback", json={"why": "it was better"})
    assert answer.status_code == status, answer.text
    return answer.json()


def test_an_alias_goes_back_step_by_step_as_it_came(fleet: Fleet, api: TestClient) -> None:
    for version in ("1.0.0", "1.1.0", "1.2.0"):
        put(api, version, why=f"try {version}")
    assert back(api)["version"] == "1.1.0"
    put(api, "1.2.0")
    assert [back(api)["version"] for _ in range(2)] == ["1.1.0", "1.0.0"]
    assert back(api, 409)["code"] == "alias_at_start"
    moves = api.get(f"{CHAMPION}/history").json()
    assert [(m["version"], m["kind"]) for m in moves] == [
        *(("1.0.0", "rollback"), ("1.1.0", "rollback"), ("1.2.0", "set"), ("1.1.0", "rollback")),
        *(("1.2.0", "set"), ("1.1.0", "set"), ("1.0.0", "set")),
    ]
    assert {m["moved_by"] for m in moves} == {"ada"}
    assert [m["why"] for m in moves[-3:]] == ["try 1.2.0", "try 1.1.0", "try 1.0.0"]
    page = api.get(f"{CHAMPION}/history?limit=2&before={moves[1]['id']}").json()
    assert page == moves[2:4]


STEPS = st.lists(st.sampled_from(["1.0.0", "1.1.0", "1.2.0", "back", "delete"]), max_size=12)


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Fleet, Iterator[str]]]:
    """A fleet with releases, and names that no alias had yet."""
    fleet = Fleet(tmp_path_factory.mktemp("names"))
    fleet.settle()
    for version in ("1.0.0", "1.1.0", "1.2.0"):
        fleet.release(version)
    yield fleet, (f"a{number}" for number in itertools.count())
    fleet.controller.stop()
    fleet.store.close()


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(steps=STEPS)
def test_one_step_back_is_undo_for_any_past(
    names: tuple[Fleet, Iterator[str]], steps: list[str]
) -> None:
    fleet, fresh = names
    alias = next(fresh)
    past: list[str | None] = []  # what it meant, oldest first; None is deleted
    for step in steps:
        refused = len(past) < 2 if step == "back" else past[-1:] in ([], [None])
        is_refused = step in ("back", "delete") and refused
        with fleet.store.write() as tx:
            how: Any = {"by": "me", "why": "", "now_unix_ms": fleet.now_unix_ms}
            with pytest.raises(PeerError) if is_refused else contextlib.nullcontext():
                if step == "back":
                    aliases.step_back(tx, "digits", alias, **how)
                    past.pop()
                elif step == "delete":
                    aliases.delete(tx, "digits", alias, **how)
                    past.append(None)
                else:
                    aliases.move_to(tx, "digits", alias, step, **how)
                    past = [] if past[-1:] == [None] else past
                    past += [] if past[-1:] == [step] else [step]
            standing = {m.alias: m.version for m in tx.aliases.standing("digits")}
        assert standing.get(alias) == (past[-1] if past else None), steps


def test_an_alias_that_was_set_to_what_it_is_does_not_move(fleet: Fleet, api: TestClient) -> None:
    assert put(api, "1.0.0") == put(api, "1.0.0")
    assert len(api.get(f"{CHAMPION}/history").json()) == 1


def test_a_deleted_alias_means_nothing_and_one_step_back_undoes_it(
    fleet: Fleet, api: TestClient
) -> None:
    put(api, "1.0.0")
    put(api, "1.1.0")
    assert api.delete(f"{CHAMPION}?why=tidy").json()["version"] is None
    assert means(api) == {}
    assert api.delete(CHAMPION).status_code == 404
    assert api.get("/v1/releases/digits/@champion").json()["code"] == "unknown_alias"
    assert [back(api)["version"] for _ in range(2)] == ["1.1.0", "1.0.0"]
    api.delete(CHAMPION)
    put(api, "1.2.0")  # begins anew
    assert back(api, 409)["code"] == "alias_at_start"


def test_an_alias_stands_for_a_version_where_one_is_asked_for(
    fleet: Fleet, api: TestClient
) -> None:
    put(api, "1.1.0")
    other = api.put("/v1/models/digits/aliases/stable", json={"version": "@champion"})
    assert other.json()["version"] == "1.1.0"
    put(api, "1.2.0")
    assert means(api) == {"champion": "1.2.0", "stable": "1.1.0"}
    assert api.get("/v1/releases/digits/@stable").json()["aliases"] == ["stable"]
    listed = api.get("/v1/models/digits/releases").json()
    assert [row["aliases"] for row in listed] == [["champion"], ["stable"], []]
    fleet.add("cam")
    body = {"model": "digits", "version": "@stable", "soak_s": 0}
    assert api.post("/v1/rollouts", json=body).json()["version"] == "1.1.0"
    fleet.settle()
    assert fleet.devices["cam"].active() == "1.1.0"


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("PUT", CHAMPION, {"version": "9.9.9"}, 404, "unknown_release"),
        ("PUT", CHAMPION, {"version": "@nobody"}, 404, "unknown_alias"),
        ("PUT", "/v1/models/nothing/aliases/champion", {"version": "1"}, 404, "unknown_release"),
        ("PUT", "/v1/models/digits/aliases/a%20b", {"version": "1.0.0"}, 422, "invalid_request"),
        ("PUT", CHAMPION, {"version": "@@x"}, 422, "invalid_request"),
        ("PUT", CHAMPION, {"version": "1.0.0", "why": "x" * 301}, 422, "invalid_request"),
        ("POST", f"{CHAMPION}/rollback", {}, 404, "unknown_alias"),
        ("DELETE", CHAMPION, None, 404, "unknown_alias"),
        ("GET", f"{CHAMPION}/history", None, 404, "unknown_alias"),
        ("GET", "/v1/releases/digits/@", None, 404, "unknown_alias"),
        ("GET", "/v1/releases/digits/%00", None, 404, "unknown_release"),
    ],
)
def test_what_is_no_alias_or_no_release_is_refused(  # noqa: PLR0917 - the columns of the table
    fleet: Fleet, api: TestClient, method: str, path: str, body: Any, status: int, code: str
) -> None:
    answer = api.request(method, path, json=body)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert means(api) == {}


def start(fleet: Fleet, version: str, **more: Any) -> str:
    return fleet.roll_out(version, alias="champion", **more)


def test_a_rollout_moves_its_alias_when_it_has_finished_and_not_before(
    fleet: Fleet, api: TestClient
) -> None:
    fleet.add("a", verdict=dawdles)
    rollout = start(fleet, "1.1.0")
    assert means(api) == {}
    assert api.get(f"/v1/rollouts/{rollout}").json()["alias"] == "champion"
    fleet.devices["a"].verdict = refuses()
    fleet.devices["a"].settle()
    fleet.settle()
    assert fleet.rollout(rollout).state == "finished"
    assert means(api) == {"champion": "1.1.0"}
    (move,) = api.get(f"{CHAMPION}/history").json()
    assert (move["kind"], move["why"]) == ("rollout", f"{rollout} finished")
    fleet.restart()
    fleet.wait(5)
    assert len(api.get(f"{CHAMPION}/history").json()) == 1


def test_a_rollout_that_halts_moves_nothing(fleet: Fleet, api: TestClient) -> None:
    fleet.add("a", verdict=refuses("1.1.0"))
    put(api, "1.0.0")
    assert fleet.rollout(start(fleet, "1.1.0")).state == "halted"
    assert means(api) == {"champion": "1.0.0"}


def test_the_alias_stays_while_devices_elsewhere_serve_another_release(
    fleet: Fleet, api: TestClient
) -> None:
    fleet.add("a", "b")
    fleet.roll_out("1.0.0")
    put(api, "1.0.0")
    fleet.controller.set_tags("b", {"site": "hall"})
    lab = start(fleet, "1.1.0", match={"site": "lab"})
    assert fleet.rollout(lab).state == "finished"
    assert means(api) == {"champion": "1.0.0"}
    assert any("1 devices outside" in text for text in fleet.events("rollout"))
    start(fleet, "1.1.0", match={"site": "hall"})
    assert means(api) == {"champion": "1.1.0"}


def test_an_alias_cannot_move_with_a_part_of_the_devices(fleet: Fleet, api: TestClient) -> None:
    fleet.add("a", "b")
    body = {"model": "digits", "version": "1.0.0", "phases": ["50%"], "alias": "champion"}
    answer = api.post("/v1/rollouts", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "alias_partial")
    assert api.get("/v1/rollouts").json() == []
