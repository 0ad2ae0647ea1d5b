"""How a release's columns are shown beside their baseline."""

import numpy as np
import pytest

from converter.baseline import make_baseline
from fleet.api.drift_schemas import DriftReport
from fleet.core.streams import Budget, Evidence
from fleet.monitoring.drift_report import report_of
from wire.manifest import TensorSpec

SPEC = TensorSpec(name="x", datatype="FP32", shape=(-1, 1))
HEAD = DriftReport(
    model="m",
    version="1",
    manifest="0" * 64,
    since_unix_ms=0,
    until_unix_ms=0,
    device_count=0,
    row_count=0,
    columns=[],
    findings=[],
)


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ([5], ["below 5", "5", "above 5", "missing"]),
        ([0, 1], ["below 0", "0 to 1", "1", "above 1", "missing"]),
        ([0] * 93 + list(range(7, 14)), ["below 0", "0 to 7", "from 7", "missing"]),
        ([np.nan], ["all", "missing"]),
    ],
)
def test_bins_are_called_by_what_is_in_them(values, labels):
    rows = np.array(values * 100, np.float32)[:, None]
    baseline = make_baseline([(SPEC, rows)], [], "0" * 64)
    nothing = Evidence(names=("x",), references=(None,), slots={}, groups={})
    (column,) = report_of(baseline, nothing, HEAD, budget=Budget(1.0, 900.0, {})).columns
    assert [shown.label for shown in column.bins] == labels


def test_all_bins_of_a_column_are_shown():
    values = [n for place in range(9) for n in (*[10 * place] * 110, 10 * place + 1)]
    baseline = make_baseline([(SPEC, np.array(values, np.float32)[:, None])], [], "0" * 64)
    nothing = Evidence(names=("x",), references=(None,), slots={}, groups={})
    (column,) = report_of(baseline, nothing, HEAD, budget=Budget(1.0, 900.0, {})).columns
    assert len(column.bins) == len(baseline.inputs[0].counts) + 1 == 20
