"""Labels come late to real agents, on the device and through the controller: what the CLI says is the truth."""

import json
import subprocess

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from skops.io import dump

from tests.spine.client import connect
from tests.spine.models import N_FEATURES, NAME
from tests.spine.processes import BIN, ENVIRONMENT

pytestmark = [pytest.mark.broker, pytest.mark.slow, pytest.mark.timeout(600)]

VERSION = "1.0.0"
CLASSES = 3
REFERENCE_ROWS = 3000
REQUESTS = 120
BATCH = 4
"""Rows of every second request."""


def drawn(random, n_rows):
    """Return rows, and their classes, which follow from them by chance."""
    rows = random.normal(size=(n_rows, N_FEATURES)).astype(np.float32)
    logits = 1.5 * rows[:, :CLASSES]
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    classes = (shares.cumsum(axis=1) < random.random((n_rows, 1))).sum(axis=1)
    return rows, classes.clip(0, CLASSES - 1)


def make_bundle(folder):
    """Train on some rows, and convert with the labels of others."""
    random = np.random.default_rng(0)
    dump(LogisticRegression().fit(*drawn(random, REFERENCE_ROWS)), folder / "model.skops")
    rows, classes = drawn(random, REFERENCE_ROWS)
    np.savez(folder / "rows.npz", X=rows, y=classes)
    output = folder / "classes.bundle"
    command = ["convert", "model.skops", "--name", NAME, "--version", VERSION]
    command += ["--data", "rows.npz", "--output", str(output)]
    done = subprocess.run(
        [BIN / "fleet", *command],
        cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return output


def post(connection, path, body):
    connection.request("POST", path, json.dumps(body))
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read())


def ask(port, random, prefix):
    """Ask a device about rows; return for each row its id, its place, the answer and the truth."""
    connection, found = connect(port), []
    for number in range(REQUESTS):
        rows, classes = drawn(random, BATCH if number % 2 else 1)
        tensor = {
            "name": "X", "shape": list(rows.shape), "datatype": "FP32",
            "data": rows.ravel().tolist(),
        }  # fmt: skip
        request = f"{prefix}-{number}"
        status, said = post(
            connection, f"/v2/models/{NAME}/infer", {"id": request, "inputs": [tensor]}
        )
        assert (status, said["id"]) == (200, request)
        answers = said["outputs"][0]["data"]
        found += [
            (request, row, answer, int(truth))
            for row, (answer, truth) in enumerate(zip(answers, classes, strict=True))
        ]
    connection.close()
    return found


def labels_of(rows):
    return [{"id": request, "row": row, "label": truth} for request, row, _, truth in rows]


def test_what_the_cli_says_of_labels_that_came_late_is_the_truth(make_bed, tmp_path):
    bed = make_bed("mosquitto")
    bed.add("cam-0", "cam-1", window_s=2)
    bed.push_file(make_bundle(tmp_path))
    assert bed.until_ended(bed.roll_out(VERSION))["state"] == "finished"
    for device in bed.devices.values():
        device.client.stop()
    ports = {name: device.port for name, device in bed.devices.items()}

    def report(*options):
        said = json.loads(bed.fleet("performance", NAME, "--json", *options))
        return said["releases"]

    random = np.random.default_rng(1)
    rows = {name: ask(port, random, name) for name, port in ports.items()}
    everything = [row for part in rows.values() for row in part]
    right = sum(answer == truth for _, _, answer, truth in everything)
    share = right / len(everything)

    def estimated():
        # The applications of the bed have asked about rows of their own, all of them the same.
        (found,) = report()
        asked = len(everything) + sum(
            answer.status == 200 and answer.version == VERSION
            for device in bed.devices.values()
            for answer in device.client.answers
        )
        return found if found["row_count"] >= asked else None

    found = bed.until("all rows are counted", estimated)
    assert (found["basis"], found["accuracy"], found["labelled_count"]) == ("estimate", None, 0)
    assert 0 < found["estimate"]["low"] < found["estimate"]["value"] < found["estimate"]["high"]
    printed = bed.fleet("performance", NAME)
    assert "ESTIMATE is no accuracy: estimate, valid only if P(y|x) is unchanged" in printed

    # The labels come: of one device by an application on it, of the other through the controller.
    connection = connect(ports["cam-0"])
    path = f"/v2/models/{NAME}/feedback"
    status, said = post(connection, path, {"labels": labels_of(rows["cam-0"])})
    assert (status, said["accepted_count"]) == (200, len(rows["cam-0"]))
    status, said = post(connection, path, {"labels": [{"id": "nobody", "label": 1}]})
    assert (status, said["error"].partition(":")[0]) == (404, "unknown_id")
    connection.close()
    bed.give_labels("cam-1", NAME, labels_of(rows["cam-1"]))

    def measured():
        (found,) = report()
        return found if found["labelled_count"] == len(everything) else None

    found = bed.until("all labels are counted", measured)
    assert (found["basis"], found["estimate"]) == ("measured", None)
    assert found["accuracy"]["value"] == share
    assert found["accuracy"]["low"] < share < found["accuracy"]["high"]
    assert found["refused"] == {
        "unknown_id": 1, "already_labelled": 0, "wrong_type": 0, "other_version": 0,
    }  # fmt: skip
    names = found["classes"][:-1]
    assert sorted(names) == [str(number) for number in range(CLASSES)]
    assert [cells[:CLASSES] for cells in found["confusion"][:CLASSES]] == [
        [
            sum(
                1 for _, _, answer, truth in everything if (str(answer), str(truth)) == (one, other)
            )
            for other in names
        ]
        for one in names
    ]
    assert 0 <= found["calibration_error"] < 0.15
    (alone,) = report("--device", "cam-1", "--version", VERSION)
    own = [answer == truth for _, _, answer, truth in rows["cam-1"]]
    assert alone["accuracy"]["value"] == sum(own) / len(own)
    printed = bed.fleet("performance", NAME, "--group", "site", "--match", "site=lab")
    assert printed.count(f"{100 * share:.1f} %") >= 2, printed
    assert "site=lab" in printed
    assert "1 label refused by devices" in printed
    # Given once more, nothing is counted twice.
    bed.give_labels("cam-1", NAME, labels_of(rows["cam-1"]))
    count = len(rows["cam-1"])
    bed.until("all are refused", lambda: report()[0]["refused"]["already_labelled"] == count)
    assert report()[0]["labelled_count"] == len(everything)
