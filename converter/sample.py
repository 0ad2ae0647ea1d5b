"""The data sets that scikit-learn has, as a file of rows; a program, since only children import that.

python -P -m converter.sample digits|diabetes OUTPUT.npz
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np


def main() -> int:
    """Write X, y, feature_names, and one column to slice by."""
    from sklearn.datasets import load_diabetes, load_digits

    name, output = sys.argv[1], Path(sys.argv[2])
    if name == "digits":
        digits = load_digits()
        ink = digits.data.mean(axis=1)
        slices = ("ink", np.where(ink < np.median(ink), "thin", "thick"))
        rows, labels = digits.data.astype(np.float32), digits.target.astype(np.int64)
        names = digits.feature_names
    else:
        patients = load_diabetes(scaled=False)
        age = patients.data[:, patients.feature_names.index("age")]
        slices = ("age_group", np.where(age < 50, "under 50", "50 and over"))
        rows, labels, names = patients.data, patients.target, patients.feature_names
    columns = {"X": rows, "y": labels, "feature_names": np.array(names), slices[0]: slices[1]}
    np.savez(output, allow_pickle=False, **columns)
    return 0


if __name__ == "__main__":
    sys.exit(main())
