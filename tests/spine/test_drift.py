"""A sensor drifts: real runtimes count, the windows come over a real broker, the controller names it."""

import json
import threading

import numpy as np
import pytest

from tests.spine.client import connect
from tests.spine.models import LIMIT, N_FEATURES, NAME

pytestmark = [pytest.mark.broker, pytest.mark.slow, pytest.mark.timeout(600)]

WINDOW_S = 4
BATCH = 40


class Sensor(threading.Thread):
    """Asks one device about random rows like those that the model was made with, until told to drift."""

    def __init__(self, port, seed):
        super().__init__(daemon=True)
        self.has_drifted = False
        self.row_count = 0
        self._random = np.random.default_rng(seed)
        self._connection = connect(port)
        self._ended = threading.Event()

    def run(self):
        while not self._ended.wait(0.05):
            rows = self._random.uniform(0, LIMIT - 1, (BATCH, N_FEATURES))
            if self.has_drifted:
                rows[:, 1] /= 2
            tensor = {
                "name": "X", "shape": list(rows.shape), "datatype": "FP32",
                "data": rows.round(4).ravel().tolist(),
            }  # fmt: skip
            body = json.dumps({"inputs": [tensor]})
            self._connection.request("POST", f"/v2/models/{NAME}/infer", body)
            answer = self._connection.getresponse()
            answer.read()
            self.row_count += BATCH * (answer.status == 200)

    def stop(self):
        self._ended.set()
        self.join()


def test_one_sensor_that_drifts_is_named_and_the_others_are_not(make_bed, tmp_path):
    bed = make_bed("mosquitto")
    bed.set_drift(window_s=WINDOW_S)
    bed.add("cam-0", "cam-1", window_s=WINDOW_S)
    bed.install("1.0.0-wide")
    for device in bed.devices.values():
        device.client.stop()  # its rows are all the same
    sensors = {
        name: Sensor(device.port, seed) for seed, (name, device) in enumerate(bed.devices.items())
    }
    for sensor in sensors.values():
        sensor.start()
    try:
        version = "1.0.0-wide"

        def report(*options):
            said = bed.fleet(
                "drift", "show", f"{NAME}:{version}", "--since", "1h", "--json", *options
            )
            return json.loads(said)

        bed.until("windows come", lambda: report("--device", "cam-0")["row_count"] > 20 * BATCH)
        before = json.loads(bed.fleet("drift", "list", "--json"))
        sensors["cam-1"].has_drifted = True

        def found():
            new = json.loads(bed.fleet("drift", "list", "--json"))
            return [row for row in new if row["id"] not in {old["id"] for old in before}]

        (finding, *others) = bed.until("a finding opens", found)
    finally:
        for sensor in sensors.values():
            sensor.stop()
    assert not others
    assert (finding["level"], finding["who"]) == ("device", "cam-1")
    assert finding["features"] == ["X[1]"]
    assert "device cam-1, feature X[1], since " in bed.fleet("drift", "list")
    drifted = {column["name"]: column for column in report("--device", "cam-1")["columns"]}
    steady = {column["name"]: column for column in report("--device", "cam-0")["columns"]}
    assert drifted["X[1]"]["verdict"] == "drifted"
    assert drifted["X[2]"]["verdict"] != "drifted"
    assert steady["X[1]"]["verdict"] != "drifted"
    plot = tmp_path / "drift.png"
    bed.fleet("drift", "show", NAME, "--device", "cam-1", "--plot", plot)
    assert plot.read_bytes().startswith(b"\x89PNG")
