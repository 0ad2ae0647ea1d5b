"""May a model be released? Every limit is judged, and every judgement is a reason in a sentence.

A limit is met when the whole interval is on its good side: the lower end for a smallest value, the
upper for a largest. It is broken when the whole interval that holds for all limits at once is on its
bad side. Between the two the rows do not tell, and that is said. One broken limit refuses; without
one, a limit that is not met leaves the verdict open; only a model that meets all is blessed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

from wire.errors import ConfigError

from .comparison import Comparison
from .evaluation import ALL, Evaluation, Figure

Outcome = Literal["bless", "refuse", "inconclusive"]
Bounds = Mapping[str, float | None]
"""`min`, `max` or both."""

COSTS: Final = ("bytes", "p50_ms", "p99_ms", "batch_p99_ms", "memory_mb")
"""Of the converted model; measured, not estimated from rows."""
_UNITS: Final = {"bytes": "bytes", "memory_mb": "MB"} | dict.fromkeys(
    ("p50_ms", "p99_ms", "batch_p99_ms"), "ms"
)
_FAULTS: Final = {
    "too_few_rows": "has too few rows there ({rows})",
    "not_finite": "has no value: an answer is not finite",
    "undefined": "is not defined there, as where all rows are of one class",
    "no_scores": "cannot be measured: the model gives no probabilities",
    "unknown_class": "cannot be measured: no row and no answer is of this class",
    "not_resampled": "has a value but no interval",
}


@dataclass(frozen=True, slots=True)
class Limit:
    """What a figure must be.

    Attributes:
        metric: Its name.
        slice: All rows (empty), one slice (`site=lab`), or a column (`site`): each slice by it.
        is_change: Of the challenger's less the champion's, instead of the challenger's.
        min: Smallest value, or None.
        max: Largest value, or None.
    """

    metric: str
    slice: str = ALL
    is_change: bool = False
    min: float | None = None
    max: float | None = None


@dataclass(frozen=True, slots=True)
class Reason:
    """One judgement.

    Attributes:
        code: `within`, `broken`, `unclear`, the fault of a figure, `no_slice`, `no_champion`,
            `no_limits` or `not_measured`.
        outcome: What it alone would lead to; `note` leads to nothing.
        sentence: For a person.
        metric: Of the limit; empty where it is about none.
        slice: Of the figure.
        is_change: Whether it is about the difference to the champion.
        value: The figure.
        low: The end of the interval that was judged, or both for what is unclear.
        high: The same.
        limit: That it was held against.
    """

    code: str
    outcome: Outcome | Literal["note"]
    sentence: str
    metric: str = ""
    slice: str = ALL
    is_change: bool = False
    value: float | None = None
    low: float | None = None
    high: float | None = None
    limit: float | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What follows from all reasons; those that decided it come first."""

    outcome: Outcome
    reasons: tuple[Reason, ...]

    @property
    def deciding(self) -> tuple[Reason, ...]:
        """The reasons for the outcome."""
        return tuple(reason for reason in self.reasons if reason.outcome == self.outcome)

    def to_json(self) -> dict[str, Any]:
        """Return it as what `json.dumps` takes."""
        return asdict(self)


def read_limits(
    thresholds: Mapping[str, Bounds],
    change: Mapping[str, Bounds],
    slices: Mapping[str, Mapping[str, Bounds]],
    slice_change: Mapping[str, Mapping[str, Bounds]] | None = None,
) -> tuple[Limit, ...]:
    """Return the limits that `[evaluate]` declares.

    `min` of a change is how much worse the challenger may be and still pass, a margin of
    non-inferiority: -0.01 allows to lose one point, 0 asks for proof that it is at least as good.

    Args:
        thresholds: By metric, for all rows.
        change: By metric, of the difference to the champion, for all rows.
        slices: By slice or column, then by metric.
        slice_change: The same of differences.

    Raises:
        ConfigError: `limit_invalid`, naming the key.
    """
    groups = [("thresholds", ALL, False, thresholds), ("change", ALL, True, change)]
    groups += [(f"slices.{name}", name, False, given) for name, given in slices.items()]
    groups += [
        (f"slice_change.{name}", name, True, given) for name, given in (slice_change or {}).items()
    ]
    limits = []
    for where, slice_name, is_change, given in groups:
        for metric, ends in given.items():
            low, high = ends.get("min"), ends.get("max")
            if set(ends) - {"min", "max"} or (low is None and high is None):
                raise _invalid(where, metric, "give min, max or both")
            if any(end is not None and abs(end) == float("inf") for end in (low, high)):
                raise _invalid(where, metric, "a limit must be finite")
            if low is not None and high is not None and low > high:
                raise _invalid(where, metric, "min is above max")
            limits.append(Limit(metric, slice_name, is_change, low, high))
    return tuple(limits)


def metrics_of(limits: Sequence[Limit], *, is_change: bool) -> tuple[str, ...]:
    """Return the metrics that limits are about and rows decide, to have them measured."""
    return tuple(
        dict.fromkeys(
            limit.metric
            for limit in limits
            if limit.is_change == is_change and limit.metric not in COSTS
        )
    )


def judged_count(limits: Sequence[Limit], slices: Sequence[str]) -> int:
    """Return how many figures limits are held against, for `Sureness.judged_count`."""
    return max(
        1,
        sum(
            len(_slices_of(limit, slices)) * ((limit.min is not None) + (limit.max is not None))
            for limit in limits
            if limit.metric not in COSTS
        ),
    )


def decide(
    evaluation: Evaluation,
    comparison: Comparison | None,
    limits: Sequence[Limit],
    *,
    costs: Mapping[str, float] | None = None,
    champion_costs: Mapping[str, float] | None = None,
) -> Verdict:
    """Judge a model by all limits.

    Args:
        evaluation: Of the converted model.
        comparison: With the champion; None where there is none, which is said.
        limits: From `read_limits`.
        costs: Of the converted model, by the names in `COSTS`.
        champion_costs: Of the champion, for limits of changes.
    """
    reasons: list[Reason] = []
    if comparison is None:
        wanted = sum(limit.is_change for limit in limits)
        left = f"; {wanted} limits of change were not judged" if wanted else ""
        reasons.append(
            Reason("no_champion", "note", f"There is no champion to compare with{left}.")
        )
    for limit in limits:
        if limit.metric in COSTS:
            reasons += _judge_cost(limit, comparison, costs or {}, champion_costs or {})
        elif not limit.is_change:
            reasons += _judge_slices(limit, evaluation.figures)
        elif comparison is not None:
            reasons += _judge_slices(limit, comparison.changes)
    if not any(reason.outcome != "note" for reason in reasons):
        reasons.append(
            Reason(
                "no_limits",
                "inconclusive",
                "No limit was judged, so nothing speaks for the model: declare [evaluate] thresholds.",
            )
        )
    outcomes = {reason.outcome for reason in reasons}
    order: tuple[Outcome, ...] = ("refuse", "inconclusive", "bless")
    outcome = next(outcome for outcome in order if outcome in outcomes)
    ranks = {name: rank for rank, name in enumerate((*order, "note"))}
    return Verdict(outcome, tuple(sorted(reasons, key=lambda reason: ranks[reason.outcome])))


def _judge_slices(limit: Limit, figures: Sequence[Figure]) -> list[Reason]:
    known = tuple(dict.fromkeys(figure.slice for figure in figures))
    names = _slices_of(limit, known)
    found = [f for f in figures if f.metric == limit.metric and f.slice in names]
    if not found:
        where = _where(limit.slice)
        code, why = (
            ("not_measured", "was not measured") if names else ("no_slice", "has no rows to judge")
        )
        sentence = f"{_subject(limit, limit.slice)} {why}: the limit {where} was not judged."
        return [Reason(code, "inconclusive", sentence, limit.metric, limit.slice, limit.is_change)]
    return [reason for figure in found for reason in _judge(limit, figure)]


def _judge(limit: Limit, figure: Figure) -> list[Reason]:
    subject = _subject(limit, figure.slice)
    about = (limit.metric, figure.slice, limit.is_change)
    if figure.fault:
        why = _FAULTS[figure.fault].format(rows=figure.row_count)
        outcome: Outcome = "refuse" if figure.fault == "not_finite" else "inconclusive"
        return [Reason(figure.fault, outcome, f"{subject} {why}.", *about, figure.value)]
    return [
        _judge_end(end, figure, subject, about, is_smallest=is_smallest)
        for end, is_smallest in ((limit.min, True), (limit.max, False))
        if end is not None
    ]


def _judge_end(
    end: float, figure: Figure, subject: str, about: tuple[str, str, bool], *, is_smallest: bool
) -> Reason:
    low, high, low_all, high_all = (
        _known(x) for x in (figure.low, figure.high, figure.low_all, figure.high_all)
    )
    wanted = f"at least {_text(end)}" if is_smallest else f"at most {_text(end)}"
    code = "unclear"
    outcome: Outcome = "inconclusive"
    rest = f"that it is {wanted} is neither shown nor refuted"
    if high_all < end if is_smallest else low_all > end:
        code, outcome, rest = "broken", "refuse", f"surely not {wanted}"
        low, high = low_all, high_all
    elif low >= end if is_smallest else high <= end:
        code, outcome, rest = "within", "bless", f"surely {wanted}"
    sentence = (
        f"{subject} is {_text(figure.value)} ({_text(low)} to {_text(high)}, "
        f"{figure.row_count} rows): {rest}."
    )
    return Reason(code, outcome, sentence, *about, figure.value, low, high, end)


def _judge_cost(
    limit: Limit,
    comparison: Comparison | None,
    costs: Mapping[str, float],
    champion_costs: Mapping[str, float],
) -> list[Reason]:
    if limit.is_change and comparison is None:
        return []
    about = (limit.metric, limit.slice, limit.is_change)
    is_known = limit.metric in costs and (not limit.is_change or limit.metric in champion_costs)
    subject = _subject(limit, ALL).removesuffix(" on all rows")
    if not is_known:
        sentence = f"{subject} was not measured."
        return [Reason("not_measured", "inconclusive", sentence, *about)]
    value = costs[limit.metric] - (champion_costs[limit.metric] if limit.is_change else 0)
    reasons = []
    for end, is_smallest in ((limit.min, True), (limit.max, False)):
        if end is None:
            continue
        is_met = value >= end if is_smallest else value <= end
        wanted = "at least" if is_smallest else "at most"
        sentence = f"{subject} is {_text(value)} {_UNITS[limit.metric]}, and must be {wanted} {_text(end)}."
        reasons.append(
            Reason(
                "within" if is_met else "broken", "bless" if is_met else "refuse",
                sentence, *about, value, value, value, end,
            )
        )  # fmt: skip
    return reasons


def _slices_of(limit: Limit, slices: Sequence[str]) -> tuple[str, ...]:
    """Return the slices that a limit is about: one by its name, or all by these columns."""
    if limit.slice in slices:
        return (limit.slice,)
    columns = sorted(limit.slice.split(","))
    return tuple(
        name
        for name in slices
        if name and [part.partition("=")[0] for part in name.split(",")] == columns
    )


def _subject(limit: Limit, slice_name: str) -> str:
    change = "the change of " if limit.is_change else ""
    return f"{change}{limit.metric} on {_where(slice_name)}"


def _where(slice_name: str) -> str:
    return slice_name or "all rows"


def _text(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.6g}" if abs(value) >= 1 else f"{value:.4g}"


def _known(value: float | None) -> float:
    if value is None:
        raise RuntimeError("a figure without a fault has an interval")
    return value


def _invalid(where: str, metric: str, why: str) -> ConfigError:
    return ConfigError(f"[evaluate] {where}.{metric}: {why}", code="limit_invalid")
