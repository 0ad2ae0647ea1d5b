"""A whole controller takes labelled answers in, adds them up, shows them and raises an alert; and relays labels."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from fleet.alerts.settings import AlertsSection
from fleet.alerts.watch import Watch
from fleet.api.app import build_app
from fleet.core.cbpe import CAVEAT
from fleet.core.performance import PerformanceSums, Refused, wilson
from fleet.core.rights import Role
from fleet.monitoring.windows import DAY_MS, HOUR_MS
from fleet.store.devices import Selection
from fleet.store.slots import SlotRow
from fleet.store.store import Store
from tests.fleet.bundles import bundle
from tests.fleet.test_metrics import scraped
from tests.fleet.watched import HOOK, Fold
from wire import codec, topics
from wire.histogram import Baseline, CategoryColumn
from wire.link import Connected, Delivered, LinkEvent
from wire.performance import Feedback, PerformanceTelemetry, RefusedLabels
from wire.windows import WindowTelemetry

SLOT_MS = 900_000
LIMIT = {"accuracy_low": {"models": {"digits": 0.9}, "clear_for_s": 600}}
OUTPUTS = [
    {"name": "label", "datatype": "INT64", "shape": [-1]},
    {"name": "p", "datatype": "FP32", "shape": [-1, 2]},
]
BASELINE = Baseline(
    row_count=1000,
    inputs=(),
    outputs=(CategoryColumn(name="label", categories=("1", "0"), counts=(600, 400)),),
    probabilities="p",
    scores=(0,) * 15 + (500, 0, 0, 0, 500),
    score_correct=(0,) * 15 + (400, 0, 0, 0, 495),
)


class Site:
    """Three devices, two of them in the lab, with a model whose scores are calibrated."""

    def __init__(self, folder: Path) -> None:
        self.fleet = Fold(folder, **LIMIT)
        self.fleet.add("lab-1", "lab-2", "hall-1")
        self.fleet.controller.set_tags("hall-1", {"site": "hall"})
        self.manifests = {
            version: self.push(folder, version, baseline)
            for version, baseline in (("1.0.0", BASELINE), ("0.9.0", bare(BASELINE)))
        }
        self.fleet.roll_out("1.0.0", "100%")
        self.fleet.wait(3)
        self.seq = 1000
        self.api = TestClient(build_app(self.fleet.controller), headers=self.fleet.bearer())

    def push(self, folder: Path, version: str, baseline: Baseline) -> str:
        path = folder / f"{version}.bundle"
        path.write_bytes(bundle(version, baseline=codec.encode(baseline), outputs=OUTPUTS))
        release = self.fleet.controller.push_bundle(path).release
        self.fleet.sign("digits", version, release.manifest_body.encode())
        return release.manifest

    def head(self, device: str, version: str) -> dict[str, Any]:
        self.seq += 1
        return {
            "boot": self.fleet.devices[device].boot,
            "seq": self.seq,
            "start_unix_ms": self.fleet.now_unix_ms - 1000,
            "duration_s": 1,
            "model": "digits",
            "version": version,
            "manifest": self.manifests.get(version, "f" * 64),
        }

    def answer(self, device: str, scores: tuple[int, ...], version: str = "1.0.0") -> None:
        rows = sum(scores)
        record = WindowTelemetry(**self.head(device, version), row_count=rows, scores=scores)
        topic = topics.Telemetry(device, "window")
        self.fleet.devices[device].send(topic, codec.encode(record))
        self.fleet.settle()

    def label(self, device: str, version: str = "1.0.0", **counts: Any) -> None:
        record = PerformanceTelemetry(**self.head(device, version), **counts)
        topic = topics.Telemetry(device, "performance")
        self.fleet.devices[device].send(topic, codec.encode(record))
        self.fleet.settle()

    def report(self, **query: Any) -> list[dict[str, Any]]:
        answer = self.api.get("/v1/models/digits/performance", params=query)
        assert answer.status_code == 200, answer.text
        assert answer.json()["caveat"] == CAVEAT
        return list(answer.json()["releases"])

    def give(self, device: str, *labels: dict[str, Any], model: str = "digits") -> Any:
        path = f"/v1/devices/{device}/models/{model}/feedback"
        return self.api.post(path, json={"labels": list(labels)})


def bare(baseline: Baseline) -> Baseline:
    """Return a baseline as it is without labels."""
    return baseline.model_copy(update={"score_correct": ()})


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    with site.api:
        yield site
    site.fleet.controller.stop()
    site.fleet.store.close()


def test_an_estimate_stands_until_labels_take_its_place(site: Site) -> None:
    site.answer("lab-1", (0,) * 15 + (100, 0, 0, 0, 300))
    site.answer("hall-1", (0,) * 19 + (200,))
    (row,) = site.report()
    assert (row["basis"], row["estimate_verdict"], row["accuracy"]) == (
        "estimate",
        "estimated",
        None,
    )
    assert row["estimate"]["value"] == pytest.approx((100 * 0.8 + 500 * 0.99) / 600)
    assert (row["row_count"], row["labelled_count"], row["device_count"]) == (600, 0, 2)
    site.label("lab-1", labelled_count=40, correct_count=30, confusion=(20, 5, 0, 5, 10),
               scores=(0,) * 19 + (40,), score_correct=(0,) * 19 + (30,),
               score_sums=(0.0,) * 19 + (39.0,), refused=RefusedLabels(unknown_id=2))  # fmt: skip
    site.label("hall-1", labelled_count=10, correct_count=10, confusion=(10,))
    whole, hall, lab = site.report(group="site")
    assert (hall["group"], lab["group"]) == ("site=hall", "site=lab")
    assert (whole["basis"], whole["estimate"], whole["estimate_verdict"]) == (
        "measured", None, "replaced",
    )  # fmt: skip
    truth = wilson(40, 50)
    assert whole["accuracy"] == {"value": 0.8, "low": truth.low, "high": truth.high}
    assert (lab["accuracy"]["value"], hall["accuracy"]["value"]) == (0.75, 1.0)
    assert whole["classes"] == ["1", "0", "(other)"]
    assert whole["confusion"] == [[30, 5, 0], [5, 10, 0], [0, 0, 0]]
    assert whole["calibration_error"] == pytest.approx(9 / 40)
    assert whole["refused"]["unknown_id"] == 2
    (lab_alone,) = site.report(match="site=lab")
    assert lab_alone["accuracy"] == lab["accuracy"]
    (one,) = site.report(device="hall-1")
    assert (one["labelled_count"], one["row_count"]) == (10, 200)


def test_verdicts_where_nothing_can_be_said(site: Site) -> None:
    assert site.report() == []
    (named,) = site.report(version="1.0.0")
    assert (named["basis"], named["estimate_verdict"]) == ("none", "too_few_rows")
    site.answer("lab-1", (0,) * 19 + (99,))
    site.answer("lab-2", (0,) * 19 + (500,), "0.9.0")
    found = {row["version"]: row["estimate_verdict"] for row in site.report()}
    assert found == {"1.0.0": "too_few_rows", "0.9.0": "not_calibrated"}
    assert site.api.get("/v1/models/faces/performance").json()["code"] == "unknown_model"
    query = {"version": "9"}
    answer = site.api.get("/v1/models/digits/performance", params=query)
    assert (answer.status_code, answer.json()["code"]) == (404, "unknown_release")


def test_a_scope_sees_its_own_devices_alone(site: Site) -> None:
    site.label("lab-1", labelled_count=40, correct_count=30)
    site.label("hall-1", labelled_count=10, correct_count=10)
    site.api.headers = site.fleet.bearer("hall", Role.OPERATOR, site="hall")  # type: ignore[assignment]
    (row,) = site.report()
    assert (row["device_count"], row["labelled_count"]) == (1, 10)
    assert site.give("lab-1", {"id": "a", "label": 1}).status_code == 404
    assert site.give("hall-1", {"id": "a", "label": 1}).status_code == 202


def test_labels_of_a_release_that_is_not_here_and_repeated_ones_count_for_nothing(
    site: Site,
) -> None:
    site.label("lab-1", labelled_count=40, correct_count=30)
    site.seq -= 1
    site.label("lab-1", labelled_count=40, correct_count=30)
    site.label("lab-1", "7.7.7", labelled_count=40, correct_count=30)
    (row,) = site.report()
    assert row["labelled_count"] == 40
    found = scraped(site.api)
    assert found["modelfleet_labelled_rows_total", "digits", "1.0.0"] == 40
    assert found["modelfleet_correct_rows_total", "digits", "1.0.0"] == 30
    assert found["modelfleet_labelled_rows_total", "other", "other"] == 40


def test_an_alert_when_the_whole_interval_is_below_the_limit(site: Site) -> None:
    site.label("lab-1", labelled_count=20, correct_count=16)
    site.fleet.wait(70, step_s=5)
    assert site.fleet.states("accuracy_low") == {}, "0.8 of 20 rows may well be 0.9"
    site.label("lab-2", labelled_count=480, correct_count=384)
    site.fleet.wait(120, step_s=5)
    assert site.fleet.states("accuracy_low") == {"digits:1.0.0": "firing"}
    (alert,) = site.api.get("/v1/alerts").json()
    assert (
        "was right in 400 of 500 labelled rows, at most 83.3%; the limit is 90.0%" in alert["text"]
    )
    site.label("lab-2", labelled_count=5000, correct_count=4950)
    site.fleet.wait(900, step_s=20)
    assert site.fleet.states("accuracy_low") == {}
    assert [(t[0], t[1]) for t in site.fleet.told()] == [
        ("firing", "accuracy_low"),
        ("resolved", "accuracy_low"),
    ]


def test_without_any_limit_what_is_open_comes_to_its_end(site: Site) -> None:
    site.label("lab-1", labelled_count=500, correct_count=400)
    site.fleet.wait(120, step_s=5)
    assert site.fleet.states("accuracy_low") == {"digits:1.0.0": "firing"}
    unlimited = AlertsSection.model_validate({"accuracy_low": {"clear_for_s": 600}})
    site.fleet.watch = lambda: Watch(unlimited, receivers=[HOOK])
    site.fleet.restart()
    site.fleet.wait(900, step_s=20)
    assert site.fleet.states("accuracy_low") == {}
    over = site.fleet.bodies()[-1]
    assert (over["status"], over["groupLabels"]["alertname"]) == ("resolved", "accuracy_low")
    assert "was right in 400 of 500" in over["commonAnnotations"]["summary"]


# -- labels on their way


class Ear:
    """A device's ear for labels."""

    def __init__(self, site: Site, device: str) -> None:
        self.heard: list[Feedback] = []
        self.link = site.fleet.broker.link(f"ear-{device}")
        self.topic = topics.Feedback(device).text
        self.link.start(self.hear, lambda: None)

    def hear(self, event: LinkEvent) -> None:
        match event:
            case Connected():
                self.link.subscribe([self.topic], qos=1)
            case Delivered(payload=payload, retained=retained):
                assert not retained
                self.heard.append(codec.decode(Feedback, payload))
            case _:
                pass


def test_labels_go_to_the_device_that_answered_as_text_and_in_messages_that_fit(site: Site) -> None:
    ear, other = Ear(site, "lab-1"), Ear(site, "lab-2")
    given: list[dict[str, Any]] = [
        {"id": "a", "label": 3}, {"id": "b", "label": True, "row": 4}, {"id": "c", "label": 0.25},
        {"id": "d", "label": "ü" * 128, "version": "1.0.0"},
    ]  # fmt: skip
    given += [{"id": f"{n:0128d}", "label": "\U0001f600" * 128} for n in range(40)]
    answer = site.give("lab-1", *given)
    assert (answer.status_code, answer.json()) == (202, {"sent_count": 44})
    site.fleet.settle()
    labels = [label for message in ear.heard for label in message.labels]
    assert [label.label for label in labels[:3]] == ["3", "true", "0.25"]
    assert [(label.row, label.version) for label in labels[:4]] == [
        (None, None), (4, None), (None, None), (None, "1.0.0"),
    ]  # fmt: skip
    assert [label.id for label in labels] == [one["id"] for one in given]
    assert {message.model for message in ear.heard} == {"digits"}
    assert not other.heard


@pytest.mark.parametrize(
    "label",
    [
        {"id": "a"}, {"label": 1}, {"id": "", "label": 1}, {"id": "a b", "label": 1}, {"id": "a" * 129, "label": 1},
        {"id": "a", "label": None}, {"id": "a", "label": [1]}, {"id": "a", "label": "x" * 129},
        {"id": "a", "label": 1, "row": -1}, {"id": "a", "label": 1, "more": 1},
        {"id": "a", "label": 1, "version": "a b"},
    ],
)  # fmt: skip
def test_labels_that_are_none_are_refused(site: Site, label: dict[str, Any]) -> None:
    assert site.give("lab-1", label).status_code == 422


def test_labels_for_a_device_that_cannot_take_them_are_refused(site: Site) -> None:
    one = {"id": "a", "label": 1}
    assert site.give("lab-1").status_code == 422
    assert site.give("lab-1", *[one] * 1001).status_code == 422
    assert site.give("nobody", one).json()["code"] == "unknown_device"
    assert site.give("lab-1", one, model="faces").json()["code"] == "model_not_served"
    site.fleet.devices["lab-1"].cut()
    site.fleet.settle()
    answer = site.give("lab-1", one)
    assert (answer.status_code, answer.json()["code"]) == (409, "device_offline")


def test_labels_that_nobody_takes_do_not_pile_up(site: Site) -> None:
    site.fleet.broker.cut("controller")
    site.fleet.settle()
    one = [{"id": f"{n:0100d}", "label": n} for n in range(1000)]
    codes = [site.give("lab-1", *one).status_code for _ in range(20)]
    assert codes[0] == 202
    assert codes[-1] == 503


# -- the table, on either database


def test_slots_add_up_and_become_longer_ones(where: Path | str, tmp_path: Path) -> None:
    store = Store(where, tmp_path)
    one = PerformanceSums(
        labelled_count=5, correct_count=3, confusion=(1, 2), scores=(0, 5), score_correct=(0, 3),
        score_sums=(0.0, 0.25), refused=Refused(unknown_id=1),
    )  # fmt: skip
    number = PerformanceSums(labelled_count=4, error_count=4, errors=(1.5, 2.5, 4.25))
    with store.write() as tx:
        tx.devices.add([("a", {}), ("b", {})], 1)
        for start in range(0, 2 * DAY_MS, SLOT_MS):
            tx.performance.add(SlotRow("a", "m", start, SLOT_MS, one))
        tx.performance.add(SlotRow("a", "m", 0, SLOT_MS, one))
        tx.performance.add(SlotRow("b", "n", 0, SLOT_MS, number))
    with store.write() as tx:
        assert tx.performance.totals(0) == {"m": (193 * 5, 193 * 3), "n": (0, 0)}
        assert tx.performance.totals(DAY_MS) == {"m": (96 * 5, 96 * 3)}
        while tx.performance.roll_up(DAY_MS, HOUR_MS, limit=50) == 50:
            pass
        assert tx.performance.totals(0)["m"] == (193 * 5, 193 * 3)
        rows = list(tx.performance.rows("m", Selection(), since_unix_ms=0, until_unix_ms=2**62))
        assert [row.length_ms for row in rows] == [HOUR_MS] * 24 + [SLOT_MS] * 96
        assert rows[1].sums == PerformanceSums(
            labelled_count=20, correct_count=12, confusion=(4, 8), scores=(0, 20),
            score_correct=(0, 12), score_sums=(0.0, 1.0), refused=Refused(unknown_id=4),
        )  # fmt: skip
        (other,) = tx.performance.rows("n", Selection(), since_unix_ms=0, until_unix_ms=1)
        assert other.sums == number
        tx.performance.prune(DAY_MS)
        tx.devices.remove("a")
        assert tx.performance.totals(0) == {}
    store.close()
