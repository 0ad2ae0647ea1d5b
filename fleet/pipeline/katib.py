"""A Katib Experiment as a search: its parameters, its objective and its counts.

Katib itself needs a cluster. What of an experiment is about the cluster is passed over; what cannot be
searched as it is written is said in a note. The format is `pkg/apis/controller/experiments/v1beta1`
of kubeflow/katib.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from wire.codec import first_fault
from wire.errors import ConfigError

from .objectives import Objective
from .search import MAX_PARAMETERS, Choice, Range, Value, make_choice, make_range

MAX_KATIB_BYTES: Final = 256 * 1024
_ALIKE: Final = ("tpe", "multivariate-tpe")
Text = Annotated[str, Field(max_length=256)]
Number = Annotated[str, Field(max_length=64, coerce_numbers_to_str=True)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class _Feasible(_Part):
    min: Number | None = None
    max: Number | None = None
    step: Number | None = None
    list: Annotated[tuple[Number, ...], Field(max_length=1000, fail_fast=True)] = ()
    distribution: Text = "uniform"


class _Parameter(_Part):
    name: Annotated[str, Field(pattern=r"^[^\s\x00-\x1f]{1,64}$")]
    type: Annotated[
        Literal["double", "int", "discrete", "categorical"], Field(alias="parameterType")
    ]
    space: Annotated[_Feasible, Field(alias="feasibleSpace")]


class _Objective(_Part):
    type: Literal["maximize", "minimize"]
    metric: Annotated[Text, Field(alias="objectiveMetricName")]
    goal: float | None = None


class _Algorithm(_Part):
    name: Annotated[Text, Field(alias="algorithmName")] = "tpe"


class _Spec(_Part):
    parameters: Annotated[
        tuple[_Parameter, ...], Field(min_length=1, max_length=MAX_PARAMETERS, fail_fast=True)
    ]
    objective: _Objective
    algorithm: _Algorithm = _Algorithm()
    jobs: Annotated[int | None, Field(alias="parallelTrialCount", ge=1, le=64)] = None
    trials: Annotated[int | None, Field(alias="maxTrialCount", ge=1, le=10_000)] = None
    early_stopping: object = Field(None, alias="earlyStopping")


class _Experiment(_Part):
    api: Annotated[Literal["kubeflow.org/v1beta1"], Field(alias="apiVersion")]
    kind: Literal["Experiment"]
    spec: _Spec


@dataclass(frozen=True, slots=True)
class Katib:
    """What an experiment asks for.

    Attributes:
        space: Of its parameters.
        objective: Of its objective.
        trials: How many at most, or None where it does not say.
        jobs: How many at once, or None.
        notes: What is searched otherwise than it is written, a sentence each.
    """

    space: dict[str, Range | Choice]
    objective: Objective
    trials: int | None
    jobs: int | None
    notes: tuple[str, ...]


def read_katib(text: str) -> Katib:
    """Return the search that a Katib Experiment (YAML) describes.

    Raises:
        ConfigError: `katib_invalid`, naming the key; `search_invalid` for a range that makes no sense.
    """
    if len(text) > MAX_KATIB_BYTES:
        raise _invalid("the experiment is over 256 KiB")
    try:
        # libyaml: the reader in Python takes minutes for some thousand brackets, this one stops at 1000.
        experiment = _Experiment.model_validate(yaml.load(text, Loader=yaml.CSafeLoader))
    except (yaml.YAMLError, RecursionError, ValueError) as exc:
        why = first_fault(exc) if isinstance(exc, ValidationError) else "it is no YAML"
        raise _invalid(why) from exc
    spec = experiment.spec
    notes: list[str] = []
    if spec.algorithm.name not in _ALIKE:
        notes.append(
            f"The algorithm {spec.algorithm.name} is not Optuna's TPE, which searches here."
        )
    if spec.objective.goal is not None:
        notes.append(
            f"The goal {spec.objective.goal:g} does not end the search: all trials are made."
        )
    if spec.early_stopping is not None:
        notes.append("earlyStopping prunes nothing here: [tune] folds does, by the median.")
    space: dict[str, Range | Choice] = {}
    for parameter in spec.parameters:
        if parameter.name in space:
            raise _invalid(f"the parameter {parameter.name} is there twice")
        space[parameter.name] = _read(parameter, notes)
    return Katib(
        space,
        Objective(spec.objective.metric, spec.objective.type),
        spec.trials,
        spec.jobs,
        tuple(notes),
    )


def _read(parameter: _Parameter, notes: list[str]) -> Range | Choice:
    where, space = f"parameter {parameter.name}", parameter.space
    if parameter.type in ("discrete", "categorical"):
        texts: tuple[Value, ...] = space.list
        if parameter.type == "discrete":
            texts = tuple(_number(where, text) for text in space.list)
        return make_choice(where, texts)
    if space.min is None or space.max is None:
        raise _invalid(f"{where}: feasibleSpace needs min and max")
    is_log = space.distribution in ("logUniform", "logNormal")
    if space.distribution in ("normal", "logNormal"):
        notes.append(f"{parameter.name} is searched evenly, not by {space.distribution}.")
    elif space.distribution not in ("uniform", "logUniform"):
        raise _invalid(f"{where}: there is no distribution {space.distribution}")
    step = _number(where, space.step) if space.step is not None else None
    if is_log and step is not None:
        notes.append(f"{parameter.name} has no step: it is searched by factors.")
        step = None
    low, high = _number(where, space.min), _number(where, space.max)
    return make_range(where, low, high, is_whole=parameter.type == "int", is_log=is_log, step=step)


def _number(where: str, text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        pass
    try:
        value = float(text)
    except ValueError as exc:
        raise _invalid(f"{where}: {text[:40]!r} is no number") from exc
    if value in (float("inf"), float("-inf")) or value != value:  # noqa: PLR0124 - NaN
        raise _invalid(f"{where}: {text} is not finite")
    return value


def _invalid(why: str) -> ConfigError:
    return ConfigError(
        f"this is no Katib Experiment that can be searched: {why}",
        code="katib_invalid",
        hint="it takes the parameters and the objective of a kubeflow.org/v1beta1 Experiment",
    )
