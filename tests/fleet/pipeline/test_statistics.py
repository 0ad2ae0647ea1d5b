"""Statistics, against those that TFDV gave for the same vectors (`record_tfdv.py`)."""

from __future__ import annotations

import numpy as np
import pytest
from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import statistics_pb2

from fleet.pipeline.statistics import statistics_of
from tests.fleet.pipeline.vectors import FOLDER, TABLES, columns_from


def differences(ours, theirs, path=""):
    """Return where two messages differ, by more than rounding; maps and order are theirs."""
    found = []
    for field in type(ours).DESCRIPTOR.fields:
        a, b = getattr(ours, field.name), getattr(theirs, field.name)
        where = f"{path}.{field.name}"
        if field.is_repeated:
            if len(a) != len(b):
                found.append(f"{where}: {len(a)} != {len(b)}")
                continue
            pairs = list(zip(a, b, strict=True))
        else:
            if field.has_presence and ours.HasField(field.name) != theirs.HasField(field.name):
                found.append(f"{where}: there on one side only")
            pairs = [(a, b)]
        for number, (x, y) in enumerate(pairs):
            if field.message_type is not None:
                found += (
                    differences(x, y, f"{where}[{number}]") if x.ByteSize() or y.ByteSize() else []
                )
            elif isinstance(x, float):
                if not np.isclose(x, y, rtol=1e-9, atol=1e-9, equal_nan=True):
                    found.append(f"{where}[{number}]: {x} != {y}")
            elif x != y:
                found.append(f"{where}[{number}]: {x!r} != {y!r}")
    return found


@pytest.mark.parametrize("table", sorted(TABLES))
def test_equal_tfdv(table):
    recorded = text_format.Parse(
        (FOLDER / f"{table}.statistics.pbtxt").read_text(),
        statistics_pb2.DatasetFeatureStatisticsList(),
    )
    ours = statistics_of(columns_from(table))
    assert differences(ours, recorded) == []
