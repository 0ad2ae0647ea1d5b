"""Triggers against a real controller and its API; the pipeline is a program that the test gives."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from fleet.api.app import build_app
from fleet.cli.client import Client
from fleet.cli.retrain import ControllerFleet
from fleet.core.retraining import Start, Stopped, Wait
from fleet.pipeline.made import to_tell
from fleet.pipeline.record import parse_record
from fleet.pipeline.retrain_state import FOLDER, read_state, write_state
from fleet.pipeline.triggers import read_watched
from fleet.pipeline.watch import MAX_ATTEMPTS, Watcher
from fleet.store.drift import FindingRow
from tests.fleet.peers import Fleet, refuses
from wire.errors import ConfigError, PeerError

DAY_MS = 86_400_000
PROJECT = """
[model]
name = "digits"
kind = "classifier"

[data]
sources = ["data/*.parquet"]
label = "label"

[retrain]
on = ["drift"]
cooldown = "1h"
"""
RUN = {
    "v": 1,
    "id": "8c1f8c1f8c1f",
    "state": "done",
    "model": "digits",
    "kind": "classifier",
    "started_unix_ms": 1,
    "params": {},
    "seed": 0,
    "code": {"sha256": "c" * 64, "files": ["train.py"]},
    "libraries": {},
}
"""What each record of a run says."""
RELEASE = {"version": "1.1.0", "manifest": "a" * 64, "pushed_unix_ms": 1}
PIPELINE = """
import json, pathlib, sys, time
folder = pathlib.Path(sys.argv[1])
with (folder / "asked.jsonl").open("a") as file:
    file.write(json.dumps(sys.argv[2:]) + "\\n")
while (folder / "hang").exists():
    time.sleep(0.01)
sys.stderr.write("training\\n")
print((folder / "answer").read_text())
sys.exit(int((folder / "code").read_text()) if (folder / "code").exists() else 0)
"""


@dataclass
class Project:
    """A project, the controller that it is watched by, and what the watcher said."""

    root: Path
    fleet: Fleet
    api: TestClient
    said: list[str] = field(default_factory=list)

    @property
    def command(self) -> list[str]:
        return [sys.executable, str(self.root / "pipeline.py")]

    def watcher(self) -> Watcher:
        client = Client("http://testserver")
        client._http = self.api
        return Watcher(
            read_watched(self.root),
            ControllerFleet(client),
            lambda: self.fleet.now_unix_ms,
            self.said.append,
            command=self.command,
        )

    def look(self, **more: Any) -> Any:
        decision = self.watcher().look(**more)
        self.fleet.settle()
        return decision

    def answers(self, verdict: Any, **more: Any) -> None:
        record = {**RUN, "verdict": verdict, **more}
        (self.root / "answer").write_text(json.dumps(record))

    def asked(self) -> list[list[str]]:
        path = self.root / "asked.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def drifts(self) -> int:
        now = self.fleet.now_unix_ms
        row = FindingRow("digits", "a" * 64, "device", "cam", ("f",), now, 1, 1, now)
        with self.fleet.store.write() as tx:
            return tx.drift.open(row)

    def entries(self) -> list[Any]:
        state = read_state(self.root)
        return list(state.entries) if state is not None else []

    def alerts(self) -> list[tuple[str, str]]:
        self.fleet.settle()
        return [(a["rule"], a["state"]) for a in self.api.get("/v1/alerts").json()]


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    fleet = Fleet(tmp_path / "fleet")
    fleet.settle()
    fleet.release("1.0.0")
    root = tmp_path / "project"
    root.mkdir()
    (root / "pipeline.toml").write_text(PROJECT)
    (root / "pipeline.py").write_text(PIPELINE)
    app = build_app(fleet.controller)
    headers = fleet.bearer() | {"content-type": "application/json"}
    with TestClient(app, headers=headers) as api:
        project = Project(root, fleet, api)
        project.answers({"outcome": "bless", "reasons": ["better by 0.02"]})
        yield project
    fleet.controller.stop()
    fleet.store.close()


def test_a_finding_starts_one_run_with_its_evidence_and_a_person_has_the_last_word(
    project: Project,
) -> None:
    assert project.look() == Wait("nothing calls for a run", None)
    number = project.drifts()
    decision = project.look()
    assert isinstance(decision, Start)
    (asked,) = project.asked()
    assert "--no-rollout" in asked
    evidence = json.loads(Path(asked[asked.index("--trigger") + 1]).read_text())
    assert evidence["kind"] == "drift"
    assert [f["id"] for f in evidence["evidence"]["findings"]] == [number]
    (entry,) = project.entries()
    assert (entry.verdict, entry.run, entry.reason) == ("bless", RUN["id"], "better by 0.02")
    assert "waits for a person" in project.said[-1]
    assert (project.root / FOLDER / "1.log").read_text() == "training\n"
    project.fleet.now_unix_ms += DAY_MS
    assert isinstance(project.look(), Wait)
    assert len(project.asked()) == 1


def test_a_controller_that_measures_nothing_calls_for_nothing(project: Project) -> None:
    text = PROJECT.replace('["drift"]', '["accuracy"]\nmin_accuracy = 0.9')
    (project.root / "pipeline.toml").write_text(text)
    assert project.look() == Wait("nothing calls for a run", None)


def test_the_cool_down_and_the_budget_hold_over_restarts(project: Project) -> None:
    for _ in range(4):
        project.drifts()
        assert isinstance(project.look(), Start)
        project.drifts()
        waits = project.look()
        assert isinstance(waits, Wait)
        assert "just ended" in waits.why or "budget" in waits.why
        project.fleet.now_unix_ms += 3_600_000
    waits = project.look()
    assert isinstance(waits, Wait)
    assert "4 runs in this span are the budget" in waits.why
    first = project.entries()[0].started_unix_ms
    assert waits.until_unix_ms == first + 30 * DAY_MS
    assert len(project.asked()) == 4
    project.fleet.now_unix_ms = first + 30 * DAY_MS
    assert isinstance(project.look(), Start)


def test_two_refusals_stop_the_triggers_and_raise_an_alert_until_somebody_resumes(
    project: Project,
) -> None:
    project.answers({"outcome": "refuse", "reasons": ["worse"]})
    for _ in range(2):
        project.drifts()
        assert isinstance(project.look(), Start)
        project.fleet.now_unix_ms += DAY_MS
    project.drifts()
    for _ in range(3):
        assert isinstance(project.look(), Stopped)
    assert len(project.asked()) == 2
    assert project.alerts() == [("retraining_stopped", "firing")]
    alert = project.api.get("/v1/alerts").json()[0]
    assert alert["subject"] == "digits"
    assert "refused 2 times" in alert["text"]
    project.watcher().resume("new labels")
    assert project.alerts() == []
    assert isinstance(project.look(), Start)
    assert len(project.asked()) == 3


def test_a_run_by_hand_passes_cool_down_and_refusals(project: Project) -> None:
    project.answers({"outcome": "refuse", "reasons": []})
    for _ in range(3):
        assert isinstance(project.look(by_hand="new sensor"), Start)
    assert [entry.why for entry in project.entries()] == ["new sensor"] * 3
    assert isinstance(project.look(), Wait)  # who tries things out stops no trigger


def printed(outcome: str | None = None, **more: Any) -> str:
    verdict = {"outcome": outcome, "reasons": []} if outcome is not None else None
    return json.dumps({**RUN, "verdict": verdict, **more})


@pytest.mark.parametrize(
    ("answer", "code", "verdict"),
    [
        ("", 0, "failed"),
        ("no json", 0, "failed"),
        ("", 1, "failed"),
        (printed(), 0, "inconclusive"),
        (printed(), 1, "failed"),
        (printed(outcome="splendid"), 0, "failed"),
        (printed(outcome="refuse"), 1, "refuse"),
        (printed(outcome="bless"), 0, "bless"),
        (printed(outcome="bless"), 1, "inconclusive"),
        (printed(outcome="bless", id=7), 0, "failed"),
        (printed(outcome="bless", model=None), 0, "failed"),
        ("[" * 100_000, 0, "failed"),
    ],
)
def test_whatever_the_pipeline_prints_is_an_end(
    project: Project, answer: str, code: int, verdict: str
) -> None:
    (project.root / "answer").write_text(answer)
    (project.root / "code").write_text(str(code))
    project.look(by_hand="try")
    assert project.entries()[0].verdict == verdict


LEAVES = """
import json, pathlib, sys
folder = pathlib.Path(sys.argv[1])
evidence = json.loads(pathlib.Path(sys.argv[sys.argv.index("--trigger") + 1]).read_text())
run = json.loads((folder / "answer").read_text())
for name, trigger, outcome in (("0" * 12, None, "bless"), (run["id"], evidence, "refuse")):
    (folder / "runs" / name).mkdir(parents=True, exist_ok=True)
    verdict = {"outcome": outcome, "reasons": ["worse"]}
    record = {**run, "id": name, "trigger": trigger, "verdict": verdict}
    (folder / "runs" / name / "run.json").write_text(json.dumps(record))
sys.exit("fleet: not blessed")
"""


def test_a_run_that_prints_nothing_is_found_by_its_evidence(project: Project) -> None:
    (project.root / "pipeline.py").write_text(LEAVES)
    project.look(by_hand="try")
    (entry,) = project.entries()
    assert (entry.verdict, entry.run, entry.reason) == ("refuse", RUN["id"], "worse")


def test_a_run_of_the_pipeline_is_told_in_the_form_that_the_fleet_keeps() -> None:
    record = {
        **RUN,
        "params": {"C": 1.0, "gamma": 0.1},
        "tuned": {"C": 0.3},
        "code": {"sha256": "c" * 64, "files": ["train.py"], "commit": "c0ffee", "is_dirty": None},
        "libraries": {"numpy": "2.3"},
        "data": {
            "sha256": "d" * 64,
            "row_count": 9,
            "feature_names": ["a"],
            "label": "label",
            "reference_sha256": "f" * 64,
            "sources": [{"path": "a.csv", "sha256": "e" * 64, "row_count": 9}],
            "parts": {"train": 9},
        },
        "verdict": {"outcome": "bless", "reasons": [], "champion": None},
        "trigger": {"kind": "drift", "why": "cam", "by": "fleet retrain", "evidence": {"a": 1}},
    }
    parsed = parse_record(json.dumps(record).encode())
    assert parsed is not None
    told = to_tell(parsed)
    assert told.parameters == {"C": 0.3, "gamma": 0.1}
    assert (told.data.row_count, told.data.parts) == (9, {"train": 9})
    assert (told.code.commit, told.trigger.kind) == ("c0ffee", "drift")
    other = to_tell(parsed.model_copy(update={"trigger": ["what", "ever"]}))
    assert other.trigger.evidence == {"given": ["what", "ever"]}
    with pytest.raises(PeerError) as caught:
        to_tell(parsed.model_copy(update={"data": None}))
    assert caught.value.code == "run_invalid"


def test_with_auto_a_rollout_that_halts_is_a_refusal(project: Project) -> None:
    text = PROJECT + "\n[rollout]\nauto = true\n"
    (project.root / "pipeline.toml").write_text(text)
    project.fleet.add("cam", verdict=refuses("1.1.0"))
    project.fleet.roll_out("1.0.0")
    project.fleet.release("1.1.0")
    rollout = project.fleet.roll_out("1.1.0")
    project.answers({"outcome": "bless", "reasons": []}, release={**RELEASE, "rollout": rollout})
    project.drifts()
    assert isinstance(project.look(), Start)
    assert "--rollout" in project.asked()[0]
    project.look()
    (entry,) = project.entries()
    assert (entry.verdict, entry.is_settled) == ("halted", True)
    assert rollout in entry.reason


DRIVER = """
import sys, time
from pathlib import Path
from fleet.pipeline.triggers import read_watched
from fleet.pipeline.watch import Watcher
root = Path(sys.argv[1])
clock = lambda: time.time_ns() // 1_000_000
command = [sys.executable, str(root / "pipeline.py")]
Watcher(read_watched(root), None, clock, print, command=command).look(by_hand="killed")
"""


def until(what: Any) -> None:
    deadline = time.monotonic() + 120
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_run_whose_watcher_was_killed_lets_no_other_in_and_goes_on_afterwards(
    project: Project,
) -> None:
    (project.root / "hang").touch()
    argv = [sys.executable, "-c", textwrap.dedent(DRIVER), str(project.root)]
    watcher = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
    until(lambda: len(project.asked()) == 1)
    watcher.send_signal(signal.SIGKILL)
    watcher.wait()
    with pytest.raises(ConfigError) as caught:
        project.look()
    assert caught.value.code == "retrain_taken"
    (project.root / "hang").unlink()  # the orphan ends, unheard

    def is_free() -> bool:
        try:
            project.look()
        except ConfigError:
            return False
        return True

    project.fleet.now_unix_ms = time.time_ns() // 1_000_000
    until(is_free)
    (entry,) = project.entries()
    assert (entry.verdict, entry.attempts, entry.why) == ("bless", 2, "killed")
    first, second = project.asked()
    assert first == second


def test_a_run_that_is_interrupted_again_and_again_has_failed(project: Project) -> None:
    project.look(by_hand="one")
    state = read_state(project.root)
    assert state is not None
    lost = state.entries[0].model_copy(
        update={"ended_unix_ms": None, "verdict": None, "attempts": MAX_ATTEMPTS}
    )
    write_state(project.root, state.with_entry(lost))
    project.look()
    (entry,) = project.entries()
    assert entry.verdict == "failed"
    assert "interrupted" in entry.reason
    assert len(project.asked()) == 1


def test_who_interrupts_a_watcher_ends_its_run_in_order(project: Project) -> None:
    (project.root / "hang").touch()
    driver = textwrap.dedent(DRIVER)
    argv = [sys.executable, "-c", driver, str(project.root)]
    watcher = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until(lambda: len(project.asked()) == 1)
    os.kill(watcher.pid, signal.SIGINT)
    watcher.wait(120)
    (entry,) = project.entries()
    assert entry.ended_unix_ms is None  # goes on at the next look
    (project.root / "hang").unlink()
    project.fleet.now_unix_ms = time.time_ns() // 1_000_000
    project.look()
    assert project.entries()[0].attempts == 2


def test_a_state_that_cannot_be_read_starts_nothing(project: Project) -> None:
    project.look()
    (project.root / FOLDER / "state.json").write_text("{")
    project.drifts()
    with pytest.raises(ConfigError) as caught:
        project.look()
    assert caught.value.code == "state_unreadable"
    assert project.asked() == []


def test_a_clock_that_was_ahead_is_forgiven(project: Project) -> None:
    project.look(by_hand="ahead")
    project.fleet.now_unix_ms -= 400 * DAY_MS
    project.drifts()
    waits = project.look()
    assert isinstance(waits, Wait)
    assert waits.until_unix_ms == project.fleet.now_unix_ms + 3_600_000
    project.fleet.now_unix_ms += 3_600_000
    waits = project.look()
    assert isinstance(waits, Start)
