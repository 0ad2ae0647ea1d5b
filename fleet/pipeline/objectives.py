"""What a search is for: which trials nothing beats, and which of them is taken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from .predictions import FloatArray
from .search import Parameters

State = Literal["complete", "pruned", "failed"]


@dataclass(frozen=True, slots=True)
class Objective:
    """One figure that a search makes large or small.

    Attributes:
        metric: Of the validation rows, or `bytes`, `p99_ms`, `memory_mb` of the converted model.
        direction: What is better.
        slack: How much worse than the best a trial may be in this and still be taken for what it is
            better in; in the figure's unit.
    """

    metric: str
    direction: Literal["maximize", "minimize"] = "maximize"
    slack: float = 0.0


@dataclass(frozen=True, slots=True)
class Trial:
    """One set of parameters, and what came of it.

    Attributes:
        number: Counted from 0, in the order of trying.
        state: `pruned` was stopped because it fell behind; `failed` has a reason.
        parameters: What was tried.
        values: One an objective; none unless it is complete.
        reason: Why it failed.
        reported: The first objective's mean over the first 1, 2, … folds, as far as it came.
    """

    number: int
    state: State
    parameters: Parameters
    values: tuple[float, ...] = ()
    reason: str = ""
    reported: tuple[float, ...] = ()


def front_of(trials: Sequence[Trial], objectives: Sequence[Objective]) -> tuple[Trial, ...]:
    """Return the complete trials that no other one beats (Pareto).

    One beats another that is at least as good in all objectives, and better in one.
    """
    complete = [trial for trial in trials if trial.state == "complete"]
    if not complete:
        return ()
    costs = _costs(complete, objectives)
    kept = []
    for trial, cost in zip(complete, costs, strict=True):
        if not ((costs <= cost).all(axis=1) & (costs < cost).any(axis=1)).any():
            kept.append(trial)
    return tuple(kept)


def choose(trials: Sequence[Trial], objectives: Sequence[Objective]) -> Trial | None:
    """Return the trial to take, or None where none is complete.

    Objectives count in their order: of the trials that nothing beats, those within the first one's
    slack of the best in it; of these the same by the next, and so on; of what is left the first tried
    (the lexicographic method with relaxation; Marler and Arora, Structural and Multidisciplinary
    Optimization 26, 2004, section 3.3).
    """
    left = list(front_of(trials, objectives))
    if not left:
        return None
    for position, objective in enumerate(objectives):
        costs = _costs(left, objectives)[:, position]
        best = float(costs.min())
        left = [
            trial
            for trial, cost in zip(left, costs.tolist(), strict=True)
            if cost <= best + objective.slack
        ]
    return min(left, key=lambda trial: trial.number)


def rule_of(objectives: Sequence[Objective]) -> str:
    """Return how one is taken, in a sentence."""
    steps = []
    for objective in objectives:
        extreme = "largest" if objective.direction == "maximize" else "smallest"
        within = f" within {objective.slack:g} of it" if objective.slack else ""
        steps.append(f"the {extreme} {objective.metric}{within}")
    return f"Of the trials that nothing beats, {'; of these '.join(steps)}; of equals the first."


def _costs(trials: Sequence[Trial], objectives: Sequence[Objective]) -> FloatArray:
    signs = [-1.0 if objective.direction == "maximize" else 1.0 for objective in objectives]
    values = np.array([trial.values for trial in trials], np.float64)
    return np.asarray(values * np.array(signs))
