"""Labels that come late for a model's answers: what they are held against, and what is counted of them."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from wire.histogram import Baseline, class_names
from wire.manifest import Manifest, TensorSpec, label_output
from wire.performance import MAX_ERROR, MAX_LABEL_CHARS, confusion_side
from wire.windows import SCORE_BINS

from .answers import AnswerRing, Label, Remembered

Array = npt.NDArray[Any]
Kind = Literal["integer", "boolean", "text", "number"]
Cause = Literal["unknown_id", "already_labelled", "wrong_type", "other_version"]
"""Why a label is refused; as `wire.performance.RefusedLabels`."""

KINDS: Final[Mapping[str, Kind]] = {"BOOL": "boolean", "BYTES": "text"}
MAX_INTEGER: Final = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Given:
    """One label: for which request and row, and of which release if that matters."""

    id: str
    label: Label
    row: int | None = None
    version: str | None = None


class Refused(Exception):  # noqa: N818 - it is an answer, not a fault
    """A label that nothing can be done with; `cause` says why, for programs."""

    def __init__(self, cause: Cause, words: str) -> None:
        super().__init__(words)
        self.cause: Cause = cause


@dataclass(frozen=True, slots=True)
class _Target:
    """Which output a label is about.

    `kind` is what a label must be. Without an `output` the classes are the places in `table`.
    """

    kind: Kind
    output: str | None
    table: str | None
    classes: tuple[str, ...]

    @property
    def is_class(self) -> bool:
        return self.kind != "number"


@dataclass(frozen=True, slots=True)
class Counted:
    """What was counted in a window; see `wire.performance.PerformanceTelemetry`."""

    labelled: int
    correct: int
    confusion: tuple[int, ...]
    scores: tuple[int, ...]
    score_correct: tuple[int, ...]
    score_sums: tuple[float, ...]
    errors: tuple[float, float, float] | None
    refused: dict[Cause, int]


class Labelling:
    """Remembers the answers of one model, and counts those whose label comes."""

    def __init__(
        self, manifest: Manifest, baseline: Baseline | None, *, max_rows: int, max_bytes: int
    ) -> None:
        """Begin with nothing; of a model whose answers are no classes and no number nothing is kept.

        Args:
            manifest: Of the model.
            baseline: Says what the classes are, and which output is their probabilities.
            max_rows: Of the ring.
            max_bytes: The same.
        """
        self._version = manifest.version
        self._target = _target(manifest.outputs, baseline)
        self.ring = AnswerRing(max_rows, max_bytes)
        classes = self._target.classes if self._target else ()
        self._places = {label: place for place, label in enumerate(classes)}
        self._side = confusion_side(len(classes))
        self._refused: Counter[Cause] = Counter()
        self._errors = (0.0, 0.0, 0.0)
        self._begin()

    @property
    def version(self) -> str:
        """The release whose answers these are."""
        return self._version

    def remember(
        self, request: str | None, outputs: Sequence[TensorSpec], answers: Sequence[Array]
    ) -> None:
        """Keep what a request was answered, if it has an id and asked for what labels are about."""
        target = self._target
        if request is None or target is None:
            return
        found = {spec.name: rows for spec, rows in zip(outputs, answers, strict=True)}
        table = found.get(target.table) if target.table is not None else None
        labels = _labels(target, found, table)
        if labels is None:
            return
        has_scores = table is not None and table.shape[:1] == (len(labels),) and table.ndim == 2
        self.ring.put(request, labels, _scores(table) if has_scores and table is not None else None)

    def take(self, given: Given) -> None:
        """Count a label.

        Raises:
            Refused: With its cause, which is counted.
        """
        try:
            entry, row = self._find(given)
        except Refused as exc:
            self._refused[exc.cause] += 1
            raise
        entry.labelled |= 1 << row
        answer = entry.labels[row]
        self._labelled += 1
        if isinstance(answer, float) and not isinstance(given.label, str):
            error = answer - float(given.label)
            total, absolute, squared = self._errors
            self._errors = (total + error, absolute + abs(error), squared + error * error)
            return
        is_correct = answer == given.label
        self._correct += is_correct
        if self._side:
            places = (self._place(label) for label in (answer, given.label))
            self._confusion[tuple(places)] += 1
        score = entry.scores[row] if entry.scores is not None else None
        if score is not None:
            place = min(SCORE_BINS - 1, max(0, int(score * SCORE_BINS)))
            self._scores[place] += 1
            self._score_correct[place] += is_correct
            self._score_sums[place] += min(1.0, max(0.0, score))

    def take_text(self, given: Given) -> None:
        """Count a label that came as text, from afar; one that is refused is counted as that."""
        try:
            label = _parse(str(given.label), self._target.kind if self._target else "text")
            self.take(Given(given.id, label, given.row, given.version))
        except Refused:
            return

    def close_window(self) -> Counted | None:
        """Return what was counted and begin anew; None where no label came."""
        if not self._labelled and not self._refused:
            return None
        is_class = self._target is not None and self._target.is_class
        counted = Counted(
            labelled=self._labelled,
            correct=self._correct,
            confusion=_trimmed(self._confusion.reshape(-1)),
            scores=_trimmed(self._scores),
            score_correct=_trimmed(self._score_correct),
            score_sums=tuple(round(s, 6) for s in _trimmed(self._score_sums)),
            errors=None if is_class or not self._labelled else self._errors,
            refused=dict(self._refused),
        )
        self._begin()
        return counted

    def _begin(self) -> None:
        self._refused.clear()
        self._labelled = self._correct = 0
        self._confusion = np.zeros((self._side, self._side), np.int64)
        self._scores = np.zeros(SCORE_BINS, np.int64)
        self._score_correct = np.zeros(SCORE_BINS, np.int64)
        self._score_sums = np.zeros(SCORE_BINS)
        self._errors = (0.0, 0.0, 0.0)

    def _find(self, given: Given) -> tuple[Remembered, int]:
        if given.version not in (None, self._version):
            raise Refused("other_version", f"version {self._version} serves, not {given.version}")
        entry = self.ring.get(given.id)
        if entry is None:
            raise Refused("unknown_id", f"no answer with the id {given.id[:64]!r} is remembered")
        n_rows = len(entry.labels)
        if given.row is None and n_rows > 1:
            raise Refused("unknown_id", f"the request had {n_rows} rows; say which one by `row`")
        row = given.row or 0
        if not 0 <= row < n_rows:
            raise Refused("unknown_id", f"the request had {n_rows} rows, there is no row {row}")
        if not self._target or not _is_of(given.label, self._target.kind):
            kind = self._target.kind if self._target else "label"
            raise Refused("wrong_type", f"the label must be of the kind {kind}")
        if entry.labelled >> row & 1:
            raise Refused("already_labelled", f"row {row} of {given.id[:64]!r} has its label")
        return entry, row

    def _place(self, label: Label) -> int:
        place = self._places.get(str(label), self._side - 1)
        return min(place, self._side - 1)


def _target(outputs: Sequence[TensorSpec], baseline: Baseline | None) -> _Target | None:
    """Return what a label of this model is held against: the output of classes, `label_output`.

    Without one it is the largest of the probabilities, and without these a single number.
    """
    table = baseline.probabilities if baseline is not None else ""
    classes = class_names(outputs, baseline) if baseline is not None else ()
    if (spec := label_output(outputs)) is not None:
        return _Target(KINDS.get(spec.datatype, "integer"), spec.name, table or None, classes)
    if table:
        return _Target("integer", None, table, classes)
    single = next((spec for spec in outputs if tuple(spec.shape[1:]) in ((), (1,))), None)
    return _Target("number", single.name, None, ()) if single is not None else None


def _labels(target: _Target, found: Mapping[str, Array], table: Array | None) -> list[Label] | None:
    if target.output is None:
        if table is None or table.ndim != 2 or not np.isfinite(table).all():
            return None
        return list(table.argmax(axis=1).tolist())
    answer = found.get(target.output)
    if answer is None or not answer.ndim or answer.size != len(answer):
        return None
    if target.kind == "number" and not (np.abs(answer.astype(np.float64)) <= MAX_ERROR).all():
        return None  # NaN as well: nothing can be learnt from it
    return list(answer.reshape(-1).tolist())


def _scores(table: Array) -> list[float | None]:
    top = table.max(axis=1, initial=-np.inf).tolist()
    return [score if math.isfinite(score) else None for score in top]


def _is_of(label: Label, kind: Kind) -> bool:
    match kind:
        case "boolean":
            return isinstance(label, bool)
        case "integer":
            is_number = isinstance(label, int) and not isinstance(label, bool)
            return is_number and abs(label) <= MAX_INTEGER  # type: ignore[arg-type]
        case "text":
            return isinstance(label, str) and len(label) <= MAX_LABEL_CHARS
        case "number":
            is_number = isinstance(label, int | float) and not isinstance(label, bool)
            return is_number and abs(label) <= MAX_ERROR  # type: ignore[arg-type]


def _parse(text: str, kind: Kind) -> Label:
    """Return a label as the model's answers are; text that is none stays text, and is refused."""
    match kind:
        case "boolean":
            return {"true": True, "false": False}.get(text, text)
        case "integer" if re.fullmatch(r"-?[0-9]{1,19}", text):
            return int(text)
        case "number":
            try:
                return float(text)
            except ValueError:
                return text
        case _:
            return text


def _trimmed(counts: npt.NDArray[Any]) -> tuple[Any, ...]:
    found = counts.nonzero()[0]
    return tuple(counts[: found[-1] + 1].tolist()) if found.size else ()
