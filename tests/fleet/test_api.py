from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from fleet.api import gatekeeper, upload
from fleet.api.access import needs
from fleet.api.app import build_app
from fleet.api.schemas import ErrorBody
from fleet.core.rights import Right
from tests.fleet.bundles import bundle
from tests.fleet.peers import Fleet, dawdles, refuses
from tests.postgres import away


@pytest.fixture
def fleet(tmp_path: Path, where: Path | str) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path, where=where)
    fleet.settle()
    yield fleet
    fleet.controller.stop()
    fleet.store.close()


@pytest.fixture
def api(fleet: Fleet) -> Iterator[TestClient]:
    app = build_app(fleet.controller)
    with TestClient(app, raise_server_exceptions=False, headers=fleet.bearer()) as client:
        yield client


def error(response: Any, status: int, code: str) -> ErrorBody:
    assert response.status_code == status, response.text
    body = ErrorBody.model_validate_json(response.content)
    assert body.code == code
    assert body.message
    return body


# -- devices


def test_a_device_is_added_shown_changed_and_removed(fleet: Fleet, api: TestClient) -> None:
    added = api.post("/v1/devices", json={"id": "cam-01", "tags": {"site": "lab"}})
    assert added.status_code == 201
    assert added.json()["state"] == "never_seen"
    assert api.get("/v1/devices/cam-01").json() == added.json()
    changed = api.patch("/v1/devices/cam-01", json={"tags": {"site": "hall"}})
    assert changed.json()["tags"] == {"site": "hall"}
    assert api.delete("/v1/devices/cam-01").status_code == 204
    error(api.get("/v1/devices/cam-01"), 404, "unknown_device")
    error(api.delete("/v1/devices/cam-01"), 404, "unknown_device")
    error(api.patch("/v1/devices/cam-01", json={"tags": {}}), 404, "unknown_device")


def test_a_list_of_devices_is_added_all_or_none(fleet: Fleet, api: TestClient) -> None:
    added = api.post("/v1/devices", json=[{"id": "a"}, {"id": "b", "tags": {"x": "1"}}])
    assert [d["id"] for d in added.json()] == ["a", "b"]
    refused = api.post("/v1/devices", json=[{"id": "c"}, {"id": "a"}, {"id": "b"}])
    assert "a, b" in error(refused, 409, "device_exists").message
    assert [d["id"] for d in api.get("/v1/devices").json()] == ["a", "b"]
    assert api.post("/v1/devices", json=[{"id": "d"}]).json()[0]["id"] == "d"


@pytest.mark.parametrize(
    "body",
    [
        {"id": "bad id"},
        {"id": "a/b"},
        {"id": ""},
        {"id": "a", "tags": {"k": "with space"}},
        {"id": "a", "colour": "red"},
        [],
        "a",
        {},
    ],
)
def test_a_device_that_cannot_be_is_refused(api: TestClient, body: object) -> None:
    error(api.post("/v1/devices", json=body), 422, "invalid_request")
    assert api.get("/v1/devices").json() == []


def test_devices_are_listed_by_tags(fleet: Fleet, api: TestClient) -> None:
    api.post(
        "/v1/devices",
        json=[
            {"id": "a", "tags": {"site": "lab", "kind": "cam"}},
            {"id": "b", "tags": {"site": "lab"}},
        ],
    )

    def listed(query: str) -> list[str]:
        return [device["id"] for device in api.get(f"/v1/devices?{query}").json()]

    assert listed("match=site=lab") == ["a", "b"]
    assert listed("match=site=lab&match=kind=cam") == ["a"]
    for query in ("match=site", "match==x", "match=site=a&match=site=b", "match=si%20te=x"):
        error(api.get(f"/v1/devices?{query}"), 422, "invalid_match")


def test_a_device_shows_what_it_shall_serve_and_what_it_says(fleet: Fleet, api: TestClient) -> None:
    fleet.add("a")
    release = fleet.release("1.0.0")
    fleet.roll_out("1.0.0")
    device = api.get("/v1/devices/a").json()
    assert (device["state"], device["agent"]) == ("online", "test")
    assert (device["desired_generation"], device["reported_generation"]) == (1, 1)
    model = device["models"][0]
    assert (model["desired_version"], model["active_version"]) == ("1.0.0", "1.0.0")
    assert model["active_manifest"] == release.manifest
    assert (model["state"], model["outcome"]) == ("idle", "confirmed")


def test_records_of_a_device(fleet: Fleet, api: TestClient) -> None:
    fleet.add("a")
    fleet.devices["a"].send_record(1)
    fleet.devices["a"].send_record(2)
    fleet.settle()
    found = api.get("/v1/devices/a/records?channel=telemetry/vitals&limit=1").json()
    assert [(r["seq"], r["channel"]) for r in found] == [(2, "telemetry/vitals")]
    assert found[0]["body"]["cpu_ratio"] == 0.5
    error(api.get("/v1/devices/x/records"), 404, "unknown_device")
    error(api.get("/v1/devices/a/records?limit=100000"), 422, "invalid_request")


# -- bundles and releases


def test_a_bundle_becomes_a_release_once(fleet: Fleet, api: TestClient) -> None:
    first = api.post("/v1/bundles", content=bundle())
    assert first.status_code == 201, first.text
    body = first.json()
    assert body["is_new"]
    assert body["new_chunk_count"] == body["release"]["chunk_count"] > 0
    assert body["new_bytes"] > 0
    again = api.post("/v1/bundles", content=bundle())
    assert again.status_code == 200
    assert (again.json()["is_new"], again.json()["new_chunk_count"]) == (False, 0)
    assert again.json()["release"] == body["release"]
    refused = api.post("/v1/bundles", content=bundle(model=b"other"))
    error(refused, 409, "version_exists")
    assert len(api.get("/v1/models/digits/releases").json()) == 1


def test_a_second_version_only_adds_the_chunks_that_are_new(fleet: Fleet, api: TestClient) -> None:
    api.post("/v1/bundles", content=bundle("1.0.0"))
    second = api.post("/v1/bundles", content=bundle("1.0.1")).json()
    assert 0 < second["new_chunk_count"] < second["release"]["chunk_count"]
    assert api.get("/v1/models").json() == [
        {"name": "digits", "release_count": 2, "newest_version": "1.0.1"}
    ]


def test_the_chunks_of_a_pushed_bundle_are_published(fleet: Fleet, api: TestClient) -> None:
    release = api.post("/v1/bundles", content=bundle()).json()["release"]
    fleet.settle()
    chunks = [t for t in fleet.broker._retained if t.startswith("fleet/v1/chunk/")]
    assert len(chunks) == release["chunk_count"]
    assert f"fleet/v1/chunk/{release['index']}" in chunks


@pytest.mark.parametrize("content", [b"", b"no archive", bundle()[:700], bundle(v=2)])
def test_a_bundle_that_is_none_is_refused(fleet: Fleet, api: TestClient, content: bytes) -> None:
    response = api.post("/v1/bundles", content=content)
    assert response.status_code == 422
    assert ErrorBody.model_validate_json(response.content).message
    assert api.get("/v1/models").json() == []
    assert list((fleet.folder / "uploads").iterdir()) == []


def test_a_bundle_over_the_cap_is_refused_while_it_comes(
    fleet: Fleet, api: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload, "MAX_BUNDLE_BYTES", 1000)

    def endless() -> Iterator[bytes]:
        for _ in range(100):
            yield b"x" * 100

    error(api.post("/v1/bundles", content=endless()), 413, "bundle_too_large")
    error(api.post("/v1/bundles", content=b"x" * 1001), 413, "bundle_too_large")
    assert list((fleet.folder / "uploads").glob("*")) == []


def test_releases_count_the_devices_that_run_them(fleet: Fleet, api: TestClient) -> None:
    fleet.add("a", "b")
    fleet.release("1.0.0")
    fleet.roll_out("1.0.0")
    assert [r["device_count"] for r in api.get("/v1/models/digits/releases").json()] == [2]
    error(api.get("/v1/models/other/releases"), 404, "unknown_model")


def in_pages(api: TestClient, path: str, limit: int, rows: Any, key: str) -> list[list[str]]:
    """Return the keys on each page; the last is empty."""
    pages: list[list[str]] = []
    while not pages or pages[-1]:
        after = pages[-1][-1] if pages else ""
        answer = api.get(path, params={"after": after, "limit": limit})
        assert answer.status_code == 200, answer.text
        pages.append([row[key] for row in rows(answer.json())])
    return pages


def test_releases_come_in_pages_newest_first_also_those_of_one_instant(
    fleet: Fleet, api: TestClient
) -> None:
    for version in ("1.0.0", "1.1.0", "1.10.0"):
        fleet.release(version)
    fleet.now_unix_ms += 1000
    fleet.release("0.9.0")
    fleet.release("0.8.0", model="other")
    path = "/v1/models/digits/releases"
    order = [row["version"] for row in api.get(path).json()]
    assert order == ["0.9.0", "1.10.0", "1.1.0", "1.0.0"]
    for limit in (1, 2, 3, 4):
        pages = in_pages(api, path, limit, lambda rows: rows, "version")
        assert [version for page in pages for version in page] == order
        assert max(map(len, pages)) == limit
    assert api.get(path, params={"after": "9.9.9"}).json() == []
    for limit in (0, 501):
        error(api.get(path, params={"limit": limit}), 422, "invalid_request")


# -- rollouts


def test_the_members_of_a_rollout_come_in_pages_in_the_order_of_its_phases(
    fleet: Fleet, api: TestClient
) -> None:
    fleet.add(*(f"cam-{number}" for number in range(7)), verdict=refuses("2.0.0"))
    fleet.release("2.0.0")
    rollout = fleet.roll_out("2.0.0", "2", "100%")
    path = f"/v1/rollouts/{rollout}"
    whole = api.get(path).json()
    order = [member.device for member in fleet.rollout(rollout).members]
    assert [member["device"] for member in whole["members"]] == order
    for limit in (1, 3, 7):
        pages = in_pages(api, path, limit, lambda shown: shown["members"], "device")
        assert [device for page in pages for device in page] == order
        assert max(map(len, pages)) == limit
    # What is said of all of them is said on each page.
    page = api.get(path, params={"limit": 1}).json()
    assert page | {"members": None} == whole | {"members": None}
    ended = [m for m in whole["members"] if m["state"] not in ("waiting", "pending", "in_progress")]
    assert ended
    for number, phase in enumerate(whole["phases"]):
        assert phase["settled_count"] == len([m for m in ended if m["phase"] <= number])
    assert api.get(path, params={"after": "nobody"}).json()["members"] == []


def test_a_rollout_is_started_listed_and_shown(fleet: Fleet, api: TestClient) -> None:
    fleet.add("a", "b", "c", verdict=refuses("2.0.0"))
    fleet.release("1.0.0")
    fleet.release("2.0.0")
    fleet.roll_out("1.0.0")
    wish = {"model": "digits", "version": "2.0.0", "match": {"site": "lab"}, "soak_s": 0}
    started = api.post("/v1/rollouts", json=wish)
    assert started.status_code == 201
    rollout = started.json()["id"]
    fleet.settle()
    shown = api.get(f"/v1/rollouts/{rollout}").json()
    assert shown["state"] == "halted"
    assert shown["counts"] == {"waiting": 2, "rolled_back": 1}
    assert [(p["share"], p["size"], p["state"]) for p in shown["phases"]] == [
        ("1", 1, "stopped"),
        ("50%", 2, "waiting"),
        ("100%", 3, "waiting"),
    ]
    assert shown["members"][0]["previous_version"] == "1.0.0"
    assert shown["members"][0]["code"] == "error_ratio"
    listed = api.get("/v1/rollouts").json()
    assert [r["id"] for r in listed] == [rollout, "r-1"]
    assert listed[0]["members"] is None
    assert listed[0]["counts"] == shown["counts"]


def test_what_a_person_does_to_a_rollout(fleet: Fleet, api: TestClient) -> None:
    fleet.add("a", verdict=dawdles)
    fleet.release("1.0.0")
    rollout = fleet.roll_out("1.0.0")
    for act, state in (("pause", "paused"), ("resume", "running"), ("abort", "aborted")):
        assert api.post(f"/v1/rollouts/{rollout}/{act}").json()["state"] == state
    error(api.post(f"/v1/rollouts/{rollout}/resume"), 409, "rollout_ended")
    error(api.post("/v1/rollouts/r-99/pause"), 404, "unknown_rollout")
    error(api.get("/v1/rollouts/r-99"), 404, "unknown_rollout")


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"version": "9.9.9"}, 404, "unknown_release"),
        ({"match": {"site": "moon"}}, 409, "no_device_matches"),
        ({"phases": []}, 422, "invalid_request"),
        ({"phases": ["0%"]}, 422, "invalid_request"),
        ({"phases": ["101%"]}, 422, "invalid_request"),
        ({"phases": ["1", "50%", "20%"]}, 422, "invalid_request"),
        ({"phases": ["2", "100%", "2"]}, 422, "invalid_request"),
        ({"probation": {"min_s": 9, "max_s": 8}}, 422, "invalid_request"),
        ({"soak_s": -1}, 422, "invalid_request"),
        ({"tolerance": -1}, 422, "invalid_request"),
        ({"model": "../x"}, 422, "invalid_request"),
    ],
)
def test_a_rollout_that_cannot_be_is_refused(
    fleet: Fleet, api: TestClient, change: dict[str, object], status: int, code: str
) -> None:
    fleet.add("a")
    fleet.release("1.0.0")
    error(
        api.post("/v1/rollouts", json={"model": "digits", "version": "1.0.0"} | change),
        status,
        code,
    )
    assert api.get("/v1/rollouts").json() == []


def test_a_soak_that_is_no_number_is_refused(fleet: Fleet, api: TestClient) -> None:
    fleet.add("a")
    fleet.release("1.0.0")
    body = b'{"model":"digits","version":"1.0.0","soak_s":NaN}'
    headers = {"content-type": "application/json"}
    assert (
        "NaN"
        in error(
            api.post("/v1/rollouts", content=body, headers=headers), 400, "body_not_json"
        ).message
    )


def test_a_rollback_tells_what_happens_to_each_device(fleet: Fleet, api: TestClient) -> None:
    fleet.add("a")
    for version in "1.0.0", "2.0.0":
        fleet.release(version)
        fleet.roll_out(version)
    done = api.post("/v1/rollbacks", json={"model": "digits", "match": {"site": "lab"}})
    assert done.json()["devices"] == [
        {"device": "a", "from_version": "2.0.0", "to_version": "1.0.0", "reason": ""}
    ]
    fleet.settle()
    again = api.post("/v1/rollbacks", json={"model": "digits"}).json()["devices"][0]
    assert again["to_version"] is None
    assert again["reason"]
    error(api.post("/v1/rollbacks", json={"model": "other"}), 404, "unknown_model")


# -- the whole


def test_health_is_503_without_a_broker(fleet: Fleet, api: TestClient) -> None:
    fleet.add("a", "b")
    fleet.devices["b"].cut()
    fleet.settle()
    healthy = api.get("/v1/status")
    assert healthy.status_code == 200
    assert (healthy.json()["device_count"], healthy.json()["online_count"]) == (2, 1)
    fleet.broker.cut("controller")
    fleet.settle()
    ill = api.get("/v1/status")
    assert ill.status_code == 503
    assert (ill.json()["store"], ill.json()["broker"]) == ("ok", "disconnected")


def test_a_failing_store_is_503_everywhere(fleet: Fleet, api: TestClient) -> None:
    fleet.store.close()
    with away(fleet.database) as code:
        error(api.get("/v1/status"), 503, code)
        error(api.get("/v1/devices"), 503, code)
        error(api.post("/v1/devices", json={"id": "a"}), 503, code)


def test_every_error_has_the_same_shape(api: TestClient) -> None:
    error(api.get("/v1/nothing"), 404, "not_found")
    assert "GET" in error(api.put("/v1/devices"), 405, "method_not_allowed").hint
    headers = {"content-type": "application/json"}
    error(api.post("/v1/devices", content=b"{", headers=headers), 400, "body_not_json")
    error(api.post("/v1/devices", content=b"\xff", headers=headers), 400, "body_not_json")
    error(api.post("/v1/devices", content=b"[" * 9999, headers=headers), 400, "body_not_json")


def test_our_own_fault_is_a_500_of_that_shape(fleet: Fleet) -> None:
    app = build_app(fleet.controller)

    @app.get("/v1/bug", openapi_extra=needs(Right.SEE))
    def bug() -> None:
        raise ZeroDivisionError

    client = TestClient(app, raise_server_exceptions=False, headers=fleet.bearer())
    body = error(client.get("/v1/bug"), 500, "internal_error")
    assert "division" not in body.message


def test_bodies_without_end_and_foreign_pages_are_refused(
    api: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gatekeeper, "MAX_BODY_BYTES", 100)
    error(api.post("/v1/devices", json={"id": "a" * 200}), 413, "body_too_large")
    foreign = {"origin": "https://evil.example"}
    error(api.post("/v1/rollouts/r-1/abort", headers=foreign), 403, "foreign_origin")
    near = {"origin": "http://127.0.0.1:9000"}
    error(api.post("/v1/rollouts/r-1/abort", headers=near), 403, "foreign_origin")
    rows = [row for row in api.get("/v1/audit").json() if row["code"] == "foreign_origin"]
    # Of many one now and then: a page can ask as often as it likes.
    assert [(row["who"], row["what"], row["outcome"]) for row in rows] == [
        ("", "POST /v1/rollouts/r-1/abort", "denied")
    ]
    own = {"origin": "http://testserver"}
    error(api.post("/v1/rollouts/r-1/abort", headers=own), 404, "unknown_rollout")


def test_the_description_says_of_every_operation_which_right_it_takes(api: TestClient) -> None:
    paths = api.get("/openapi.json").json()["paths"]
    rights = {
        (method, path): operation["x-right"]
        for path, operations in paths.items()
        for method, operation in operations.items()
    }
    assert rights["get", "/v1/devices"] == "see"
    assert rights["post", "/v1/bundles"] == "release"
    assert [at for at, right in rights.items() if right == "none"] == [("get", "/v1/health")]
