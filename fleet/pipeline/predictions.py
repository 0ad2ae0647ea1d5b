"""What a converted model answered on rows whose truth is known, in the form that metrics take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from wire.errors import BundleError

Array = npt.NDArray[Any]
BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
Kind = Literal["classifier", "regressor"]

SUM_TOLERANCE: Final = 1e-3
"""How far a row of probabilities may add up from one: float32 over a thousand classes is off by 1e-4."""
LARGEST_EXACT: Final = 2.0**53
"""Above it not every whole number is a float64 of its own."""


@dataclass(frozen=True, slots=True)
class Predictions:
    """Answers and truth, row by row.

    Attributes:
        kind: Of the model.
        truth: Shape (n_rows,): of a classifier, positions in `classes`; of a regressor, values.
        answers: The same of the model's answers.
        classes: Labels as text: first those that the model knows, in the order of its scores.
        scores: Probabilities, shape (n_rows, n_classes); a class that the model does not know has 0.
            None where the model gives none.
    """

    kind: Kind
    truth: Array
    answers: Array
    classes: tuple[str, ...] = ()
    scores: FloatArray | None = None

    def of(self, rows: BoolArray) -> Predictions:
        """Return those of some rows; `rows` has the shape (n_rows,)."""
        scores = self.scores[rows] if self.scores is not None else None
        return replace(self, truth=self.truth[rows], answers=self.answers[rows], scores=scores)

    @property
    def are_finite(self) -> bool:
        """Whether every answer is a number."""
        return self.kind == "classifier" or bool(np.isfinite(self.answers).all())


def read_predictions(
    outputs: Mapping[str, Array],
    truth: Array,
    *,
    kind: Kind,
    classes: Sequence[object] | Array | None = None,
) -> Predictions:
    """Return what the outputs of a converted model say.

    Of a classifier the label is the first output with one element a row, and the probabilities are
    the first table of floats that are ones. A model without a label output has the class of its
    largest probability.

    Args:
        outputs: By name, in the model's order, each of shape (n_rows, …).
        truth: Labels or values, shape (n_rows,).
        kind: What the model is.
        classes: All labels that a classifier was trained with, sorted, as `numpy.unique` gives them:
            the order of its scores. Without it the labels among truth and answers, if they are as
            many as the scores' columns.

    Raises:
        BundleError: `answers_invalid`.
    """
    row_count = len(truth)
    if truth.ndim != 1 or not row_count:
        raise _invalid(f"the truth has shape {truth.shape}; it must be (n_rows,)")
    for name, output in outputs.items():
        if output.shape[:1] != (row_count,):
            raise _invalid(f"output {name} has shape {output.shape} for {row_count} rows")
    flat = [a.reshape(row_count) if a.shape == (row_count, 1) else a for a in outputs.values()]
    if kind == "regressor":
        return _regressor(flat, truth)
    return _classifier(flat, truth, classes)


def as_text(labels: Array) -> Array:
    """Return labels as text in which equal ones are equal: 1, 1.0 and True are the same."""
    if labels.dtype.kind in "bui":
        return labels.astype(np.int64).astype(str)
    if labels.dtype.kind == "f":
        # What is no whole number, or not finite, keeps a text of its own.
        return np.array(
            [
                str(int(x)) if x.is_integer() and abs(x) < LARGEST_EXACT else repr(x)
                for x in labels.astype(np.float64).tolist()
            ],
            dtype=str,
        )
    return labels.astype(str)


def _regressor(outputs: Sequence[Array], truth: Array) -> Predictions:
    if not outputs or outputs[0].ndim != 1 or outputs[0].dtype.kind not in "fiu":
        raise _invalid("the first output of a regressor must be one number a row")
    answers = outputs[0]
    if truth.dtype.kind not in "fiub" or not np.isfinite(truth.astype(np.float64)).all():
        raise _invalid("the truth of a regressor must be finite numbers")
    return Predictions("regressor", truth.astype(np.float64), answers.astype(np.float64))


def _classifier(
    outputs: list[Array], truth: Array, given: Sequence[object] | Array | None
) -> Predictions:
    singles = [i for i, output in enumerate(outputs) if output.ndim == 1]
    exact = [i for i in singles if outputs[i].dtype.kind != "f"]
    # A column of floats alone is a probability; beside a table of them it is a label.
    has_table = any(a.ndim == 2 and a.dtype.kind == "f" for a in outputs)
    at = exact[0] if exact else singles[0] if singles and has_table else None
    label = outputs[at] if at is not None else None
    tables = [a for i, a in enumerate(outputs) if i != at and a.dtype.kind == "f"]
    scores = next((table for a in tables if (table := _probabilities(a)) is not None), None)
    known = _known(given, truth, label, scores)
    if scores is not None and scores.shape[1] != len(known):
        if given is not None:
            raise _invalid(f"the model scores {scores.shape[1]} classes, and knows {len(known)}")
        scores = None
    if label is None:
        if scores is None:
            raise _invalid("the outputs hold neither labels nor probabilities of known classes")
        label = np.asarray(known, dtype=str)[scores.argmax(axis=1)]
    true_text, text = as_text(truth), as_text(label)
    strange = sorted((set(true_text.tolist()) | set(text.tolist())) - set(known))
    classes = (*known, *strange)
    place = {name: i for i, name in enumerate(classes)}
    if scores is not None:
        scores = np.pad(scores, ((0, 0), (0, len(strange))))
    return Predictions(
        "classifier",
        np.array([place[name] for name in true_text.tolist()], np.int64),
        np.array([place[name] for name in text.tolist()], np.int64),
        classes,
        scores,
    )


def _known(
    given: Sequence[object] | Array | None,
    truth: Array,
    label: Array | None,
    scores: FloatArray | None,
) -> tuple[str, ...]:
    if given is not None:
        known = as_text(np.asarray(given)).tolist()
        if len(set(known)) != len(known) or not known:
            raise _invalid("the classes are none, or one of them is there twice")
        return tuple(known)
    parts = [truth] if label is None else [truth, label]
    if all(part.dtype.kind in "fiub" for part in parts):
        sorted_labels = np.unique(np.concatenate([part.astype(np.float64) for part in parts]))
        return tuple(as_text(sorted_labels).tolist())
    return tuple(sorted({text for part in parts for text in as_text(part).tolist()}))


def _probabilities(output: Array) -> FloatArray | None:
    """Return the output as a table of probabilities, or None where it is none."""
    table = output.astype(np.float64)
    if table.ndim == 1:
        table = np.stack([1 - table, table], axis=1)
    if table.ndim != 2 or table.shape[1] < 2 or not np.isfinite(table).all():
        return None
    in_range = (table >= -SUM_TOLERANCE).all() and (table <= 1 + SUM_TOLERANCE).all()
    adds_up = (np.abs(table.sum(axis=1) - 1) <= SUM_TOLERANCE).all()
    return np.clip(table, 0.0, 1.0) if in_range and adds_up else None


def _invalid(message: str) -> BundleError:
    return BundleError(message, code="answers_invalid")
