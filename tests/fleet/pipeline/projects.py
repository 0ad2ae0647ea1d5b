"""Projects that are small and real: rows from a seed, and a training function."""

import numpy as np
import pyarrow as pa
from pyarrow import parquet

TOML = """
[model]
name = "line"
kind = "classifier"

[data]
sources = ["data/*"]
label = "y"
slices = ["site"]

[train]
params = { C = 1.0 }
timeout = "5m"
"""

TRAIN = """
from sklearn.linear_model import LogisticRegression


def train(data, params):
    return LogisticRegression(**params).fit(data.values, data.labels)
"""


def rows(count=600, seed=0):
    """Return columns that a straight line nearly separates."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(count, 3)).astype(np.float32)
    y = (x[:, 0] + x[:, 1] / 2 + random.normal(size=count) * 0.3 > 0).astype(np.int64)
    site = np.where(random.random(count) < 0.5, "lab", "hall")
    return {"a": x[:, 0], "b": x[:, 1], "c": x[:, 2], "y": y, "site": site}


def write_parquet(path, columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.table(columns), path)


def make_folder(root, *, toml=TOML, train=TRAIN, columns=None):
    """Write a project."""
    root.mkdir(parents=True)
    write_parquet(root / "data/rows.parquet", rows() if columns is None else columns)
    (root / "pipeline.toml").write_text(toml)
    (root / "train.py").write_text(train)
    return root
