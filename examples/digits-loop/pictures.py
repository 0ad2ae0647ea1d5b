"""Write the rows that this pipeline learns from, and those that it never sees, from scikit-learn's digits.

    python pictures.py firm                    data/firm.parquet: before the mounts came loose
    python pictures.py loose [--slipped]       data/loose.parquet: pictures of loose mounts, labelled
    python pictures.py traffic --output FILE   all pictures as cameras see them, for applications

Each picture has a part of its own for good, by its number: two fifths are in `firm`, two fifths in `loose`, and
the last fifth in neither, so that what is measured on it is measured on labels that no model saw.
Every second picture has its brightest pixels at 15, as one kind of camera takes them. A loose mount lets
the picture sink a pixel to the right. With --slipped the labels are off by one
row, as when somebody pastes a column one line too low.

`traffic` writes `firm` and `loose`, shape (n_pictures, 64), float32 from 0 to 16, `label` and
`is_unseen`, shape (n_pictures,).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import parquet
from sklearn.datasets import load_digits

SIDE = 8
FIFTHS = {"firm": (0, 1), "loose": (2, 3)}
NAMES = [f"pixel_{row}_{column}" for row in range(SIDE) for column in range(SIDE)]


def main() -> None:
    """Write what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("firm", "loose", "traffic"))
    parser.add_argument("--slipped", action="store_true", help="labels are off by one row")
    parser.add_argument("--output", type=Path, help="else data/WHAT.parquet beside this file")
    options = parser.parse_args()
    folder = Path(__file__).resolve().parent / "data"
    output = options.output or folder / f"{options.what}.parquet"
    output.parent.mkdir(parents=True, exist_ok=True)

    pictures, labels = load_digits(return_X_y=True)
    pictures = pictures.astype(np.float32)
    pictures[1::2] = np.minimum(pictures[1::2], 15)
    fifth = np.random.default_rng(0).permutation(len(labels)) % 5
    if options.what == "traffic":
        is_unseen = ~np.isin(fifth, sum(FIFTHS.values(), ()))
        np.savez(output, firm=pictures, loose=sunk(pictures), label=labels, is_unseen=is_unseen)
        print(f"{output}: {len(labels)} pictures, {is_unseen.sum()} of them for measuring alone")
        return
    chosen = np.flatnonzero(np.isin(fifth, FIFTHS[options.what]))
    rows = sunk(pictures[chosen]) if options.what == "loose" else pictures[chosen]
    right = np.roll(labels[chosen], 1) if options.slipped else labels[chosen]
    table = {name: rows[:, column] for column, name in enumerate(NAMES)}
    table |= {
        "picture": chosen,
        "mount": np.full(len(chosen), options.what),
        "digit": right,
    }
    parquet.write_table(pa.table(table), output)
    print(f"{output}: {len(chosen)} labelled pictures")


def sunk(pictures: np.ndarray) -> np.ndarray:
    """Return pictures, shape (n_rows, 64), a pixel further to the right; the last column is lost."""
    moved = np.zeros_like(pictures).reshape(-1, SIDE, SIDE)
    moved[:, :, 1:] = pictures.reshape(-1, SIDE, SIDE)[:, :, :-1]
    return moved.reshape(len(pictures), SIDE * SIDE)


if __name__ == "__main__":
    main()
