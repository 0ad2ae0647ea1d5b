"""Rows with names: what every step of a pipeline is given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy.typing as npt

Array = npt.NDArray[Any]

ABOUT: Final = "captured."
"""What names of columns begin with that say what a captured row is; a model is fed none that nobody names."""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of one snapshot.

    Attributes:
        values: Features, shape (n_rows, n_features), one dtype: float32, float64, int64, bool or str.
        feature_names: One a column.
        labels: Shape (n_rows,): int64, float64 or str; None where there are none.
        slices: Columns that the model is not fed, by name, each shape (n_rows,), str: to slice by (site, device group).
    """

    values: Array
    feature_names: tuple[str, ...]
    labels: Array | None
    slices: Mapping[str, Array]
