"""Chooses rows that were answered, and keeps them for a moment: a sample, and those that are uncertain.

The supervisor is told of them once a second (`Incarnation`), as many as fit into one datagram; what is
over is dropped and counted, and so are requests whose columns are not all known that shall be left out. It comes after the reply, and is there only where the device's own
configuration has rules for it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from agent.core.captured import CaptureRules
from agent.core.leave_out import unmatched
from agent.measured import Captured, CapturedRequest, CapturedTensor
from wire.manifest import TensorSpec, column_names
from wire.packs import CHAR_BYTES, MAX_PACK_ROWS, MAX_ROW_BYTES, MAX_TENSORS, MAX_TEXT_CHARS

from .oip import Request
from .session import Array, LoadedModel

MAX_TOLD_BYTES: Final = 96 * 1024
"""Of what is told at once, as JSON; below `MAX_DATAGRAM_BYTES` with all that stands around it."""
REQUEST_BYTES: Final = 256
"""Of a request beside what follows, at most; so all of these."""
TENSOR_BYTES: Final = 512
CHARACTER_BYTES: Final = 6
"""Of a character that JSON writes as an escape."""
SCORE_BYTES: Final = 24
Indices = npt.NDArray[np.intp]


class _Model:
    """What is to be known of one model."""

    def __init__(
        self, inputs: Sequence[TensorSpec], probabilities: str, leave_out: Sequence[str]
    ) -> None:
        """Take note of it.

        Args:
            inputs: Of its manifest.
            probabilities: The output that is a table of class probabilities, or "".
            leave_out: Of the rules.
        """
        self.probabilities = probabilities
        self.inputs = {spec.name: spec for spec in inputs}
        self.is_barred = bool(unmatched(leave_out, inputs))
        self._leave_out = frozenset(leave_out)
        self._hidden: dict[tuple[str, int], list[int]] = {}
        self._found: dict[tuple[str, int], set[str]] = {}
        self.left_out: set[str] = set()

    def hidden(self, spec: TensorSpec, width: int) -> list[int]:
        """Return the numbers of the columns of an input that are left out."""
        if not self._leave_out:
            return []
        key = (spec.name, width)
        if key not in self._hidden:
            names = column_names(spec, width)
            self._hidden[key] = [n for n, name in enumerate(names) if name in self._leave_out]
            self._found[key] = {names[number] for number in self._hidden[key]}
            if spec.name in self._leave_out:
                self._hidden[key] = list(range(width))
                self._found[key].add(spec.name)
            self.left_out |= self._found[key]
        return self._hidden[key]

    def hides_all(self, widths: Mapping[str, int]) -> bool:
        """Return whether every name that is to be left out is a column of inputs of these widths.

        An input of a free width may come with another one than its columns have names for.
        """
        if not self._leave_out:
            return True
        return self._leave_out <= set().union(*(self._found[key] for key in widths.items()))


class RowCapture:
    """Rows that wait to be told of; used by the event loop's thread only."""

    def __init__(
        self,
        rules: CaptureRules,
        models: Mapping[str, LoadedModel],
        chance: np.random.Generator,
    ) -> None:
        """Begin with no row.

        Args:
            rules: Of the device's configuration.
            models: Those that are served.
            chance: Chooses the sample.
        """
        self._rules = rules
        self._models = {
            name: _Model(
                model.manifest.inputs,
                model.baseline.probabilities if model.baseline is not None else "",
                rules.leave_out,
            )
            for name, model in models.items()
        }
        self._chance = chance
        self._requests: list[CapturedRequest] = []
        self._left_bytes = MAX_TOLD_BYTES
        self._dropped_count = 0
        self._is_full = False
        """Whether a row did not fit: the rest of the second costs no more than the choice."""

    def take(self, name: str, request: Request, answers: Sequence[Array]) -> None:
        """Choose among the rows of a request that was answered.

        Args:
            name: Of the model.
            request: What was asked; the first dimension of each feed is its rows.
            answers: One for each of its outputs.
        """
        model = self._models[name]
        if model.is_barred:
            return
        tables = dict(zip((spec.name for spec in request.outputs), answers, strict=True))
        scores = _scores(tables.get(model.probabilities), request.n_rows)
        chosen = self._chosen(request.n_rows, scores)
        if self._is_full or not chosen.size:
            self._dropped_count += chosen.size
            return
        chosen, over_count = chosen[:MAX_PACK_ROWS], max(0, chosen.size - MAX_PACK_ROWS)
        tensors = _tensors(model, request, answers, chosen)
        row_bytes = sum(tensor.row_bytes for tensor in tensors)
        id_ = (request.id or "").encode("utf-8", "replace").decode()
        left_out = tuple(sorted(model.left_out))
        fixed_bytes = REQUEST_BYTES + TENSOR_BYTES * len(tensors)
        fixed_bytes += CHARACTER_BYTES * (len(id_) + sum(len(column) + 1 for column in left_out))
        told_bytes = SCORE_BYTES + -(-row_bytes * 4 // 3)  # base64
        room = (self._left_bytes - fixed_bytes) // told_bytes
        is_too_large = not tensors or row_bytes > MAX_ROW_BYTES
        kept = chosen[: 0 if is_too_large else max(0, room)]
        self._is_full = not is_too_large and kept.size < chosen.size
        self._dropped_count += over_count + chosen.size - kept.size
        if not kept.size:
            return
        self._left_bytes -= fixed_bytes + kept.size * told_bytes
        self._requests.append(
            CapturedRequest(
                model=name,
                at_unix_ms=time.time_ns() // 1_000_000,
                id=id_,
                scores=tuple(_score(scores[n]) if scores is not None else None for n in kept),
                tensors=tuple(tensor.told(kept.size) for tensor in tensors),
                left_out=left_out,
            )
        )

    def close(self) -> Captured | None:
        """Return what is to be told, and begin anew; None without anything."""
        requests, self._requests = self._requests, []
        dropped, self._dropped_count = self._dropped_count, 0
        self._left_bytes, self._is_full = MAX_TOLD_BYTES, False
        return Captured(tuple(requests), dropped) if requests or dropped else None

    def _chosen(self, n_rows: int, scores: Array | None) -> Indices:
        """Return the numbers of the rows to keep."""
        if n_rows == 1:  # as a rule; without the arrays it takes a tenth of the time
            is_kept = self._chance.random() < self._rules.sample or (
                scores is not None and bool(scores[0] < self._rules.uncertain_below)
            )
            return _FIRST if is_kept else _NONE
        sampled = self._chance.random(n_rows) < self._rules.sample
        if scores is not None:
            sampled |= scores < self._rules.uncertain_below
        return np.flatnonzero(sampled)


_FIRST: Final[Indices] = np.array([0])
_NONE: Final[Indices] = np.array([], dtype=np.intp)


def _scores(table: Array | None, n_rows: int) -> Array | None:
    """Return the highest probability of each row, shape (n_rows,)."""
    if table is None or table.ndim != 2 or len(table) != n_rows or not table.size:
        return None
    return np.asarray(table.max(axis=1)) if table.dtype.kind == "f" else None


def _score(value: Any) -> float | None:
    score = float(value)
    return score if 0 <= score <= 1 else None


@dataclass(frozen=True, slots=True)
class _Rows:
    """The chosen rows of one tensor, and how wide their elements are: characters of a text, else 1."""

    spec: TensorSpec
    is_output: bool
    values: Array
    width: int
    hidden: Sequence[int] = ()

    @property
    def row_bytes(self) -> int:
        item_bytes = CHAR_BYTES * self.width if self._is_text else self.values.itemsize
        return prod(self.values.shape[1:]) * item_bytes

    @property
    def _is_text(self) -> bool:
        return self.spec.datatype == "BYTES"

    def told(self, count: int) -> CapturedTensor:
        """Return the first rows as the supervisor is told them."""
        rows = self.values[:count]
        if self.hidden:
            rows = _blanked(rows, self.hidden)
        kind = f"<U{self.width}" if self._is_text else rows.dtype.newbyteorder("<")
        plain = np.ascontiguousarray(rows.astype(kind))
        return CapturedTensor(
            name=self.spec.name,
            is_output=self.is_output,
            datatype=self.spec.datatype,
            width=self.width,
            shape=rows.shape[1:],
            data=plain.tobytes(),
        )


def _tensors(
    model: _Model, request: Request, answers: Sequence[Array], chosen: Indices
) -> list[_Rows]:
    """Return the tensors of the chosen rows.

    There are none where an input is not one row each, or too wide, or where what is to be left out is
    not among its columns.
    """
    n_rows = request.n_rows
    found: list[_Rows] = []
    widths: dict[str, int] = {}
    for name, rows in request.feeds.items():
        if not rows.ndim or len(rows) != n_rows:
            return []
        spec = model.inputs[name]
        widths[name] = prod(rows.shape[1:])
        hidden = model.hidden(spec, widths[name])
        found.append(_Rows(spec, False, rows[chosen], _width(rows[chosen]), hidden))
    if not model.hides_all(widths):
        return []
    for spec, rows in zip(request.outputs, answers, strict=True):
        if rows.ndim and len(rows) == n_rows:
            found.append(_Rows(spec, True, rows[chosen], _width(rows[chosen])))
    is_fit = len(request.feeds) <= MAX_TENSORS and len(request.outputs) <= MAX_TENSORS
    return found if is_fit and all(rows.width <= MAX_TEXT_CHARS for rows in found) else []


def _width(rows: Array) -> int:
    if rows.dtype.kind != "O":
        return 1
    return max(1, max(map(len, rows.reshape(-1).tolist()), default=1))


def _blanked(rows: Array, hidden: Sequence[int]) -> Array:
    """Return a copy without the values of some columns."""
    blank: Any = {"f": np.nan, "O": ""}.get(rows.dtype.kind, 0)
    flat = rows.reshape(len(rows), -1).copy()
    flat[:, hidden] = blank
    return flat.reshape(rows.shape)
