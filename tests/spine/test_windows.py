"""Windows of columns from real devices: every row that was answered is in the store, once, across a swap."""

import json
from collections import Counter

import numpy as np
import pytest

from tests.spine.claims import check_answers, check_end
from tests.spine.client import ask_once
from tests.spine.models import N_FEATURES
from tests.spine.packing import unpacked
from wire.histogram import Baseline, count

pytestmark = [pytest.mark.broker, pytest.mark.slow, pytest.mark.timeout(300)]

DEVICE = "cam-0"
FEATURES = (-2.0, 0.5, 1.5, 2.5, 7.0, float("inf"), float("nan"))


def windows(bed):
    """Return the records of windows in the store, by version."""
    found = {}
    for row in bed.get(f"/v1/devices/{DEVICE}/records?channel=telemetry/window&limit=1000"):
        found.setdefault(row["body"]["version"], []).append(row["body"])
    return found


def row_counts(bed):
    return {
        version: sum(body["row_count"] for body in bodies if body["first"] == 0)
        for version, bodies in windows(bed).items()
    }


def summed(bodies, number):
    """Return the counts of a column, added up over windows."""
    total = Counter()
    for body in bodies:
        place = number - body["first"]
        if 0 <= place < len(body["columns"]):
            total.update(dict(enumerate(body["columns"][place])))
    return total


def expected(column, values):
    """Return what a column's counts are of these values."""
    values = np.array(values, np.float64)
    bins, missing = count(values, np.array(column.edges))
    beyond = [missing, (values < column.low).sum(), (values > column.high).sum()]
    return Counter({place: int(n) for place, n in enumerate([*bins, *beyond]) if n})


def test_every_answered_row_is_counted_once_across_a_swap_and_a_stop(make_bed, bundles):
    bed = make_bed("mosquitto")
    bed.add(DEVICE, window_s=2)
    device = bed.devices[DEVICE]
    asked = []
    for version in ("1.0.0", "2.0.0"):
        bed.push(version)
        rollout = bed.roll_out(version)
        # Until one window of its is closed, whatever it has answered: another follows.
        while bed.rollout(rollout)["state"] == "running" or version not in windows(bed):
            asked += [(feature, ask_once(device.port, feature)) for feature in FEATURES]
        assert bed.until_ended(rollout)["state"] == "finished"
        bed.until_served(DEVICE, version)
    device.client.stop()
    assert device.end() == 0
    device.start()  # what was closed at the stop may only now be sent

    answered = [(f, a) for f, a in asked if a.status == 200]
    answered += [(1.0, a) for a in device.client.answers if a.status == 200]
    refused = {f for f, a in asked if a.status == 400}
    assert {str(f) for f in refused} == {"nan", "inf"}
    wanted = Counter(answer.version for _, answer in answered)
    assert set(wanted) == {"1.0.0", "2.0.0"}
    bed.until(lambda: f"{wanted} are counted: {row_counts(bed)}", lambda: row_counts(bed) == wanted)

    for version, bodies in windows(bed).items():
        files = unpacked(bundles.path(version))
        baseline = Baseline.model_validate_json(files["baseline.json"])
        features = [f for f, a in answered if a.version == version]
        assert len(bodies) > 1, "more than one window was closed"
        assert +summed(bodies, 0) == expected(baseline.inputs[0], features)
        for number, value in ((1, 1.0), (2, 2.0), (3, 3.0)):
            column = baseline.inputs[number]
            assert +summed(bodies, number) == expected(column, [value] * len(features))
        answers = [a.value for _, a in answered if a.version == version]
        assert +summed(bodies, N_FEATURES) == expected(baseline.outputs[0], answers)
        for body in bodies:
            assert len(body["between"]) == len(body["columns"]) == N_FEATURES + 1
            assert "scores" not in body  # its answers are no probabilities
            assert len(json.dumps(body)) < 8192
    bed.until("it serves again", lambda: device.ask().status == 200)
    check_answers(bed)
    check_end(bed)
