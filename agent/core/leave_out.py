"""Which columns of a model `leave_out` of `[capture]` names, and which of its names fit none.

A name that fits no column may be a typo, or that of a column that this release does not name: what it
was meant for would be kept. So nothing at all is kept of such a model.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import prod
from typing import Final

from wire.manifest import TensorSpec, column_names

MAX_SAID: Final = 3
"""Names that a sentence has of many."""
REMEDY: Final = (
    "name the columns in [capture] leave_out as the inputs do, or take the names out of it"
)
"""What to do where a name is none of a column."""


def unmatched(leave_out: Sequence[str], inputs: Sequence[TensorSpec]) -> tuple[str, ...]:
    """Return the names that are of no input and of no column of one, however wide a request is.

    Args:
        leave_out: Names of the device's configuration.
        inputs: Of the model's manifest.
    """
    return tuple(name for name in leave_out if not any(_has(spec, name) for spec in inputs))


def describe(leave_out: Sequence[str], inputs: Sequence[TensorSpec]) -> str:
    """Return in words what of a model is left out: `without age`; or that nothing is kept, and why."""
    if odd := unmatched(leave_out, inputs):
        which = "is no column of it" if len(odd) == 1 else "are no columns of it"
        return f"NOTHING is kept: {_listed(odd)} in leave_out {which}; it has {_columns(inputs)}"
    return f"without {', '.join(leave_out)}"


def _has(spec: TensorSpec, name: str) -> bool:
    if name == spec.name:
        return True
    sizes = spec.shape[1:]
    if -1 not in sizes:
        return name in column_names(spec, prod(sizes))
    is_numbered = re.fullmatch(re.escape(spec.name) + r"\[[0-9]+\]", name) is not None
    return is_numbered or name in column_names(spec, len(spec.feature_names))


def _columns(inputs: Sequence[TensorSpec]) -> str:
    names: list[str] = []
    for spec in inputs:
        sizes = spec.shape[1:]
        # Two at least: a single one has the input's own name.
        width = max(2, len(spec.feature_names)) if -1 in sizes else prod(sizes)
        names += column_names(spec, width)
    return _listed(names)


def _listed(names: Sequence[str]) -> str:
    more = f", … {names[-1]}" if len(names) > MAX_SAID else ""
    return ", ".join(names[:MAX_SAID]) + more
