"""Rows are captured on a device that is told so by its own file, asked for, and come out as they went in."""

import json
import subprocess

import numpy as np
import pytest

from tests.spine.client import connect
from tests.spine.models import LIMIT, N_FEATURES, NAME
from tests.spine.processes import BIN, ENVIRONMENT

pytestmark = [pytest.mark.broker, pytest.mark.slow, pytest.mark.timeout(300)]

ROWS = 300
BATCH = 30


def ask(port, rows, request):
    """Return what a device answers to some rows."""
    body = {
        "id": request,
        "inputs": [
            {
                "name": "X", "shape": list(rows.shape), "datatype": "FP32",
                "data": rows.ravel().tolist(),
            }
        ],
    }  # fmt: skip
    connection = connect(port)
    connection.request("POST", f"/v2/models/{NAME}/infer", json.dumps(body))
    answer = connection.getresponse()
    said = json.loads(answer.read())
    assert answer.status == 200, said
    connection.close()
    return said["outputs"][0]["data"]


def status(bed, name):
    """Return what the agent says of itself on the device."""
    done = subprocess.run(
        [BIN / "fleet-agent", "status", "--config", f"{name}.toml"],
        cwd=bed.fleet_dir, env=ENVIRONMENT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout


def given(bed):
    """Return what devices were asked for last, by device."""
    listed = json.loads(bed.fleet("capture", "list", "--json"))
    return {asked["device"]: asked for asked in listed["asked"]}


@pytest.fixture(params=["mosquitto", "nats"])
def bed(request, make_bed):
    """A fleet: one device captures everything, one nothing, and one leaves out what is no column."""
    bed = make_bed(request.param)
    bed.add("cam-on", more="\n[capture]\nsample = 1.0\n")
    bed.add("cam-off")
    bed.add("cam-odd", more='\n[capture]\nsample = 1.0\nleave_out = ["X[1]", "X[4]"]\n')
    bed.install("1.0.0-varied")
    for device in bed.devices.values():
        device.client.stop()
    return bed


def test_rows_that_were_sent_are_the_rows_that_are_exported(bed, tmp_path):
    device = bed.devices["cam-on"]
    rows = np.random.default_rng(7).uniform(0, LIMIT - 1, (ROWS, N_FEATURES)).astype(np.float32)
    answers = []
    for start in range(0, ROWS, BATCH):
        answers += ask(device.port, rows[start : start + BATCH], f"row-{start}")
        for other in ("cam-off", "cam-odd"):
            ask(bed.devices[other].port, rows[start : start + BATCH], f"row-{start}")
    bed.until("the rows are on the device's disk", lambda: kept(status(bed, "cam-on")) >= ROWS)
    assert "capture     off: no row is kept" in status(bed, "cam-off")
    odd = f"{NAME} NOTHING is kept: X[4] in leave_out is no column of it; it has X[0], X[1], X[2], … X[3]"
    assert f"({odd}); 0 rows kept here" in status(bed, "cam-odd")
    alarms = bed.get("/v1/devices/cam-odd/records?channel=event/alarm")
    told = [row["body"]["detail"] for row in alarms if row["body"]["code"] == "leave_out_unknown"]
    assert [NAME in words and "X[4]" in words for words in told] == [True]

    asked = json.loads(
        bed.fleet("capture", "request", NAME, "--match", "site=lab", "--limit", "100000", "--json")
    )
    reasons = {row["device"]: row["reason"] for row in asked["devices"]}
    assert "it captures nothing" in reasons["cam-off"]
    assert reasons["cam-on"] == ""

    bed.until("the device has given them", lambda: not given(bed)["cam-on"]["is_open"])
    output = tmp_path / "rows.npz"
    bed.fleet("capture", "export", NAME, "--since", "1h", "--output", str(output))
    with np.load(output, allow_pickle=False) as found:
        arrays = dict(found)
    own = np.char.startswith(arrays["id"], "row-")
    assert own.sum() == ROWS
    assert np.array_equal(arrays["X"][own], rows)
    assert np.array_equal(arrays["answer.Y"][own].ravel(), np.float32(answers))
    assert set(arrays["device"]) == {"cam-on"}
    assert set(arrays["version"]) == {"1.0.0-varied"}
    assert arrays["X"].dtype == np.float32
    assert np.array_equal(
        arrays["id"][own], [f"row-{start}" for start in range(0, ROWS, BATCH) for _ in range(BATCH)]
    )
    assert given(bed)["cam-on"]["row_count"] == len(arrays["X"])

    assert kept(status(bed, "cam-on")) == 0  # what was given is kept no more
    assert f"{len(arrays['X'])} given to the controller" in status(bed, "cam-on")
    bed.until(
        "the inventory says so",
        lambda: bed.device("cam-on")["inventory"]["capture"]["uploaded_count"] == len(arrays["X"]),
    )
    assert bed.device("cam-off")["inventory"].get("capture") is None

    audit = json.loads(bed.fleet("audit", "log", "--json"))
    done = {(row["what"], row["outcome"]) for row in audit}
    assert {("POST /v1/capture-requests", "done"), ("POST /v1/capture-exports", "done")} <= done
    assert bed.fleet("capture", "delete", NAME, "--yes") == f"deleted {len(arrays['X'])} rows\n"
    assert json.loads(bed.fleet("capture", "list", "--json"))["held"] == []
    assert bed.tracebacks() == []


def kept(said):
    """Return how many rows a status says that the device has."""
    words = next(line for line in said.splitlines() if line.startswith("capture"))
    return int(words.partition("; ")[2].split()[0]) if "; " in words else 0
