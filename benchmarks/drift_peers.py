"""What others call drift, from their definitions, on the same rows.

Written here rather than installed: each is a line or two, and Evidently alone brings 40 packages.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from wire.histogram import psi

Array = npt.NDArray[Any]


class Rules:
    """The rules for one reference: of its values, shape (n_rows,), and of decile bins of them."""

    def __init__(self, reference: Array) -> None:
        self._values = np.sort(reference)
        self._spread = float(reference.std())
        self._edges = np.quantile(reference, np.arange(1, 10) / 10)
        self._counts = self._binned(reference)

    def _binned(self, values: Array) -> Array:
        return np.bincount(np.searchsorted(self._edges, values, side="right"), minlength=10)

    def psi(self, values: Array) -> float:
        """Return the PSI over the reference's deciles."""
        return float(psi(self._counts, self._binned(values)))

    def kolmogorov_smirnov(self, values: Array) -> bool:
        """Whether SciPy's test has p < 0.05: what most tools run on numbers by default."""
        return bool(stats.ks_2samp(self._values, values, method="asymp").pvalue < 0.05)

    def evidently(self, values: Array) -> bool:
        """Whether Evidently reports drift: with over 1,000 reference rows, for a number, when
        Wasserstein's distance over the reference's standard deviation is at least 0.1.
        """
        ranks = (np.arange(len(self._values)) + 0.5) / len(self._values)
        now = np.sort(values)[(ranks * len(values)).astype(int)]
        return bool(np.abs(now - self._values).mean() / self._spread >= 0.1)

    def all(self) -> dict[str, Callable[[Array], bool]]:
        """Return the rules by name."""
        return {
            "PSI >= 0.1": lambda values: self.psi(values) >= 0.1,
            "PSI >= 0.2": lambda values: self.psi(values) >= 0.2,
            "PSI >= 0.25": lambda values: self.psi(values) >= 0.25,
            "KS p < 0.05": self.kolmogorov_smirnov,
            "Evidently's default": self.evidently,
        }
