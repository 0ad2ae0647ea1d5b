"""What was live where and when, run records and lineage, on both databases."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from fleet.api.app import build_app
from fleet.api.lineage_schemas import BundleFile, Lineage
from fleet.api.run_schemas import MAX_RUN_BYTES
from fleet.cli.lineage import drawn, tree
from fleet.interop.openlineage import events
from fleet.store.devices import Selection
from fleet.store.schema import SCHEMA_VERSION
from tests.fleet.peers import Fleet, refuses
from wire import codec, topics
from wire import messages as m

HISTORY = "/v1/models/digits/history"
RUN: dict[str, Any] = {
    "pipeline": "digits",
    "run": "8c1f",
    "trigger": {"kind": "drift", "why": "cam drifted", "evidence": {"findings": [{"id": 3}]}},
    "data": {"sha256": "d" * 64, "row_count": 1797, "sources": [{"path": "data/a.parquet"}]},
    "code": {"commit": "c0ffee", "is_dirty": True},
    "parameters": {"C": 0.3, "layers": [1, 2]},
    "metrics": {"accuracy": 0.97},
    "verdict": {"outcome": "bless", "reasons": ["accuracy 0.97 is above 0.9"]},
    "libraries": {"scikit-learn": "1.7.2"},
}


@pytest.fixture
def fleet(tmp_path: Path, where: Path | str) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path, where=where)
    fleet.settle()
    for version in ("1.0.0", "1.1.0"):
        fleet.release(version)
    yield fleet
    fleet.controller.stop()
    fleet.store.close()


@pytest.fixture
def api(fleet: Fleet) -> Iterator[TestClient]:
    app = build_app(fleet.controller)
    with TestClient(app, raise_server_exceptions=False, headers=fleet.bearer()) as client:
        yield client


def spans(api: TestClient, **query: Any) -> list[dict[str, Any]]:
    answer = api.get(HISTORY, params=query)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()
    return found


def shown(found: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    return [(span["device"], span["version"], span["ending"]) for span in found]


def test_each_release_is_live_from_one_instant_to_the_next(fleet: Fleet, api: TestClient) -> None:
    fleet.add("cam")
    began = fleet.now_unix_ms
    fleet.roll_out("1.0.0")
    fleet.wait(60, step_s=20)
    fleet.roll_out("1.1.0")
    changed = fleet.now_unix_ms
    fleet.wait(60, step_s=20)
    new, old = spans(api)
    assert (old["since_unix_ms"], old["until_unix_ms"], old["ending"]) == (
        *(began, changed, "replaced"),
    )
    assert (new["since_unix_ms"], new["until_unix_ms"], new["ending"]) == (changed, None, "")
    assert old["last_known_unix_ms"] == new["earliest_unix_ms"] == changed
    for at, version in ((began, "1.0.0"), (changed - 1, "1.0.0"), (changed, "1.1.0")):
        (span,) = spans(api, at_unix_ms=at)
        assert (span["version"], span["certainty"]) == (version, "certain"), at
    assert spans(api, at_unix_ms=began - 1) == []


def test_nothing_is_added_by_restarts_replays_and_late_reports(
    fleet: Fleet, api: TestClient
) -> None:
    fleet.add("cam")
    fleet.roll_out("1.0.0")
    cam = fleet.devices["cam"]
    old = m.Reported(boot=cam.boot, seq=10_000, generation=cam.generation)  # nothing serves
    before = spans(api)
    fleet.wait(5)
    cam.reboot()
    fleet.settle()
    cam.report()
    fleet.restart()
    cam.send(topics.Reported("cam"), codec.encode(old), retain=True)  # of the former boot
    fleet.settle()
    fleet.restart()
    cam.cut()
    fleet.settle()
    cam.back()
    fleet.settle()
    assert spans(api) == before
    cam.report()
    fleet.settle()
    assert spans(api) == before


def test_what_a_device_did_while_it_was_away_lies_within_its_absence(
    fleet: Fleet, api: TestClient
) -> None:
    fleet.add("cam")
    fleet.roll_out("1.0.0")
    fleet.roll_out("1.1.0")
    cam = fleet.devices["cam"]
    cam.send_record(1)
    fleet.wait(60, step_s=20)
    cam.send_record(2)
    fleet.settle()
    left = fleet.now_unix_ms
    cam.cut()
    fleet.wait(3600, step_s=600)
    spoken = cam.models["digits"]  # it went back by itself meanwhile
    first = cam.desired[-2].models[0]
    spoken.active = first
    spoken.outcome, spoken.code = m.Outcome.ROLLED_BACK, "error_ratio"
    fleet.restart()
    cam.back()
    fleet.settle()
    back = fleet.now_unix_ms
    now, gone, _ = spans(api)
    assert (gone["ending"], gone["code"]) == ("rolled_back", "error_ratio")
    assert (gone["last_known_unix_ms"], gone["until_unix_ms"]) == (left, back)
    assert (now["version"], now["earliest_unix_ms"], now["since_unix_ms"]) == ("1.0.0", left, back)
    asked = spans(api, at_unix_ms=left + 1800_000)
    assert [(s["version"], s["certainty"]) for s in asked] == [
        *(("1.0.0", "possible"), ("1.1.0", "possible")),
    ]
    fleet.wait(60, step_s=20)
    cam.verdict = refuses()
    fleet.roll_out("1.1.0")
    (newest, *_) = spans(api)
    assert newest["earliest_unix_ms"] == newest["since_unix_ms"] == fleet.now_unix_ms


def test_history_outlives_the_device_and_is_cut_to_what_one_may_see(
    fleet: Fleet, api: TestClient
) -> None:
    fleet.add("a", "b")
    fleet.controller.set_tags("b", {"site": "hall"})
    fleet.roll_out("1.0.0")
    lab = {"headers": fleet.bearer("lab", site="lab")}
    assert shown(api.get(HISTORY, **lab).json()) == [("a", "1.0.0", "")]
    assert shown(spans(api, device="b")) == [("b", "1.0.0", "")]
    assert api.get(f"{HISTORY}?device=b", **lab).json() == []
    assert shown(spans(api, match="site=hall")) == [("b", "1.0.0", "")]
    first, second = spans(api)
    assert spans(api, limit=1, before=first["id"]) == [second]
    api.delete("/v1/devices/a")
    assert ("a", "1.0.0", "device_removed") in shown(spans(api))
    assert shown(spans(api, device="a")) == [("a", "1.0.0", "device_removed")]
    assert api.get(HISTORY, **lab).json() == []
    (of,) = api.get(f"/v1/devices/a/lineage?at_unix_ms={fleet.now_unix_ms - 1}").json() or [None]
    assert of is None  # it was removed at the same instant at which it had begun


LATER_TABLES = (
    *("alias_moves", "rollout_aliases", "live_spans", "live_gaps", "runs"),
    "performance",
    *("captures", "capture_devices", "capture_requests"),
    *("desired_shadows", "shadow_sums", "rollout_shadows"),
    "record_ranges",
)
"""Of versions 7 to 12 of the store, those that refer to others first."""


def test_a_store_of_before_begins_with_what_devices_said_last(
    tmp_path: Path, where: Path | str
) -> None:
    fleet = Fleet(tmp_path, where=where)
    fleet.settle()
    fleet.release("1.0.0")
    fleet.add("cam")
    fleet.roll_out("1.0.0")
    with fleet.store.write() as tx:
        run = tx.live._connection.exec_driver_sql
        for table in LATER_TABLES:
            run(f"DROP TABLE {table}")
        run("ALTER TABLE reported DROP COLUMN shadow")
        run("DROP INDEX windows_by_length")
        run("CREATE INDEX windows_by_time ON windows (start_unix_ms)")
        run("UPDATE alembic_version SET version_num = '6'")
        run("UPDATE meta SET value = '6' WHERE key = 'schema_version'")
    assert SCHEMA_VERSION >= 7
    fleet.kill()
    fleet._open()
    with fleet.store.read() as tx:
        (span,) = tx.live.page(Selection(), limit=9)
    assert (span.device, span.release.version, span.ending) == ("cam", "1.0.0", "")
    fleet.settle()
    fleet.devices["cam"].report()
    fleet.settle()
    with fleet.store.read() as tx:
        assert tx.live.page(Selection(), limit=9) == [span]
    fleet.controller.stop()
    fleet.store.close()


# -- runs


def test_a_run_is_kept_once_and_for_ever(fleet: Fleet, api: TestClient) -> None:
    path = "/v1/releases/digits/1.0.0/run"
    assert api.get(path).json()["code"] == "unknown_run"
    first = api.put(path, json=RUN)
    again = api.put(path, json=RUN)
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json() == again.json() == api.get(path).json()
    assert first.json()["stored_by"] == "admin"
    kept = first.json()["run"]
    assert {key: kept[key] for key in ("parameters", "metrics")} == {
        key: RUN[key] for key in ("parameters", "metrics")
    }
    other = api.put(path, json=RUN | {"run": "other"})
    assert (other.status_code, other.json()["code"]) == (409, "run_exists")
    assert api.get(path).json() == first.json()


def test_what_a_trigger_saw_of_others_devices_is_not_for_everybody(
    fleet: Fleet, api: TestClient
) -> None:
    path = "/v1/releases/digits/1.0.0"
    api.put(f"{path}/run", json=RUN)
    lab = {"headers": fleet.bearer("lab", site="lab")}
    for answer in (api.get(f"{path}/run", **lab), api.get(f"{path}/lineage", **lab)):
        assert answer.status_code == 200
        assert "d" * 64 in answer.text
        assert "cam drifted" not in answer.text
        assert 'findings":[{"id' not in answer.text
    assert "cam drifted" in api.get(f"{path}/run").text


def sized(extra: int) -> dict[str, Any]:
    """Return a record of the largest size, and so many bytes more."""
    filled: dict[str, Any] = RUN | {"parameters": {"x": ""}}
    return filled | {"parameters": {"x": "é" * extra}}


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (RUN | {"surprise": 1}, 422, "invalid_request"),
        (RUN | {"metrics": {"a": "high"}}, 422, "invalid_request"),
        (RUN | {"data": {"sha256": "x", "row_count": 1}}, 422, "invalid_request"),
        (RUN | {"data": {"sha256": "d" * 64, "row_count": -1}}, 422, "invalid_request"),
        (RUN | {"verdict": {"outcome": "fine"}}, 422, "invalid_request"),
        (sized(MAX_RUN_BYTES // 2), 413, "run_too_large"),
    ],
)
def test_a_record_that_is_none_is_refused(
    fleet: Fleet, api: TestClient, body: dict[str, Any], status: int, code: str
) -> None:
    answer = api.put("/v1/releases/digits/1.0.0/run", json=body)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert api.get("/v1/releases/digits/1.0.0/run").status_code == 404


def test_a_record_of_nearly_the_largest_size_is_kept(fleet: Fleet, api: TestClient) -> None:
    body = sized(MAX_RUN_BYTES // 2 - 1000)
    assert api.put("/v1/releases/digits/1.0.0/run", json=body).status_code == 201


# -- lineage


@pytest.fixture
def told(fleet: Fleet, api: TestClient) -> Lineage:
    """The lineage of a release that was made by a run and rolled out."""
    fleet.add("cam", "dog")
    fleet.roll_out("1.0.0")
    fleet.wait(10, step_s=5)
    fleet.roll_out("1.1.0")
    api.put("/v1/releases/digits/1.1.0/run", json=RUN)
    api.put("/v1/models/digits/aliases/champion", json={"version": "1.1.0"})
    answer = api.get("/v1/releases/digits/@champion/lineage")
    return Lineage.model_validate_json(answer.content)


def test_a_lineage_goes_from_the_data_to_the_devices(fleet: Fleet, told: Lineage) -> None:
    assert told.run is not None
    assert told.run.run.data.sha256 == "d" * 64
    assert [rollout.id for rollout in told.rollouts] == ["r-2"]
    assert told.device_count == 2
    assert {span.device for span in told.spans} == {"cam", "dog"}
    lines = "\n".join(drawn(tree(told)))
    for part in (
        *("digits:1.1.0 @champion", "made by run 8c1f of digits, started by drift, cam drifted"),
        *("data dddddddddddd, 1797 rows: data/a.parquet", "code c0ffee, with changes"),
        *("accuracy=0.97", "C=0.3", "scikit-learn 1.7.2", "verdict bless: accuracy 0.97"),
        *("r-2 to all devices, finished", "(2 confirmed)", "live on 2 devices", "cam since"),
    ):
        assert part in lines, part


def test_a_lineage_starts_at_a_device_and_an_instant(fleet: Fleet, api: TestClient) -> None:
    fleet.add("cam", "dog")
    fleet.roll_out("1.0.0")
    then = fleet.now_unix_ms
    fleet.wait(10, step_s=5)
    fleet.roll_out("1.1.0")

    def served(**query: Any) -> list[Any]:
        answer = api.get("/v1/devices/cam/lineage", params=query)
        assert answer.status_code == 200, answer.text
        return [
            (found["release"]["version"], [span["device"] for span in found["spans"]])
            for found in answer.json()
        ]

    assert served() == [("1.1.0", ["cam"])]
    assert served(at_unix_ms=then) == [("1.0.0", ["cam"])]
    assert served(at_unix_ms=then - 1) == served(model="other") == []
    assert api.get("/v1/devices/nobody/lineage").json()["code"] == "unknown_device"
    one = api.get("/v1/releases/digits/1.0.0/lineage?device=dog").json()
    assert [span["device"] for span in one["spans"]] == ["dog"]
    assert one["rollouts"][0]["counts"] == {"confirmed": 1}


def test_the_export_is_a_connected_graph_of_openlineage_events(told: Lineage) -> None:
    told.files = [BundleFile(path="model.onnx", sha256="e" * 64, bytes=1)]
    found = events(told)
    assert json.loads(json.dumps(found)) == found
    assert found == events(told)
    names = [event["job"]["facets"]["jobType"]["jobType"] for event in found]
    assert names == ["TRAIN", "BUNDLE", "ROLLOUT", "SERVE", "SERVE"]
    ids = [event["run"]["runId"] for event in found]
    assert len(set(ids)) == len(ids)
    for event in found:
        for part in (event["run"], event["job"], *event["inputs"], *event["outputs"]):
            for facet in part["facets"].values():
                assert facet["_producer"].startswith("https://")
                assert facet["_schemaURL"].startswith("https://openlineage.io/spec/")
    reached = {f"data/{'d' * 64}"}
    for event in found:  # in order, each reads what one before it has written
        read = {dataset["name"] for dataset in event["inputs"]}
        assert read <= reached, event["job"]["name"]
        reached |= {dataset["name"] for dataset in event["outputs"]}
    assert "live/cam/digits" in reached
