"""`pipeline.toml`: what a pipeline is, parsed once; an unknown key is an error."""

from __future__ import annotations

import math
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    FiniteFloat,
    JsonValue,
    ValidationError,
    model_validator,
)

from fleet.api.schemas import ProbationIn, RolloutIn
from fleet.section import Section
from wire.errors import ConfigError
from wire.ids import NAME_PATTERN, VERSION_PATTERN
from wire.manifest import MAX_MEMORY_MB

FILE_NAME: Final = "pipeline.toml"
CORRECT: Final = f"correct {FILE_NAME}; `fleet pipeline init DIR` writes one with every key in it"
MAX_FILE_BYTES: Final = 1024 * 1024
PARTS: Final = ("train", "validation", "test")
"""The parts of a split, in the order of their shares."""
SHARE_TOLERANCE: Final = 1e-9
"""What shares such as 0.7, 0.2 and 0.1 may be off 1 as floating-point numbers."""

_UNITS_S: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


def _seconds(value: object) -> object:
    """Return the seconds of a duration such as 10m."""
    text = value if isinstance(value, str) else ""
    found = re.fullmatch(r"([0-9]{1,6}(?:\.[0-9]{1,6})?)(ms|s|m|h|d)", text)
    if found is None:
        raise ValueError(f'{value!r} is no duration; write it as "30s", "10m" or "7d"')
    return float(found[1]) * _UNITS_S[found[2]]


def _finite(value: JsonValue) -> JsonValue:
    """Return the value, which is written as JSON: that knows no NaN and no infinity."""
    match value:
        case dict():
            for inner in value.values():
                _finite(inner)
        case list():
            for inner in value:
                _finite(inner)
        case float() if not math.isfinite(value):
            raise ValueError("a value must be finite")
        case _:
            pass
    return value


Duration = Annotated[float, BeforeValidator(_seconds), Field(gt=0)]
UpToAYear = Annotated[Duration, Field(le=86_400 * 365)]
"""The longest that the wire has."""
ColumnName = Annotated[str, Field(min_length=1, max_length=128)]
Settings = dict[str, Annotated[JsonValue, AfterValidator(_finite)]]


class Model(Section):
    """`[model]`: the line of models, and what its bundles declare."""

    name: Annotated[str, Field(pattern=NAME_PATTERN)]
    kind: Literal["classifier", "regressor"]
    device_class: Annotated[str, Field(max_length=64)] = "any"
    p99_ms: Annotated[float, Field(gt=0)] | None = None
    memory_mb: Annotated[int, Field(gt=0, le=MAX_MEMORY_MB)] | None = None
    nan_policy: Literal["reject", "pass"] = "reject"
    intended_use: Annotated[str, Field(max_length=4000)] = ""
    """For the model card."""
    limits: Annotated[str, Field(max_length=4000)] = ""
    """What it is not for; the same."""


class Split(Section):
    """Shares of the rows."""

    train: Annotated[float, Field(gt=0, lt=1)] = 0.7
    validation: Annotated[float, Field(ge=0, lt=1)] = 0.15
    test: Annotated[float, Field(gt=0, lt=1)] = 0.15

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if abs(sum(self.shares) - 1) > SHARE_TOLERANCE:
            raise ValueError(f"the shares add up to {sum(self.shares):g}, and must to 1")
        return self

    @property
    def shares(self) -> tuple[float, float, float]:
        """In the order of `PARTS`."""
        return self.train, self.validation, self.test


class Data(Section):
    """`[data]`: where rows are, and what their columns mean."""

    sources: Annotated[tuple[str, ...], Field(min_length=1)]
    label: ColumnName
    features: tuple[ColumnName, ...] = ()
    """Columns that the model is fed, in this order; without it all that are nothing else."""
    slices: tuple[ColumnName, ...] = ()
    split: Split = Split()
    key: ColumnName | None = None
    """Column whose equal values stay in one part; without it equal rows do."""

    @model_validator(mode="after")
    def _columns_differ(self) -> Self:
        for name in (self.label, *((self.key,) if self.key else ()), *self.slices):
            if name in self.features:
                raise ValueError(f"{name!r} is a feature, and something else too")
        if self.label in self.slices or self.label == self.key:
            raise ValueError(f"{self.label!r} is the label, and something else too")
        for names in (self.features, self.slices):
            if len(set(names)) != len(names):
                raise ValueError("a column is named twice")
        return self


class Drift(Section):
    """When the data of a run is too far from that of the run before."""

    threshold_bits: Annotated[float, Field(gt=0, le=1)] = 0.1


class DataSchema(Section):
    """`[schema]`: what rows must be like."""

    file: Path = Path("schema.pbtxt")
    drift: Drift | None = None
    fail_on: tuple[Literal["error", "warning"], ...] = ("error",)


class Train(Section):
    """`[train]`: the user's function, and what it is given."""

    entry: Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")] = "train:train"
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    params: Settings = Field(default_factory=dict)
    timeout_s: Duration = Field(600.0, alias="timeout")


class Tune(Section):
    """`[tune]`: a search for parameters; what a search space holds is `fleet.pipeline.tuning`'s."""

    trials: Annotated[int, Field(ge=1, le=10_000)] = 20
    jobs: Annotated[int, Field(ge=1, le=64)] = 1
    folds: Annotated[int, Field(ge=1, le=10)] = 1
    """Over how many folds of the train rows a trial is judged; with 1 by the validation rows."""
    metric: str = "accuracy"
    direction: Literal["maximize", "minimize"] = "maximize"
    search: dict[str, Settings] = Field(default_factory=dict)
    katib: Path | None = None
    """A Katib Experiment (YAML): its parameters are searched, and what the keys above leave out is
    taken from it."""
    objectives: tuple[Literal["bytes", "p99_ms", "memory_mb"], ...] = ()


class Threshold(Section):
    """Limits of one figure; in `change`, of its difference to the champion's."""

    min: FiniteFloat | None = None
    max: FiniteFloat | None = None


class SliceLimits(Section):
    """Limits in slices, by figure."""

    thresholds: dict[str, Threshold] = Field(default_factory=dict)
    change: dict[str, Threshold] = Field(default_factory=dict)


class Evaluate(Section):
    """`[evaluate]`: what is measured, and what a model must reach."""

    metrics: tuple[str, ...] = ()
    thresholds: dict[str, Threshold] = Field(default_factory=dict)
    change: dict[str, Threshold] = Field(default_factory=dict)
    slices: dict[str, SliceLimits] = Field(default_factory=dict)
    """By a column, which means each of its values, or by one of them, such as `site=lab`."""
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    champion: Path | None = None
    """A bundle to compare with, or `none`; without it the newest of this folder that was released."""


class Release(Section):
    """`[release]`: what becomes of a blessed bundle."""

    version: Annotated[str, Field(pattern=VERSION_PATTERN)] = "auto"
    """`auto` is the next minor version after the newest release."""
    push: bool = False
    alias: Annotated[str, Field(pattern=NAME_PATTERN)] | None = None
    """Means the release from then on."""


class Rollout(Section):
    """`[rollout]`: to whom a release goes."""

    match: Annotated[str, Field(pattern=r"^[^=\s]+=[^=\s]+$")] | None = None
    phases: str = "1,50%,100%"
    probation_s: UpToAYear = Field(60.0, alias="probation")
    """How long each device tries it at least before it counts as good there."""
    soak_s: UpToAYear = Field(600.0, alias="soak")
    auto: bool = False

    @model_validator(mode="after")
    def _can_be_started(self) -> Self:
        # Known before anything is trained, not when the release is on its way.
        try:
            self.of("m", "1")
        except ValidationError as exc:
            fault = exc.errors(include_url=False)[0]
            name = str(fault["loc"][0])
            why = fault["msg"].removeprefix("Value error, ")
            if fault["type"] == "string_pattern_mismatch" and name == "phases":
                why = f"{fault['input']!r} is neither a number of devices nor a share of them"
            raise ValueError(f"{name}: {why}") from exc
        return self

    def of(self, model: str, version: str) -> RolloutIn:
        """Return the rollout of a release to start."""
        key, _, value = (self.match or "").partition("=")
        usual = ProbationIn()
        return RolloutIn(
            model=model,
            version=version,
            match={key: value} if key else {},
            phases=[share.strip() for share in self.phases.split(",")],
            soak_s=self.soak_s,
            probation=ProbationIn(min_s=self.probation_s, max_s=max(self.probation_s, usual.max_s)),
        )


class Retrain(Section):
    """`[retrain]`: what starts a run by itself."""

    on: tuple[Literal["drift", "accuracy", "schedule"], ...] = ()
    every_s: Duration | None = Field(None, alias="every")
    """After how long `schedule` calls for a run."""
    cooldown_s: Duration = Field(86_400.0, alias="cooldown")
    """How long after the end of a run none is started."""
    budget: Annotated[str, Field(pattern=r"^[1-9][0-9]{0,3} per [1-9][0-9]{0,3}[hd]$")] = (
        "4 per 30d"
    )
    min_accuracy: Annotated[float, Field(ge=0, le=1)] | None = None
    """A measured accuracy that is certainly below calls for a run."""


class Project(Section):
    """All of `pipeline.toml`, and the folder that it is in."""

    root: Path
    model: Model
    data: Data
    data_schema: DataSchema = Field(DataSchema(), alias="schema")
    train: Train = Train()
    tune: Tune | None = None
    evaluate: Evaluate = Evaluate()
    release: Release = Release()
    rollout: Rollout = Rollout()
    retrain: Retrain = Retrain()

    @property
    def runs(self) -> Path:
        """What runs leave."""
        return self.root / "runs"

    def with_params(self, changes: Settings) -> Project:
        """Return the project with other parameters.

        Raises:
            ConfigError: `param_unknown`, a name that `[train] params` does not have; `param_invalid`.
        """
        if unknown := sorted(set(changes) - set(self.train.params)):
            known = ", ".join(self.train.params) or "none"
            raise ConfigError(
                f"--param {unknown[0]}: [train] params of {FILE_NAME} has no such name, but {known}",
                code="param_unknown",
                hint=f"write it into {FILE_NAME} first, with the value that it has else",
            )
        params = {**self.train.params, **changes}
        try:
            _finite(dict(params))
        except ValueError as exc:
            raise ConfigError(f"--param: {exc}", code="param_invalid") from exc
        return self.model_copy(update={"train": self.train.model_copy(update={"params": params})})

    def with_version(self, version: str) -> Project:
        """Return the project with another version of its release.

        Raises:
            ConfigError: `version_invalid`.
        """
        try:
            release = Release.model_validate({**self.release.model_dump(), "version": version})
        except ValidationError as exc:
            raise ConfigError(
                f"{version[:80]!r} is no version",
                code="version_invalid",
                hint="letters, digits and . _ + -, such as 1.2.0",
            ) from exc
        return self.model_copy(update={"release": release})


def load_project(root: Path) -> Project:
    """Return the project in a folder.

    Raises:
        ConfigError: `project_missing`, `project_unreadable` or `project_invalid`, naming the key.
    """
    path = root / FILE_NAME
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError) as exc:
        raise ConfigError(
            f"there is no {FILE_NAME} in {root}",
            code="project_missing",
            hint="`fleet pipeline init DIR` makes a folder with one",
        ) from exc
    except OSError as exc:
        raise ConfigError(f"cannot read {path}: {exc.strerror}", code="project_unreadable") from exc
    if len(raw) > MAX_FILE_BYTES:
        raise ConfigError(f"{path} is over 1 MB", code="project_unreadable")
    return parse_project(raw, path)


def parse_project(raw: bytes, path: Path) -> Project:
    """Return the project that `raw` holds, of the folder that `path` is in.

    Raises:
        ConfigError: `project_invalid`, naming file and key.
    """
    try:
        content: dict[str, Any] = tomllib.loads(raw.decode("utf-8"))
        if "root" in content:
            raise _invalid(path, "root: unknown key")
        return Project.model_validate({**content, "root": path.resolve().parent})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise _invalid(path, str(exc) or "is nested too deeply") from exc
    except ValidationError as exc:
        raise _invalid(path, "; ".join(_faults(exc))) from exc


def _faults(exc: ValidationError) -> list[str]:
    faults = []
    for fault in exc.errors(include_url=False)[:5]:
        section, *rest = [str(part) for part in fault["loc"]] or ["file"]
        where = f"[{section}] {'.'.join(rest)}".strip()
        match fault["type"]:
            case "extra_forbidden":
                why = "unknown key"
            case "missing":
                why = "is missing"
            case _:
                why = fault["msg"].removeprefix("Value error, ")
        faults.append(f"{where}: {why}"[:300])
    return faults


def _invalid(path: Path, why: str) -> ConfigError:
    return ConfigError(f"{path}: {why}", code="project_invalid", hint=CORRECT)
