"""What a whole controller watches, by a clock that the tests move."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from fleet.alerts.settings import AlertsSection
from fleet.alerts.watch import Finding, Watch
from fleet.api.app import build_app
from fleet.api.schemas import DeviceIn
from tests.fleet.peers import Device, refuses
from tests.fleet.watched import DAY_S, HOOK, Fold, count
from wire import codec, topics
from wire import messages as m
from wire.alerts import MAX_ALERTS


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fold]:
    fleet = Fold(tmp_path)
    yield fleet
    fleet.controller.stop()
    fleet.store.close()


def send(cam: Device, record: m.Record) -> None:
    kinds = {kind: channel for channel, kind in codec.PAYLOADS.items()}
    channel = kinds[type(record)]
    cam.send(_topic(cam.name, channel), codec.encode(record))


def _topic(device: str, channel: str) -> topics.Topic:
    return topics.parse(f"{topics.ROOT}/device/{device}/{channel}")


def vitals(cam: Device, seq: int, *, free: int = 10**10, dropped: int = 0) -> m.VitalsTelemetry:
    return m.VitalsTelemetry(
        boot=cam.boot,
        seq=seq,
        at_unix_ms=1,
        uptime_s=1,
        cpu_ratio=0,
        memory_available_bytes=1,
        disk_free_bytes=free,
        supervisor_rss_bytes=1,
        runtime_rss_bytes=1,
        records_dropped=dropped,
    )


# -- devices that are gone


def test_a_device_that_is_gone_for_long_is_told_once_and_its_return_once(fleet: Fold) -> None:
    fleet.add("a", "b")
    fleet.devices["a"].cut()
    fleet.settle()
    fleet.wait(899, step_s=60)
    assert fleet.states("device_offline") == {"a": "pending"}
    fleet.wait(60)
    assert fleet.told() == [("firing", "device_offline", 1)]
    fleet.devices["a"].back()
    fleet.wait(120)
    assert fleet.told() == [("firing", "device_offline", 1), ("resolved", "device_offline", 1)]
    assert [(h.status, h.rule, h.count) for h in fleet.heard] == fleet.told()
    assert fleet.states("device_offline") == {}
    assert [line.partition(":")[0] for line in fleet.events("alert")] == ["firing", "resolved"]


def test_a_device_that_comes_back_in_time_and_one_never_seen_are_no_alert(fleet: Fold) -> None:
    fleet.add("a")
    fleet.controller.add_devices([DeviceIn(id="never")])
    fleet.devices["a"].cut()
    fleet.wait(800, step_s=50)
    fleet.devices["a"].back()
    fleet.wait(2000, step_s=50)
    assert fleet.told() == []
    with fleet.store.read() as tx:
        assert tx.alerts.page({}, is_all=True, since_unix_ms=0, before=None, limit=10) == []


def test_a_device_that_flutters_is_told_once(fleet: Fold) -> None:
    fleet.add("a")
    cam = fleet.devices["a"]
    cam.cut()
    fleet.wait(1000, step_s=20)
    for _ in range(5):
        cam.back()
        fleet.wait(50, step_s=10)
        cam.cut()
        fleet.wait(50, step_s=10)
    assert fleet.told() == [("firing", "device_offline", 1)]


def test_half_the_fleet_at_once_is_one_delivery(fleet: Fold) -> None:
    names = [f"cam-{number:04}" for number in range(300)]
    fleet.add(*names)
    start = fleet.now_unix_ms
    for name in names[:150]:
        fleet.devices[name].cut()
    fleet.settle()
    fleet.wait(930, step_s=30)
    (body,) = fleet.bodies()
    assert count(body) == 150
    assert (len(body["alerts"]), body["truncatedAlerts"]) == (100, 50)
    summary = body["commonAnnotations"]["summary"]
    assert summary.startswith("150 of 300 devices are offline, since 2023-11-14 22:13 UTC")
    (heard,) = fleet.heard
    assert (heard.summary, heard.count, heard.since_unix_ms) == (summary, 150, start)
    assert len(heard.alerts) == MAX_ALERTS


def test_while_the_controller_is_cut_off_there_is_no_evidence(fleet: Fold) -> None:
    fleet.add("a")
    fleet.devices["a"].cut()
    fleet.wait(800, step_s=50)
    fleet.broker.cut("controller")
    fleet.wait(5000, step_s=100)
    assert fleet.states("device_offline") == {"a": "pending"}
    fleet.link.connect()
    fleet.settle()
    fleet.wait(850, step_s=50)  # silence counts from when it could be heard again
    assert fleet.states("device_offline") == {"a": "pending"}
    fleet.wait(100, step_s=10)
    assert ("firing", "device_offline", 1) in fleet.told()


def test_the_lost_broker_is_an_alert_of_its_own(fleet: Fold) -> None:
    fleet.broker.cut("controller")
    fleet.wait(299, step_s=13)
    assert fleet.told() == []
    fleet.wait(60, step_s=5)
    assert fleet.told() == [("firing", "broker_lost", 1)]
    assert fleet.heard == []
    fleet.link.connect()
    fleet.wait(120, step_s=5)
    assert [b["status"] for b in fleet.bodies()] == ["firing", "resolved"]
    assert [h.status for h in fleet.heard] == ["firing", "resolved"]


def test_a_device_that_is_removed_leaves_no_alert(fleet: Fold) -> None:
    fleet.add("a", "b")
    for name in "ab":
        fleet.devices[name].cut()
    fleet.settle()
    fleet.controller.remove_device("b")
    fleet.wait(1000, step_s=20)
    assert fleet.told() == [("firing", "device_offline", 1)]
    fleet.controller.remove_device("a")
    fleet.wait(120, step_s=5)
    assert fleet.told()[1:] == [("resolved", "device_offline", 1)]


def test_devices_that_were_offline_before_anybody_watched_are_found(tmp_path: Path) -> None:
    fleet = Fold(tmp_path, device_offline={"enabled": False})
    fleet.add("a")
    fleet.devices["a"].cut()
    fleet.wait(5, step_s=1)
    assert fleet.states("device_offline") == {}
    fleet.watch = lambda: Watch(receivers=[HOOK])
    fleet.restart()
    fleet.wait(950, step_s=10)
    assert fleet.told() == [("firing", "device_offline", 1)]
    # switched off again, what was told is taken back
    fleet.watch = lambda: Watch(
        AlertsSection.model_validate({"device_offline": {"enabled": False}}), receivers=[HOOK]
    )
    fleet.restart()
    fleet.wait(60, step_s=5)
    assert fleet.told()[1:] == [("resolved", "device_offline", 1)]
    fleet.controller.stop()
    fleet.store.close()


def test_a_clock_that_is_set_back_fires_nothing(fleet: Fold) -> None:
    fleet.add("a")
    fleet.devices["a"].cut()
    fleet.wait(800, step_s=50)
    fleet.now_unix_ms -= 5_000_000
    fleet.settle()
    fleet.wait(890, step_s=10)
    assert fleet.told() == []
    fleet.wait(5_000, step_s=50)
    assert fleet.told() == [("firing", "device_offline", 1)]


# -- what devices say


def test_an_alarm_is_one_alert_by_device_and_code_and_over_a_day_after_the_last(
    fleet: Fold,
) -> None:
    fleet.add("a", "b")
    cam = fleet.devices["a"]
    for seq in (1, 2):
        send(cam, m.AlarmEvent(boot=cam.boot, seq=seq, at_unix_ms=1, code="disk_full"))
        fleet.settle()
    for seq in range(3, 30):  # made up: one alert for all of them
        send(cam, m.AlarmEvent(boot=cam.boot, seq=seq, at_unix_ms=1, code=f"made_up_{seq}"))
    fleet.settle()
    assert fleet.states("device_alarm") == {"a/disk_full": "firing", "a/other": "firing"}
    fleet.wait(60, step_s=5)
    assert fleet.told() == [("firing", "device_alarm", 2)]
    fleet.wait(DAY_S - 120, step_s=3600)
    send(cam, m.AlarmEvent(boot=cam.boot, seq=99, at_unix_ms=1, code="disk_full"))
    fleet.settle()
    fleet.wait(600, step_s=60)
    assert fleet.states("device_alarm") == {"a/disk_full": "firing"}
    fleet.wait(DAY_S, step_s=3600)
    assert fleet.states("device_alarm") == {}
    assert {status for status, _, _ in fleet.told()} == {"firing", "resolved"}


def test_a_disk_that_runs_full_and_is_cleared(fleet: Fold) -> None:
    fleet.add("a")
    cam = fleet.devices["a"]
    states = []
    for seq, free in enumerate((2 * 10**9, 7 * 10**8, 4 * 10**8, 7 * 10**8, 2 * 10**9), start=1):
        send(cam, vitals(cam, seq, free=free))
        fleet.settle()
        states.append(fleet.states("disk_low").get("a", "-"))
    assert states == ["-", "-", "firing", "firing", "-"]


def test_vitals_that_waited_say_nothing_of_now(fleet: Fold) -> None:
    fleet.add("a")
    cam = fleet.devices["a"]
    full, empty = 4 * 10**8, 2 * 10**9

    def states(*records: m.VitalsTelemetry) -> list[str]:
        for record in records:
            send(cam, record)
        fleet.settle()
        return [fleet.states(rule).get("a", "-") for rule in ("disk_low", "records_dropped")]

    former = [vitals(cam, seq, free=full, dropped=3) for seq in (900, 901)]
    cam.reboot()
    fleet.settle()
    assert states(vitals(cam, 50, free=empty)) == ["-", "-"]
    assert states(vitals(cam, 20, free=full, dropped=1)) == ["-", "-"], "before the newest"
    assert states(former[0]) == ["-", "-"], "an earlier boot"
    assert states(former[1], vitals(cam, 51, free=empty), vitals(cam, 21, free=full)) == ["-", "-"]
    assert states(vitals(cam, 52, free=full, dropped=2)) == ["firing", "firing"]
    fleet.wait(DAY_S + 60, step_s=3600)
    waited = [vitals(cam, 22, free=empty), vitals(cam, 23, free=empty, dropped=2)]
    assert states(*waited) == ["firing", "-"]
    assert states(vitals(cam, 53, free=empty, dropped=2)) == ["-", "-"]


def test_records_that_were_lost_are_told_when_their_number_grows(fleet: Fold) -> None:
    fleet.add("a")
    cam = fleet.devices["a"]
    send(cam, vitals(cam, 1))
    fleet.settle()
    assert fleet.states("records_dropped") == {}
    send(cam, vitals(cam, 2, dropped=7))
    fleet.settle()
    assert fleet.states("records_dropped") == {"a": "firing"}
    fleet.wait(DAY_S + 60, step_s=3600)
    assert fleet.states("records_dropped") == {}
    send(cam, vitals(cam, 3, dropped=7))  # no more than before
    fleet.settle()
    assert fleet.states("records_dropped") == {}
    lost = m.GapEvent(
        boot=cam.boot, seq=4, lost_boot=cam.boot, first=1, last=2, count=2, reason="disk_full"
    )
    send(cam, lost)
    fleet.settle()
    assert fleet.states("records_dropped") == {"a": "firing"}


def window(cam: Device, seq: int, manifest: str, *, now: int, n: int, bad: int) -> None:
    send(
        cam,
        m.InferenceTelemetry(
            boot=cam.boot,
            seq=seq,
            start_unix_ms=now - 60_000,
            duration_s=60,
            model="digits",
            version="1.0.0",
            manifest=manifest,
            request_count=n,
            row_count=n,
            error_count=m.ErrorCount(runtime=bad, client=n - bad),
        ),
    )


def test_errors_are_counted_over_the_whole_fleet_and_the_last_minutes(fleet: Fold) -> None:
    fleet.add("a", "b")
    row = fleet.release("1.0.0")
    a, b = fleet.devices.values()

    def minute(seq: int, bad: int, *, n: int = 100, manifest: str = row.manifest) -> dict[str, str]:
        window(a, seq, manifest, now=fleet.now_unix_ms, n=n // 2, bad=bad // 2)
        window(b, seq, manifest, now=fleet.now_unix_ms, n=n // 2, bad=bad - bad // 2)
        fleet.settle()
        fleet.wait(60, step_s=10)
        return fleet.states("error_ratio")

    assert minute(1, 40, n=80) == {}  # too few to say
    assert minute(2, 0, n=1000) == {}  # 3.7 %
    assert minute(3, 40, n=100) == {"digits:1.0.0": "firing"}  # 6.8 %
    assert fleet.told() == [("firing", "error_ratio", 1)]
    assert minute(4, 0, n=1000) == {"digits:1.0.0": "firing"}  # 3.7 %: between the limits
    assert minute(5, 0, n=4000) == {}
    assert minute(6, 4000, n=4000, manifest="f" * 64) == {}  # no release of this fleet
    assert minute(7, 3000, n=4000) == {"digits:1.0.0": "firing"}
    fleet.wait(1000, step_s=50)  # nobody asks it any more
    assert fleet.states("error_ratio") == {}


def test_a_burst_of_errors_is_over_when_few_ask_for_a_whole_window(fleet: Fold) -> None:
    fleet.add("a")
    row = fleet.release("1.0.0")

    def minute(seq: int, n: int, bad: int) -> dict[str, str]:
        window(fleet.devices["a"], seq, row.manifest, now=fleet.now_unix_ms, n=n, bad=bad)
        fleet.settle()
        fleet.wait(60, step_s=10)
        return fleet.states("error_ratio")

    assert minute(1, 100, 40) == {"digits:1.0.0": "firing"}
    found = [minute(seq, 5, 5) for seq in range(2, 20)]
    assert found[0] == {"digits:1.0.0": "firing"}
    assert found[12] == {"digits:1.0.0": "firing"}, "the burst is within the window"
    assert found[-1] == {}, "5 requests a minute prove nothing"
    assert fleet.told() == [("firing", "error_ratio", 1), ("resolved", "error_ratio", 1)]


def test_what_waited_in_an_outbox_says_nothing_of_now(fleet: Fold) -> None:
    fleet.add("a")
    row = fleet.release("1.0.0")
    old = fleet.now_unix_ms - 3_600_000
    window(fleet.devices["a"], 1, row.manifest, now=old, n=1000, bad=1000)
    fleet.settle()
    fleet.wait(30)
    assert fleet.states("error_ratio") == {}


# -- rollouts


def test_a_halted_rollout_is_told_until_it_is_acknowledged(fleet: Fold) -> None:
    fleet.add("a", verdict=refuses("2.0.0"))
    for version in "1.0.0", "2.0.0":
        fleet.release(version)
    fleet.roll_out("1.0.0")
    halted = fleet.roll_out("2.0.0")
    fleet.wait(40)
    assert fleet.rollout(halted).state == "halted"
    assert fleet.told() == [("firing", "rollout_stopped", 1)]
    (body,) = fleet.bodies()
    text = body["commonAnnotations"]["summary"]
    assert text.startswith(f"{halted} of digits:2.0.0 is halted: a rolled back (error_ratio)")
    with TestClient(build_app(fleet.controller), headers=fleet.bearer("ann")) as api:
        (alert,) = api.get("/v1/alerts").json()
        answer = api.post(f"/v1/alerts/{alert['id']}/acknowledge")
        assert answer.json()["acknowledged_by"] == "ann"
    fleet.wait(40)
    assert fleet.states("rollout_stopped") == {}
    assert fleet.told()[1:] == [("resolved", "rollout_stopped", 1)]


def test_a_halted_rollout_is_over_when_a_later_one_finishes(fleet: Fold) -> None:
    fleet.add("a", verdict=refuses("2.0.0"))
    for version in "1.0.0", "2.0.0", "3.0.0":
        fleet.release(version)
    fleet.roll_out("1.0.0")
    halted = fleet.roll_out("2.0.0")
    fleet.wait(2)
    assert fleet.states("rollout_stopped") == {halted: "firing"}
    fleet.roll_out("3.0.0")
    fleet.wait(2)
    assert fleet.states("rollout_stopped") == {}


# -- from elsewhere, and what expires


def test_findings_of_others_open_and_close_alerts(fleet: Fold) -> None:
    fleet.report("drift", Finding("digits/X", True, "x"), Finding("digits/Y", True, "y"))
    assert fleet.states("drift") == {"digits/X": "firing", "digits/Y": "firing"}
    fleet.wait(40)
    assert fleet.told() == [("firing", "drift", 2)]
    fleet.report("drift", Finding("digits/Y", True, "y"))
    fleet.wait(40)
    assert fleet.states("drift") == {"digits/Y": "firing"}
    fleet.report("drift")
    assert fleet.states("drift") == {}
    with fleet.store.write() as tx:
        fleet.controller.alerts.report(tx, "unheard_of", [Finding("x", True, "x")], 1)
    assert fleet.states("unheard_of") == {}


def test_a_signed_document_that_expires_is_told_and_its_renewal_too(fleet: Fold) -> None:
    fleet.wait(1)
    assert fleet.states("expiry") == {}
    fleet.now_unix_ms += 345 * DAY_S * 1000  # of a year
    fleet.settle()
    fleet.wait(2)
    assert {"root", "targets"} <= fleet.states("expiry").keys()
