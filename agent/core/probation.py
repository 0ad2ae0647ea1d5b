"""Probation: evidence in, verdict out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from wire.latency import latency_quantile
from wire.lifecycle import Code

from . import guards as g
from .states import OnProbation


class Verdict(Enum):
    """What the evidence of a probation says so far."""

    KEEP_WATCHING = "keep_watching"
    CONFIRM = "confirm"
    CHECK_GOLDEN = "check_golden"


@dataclass(frozen=True, slots=True)
class Breach:
    """A guard is breached; `code` is the guard's."""

    code: Code
    detail: str


@dataclass(frozen=True, slots=True)
class Doubt:
    """Something is over its limit; `is_proven` says whether to wait for more evidence."""

    breach: Breach
    is_proven: bool = True


def judge(trial: OnProbation) -> Verdict | Breach:
    """Return the verdict on a model that serves on trial.

    A model that is over a limit is not confirmed. It is condemned when the evidence suffices, such
    as `min_requests` for a share of failures, and otherwise watched on, to be condemned at `max_s`
    if it still is over the limit then. Without the traffic that the rule asks for, the golden rows
    decide at `max_s`.
    """
    rule = trial.assignment.probation
    is_late = trial.served_s >= rule.max_s
    doubts = list(_doubts(trial))
    for doubt in doubts:
        if doubt.is_proven or is_late:
            return doubt.breach
    good_count = trial.request_count - trial.failure_count - trial.non_finite_count
    if good_count >= rule.min_inferences and not doubts and trial.served_s >= rule.min_s:
        return Verdict.CONFIRM
    return Verdict.CHECK_GOLDEN if is_late else Verdict.KEEP_WATCHING


def _doubts(trial: OnProbation) -> Iterator[Doubt]:
    guards, total = trial.assignment.guards, trial.request_count
    has_enough = total >= guards.min_requests
    if trial.failure_count > guards.error_ratio * total:
        detail = f"{trial.failure_count} of {total} requests failed"
        yield Doubt(Breach(Code.ERROR_RATIO, detail), has_enough)
    if trial.non_finite_count > guards.non_finite_ratio * total:
        detail = f"{trial.non_finite_count} of {total} answers were NaN or infinite"
        yield Doubt(Breach(Code.NON_FINITE, detail), has_enough)
    yield from _latency_doubts(trial, has_enough=has_enough)
    limit = g.growth_limit_bytes(trial.memory, guards.memory_growth_mb, trial.facts.memory_mb)
    if (growth := g.growth_bytes(trial.memory)) > limit:
        detail = f"memory grew by {growth >> 20} MB after the warm-up, {limit >> 20} MB allowed"
        yield Doubt(Breach(Code.MEMORY_GROWTH, detail))
    shift = trial.shift
    if guards.output_psi is not None and shift is not None and shift.excess > guards.output_psi:
        detail = f"{shift.column}: PSI {shift.psi:.3g} after {shift.row_count} rows"
        yield Doubt(Breach(Code.OUTPUT_DRIFT, detail))


def _latency_doubts(trial: OnProbation, *, has_enough: bool) -> Iterator[Doubt]:
    """Compare with what was declared, and with the release before on this device.

    A machine that is busy with something else for a while makes any model slow. So only one with
    half of enough requests over the limit is condemned as soon as the shortest trial is over. A model
    so slow that few requests were answered has until the end of the longest one.
    """
    guards, reference_ms = trial.assignment.guards, trial.reference_p99_ms
    budget_ms = guards.p99_ms if guards.p99_ms is not None else trial.facts.p99_ms
    limits: list[tuple[Code, float, str]] = []
    if budget_ms is not None:
        limits.append((Code.LATENCY_BUDGET, budget_ms, "allowed"))
    if reference_ms is not None:
        limit_ms = g.ratio_limit_ms(reference_ms, guards.p99_ratio)
        limits.append((Code.LATENCY_RATIO, limit_ms, f"allowed after {reference_ms:.3g} ms before"))
    for code, limit_ms, words in limits:
        if g.is_p99_above(trial.latency, limit_ms):
            p99_ms = latency_quantile(trial.latency, 0.99)
            is_over = trial.served_s >= trial.assignment.probation.min_s
            detail = f"p99 {p99_ms:.3g} ms, {limit_ms:.3g} ms {words}"
            is_proven = has_enough and is_over and g.is_median_above(trial.latency, limit_ms)
            yield Doubt(Breach(code, detail), is_proven)
