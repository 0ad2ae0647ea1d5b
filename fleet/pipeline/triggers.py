"""What a project's file says of training again: what starts a run by itself, and how much of it may be."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fleet.core.retraining import Policy

from .project import Retrain, load_project

_UNITS_MS: Final = {"h": 3_600_000, "d": 86_400_000}


@dataclass(frozen=True, slots=True)
class Watched:
    """A project as its triggers see it.

    Attributes:
        root: Its folder.
        model: The model's name.
        is_auto: Whether a blessed model goes on to its rollout without a person.
        policy: `[retrain]`.
    """

    root: Path
    model: str
    is_auto: bool
    policy: Policy


def read_watched(root: Path) -> Watched:
    """Read what triggers must know of a project.

    Raises:
        ConfigError: As `load_project`.
    """
    project = load_project(root)
    return Watched(root, project.model.name, project.rollout.auto, _policy(project.retrain))


def _policy(section: Retrain) -> Policy:
    count, _, span = section.budget.partition(" per ")
    return Policy(
        on=frozenset(section.on),
        every_ms=round(section.every_s * 1000) if section.every_s is not None else None,
        cooldown_ms=round(section.cooldown_s * 1000),
        budget_count=int(count),
        budget_ms=int(span[:-1]) * _UNITS_MS[span[-1]],
        min_accuracy=section.min_accuracy,
    )
