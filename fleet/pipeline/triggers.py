"""`[retrain]` of `pipeline.toml`: what starts a run by itself, and how much of that there may be."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from fleet.core.retraining import Policy
from fleet.section import Section
from wire.codec import first_fault
from wire.errors import ConfigError
from wire.ids import ModelName

FILE_NAME: Final = "pipeline.toml"
MAX_FILE_BYTES: Final = 1024 * 1024
_UNITS_MS: Final = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


def _in_ms(value: object) -> object:
    found = re.fullmatch(r"([0-9]{1,6})([smhd])", value) if isinstance(value, str) else None
    if found is None:
        raise ValueError(f'{value!r} is no duration; write it as "30s", "10m", "24h" or "7d"')
    return int(found[1]) * _UNITS_MS[found[2]]


Span = Annotated[int, BeforeValidator(_in_ms), Field(gt=0)]
"""Milliseconds, written as a duration."""


class Retrain(Section):
    """`[retrain]`."""

    on: tuple[Literal["drift", "accuracy", "schedule"], ...] = ()
    every_ms: Span | None = Field(None, alias="every")
    """After how long `schedule` calls for a run."""
    cooldown_ms: Span = Field(86_400_000, alias="cooldown")
    """How long after the end of a run none is started."""
    budget: Annotated[str, Field(pattern=r"^[1-9][0-9]{0,3} per [1-9][0-9]{0,3}[hd]$")] = (
        "4 per 30d"
    )
    min_accuracy: Annotated[float, Field(ge=0, le=1)] | None = None
    """A measured accuracy that is certainly below calls for a run."""

    @property
    def policy(self) -> Policy:
        """The same for `fleet.core.retraining`."""
        count, _, span = self.budget.partition(" per ")
        return Policy(
            on=frozenset(self.on),
            every_ms=self.every_ms,
            cooldown_ms=self.cooldown_ms,
            budget_count=int(count),
            budget_ms=int(span[:-1]) * _UNITS_MS[span[-1]],
            min_accuracy=self.min_accuracy,
        )


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class _Model(_Part):
    name: ModelName


class _Rollout(_Part):
    auto: bool = False


class _File(_Part):
    """What of the file is read here; the rest is the pipeline's, which checks it when it runs."""

    model: _Model
    rollout: _Rollout = _Rollout()
    retrain: Retrain = Retrain()


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
        ConfigError: `no_project` or `project_invalid`.
    """
    path = root / FILE_NAME
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
    except OSError as exc:
        raise ConfigError(
            f"cannot read {path}: {exc.strerror}",
            code="no_project",
            hint="name the folder of a project: it has a pipeline.toml",
        ) from exc
    if len(raw) > MAX_FILE_BYTES:
        raise ConfigError(f"{path} is over 1 MiB", code="project_invalid")
    try:
        found = _File.model_validate(tomllib.loads(raw.decode()))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise ConfigError(f"{path}: {exc}", code="project_invalid") from exc
    except ValidationError as exc:
        raise ConfigError(
            f"{path}: {first_fault(exc)}", code="project_invalid", hint=f"correct {FILE_NAME}"
        ) from exc
    return Watched(root, found.model.name, found.rollout.auto, found.retrain.policy)
