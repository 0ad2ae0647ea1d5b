"""What a benchmark returns: samples of ours beside samples of a peer or a floor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any


@dataclass(frozen=True, slots=True)
class Line:
    """One comparison.

    Attributes:
        what: The quantity.
        unit: Of the samples.
        ours: One sample per run.
        other: Name of the peer or floor; empty for a number that stands alone.
        others: Its samples, taken in turns with ours.
        better: "lower", "higher" or, where neither is, "".
    """

    what: str
    unit: str
    ours: Sequence[float]
    other: str = ""
    others: Sequence[float] = ()
    better: str = "lower"

    @property
    def ratio(self) -> float | None:
        """Ours over the other's: the median over the pairs, where runs were paired."""
        if not self.ours or not self.others:
            return None
        if len(self.ours) == len(self.others) and all(self.others):
            return median(a / b for a, b in zip(self.ours, self.others, strict=True))
        return median(self.ours) / median(self.others) if median(self.others) else None


@dataclass(slots=True)
class Outcome:
    """A benchmark's result.

    Attributes:
        title: What was measured, as a heading.
        how: How, in a few sentences that do not depend on the numbers.
        lines: The table.
        why: What stands between us and the peer or the floor, as it was found by profiling.
        notes: Facts of this very run that the table has no room for.
        versions: Of the programs that took part and are not in our environment.
    """

    title: str
    how: str
    lines: list[Line] = field(default_factory=list)
    why: str = ""
    notes: list[str] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return the form that is kept."""
        return asdict(self)


def outcome_of(kept: dict[str, Any]) -> Outcome:
    """Return what `as_json` was made of."""
    lines = [Line(**line) for line in kept["lines"]]
    return Outcome(**{**kept, "lines": lines})


def in_words(value: float) -> str:
    """Return a number with three significant digits, or as a whole when it is large."""
    if value == 0 or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def spread(samples: Sequence[float]) -> str:
    """Return median, and minimum to maximum where there is more than one sample."""
    if not samples:
        return ""
    text = in_words(median(samples))
    if len(samples) == 1 or min(samples) == max(samples):
        return text
    return f"{text} ({in_words(min(samples))} to {in_words(max(samples))})"


def header() -> list[str]:
    """Return the titles of the columns."""
    return ["", "unit", "better", "ours", "compared with", "its", "ours / its", "runs"]


def cells(line: Line) -> list[str]:
    """Return a line of the table."""
    ratio = line.ratio
    counts = {len(line.ours), len(line.others)} - {0}
    return [
        line.what,
        line.unit,
        line.better,
        spread(line.ours),
        line.other,
        spread(line.others),
        "" if ratio is None else f"{in_words(ratio)}",
        "/".join(str(count) for count in sorted(counts)),
    ]
