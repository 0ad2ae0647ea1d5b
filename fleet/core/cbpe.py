"""What accuracy to expect of answers whose labels are not there: an estimate from their scores alone.

Confidence-based performance estimation: a calibrated score says how likely an answer is right, so the mean
over answers is the expected accuracy. Devices send their highest class probabilities in 20 bins; how often
answers of a bin are right is learnt from the labelled reference rows, by isotonic regression.

**It is no accuracy.** It holds only while P(y|x) is unchanged: where the world moves under the model, so
that the same inputs now mean something else, the scores stay as they are, and so does the estimate. It holds
for other inputs than those of the reference as far as scores mean the same there. And it is as good as the
reference's labels: rows that the model was trained on make it too high.

Bins of the highest score do not say of which class it is, so that no cell of a confusion follows from them,
nor what needs one, such as recall or F1.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from .performance import Z_95, Interval

Verdict = Literal["estimated", "no_scores", "not_calibrated", "too_few_rows"]

CAVEAT: Final = "estimate, valid only if P(y|x) is unchanged"
MIN_ROWS: Final = 100
"""The interval takes a sum of so many to be normal; at 95 % right, five of them are wrong."""
MIN_REFERENCE_ROWS: Final = 100
"""The same, for the rows that calibrate."""
BIN_ERROR: Final = 0.003
"""How far 20 bins were off from single scores; what they add to the interval's half."""


@dataclass(frozen=True, slots=True)
class Level:
    """Neighbouring score bins whose answers are taken to be right equally often.

    Attributes:
        first: The first bin; `last` the last, both have reference rows.
        rows: Reference rows.
        right: Of these, those that were right.
    """

    first: int
    last: int
    rows: int
    right: int

    @property
    def share(self) -> float:
        """How often answers were right."""
        return self.right / self.rows

    @property
    def variance(self) -> float:
        """Of one row, with Jeffreys' prior: a level without a single error is not certain."""
        share = (self.right + 0.5) / (self.rows + 1)
        return share * (1 - share)


@dataclass(frozen=True, slots=True)
class Estimate:
    """What is to be expected of some rows. `accuracy` is None unless the verdict is `estimated`."""

    verdict: Verdict
    row_count: int
    accuracy: Interval | None = None


def calibrate(scores: Sequence[int], correct: Sequence[int]) -> tuple[Level, ...]:
    """Return how often answers are right by score, never falling; nothing of too few rows.

    Isotonic regression by pooling adjacent violators (Ayer et al., 1955; Zadrozny and Elkan, 2002).

    Args:
        scores: Labelled reference rows by score bin.
        correct: Of these, those that were right; empty where there were no labels.
    """
    if not correct or sum(scores) < MIN_REFERENCE_ROWS:
        return ()
    levels: list[Level] = []
    for place, (rows, right) in enumerate(zip(scores, correct, strict=False)):
        if rows <= 0:
            continue
        levels.append(Level(place, place, rows, min(rows, right)))
        while len(levels) > 1 and levels[-2].share >= levels[-1].share:
            upper, lower = levels.pop(), levels.pop()
            levels.append(
                Level(lower.first, upper.last, lower.rows + upper.rows, lower.right + upper.right)
            )
    return tuple(levels)


def estimate(
    scores: Sequence[int], levels: Sequence[Level], *, row_count: int, has_scores: bool = True
) -> Estimate:
    """Return the accuracy to expect of rows, with a 95 % interval for that which they really have.

    The interval is of the rows' own chance, and the reference's: `levels` are from a sample. Bins that the
    reference never saw are anywhere between their neighbours, since more score is no less right; that
    widens it without any confidence, and so does `BIN_ERROR`.

    Args:
        scores: The rows by score bin.
        levels: As `calibrate` returns them.
        row_count: Rows answered, with or without a score.
        has_scores: Whether the model answers probabilities at all.
    """
    total = sum(scores)
    if not has_scores:
        return Estimate("no_scores", row_count)
    if not levels:
        return Estimate("not_calibrated", row_count)
    if total < MIN_ROWS:
        return Estimate("too_few_rows" if total or not row_count else "no_scores", row_count)
    expected = unknown = of_rows = 0.0
    weights = [0.0] * len(levels)
    for place, rows in enumerate(scores):
        weight = rows / total
        above = bisect_left(levels, place, key=lambda level: level.last)
        level = levels[min(above, len(levels) - 1)]
        if level.first <= place <= level.last:
            low = high = level.share
            weights[above] += weight
        else:
            low = levels[above - 1].share if above else 0.0
            high = level.share if above < len(levels) else 1.0
        expected += weight * (low + high) / 2
        unknown += weight * (high - low) / 2
        of_rows += weight * level.variance / total
    of_reference = sum(
        weight * weight * level.variance / level.rows
        for weight, level in zip(weights, levels, strict=True)
    )
    half = Z_95 * math.sqrt(of_rows + of_reference) + unknown + BIN_ERROR
    interval = Interval(expected, max(0.0, expected - half), min(1.0, expected + half))
    return Estimate("estimated", total, interval)
