"""The record of the run that made a release: what it started for, from what, and what came of it.

The pipeline writes it, the controller keeps it as it is. An unknown key is an error: a record that
says something else than its writer thinks is worse than none.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import ConfigDict, Field, JsonValue

from wire.ids import Digest
from wire.messages import UnixMs

from .schemas import Schema

MAX_RUN_BYTES: Final = 256 * 1024
"""Of one record as JSON: some thousand parameters and metrics; data and curves stay in the run's folder."""
Name = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]{1,256}$")]
Line = Annotated[str, Field(max_length=2000)]
Number = Annotated[float, Field(allow_inf_nan=False)]


class _Part(Schema):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RunTrigger(_Part):
    """Why a run was started."""

    kind: Literal["hand", "drift", "accuracy", "schedule"] = "hand"
    why: Line = ""
    at_unix_ms: UnixMs | None = None
    by: Line = ""
    """Who, or what, started it."""
    evidence: dict[str, JsonValue] = Field(default_factory=dict)
    """What the trigger saw, as the API gave it: findings, a measured accuracy, the last run."""


class RunSource(_Part):
    """One file of data."""

    path: Name
    sha256: Digest | None = None
    row_count: Annotated[int, Field(ge=0)] | None = None


class RunData(_Part):
    """What it learned from."""

    sha256: Digest
    """Of the content, whatever files it lay in."""
    row_count: Annotated[int, Field(ge=0)]
    sources: tuple[RunSource, ...] = ()
    parts: dict[Name, Annotated[int, Field(ge=0)]] = Field(default_factory=dict)
    """Rows of each part of the split."""


class RunCode(_Part):
    """What trained it."""

    commit: Annotated[str, Field(max_length=64)] | None = None
    is_dirty: bool | None = None
    """Whether there were changes that the commit does not have; null where nobody knows."""
    repository: Line = ""
    sha256: Digest | None = None
    """Of the training code's files."""


class RunVerdict(_Part):
    """What the evaluation came to."""

    outcome: Literal["bless", "refuse", "inconclusive"]
    reasons: tuple[Line, ...] = ()
    champion: Digest | None = None
    """The model file that it was compared with."""


class RunRecord(_Part):
    """`PUT /v1/releases/{model}/{version}/run`."""

    v: Literal[1] = 1
    pipeline: Name
    """What ran, such as the project's name."""
    run: Name
    """Its id: a hash of its inputs."""
    trigger: RunTrigger = RunTrigger()
    data: RunData
    code: RunCode = RunCode()
    parameters: dict[Name, JsonValue] = Field(default_factory=dict)
    metrics: dict[Name, Number] = Field(default_factory=dict)
    verdict: RunVerdict | None = None
    libraries: dict[Name, Name] = Field(default_factory=dict)
    """Versions by distribution."""
    started_unix_ms: UnixMs | None = None
    ended_unix_ms: UnixMs | None = None


class StoredRun(Schema):
    """A record as it is kept."""

    stored_unix_ms: int
    stored_by: str
    run: RunRecord
