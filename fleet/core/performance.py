"""How right answers were, from labels that came late: sums that add up, and what they say.

The sums of two windows are those of both, over time and over devices; of one release, whose classes and
bins are the same everywhere.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import zip_longest
from typing import Final

from wire.performance import PerformanceTelemetry

from .counts import MAX_COUNTED, added, added_each

Z_95: Final = 1.959964
"""Of the standard normal distribution, 0.975."""


@dataclass(frozen=True, slots=True)
class Refused:
    """Labels that devices refused, by cause; see `wire.performance.RefusedLabels`."""

    unknown_id: int = 0
    already_labelled: int = 0
    wrong_type: int = 0
    other_version: int = 0


@dataclass(frozen=True, slots=True)
class PerformanceSums:
    """Labelled answers over a window or several.

    Attributes:
        labelled_count: Rows whose label came.
        correct_count: Of these, those whose answer was the label.
        confusion: As in `PerformanceTelemetry`, and so are the three of scores.
        error_count: Rows of a regression, which `errors` are sums over: error, absolute, squared.
    """

    labelled_count: int = 0
    correct_count: int = 0
    confusion: tuple[int, ...] = ()
    scores: tuple[int, ...] = ()
    score_correct: tuple[int, ...] = ()
    score_sums: tuple[float, ...] = ()
    error_count: int = 0
    errors: tuple[float, float, float] = (0.0, 0.0, 0.0)
    refused: Refused = Refused()


@dataclass(frozen=True, slots=True)
class Interval:
    """A value, and between what it is with 95 % confidence."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Regression:
    """Errors of a regression: the mean is the bias; an error is the answer less the label."""

    mean: Interval
    absolute: Interval
    root_mean_square: float


def of_record(record: PerformanceTelemetry) -> PerformanceSums:
    """Return the sums of one record. What does not add up in it is left out: a device may say anything."""
    labelled = min(record.labelled_count, MAX_COUNTED)
    told = record.refused
    refused = Refused(
        *(
            min(count, MAX_COUNTED)
            for count in (
                told.unknown_id,
                told.already_labelled,
                told.wrong_type,
                told.other_version,
            )
        )
        if told is not None
        else ()
    )
    if record.errors is not None:
        errors = record.errors
        return PerformanceSums(
            labelled_count=labelled,
            error_count=labelled,
            errors=(errors.error, errors.absolute, errors.squared),
            refused=refused,
        )
    scores = record.scores if sum(record.scores) <= labelled else ()
    padded = zip(scores, (*record.score_correct, *(0,) * 20), strict=False)
    sums = zip(scores, (*record.score_sums, *(0.0,) * 20), strict=False)
    return PerformanceSums(
        labelled_count=labelled,
        correct_count=min(record.correct_count, labelled),
        confusion=record.confusion if sum(record.confusion) <= labelled else (),
        scores=scores,
        score_correct=tuple(min(rows, right) for rows, right in padded),
        score_sums=tuple(min(float(rows), total) for rows, total in sums),
        refused=refused,
    )


def merged(one: PerformanceSums, other: PerformanceSums) -> PerformanceSums:
    """Return the sums of both, see `counts.added`."""
    a, b, c, d = one.refused, other.refused, one.errors, other.errors
    return PerformanceSums(
        labelled_count=added(one.labelled_count, other.labelled_count),
        correct_count=added(one.correct_count, other.correct_count),
        confusion=added_each(one.confusion, other.confusion),
        scores=added_each(one.scores, other.scores),
        score_correct=added_each(one.score_correct, other.score_correct),
        score_sums=tuple(
            a + b for a, b in zip_longest(one.score_sums, other.score_sums, fillvalue=0.0)
        ),
        error_count=added(one.error_count, other.error_count),
        errors=(c[0] + d[0], c[1] + d[1], c[2] + d[2]),
        refused=Refused(
            added(a.unknown_id, b.unknown_id),
            added(a.already_labelled, b.already_labelled),
            added(a.wrong_type, b.wrong_type),
            added(a.other_version, b.other_version),
        ),
    )


def accuracy(sums: PerformanceSums) -> Interval | None:
    """Return the share of labelled rows that were right; None of a regression, and without any."""
    rows = sums.labelled_count - sums.error_count
    return wilson(sums.correct_count, rows) if rows > 0 else None


def wilson(hits: float, rows: float, z: float = Z_95) -> Interval:
    """Return a share with Wilson's score interval (1927, JASA 22; Brown, Cai, DasGupta, 2001).

    It holds for few rows, and where all or none are right. Rows that resemble each other are worth fewer
    than they are: then it is too narrow.

    Args:
        hits: 0 to `rows`.
        rows: Above 0.
        z: Quantile of the standard normal distribution.
    """
    share = hits / rows
    scale = 1 + z * z / rows
    centre = (share + z * z / (2 * rows)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / rows + z * z / (4 * rows * rows))
    return Interval(share, max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half)))


def calibration_error(sums: PerformanceSums) -> float | None:
    """Return the expected calibration error; None without scores.

    The mean over rows of how far, in a row's score bin, the share that is right is from the mean score
    (Naeini, Cooper, Hauskrecht, 2015; Guo et al., 2017). Of few rows chance alone makes one.
    """
    rows = sum(sums.scores)
    if not rows:
        return None
    gaps = zip_longest(sums.score_correct, sums.score_sums, fillvalue=0)
    return sum(abs(right - total) for right, total in gaps) / rows


def confusion_rows(sums: PerformanceSums, side: int) -> tuple[tuple[int, ...], ...]:
    """Return the confusion as rows by answer, columns by label; nothing where it is of another side."""
    if not sums.confusion or len(sums.confusion) > side * side:
        return ()
    cells = sums.confusion + (0,) * (side * side - len(sums.confusion))
    return tuple(cells[start : start + side] for start in range(0, side * side, side))


def regression(sums: PerformanceSums) -> Regression | None:
    """Return the errors of a regression; None of classes, and without labels.

    Intervals are mean and 1.96 standard errors, so good for some dozen rows and more.
    """
    rows = sums.error_count
    if not rows:
        return None
    mean, absolute, square = (total / rows for total in sums.errors)
    return Regression(
        mean=_mean_interval(mean, square, rows),
        absolute=_mean_interval(absolute, square, rows),
        root_mean_square=math.sqrt(max(0.0, square)),
    )


def _mean_interval(mean: float, mean_square: float, rows: int) -> Interval:
    half = Z_95 * math.sqrt(max(0.0, mean_square - mean * mean) / rows)
    return Interval(mean, mean - half, mean + half)
