"""The vectors that TFDV was asked about too, as columns."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from fleet.pipeline.statistics import Column

FOLDER = Path(__file__).parent / "tfdv"
TABLES = json.loads((FOLDER / "vectors.json").read_text())
CASES = json.loads((FOLDER / "cases.json").read_text())
ANSWERS = json.loads((FOLDER / "anomalies.json").read_text())
_FILLED = {"FLOAT": (np.float64, 0.0), "INT": (np.int64, 0), "STRING": (str, "")}


def columns_from(table: str) -> list[Column]:
    """Return the columns of a table; null is missing, and NaN is a value that is there."""
    columns = []
    for name, given in TABLES[table].items():
        dtype, filled = _FILLED[given["type"]]
        values = [filled if v is None else dtype(v) for v in given["values"]]
        missing = np.array([v is None for v in given["values"]], dtype=bool)
        columns.append(Column(name, np.array(values, dtype=dtype), missing))
    return columns
