"""Which part each row belongs to: by a hash of the row itself, so that it stays there for ever.

As TFX's ExampleGen splits (hash buckets): rows that are added move no other, their order does not
matter, and rows that are equal are never in two parts. Pure.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from .project import Split

Array = npt.NDArray[Any]
FloatArray = npt.NDArray[np.float64]

SALT: Final = b"modelfleet split 1\n"
"""Part of what is hashed: another one would be another split."""
BUCKETS: Final = float(2**64)


def buckets_of(values: Array, keys: Array | None) -> FloatArray:
    """Return a number in [0, 1) for each row, the same for equal ones; shape (n_rows,).

    Args:
        values: Shape (n_rows, n_features).
        keys: What is hashed instead of a row's values, shape (n_rows,), or None.
    """
    return np.fromiter(
        (_bucket(content) for content in _contents(values if keys is None else keys[:, None])),
        dtype=np.float64,
        count=len(values),
    )


def parts_of(buckets: FloatArray, split: Split) -> npt.NDArray[np.int8]:
    """Return the number of each row's part, in the order of `PARTS`; shape (n_rows,).

    Args:
        buckets: Of `buckets_of`.
        split: The shares; kept up to chance, which is sqrt(share (1 - share) / n_rows).
    """
    return np.searchsorted(np.cumsum(split.shares)[:-1], buckets, side="right").astype(np.int8)


def folds_of(buckets: FloatArray, split: Split, count: int) -> npt.NDArray[np.int8]:
    """Return the number of the fold of each row that is trained on, from 0; shape (n_rows,).

    The buckets of the part are cut once more, so that a row's fold stays too, and rows of one key are in one.

    Args:
        buckets: Of the rows of the first part.
        split: The shares.
        count: How many folds.
    """
    edges = np.linspace(0, split.train, count + 1)[1:-1]
    return np.searchsorted(edges, buckets, side="right").astype(np.int8)


def canonical(values: Array) -> Array:
    """Return numbers as little-endian float64, so that the same number in another type is the same.

    -0 becomes 0, and every NaN the same one.
    """
    wide = values.astype("<f8") + 0.0
    wide[np.isnan(wide)] = np.nan
    return np.ascontiguousarray(wide)


def _contents(rows: Array) -> Iterator[bytes]:
    if rows.dtype.kind == "U":
        for row in rows.tolist():
            texts = [text.encode("utf-8", "surrogatepass") for text in row]
            yield b"".join(b"%d:%s" % (len(text), text) for text in texts)
        return
    for row in canonical(rows):
        yield row.tobytes()


def _bucket(content: bytes) -> float:
    """Return a number in [0, 1)."""
    head = hashlib.sha256(SALT + content).digest()[:8]
    # The last bits do not fit a float64: without them the quotient never rounds up to 1.
    return (int.from_bytes(head, "big") >> 11 << 11) / BUCKETS
