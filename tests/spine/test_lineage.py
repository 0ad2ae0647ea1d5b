"""Aliases, history and lineage of a real fleet, by the command line; its programs are killed meanwhile."""

import json
import signal
import time

import pytest

from tests.spine.models import NAME

pytestmark = [pytest.mark.broker, pytest.mark.slow, pytest.mark.timeout(600)]

RUN = {
    "pipeline": NAME,
    "run": "8c1f",
    "trigger": {"kind": "drift", "why": "cam-0 drifted"},
    "data": {"sha256": "d" * 64, "row_count": 1797, "sources": [{"path": "data/a.parquet"}]},
    "code": {"commit": "c0ffee"},
    "metrics": {"accuracy": 0.97},
}


def listed(bed, *args):
    return json.loads(bed.fleet(*args, "--json"))


def roll_out(bed, release, *args):
    fast = ("--phases", "100%", "--soak", "1s", "--probation-min", "1s")
    return listed(bed, "rollout", "start", release, *fast, "--wait", *args)


def history(bed, *args):
    """Return who served what and how that ended, oldest first."""
    spans = listed(bed, "model", "history", NAME, *args)
    return [(span["device"], span["version"], span["ending"]) for span in reversed(spans)]


def kill_and_restart(bed):
    bed.controller.end(signal.SIGKILL)
    bed.start_controller()
    bed.until_connected()


def test_names_history_and_origin_are_told_from_the_command_line(bed):
    bed.add("cam-0", "cam-1")
    manifests = {version: bed.push(version) for version in ("1.0.0", "1.1.0")}
    bed.fleet("alias", "set", f"{NAME}@candidate", "1.0.0", "--why", "the first")
    started = roll_out(bed, f"{NAME}@candidate", "--alias", "champion")
    assert (started["version"], started["state"]) == ("1.0.0", "finished")
    kill_and_restart(bed)
    bed.devices["cam-0"].end(signal.SIGKILL)
    bed.devices["cam-0"].start()
    bed.until_online("cam-0", is_online=True)
    between = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(time.time()))
    bed.until("a second has gone by", lambda: time.strftime("%Y-%m-%dT%H:%M:%S") > between)
    assert roll_out(bed, f"{NAME}:1.1.0", "--alias", "champion")["state"] == "finished"
    kill_and_restart(bed)
    for name in "cam-0", "cam-1":
        bed.until_served(name, "1.1.0")
        assert history(bed, "--device", name) == [(name, "1.0.0", "replaced"), (name, "1.1.0", "")]
    assert sorted(history(bed, "--at", between)) == [
        (name, "1.0.0", "replaced") for name in ("cam-0", "cam-1")
    ]
    shown = bed.fleet("model", "history", NAME, "--device", "cam-1", "--at", between)
    assert f"{NAME}:1.0.0" in shown
    assert f"{NAME}:1.1.0" not in shown

    means = {alias["alias"]: alias["version"] for alias in listed(bed, "alias", "list")}
    assert means == {"candidate": "1.0.0", "champion": "1.1.0"}
    said = bed.fleet("alias", "rollback", f"{NAME}@champion", "--why", "worse by day")
    assert f"{NAME}@champion is {NAME}:1.0.0" in said
    moves = listed(bed, "alias", "history", f"{NAME}@champion")
    assert [(m["version"], m["kind"], m["moved_by"]) for m in moves] == [
        *(("1.0.0", "rollback", "admin"), ("1.1.0", "rollout", "admin")),
        ("1.0.0", "rollout", "admin"),
    ]
    assert "worse by day" in bed.fleet("alias", "history", f"{NAME}@champion")
    release = listed(bed, "release", "show", f"{NAME}@champion")
    assert release["manifest"] == manifests["1.0.0"]
    assert release["aliases"] == ["candidate", "champion"]
    log = [row["what"] for row in bed.get("/v1/audit")]
    assert "POST /v1/models/{model}/aliases/{alias}/rollback" in log

    (bed.fleet_dir / "record.json").write_text(json.dumps(RUN))
    assert "was made by run 8c1f" in bed.fleet("release", "run", f"{NAME}:1.1.0", "record.json")
    tree = bed.fleet("lineage", f"{NAME}:1.1.0")
    for part in (
        *(f"{NAME}:1.1.0", "made by run 8c1f", "data dddddddddddd, 1797 rows: data/a.parquet"),
        *("code c0ffee", "model.onnx", "finished", "(2 confirmed)", "live on 2 devices", "cam-1"),
    ):
        assert part in tree, tree
    events = listed(bed, "lineage", f"{NAME}:1.1.0", "--device", "cam-0")
    jobs = [event["job"]["name"].partition("/")[0] for event in events]
    assert jobs == ["train", "bundle", "rollout", "serve"]
    outputs = {dataset["name"] for event in events for dataset in event["outputs"]}
    assert {f"bundle/{manifests['1.1.0']}", f"live/cam-0/{NAME}"} <= outputs
    then = bed.fleet("lineage", "--device", "cam-1", "--at", between)
    assert then.startswith(f"{NAME}:1.0.0")
    assert bed.tracebacks() == []
