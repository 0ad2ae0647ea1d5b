"""Who is told of alerts, how often, and what people do about them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from fleet.alerts.watch import Finding
from fleet.api.app import build_app
from fleet.api.schemas import DeviceIn
from fleet.core.rights import Role
from fleet.store.deliveries import MAX_WAITING, MQTT
from tests.fleet.peers import Device
from tests.fleet.watched import DAY_S, HOOK, Fold

pytestmark = pytest.mark.slow


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fold]:
    fleet = Fold(tmp_path)
    yield fleet
    fleet.controller.stop()
    fleet.store.close()


# -- telling


def test_it_is_told_again_until_somebody_acknowledges(fleet: Fold) -> None:
    fleet.report("drift", Finding("x", True, "x"))
    fleet.wait(3 * DAY_S, step_s=3600)
    assert fleet.told() == [("firing", "drift", 1)] * 3
    with fleet.store.read() as tx:
        number = tx.alerts.open_of("drift")["x"].id
    with TestClient(build_app(fleet.controller), headers=fleet.bearer()) as api:
        assert api.post(f"/v1/alerts/{number}/acknowledge").status_code == 200
    fleet.wait(3 * DAY_S, step_s=3600)
    assert len(fleet.told()) == 3
    fleet.report("drift")
    fleet.wait(60, step_s=5)
    assert fleet.told()[3:] == [("resolved", "drift", 1)]


def test_a_silence_holds_back_and_its_end_lets_go(fleet: Fold) -> None:
    with TestClient(build_app(fleet.controller), headers=fleet.bearer()) as api:
        fleet.add("a")
        wish = {"rule": "device_offline", "match": {"site": "lab"}, "for_s": 7200, "why": "move"}
        assert api.post("/v1/silences", json=wish).status_code == 201
        fleet.devices["a"].cut()
        fleet.wait(2000, step_s=20)
        assert fleet.states("device_offline") == {"a": "firing"}
        assert [a["is_silenced"] for a in api.get("/v1/alerts").json()] == [True]
        assert fleet.told() == []
        fleet.wait(6000, step_s=50)
        assert fleet.told() == [("firing", "device_offline", 1)]
        assert api.get("/v1/silences").json() == []
        # ended by hand
        number = api.post("/v1/silences", json=wish | {"rule": "drift", "match": {}}).json()["id"]
        fleet.report("drift", Finding("x", True, "x"))
        fleet.wait(60, step_s=5)
        assert len(fleet.told()) == 1
        assert api.delete(f"/v1/silences/{number}").status_code == 200
        fleet.wait(60, step_s=5)
        assert fleet.told()[1:] == [("firing", "drift", 1)]


def test_the_end_of_what_was_silenced_is_told_only_to_who_heard_of_it(fleet: Fold) -> None:
    with TestClient(build_app(fleet.controller), headers=fleet.bearer()) as api:
        fleet.report("drift", Finding("told", True, "x"))
        fleet.wait(60, step_s=5)
        everything = {"subject": "*", "for_s": 3600, "why": "night"}
        assert api.post("/v1/silences", json=everything).status_code == 201
        fleet.report("drift", Finding("told", True, "x"), Finding("untold", True, "x"))
        fleet.wait(60, step_s=5)
        fleet.report("drift")
        fleet.wait(60, step_s=5)
    assert fleet.told() == [("firing", "drift", 1), ("resolved", "drift", 1)]
    assert [a["labels"]["subject"] for b in fleet.bodies() for a in b["alerts"]] == ["told"] * 2


def test_what_is_over_before_it_was_told_is_not_told(fleet: Fold) -> None:
    fleet.report("drift", Finding("x", True, "x"))
    fleet.wait(10)
    fleet.report("drift")
    fleet.wait(60)
    assert fleet.told() == []


def test_what_is_told_again_and_listed_is_what_was_found_last(fleet: Fold) -> None:
    fleet.report("drift", Finding("x", True, "3 of 300 devices"))
    fleet.wait(60, step_s=5)
    fleet.report("drift", Finding("x", True, "200 of 300 devices"))
    fleet.wait(60, step_s=5)
    assert fleet.told() == [("firing", "drift", 1)]  # new words alone wake nobody
    with TestClient(build_app(fleet.controller), headers=fleet.bearer()) as api:
        assert [a["text"] for a in api.get("/v1/alerts").json()] == ["200 of 300 devices"]
    fleet.wait(DAY_S + 3600, step_s=900)
    assert [text for body in fleet.bodies() for text in texts(body)] == [
        "3 of 300 devices",
        "200 of 300 devices",
    ]
    fleet.report("drift", Finding("x", False, "none"))
    fleet.wait(60, step_s=5)
    assert texts(fleet.bodies()[-1]) == ["200 of 300 devices"]  # what is over, not how it is now


def test_new_words_are_written_once(fleet: Fold) -> None:
    fleet.report("drift", Finding("x", True, "3 of 300 devices"))
    fleet.wait(60, step_s=5)
    with fleet.store.write() as tx:
        raw = tx.alerts._connection

        def total() -> int:
            found: int = raw.exec_driver_sql("SELECT total_changes()").scalar_one()
            return found

        def written(text: str) -> int:
            before = total()
            finding = Finding("x", True, text)
            fleet.controller.alerts.report(tx, "drift", [finding], fleet.now_unix_ms)
            return total() - before

        assert [written(f"{n} of 300 devices") for n in (3, 200, 200)] == [0, 1, 0]


def texts(body: Any) -> list[str]:
    return [alert["annotations"]["summary"] for alert in body["alerts"]]


def test_a_killed_controller_loses_nothing_and_says_nothing_twice(fleet: Fold) -> None:
    fleet.add("a")
    fleet.devices["a"].cut()
    fleet.settle()
    for _ in range(3):  # silence counts from each start
        fleet.restart()
        fleet.wait(800, step_s=100)
        assert fleet.states("device_offline") == {"a": "pending"}
    fleet.wait(910, step_s=7)
    fleet.restart()
    fleet.wait(60, step_s=7)
    fleet.restart()
    fleet.wait(60, step_s=7)
    assert fleet.told() == [("firing", "device_offline", 1)]
    assert [h.status for h in fleet.heard] == ["firing"]


def test_the_message_is_that_of_alertmanager(fleet: Fold) -> None:
    fleet.add("a")
    fleet.devices["a"].cut()
    fleet.wait(960, step_s=10)
    (body,) = fleet.bodies()
    (alert,) = body.pop("alerts")
    labels = {
        "alertname": "device_offline",
        "severity": "warning",
        "subject": "a",
        "device": "a",
    }
    assert body == {
        "version": "4",
        "groupKey": '{}:{alertname="device_offline"}',
        "truncatedAlerts": 0,
        "status": "firing",
        "receiver": "hook",
        "groupLabels": {"alertname": "device_offline"},
        "commonLabels": labels,
        "commonAnnotations": {"summary": "a is offline, since 2023-11-14 22:13 UTC"},
        "externalURL": "https://fleet.example",
    }
    assert alert == {
        "status": "firing",
        "labels": labels,
        "annotations": {"summary": "a is offline", "tags": "site=lab"},
        "startsAt": "2023-11-14T22:28:30.000Z",
        "endsAt": "0001-01-01T00:00:00Z",
        "generatorURL": "https://fleet.example/v1/alerts",
        "fingerprint": fleet.heard[0].alerts[0].fingerprint,
    }


def test_a_receiver_that_is_gone_for_long_gets_the_newest(fleet: Fold) -> None:
    with fleet.store.write() as tx:
        tx.deliveries.add([(HOOK.name, str(n)) for n in range(MAX_WAITING + 5)], 1)
        tx.deliveries.add([(MQTT, "x")], 1)
    with fleet.store.read() as tx:
        waiting = tx.deliveries.waiting(HOOK.name, limit=10_000)
        assert [d.body for d in waiting][:1] == ["5"]
        assert len(waiting) == MAX_WAITING
        assert len(tx.deliveries.waiting(MQTT)) == 1


# -- the API


def test_alerts_are_listed_newest_first_and_those_of_the_last_month_on_request(
    fleet: Fold,
) -> None:
    with TestClient(build_app(fleet.controller), headers=fleet.bearer()) as api:
        for name in "xyz":
            fleet.report("drift", Finding("old", True, "x"), Finding(name, True, name))
        assert [a["subject"] for a in api.get("/v1/alerts").json()] == ["z", "old"]
        every = api.get("/v1/alerts?all=1").json()
        assert [a["subject"] for a in every] == ["z", "y", "x", "old"]
        page = api.get(f"/v1/alerts?all=1&limit=2&before={every[0]['id']}").json()
        assert [a["subject"] for a in page] == ["y", "x"]
        fleet.wait(2)
        fleet.wait(31 * DAY_S, step_s=1800)
        assert [a["subject"] for a in api.get("/v1/alerts?all=1").json()] == ["z", "old"]


def test_what_cannot_be_acknowledged_or_silenced_is_refused(fleet: Fold) -> None:
    with TestClient(build_app(fleet.controller), headers=fleet.bearer()) as api:
        fleet.add("a")
        fleet.devices["a"].cut()
        fleet.settle()
        (alert,) = api.get("/v1/alerts").json()
        answer = api.post(f"/v1/alerts/{alert['id']}/acknowledge")
        assert (answer.status_code, answer.json()["code"]) == (409, "alert_not_firing")
        assert api.post("/v1/alerts/999/acknowledge").json()["code"] == "unknown_alert"
        assert api.delete("/v1/silences/999").json()["code"] == "unknown_silence"
        for wish in (
            {"for_s": 60, "why": "x"},
            {"rule": "drift", "for_s": 60},
            {"rule": "drift", "for_s": 0, "why": "x"},
            {"rule": "drift", "for_s": 60, "why": "x", "urk": 1},
        ):
            assert api.post("/v1/silences", json=wish).status_code in (400, 422), wish


def test_what_is_out_of_scope_is_neither_seen_nor_touched(fleet: Fold) -> None:
    fleet.add("a")
    fleet.controller.add_devices([DeviceIn(id="h", tags={"site": "hall"})])
    fleet.devices["h"] = Device(fleet.broker, "h")
    fleet.settle()
    for cam in fleet.devices.values():
        cam.cut()
    fleet.report("drift", Finding("digits", True, "x"))
    fleet.wait(960, step_s=10)
    mine = fleet.bearer("lab", Role.OPERATOR, site="lab")
    with TestClient(build_app(fleet.controller), headers=fleet.bearer()) as api:
        every = {a["subject"]: a["id"] for a in api.get("/v1/alerts").json()}
        assert every.keys() == {"a", "h", "digits"}
        assert [a["subject"] for a in api.get("/v1/alerts", headers=mine).json()] == ["a"]
        for subject in "h", "digits":
            answer = api.post(f"/v1/alerts/{every[subject]}/acknowledge", headers=mine)
            assert (answer.status_code, answer.json()["code"]) == (404, "unknown_alert")
        assert api.post(f"/v1/alerts/{every['a']}/acknowledge", headers=mine).is_success
        wide = {"rule": "device_offline", "for_s": 60, "why": "x"}
        assert api.post("/v1/silences", json=wide, headers=mine).status_code == 403
        number = api.post("/v1/silences", json=wide).json()["id"]
        assert api.get("/v1/silences", headers=mine).json() == []
        assert api.delete(f"/v1/silences/{number}", headers=mine).status_code == 404


def test_prometheus_sees_how_many_alerts_there_are(fleet: Fold) -> None:
    fleet.add("a", "b")
    fleet.report("drift", Finding("x", True, "x"))
    fleet.devices["a"].cut()
    fleet.settle()
    text = fleet.controller.metrics_text().decode()
    assert 'modelfleet_alerts{rule="drift",state="firing"} 1.0' in text
    assert 'modelfleet_alerts{rule="device_offline",state="pending"} 1.0' in text


def test_the_query_of_a_tick_reads_no_more_than_what_is_due(fleet: Fold) -> None:
    """At each tick, however many alerts are open: by an index, never all rows."""
    with fleet.store.read() as tx:
        raw = tx.alerts._connection
        for query, index in (
            ("SELECT * FROM alerts WHERE due_unix_ms <= 1 ORDER BY due_unix_ms LIMIT 1", "due"),
            ("SELECT rule, news FROM alerts WHERE news != '' GROUP BY rule, news", "with_news"),
        ):
            plan = str(raw.exec_driver_sql(f"EXPLAIN QUERY PLAN {query}").all())
            assert index in plan
            assert "TEMP B-TREE FOR ORDER BY" not in plan
