"""Which values of a request are refused before the model gets them, and which are counted as odd.

The manifest's `nan_policy` is the rule for NaN and infinities of every feature; the bundle's schema
adds ranges and categories, and may say otherwise for single features.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from wire.codec import decode
from wire.errors import BundleError, PeerError
from wire.lifecycle import Code
from wire.manifest import TensorSpec, column_names
from wire.schema import Action, FeatureCheck, Reason, Schema

Array = npt.NDArray[Any]
Marks = npt.NDArray[np.bool_]

MAX_SCHEMA_BYTES: Final = 4 * 1024 * 1024
_WHY: Final[Mapping[Reason, str]] = {
    "range": "this model takes {low:g} to {high:g}",
    "category": "this model does not know it",
    "missing": "this model refuses missing values",
    "infinite": "this model refuses infinite values",
}


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request is refused: the reason that it counts by, and a sentence for the client."""

    reason: Reason
    sentence: str


class InputChecks:
    """The checks of one model's inputs."""

    def __init__(
        self,
        inputs: Sequence[TensorSpec],
        nan_policy: Literal["reject", "pass"],
        schema: Schema | None,
    ) -> None:
        """Lay the checks out.

        Args:
            inputs: As in the manifest.
            nan_policy: The same.
            schema: Of the bundle, None for one that has none.
        """
        checks = {check.name: check for check in schema.features} if schema is not None else {}
        self._tensors = {spec.name: _Tensor(spec, checks, nan_policy) for spec in inputs}

    def refuse(self, feeds: Mapping[str, Array]) -> Refusal | None:
        """Return why a request is refused, None if it is not.

        Args:
            feeds: Inputs by name, in the shapes of the manifest.
        """
        for name, array in feeds.items():
            if array.size and (found := self._tensors[name].refuse(array)) is not None:
                return found
        return None

    def flag(self, name: str, rows: Array) -> Counter[Reason]:
        """Return how many values of an input, shape (n_rows, width), are odd and answered all the same."""
        return self._tensors[name].flag(rows)


class _Tensor:
    """The checks of the columns of one input; all arrays have the shape (width,)."""

    def __init__(
        self, spec: TensorSpec, checks: Mapping[str, FeatureCheck], default: Action
    ) -> None:
        self._name = spec.name
        # Where the width is free nothing is known of the single columns.
        is_fixed = all(size > 0 for size in spec.shape[1:])
        width = math.prod(spec.shape[1:]) if is_fixed else 1
        self._names = column_names(spec, width) if is_fixed else []
        blank = FeatureCheck(name="-")
        found = [checks.get(name, blank) for name in self._names] or [blank]
        self._low = np.array([-math.inf if c.low is None else c.low for c in found])
        self._high = np.array([math.inf if c.high is None else c.high for c in found])
        self._known = [frozenset(c.categories) for c in found]
        actions: dict[Reason, list[Action]] = {
            "range": [c.range for c in found],
            "category": [c.category if c.categories else "pass" for c in found],
            "missing": [c.missing or default for c in found],
            "infinite": [c.infinite or default for c in found],
        }
        self._with: dict[Action, dict[Reason, Marks]] = {
            action: {reason: np.array(said) == action for reason, said in actions.items()}
            for action in ("reject", "flag")
        }
        has_limit = np.isfinite(self._low) | np.isfinite(self._high)
        for marks in self._with.values():
            marks["range"] &= has_limit

    def refuse(self, array: Array) -> Refusal | None:
        rows = array.reshape(len(array), -1) if array.ndim else array.reshape(1, 1)
        for reason, marks in self._odd(rows, "reject"):
            if marks.any():
                row, column = np.argwhere(marks)[0].tolist()
                place = list(map(int, np.unravel_index(row * rows.shape[1] + column, array.shape)))
                return Refusal(reason, self._sentence(reason, rows[row, column], place, column))
        return None

    def flag(self, rows: Array) -> Counter[Reason]:
        return Counter({reason: int(marks.sum()) for reason, marks in self._odd(rows, "flag")})

    def _odd(self, rows: Array, action: Action) -> list[tuple[Reason, Marks]]:
        """Return which values, shape (n_rows, width), an action is for, by reason."""
        asked = self._with[action]
        found: list[tuple[Reason, Marks]] = []
        is_asked = asked["missing"].any() or asked["infinite"].any()
        if rows.dtype.kind == "f" and is_asked and not np.isfinite(rows).all():
            found.append(("missing", np.isnan(rows) & asked["missing"]))
            found.append(("infinite", np.isinf(rows) & asked["infinite"]))
        if rows.dtype.kind in "fiub" and asked["range"].any():
            found += self._out_of_range(rows, asked["range"])
        if asked["category"].any():
            known = [
                np.array([str(value) in self._known[number] for value in rows[:, number].tolist()])
                if is_asked
                else np.ones(len(rows), np.bool_)
                for number, is_asked in enumerate(asked["category"].tolist())
            ]
            found.append(("category", ~np.stack(known, axis=1)))
        return found

    def _out_of_range(self, rows: Array, asked: Marks) -> list[tuple[Reason, Marks]]:
        # A limit is what the tensor's type makes of it, as the values are.
        dtype = rows.dtype if rows.dtype.kind == "f" else np.dtype(np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            low, high = self._low.astype(dtype), self._high.astype(dtype)
            if (rows.min(axis=0) >= low).all() and (rows.max(axis=0) <= high).all():
                return []
            odd = (rows < low) | (rows > high)
        if rows.dtype.kind == "f":
            odd &= np.isfinite(rows)
        return [("range", odd & asked)]

    def _sentence(self, reason: Reason, value: Any, place: list[int], column: int) -> str:
        what = (
            "is not a finite number" if reason in ("missing", "infinite") else f"is {value!s:.64}"
        )
        name = self._names[column] if self._names else self._name
        low, high = (limits[min(column, len(limits) - 1)] for limits in (self._low, self._high))
        why = _WHY[reason].format(low=low, high=high)
        return f"input {self._name!r} {what} at {place}: feature {name!r}, row {place[0] if place else 0}; {why}"


def read_schema(path: Path) -> Schema:
    """Return the schema in `path`.

    Raises:
        BundleError: `manifest_invalid`: a check that an author wants is not left out because nobody can read it.
    """
    try:
        return decode(Schema, path.read_bytes(), max_bytes=MAX_SCHEMA_BYTES)
    except PeerError as exc:
        raise BundleError(f"{path.name}: {exc}", code=Code.MANIFEST_INVALID) from exc
