"""What the routes about alerts take and answer."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from fleet.core.alerts import Severity, State
from wire.ids import NAME_PATTERN

from .schemas import Schema, Tags

MAX_SILENCE_S = 366 * 86_400
MAX_WHY_CHARS = 300
RuleName = Annotated[str, Field(pattern=NAME_PATTERN)]
SubjectGlob = Annotated[str, Field(min_length=1, max_length=192)]
"""`*` stands for anything, `?` for one character."""


class Alert(Schema):
    """One alert; `began` is when the breach began, `fired` when it had lasted long enough."""

    id: int
    rule: str
    severity: Severity
    subject: str
    device: str | None = None
    state: State
    text: str
    began_unix_ms: int
    fired_unix_ms: int | None = None
    resolved_unix_ms: int | None = None
    told_unix_ms: int | None = None
    acknowledged_by: str = ""
    acknowledged_unix_ms: int | None = None
    is_silenced: bool = False


class SilenceIn(Schema):
    """Which alerts nobody is told of, for how long, and why; at least one part is given."""

    rule: RuleName | None = None
    subject: SubjectGlob | None = None
    match: Tags = Field(default_factory=dict)
    for_s: Annotated[int, Field(ge=1, le=MAX_SILENCE_S)]
    why: Annotated[str, Field(min_length=1, max_length=MAX_WHY_CHARS)]

    @model_validator(mode="after")
    def _is_not_everything(self) -> Self:
        if self.rule is None and self.subject is None and not self.match:
            raise ValueError('give rule, subject or match; subject "*" is everything')
        return self


class Silence(Schema):
    """A silence that holds."""

    id: int
    rule: str | None = None
    subject: str | None = None
    match: Tags = Field(default_factory=dict)
    until_unix_ms: int
    created_unix_ms: int
    created_by: str
    why: str


class ReceiverAnswer(Schema):
    """What one receiver said to the test alert."""

    receiver: str
    is_taken: bool
    answer: str


class AlertTest(Schema):
    """What all receivers said."""

    receivers: list[ReceiverAnswer]
