"""Every route, by every role, in and out of scope, with every kind of token.

`ROUTES` says what is expected, by hand: a route of the application that is not in it, and one in it
that is gone, fail the first test.
"""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from fleet import aliases, rollouts, runs
from fleet.alerts.watch import Finding
from fleet.api.app import build_app
from fleet.api.run_schemas import RunRecord
from fleet.api.schemas import DEFAULT_EXPIRY_S, DeviceIn, RolloutIn
from fleet.core.alerts import Silence
from fleet.evidence import Sight
from fleet.store.captures import PackRow
from fleet.tokens import prove
from tests.fleet.peers import Device, Fleet, dawdles
from tests.fleet.routes import (
    ADMIN,
    BEYOND,
    LADDER,
    OPEN,
    OPERATOR,
    ROUTES,
    RUN,
    SITES,
)
from wire.errors import PeerError

World = tuple[Fleet, TestClient]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fleet of two sites, each with a device that is in a rollout and a token of its own."""
    folder = tmp_path_factory.mktemp("template")
    fleet = Fleet(folder)
    fleet.settle()
    for site in SITES:
        name = f"{site}-1"
        fleet.controller.add_devices([DeviceIn(id=name, tags={"site": site})])
        fleet.devices[name] = Device(fleet.broker, name, dawdles)
        fleet.token(f"of-{site}", ADMIN, site=site)
    for version in ("1.0.0", "1.1.0", "1.2.0"):
        fleet.release(version)
    for site in SITES:
        fleet.roll_out("1.0.0", match={"site": site})
    for site in SITES:
        request = RolloutIn(model="digits", version="1.1.0", match={"site": site}, phases=["1"])
        with fleet.store.write() as tx:
            rollouts.start(tx, request, Sight(1, 0), by="somebody", limit=0.4)
    now = fleet.now_unix_ms
    with fleet.store.write() as tx:
        for version in ("1.0.0", "1.1.0"):
            aliases.move_to(tx, "digits", "champion", version, by="me", why="", now_unix_ms=now)
        runs.keep(tx, "digits", "1.0.0", RunRecord(**RUN), by="me", now_unix_ms=now)
    for site in SITES:
        wrong = Finding(f"{site}-1/disk_full", True, f"{site}-1: disk_full", f"{site}-1")
        silence = Silence("drift", None, {"site": site}, now + 10**9)
        with fleet.store.write() as tx:
            fleet.controller.alerts.pulse(tx, "device_alarm", [wrong], now)
            tx.alerts.add_silence(silence, by="somebody", why=site, now_unix_ms=now)
            captured = PackRow(f"{site}-1", "c" * 64, 1, "digits", 1, len(site), 1, 1, now)
            tx.captures.add(captured, site.encode())
    fleet.controller.stop()
    fleet.store.close()
    return folder


@pytest.fixture
def world(template: Path, tmp_path: Path) -> Iterator[World]:
    """The fleet of the template, and a client of its API."""
    with made(template, tmp_path / "world") as world:
        yield world


@contextmanager
def made(template: Path, folder: Path) -> Iterator[World]:
    shutil.copytree(template, folder)
    fleet = Fleet(folder)
    fleet.settle()
    fleet.controller.ask_to_stop()  # streams end at once
    try:
        yield fleet, TestClient(build_app(fleet.controller), raise_server_exceptions=False)
    finally:
        fleet.controller.stop()
        fleet.store.close()


def contents(fleet: Fleet) -> list[str]:
    """Return all that is stored, but for when tokens were used."""
    with sqlite3.connect(fleet.folder / "fleet.db") as raw:
        raw.execute("UPDATE tokens SET last_used_unix_ms = NULL")
        lines = [line for line in raw.iterdump() if 'INTO "audit"' not in line]
        raw.rollback()
    return lines


def request(client: TestClient, method: str, ask: dict[str, Any], token: str | None) -> Any:
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    return client.request(method, headers=headers, **ask)


def code_of(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


def test_the_table_has_every_route_and_no_other(world: World) -> None:
    fleet, _ = world
    routes: Any = build_app(fleet.controller).routes
    found = {(method, route.path) for route in routes for method in route.methods}
    assert found == set(ROUTES) | OPEN


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_a_route_is_for_those_who_may(
    world: World, template: Path, tmp_path: Path, method: str, path: str
) -> None:
    route = ROUTES[method, path]
    with contextlib.nullcontext(world) as (fleet, client):
        before = contents(fleet)
        for role in LADDER:
            is_allowed = LADDER.index(role) >= LADDER.index(route.least)
            for scope in ({}, {"site": "lab"}):
                token = fleet.token(f"{role}-{len(scope)}", role, **scope)
                for site in SITES:
                    say = (role, scope, site)
                    if not is_allowed:
                        answer = request(client, method, route.ask(site), token)
                        assert code_of(answer) == (403, "no_right"), say
                    elif scope and route.is_whole:
                        answer = request(client, method, route.ask(site), token)
                        assert code_of(answer) == (403, "out_of_scope"), say
                    elif scope and site == "hall" and route.outside is not None:
                        answer = request(client, method, route.ask(site), token)
                        assert code_of(answer) == route.outside, say
                with fleet.store.read() as tx:
                    newest = tx.audit.newest()
                if not is_allowed:
                    assert newest is not None
                    assert (newest.who, newest.what, newest.outcome, newest.code) == (
                        *(f"{role}-{len(scope)}", f"{method} {path}"),
                        *("denied", "no_right"),
                    )
                with fleet.store.write() as tx:
                    tx.tokens._connection.exec_driver_sql(
                        "DELETE FROM tokens WHERE name NOT LIKE 'of-%'"
                    )
        assert contents(fleet) == before
    for role in LADDER[LADDER.index(route.least) :]:
        for number, scope in enumerate(({}, {"site": "lab"})):
            if scope and route.is_whole:
                continue
            other = made(template, tmp_path / f"{role}-{number}")
            with contextlib.nullcontext(world) if method == "GET" else other as (fleet, client):
                token = fleet.token(f"{role}-{number}", role, **scope)
                answer = request(client, method, route.ask("lab"), token)
                assert answer.status_code == route.done, (role, scope, answer.text)
                with fleet.store.read() as tx:
                    newest = tx.audit.newest()
                if method != "GET":
                    assert newest is not None
                    assert (newest.who, newest.what) == (f"{role}-{number}", f"{method} {path}")
                    outcome = "done" if route.done < 400 else "refused"
                    assert (newest.outcome, bool(newest.subject)) == (outcome, True)
                if scope:
                    strange = answer.text.replace("r-2", "hall").replace("r-4", "hall")
                    assert "hall" not in strange, answer.text


@pytest.mark.parametrize(
    ("method", "path"), [*ROUTES, ("GET", "/v1/nothing"), ("PUT", "/v1/models")]
)
def test_a_route_is_closed_without_a_live_token(world: World, method: str, path: str) -> None:
    ask = ROUTES[method, path].ask("lab") if (method, path) in ROUTES else {"url": path}
    fleet, client = world
    expired, revoked = fleet.token("expired", expires_s=60), fleet.token("revoked")
    fleet.now_unix_ms += 60_000
    admin = request(client, "DELETE", {"url": "/v1/tokens/revoked"}, fleet.token("admin"))
    assert admin.status_code == 200
    before = contents(fleet)
    kinds = {
        None: "no_token",
        "": "no_token",
        expired: "token_expired",
        revoked: "token_revoked",
        revoked[:-1]: "token_unknown",
        "mft_" + "A" * 43: "token_unknown",
        "mft_" + "A" * 5000: "token_unknown",
        "admin": "token_unknown",
    }
    for token, code in kinds.items():
        answer = request(client, method, ask, token)
        assert code_of(answer) == (401, code), token
        assert answer.headers["www-authenticate"] == "Bearer"
    basic = {"authorization": "Basic YWRtaW46YWRtaW4="}
    assert code_of(client.request(method, headers=basic, **ask)) == (401, "no_token")
    assert contents(fleet) == before


def test_only_health_is_open_and_says_no_more_than_that_it_lives(world: World) -> None:
    _, client = world
    assert client.get("/v1/health").json() == {"state": "alive"}
    assert client.get("/docs", headers={}).status_code == 401


def test_a_route_that_declares_no_right_is_refused_at_the_start(world: World) -> None:
    fleet, _ = world
    app = build_app(fleet.controller)
    with pytest.raises(RuntimeError, match="/v1/forgotten"):
        app.get("/v1/forgotten")(lambda: None)


def test_a_token_is_kept_as_its_digest_only_and_cannot_be_made_wider(world: World) -> None:
    fleet, client = world
    mine = fleet.token("mine", ADMIN, site="lab")
    wider = {"name": "wide", "role": "viewer", "scope": {"kind": "cam"}}
    answer = request(client, "POST", {"url": "/v1/tokens", "json": wider}, mine)
    assert code_of(answer) == BEYOND
    narrower = wider | {"scope": {"kind": "cam", "site": "lab"}, "expires_s": 60}
    made = request(client, "POST", {"url": "/v1/tokens", "json": narrower}, mine).json()
    assert prove(fleet.store, made["token"], fleet.now_unix_ms).scope == narrower["scope"]
    stored = "\n".join(contents(fleet))
    assert made["token"] not in stored
    assert made["token"].removeprefix("mft_") not in stored
    again = request(client, "POST", {"url": "/v1/tokens", "json": narrower}, mine)
    assert code_of(again) == (409, "token_exists")


@pytest.mark.parametrize(
    ("more", "life_s"),
    [({}, DEFAULT_EXPIRY_S), ({"expires_s": 60}, 60), ({"expires_s": "never"}, None)],
)
def test_a_token_lives_for_ever_only_where_somebody_said_so(
    world: World, more: dict[str, Any], life_s: int | None
) -> None:
    fleet, client = world
    wanted = {"name": "new", "role": "viewer"} | more
    made = request(
        client, "POST", {"url": "/v1/tokens", "json": wanted}, fleet.token("mine")
    ).json()
    until = None if life_s is None else fleet.now_unix_ms + life_s * 1000
    assert made["expires_unix_ms"] == until


@pytest.mark.parametrize("expires_s", [None, 0, "", "Never", 11 * 366 * 86_400])
def test_a_life_that_says_nothing_makes_no_token(world: World, expires_s: object) -> None:
    fleet, client = world
    wanted = {"name": "new", "role": "viewer", "expires_s": expires_s}
    answer = request(client, "POST", {"url": "/v1/tokens", "json": wanted}, fleet.token("mine"))
    assert code_of(answer) == (422, "invalid_request")


def test_a_tag_by_which_a_device_would_leave_the_scope_is_refused(world: World) -> None:
    fleet, client = world
    mine = fleet.token("mine", OPERATOR, site="lab")
    leave = {"url": "/v1/devices/lab-1", "json": {"tags": {"site": "hall"}}}
    assert code_of(request(client, "PATCH", leave, mine)) == BEYOND
    everywhere = {"url": "/v1/quarantine-lifts", "json": {"match": {"kind": "cam"}}}
    assert code_of(request(client, "POST", everywhere, mine)) == BEYOND


def test_the_last_administrator_stays(world: World) -> None:
    fleet, client = world
    chief = fleet.token("chief")
    revoke = {"url": "/v1/tokens/chief"}
    assert code_of(request(client, "DELETE", revoke, chief)) == (409, "last_admin")
    fleet.token("deputy")
    assert request(client, "DELETE", revoke, chief).json()["state"] == "revoked"
    assert code_of(request(client, "GET", {"url": "/v1/tokens"}, chief))[0] == 401
    with pytest.raises(PeerError, match="revoked"):
        prove(fleet.store, chief, fleet.now_unix_ms)
