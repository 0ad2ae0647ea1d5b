"""What the controller tells of alerts, as it crosses the wire.

The texts below fields are their meaning in `docs/topics.md`; run `make docs` after changing one.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field

from .fitting import fit
from .ids import DeviceId, Fingerprint
from .messages import (
    CodeText,
    Count,
    Detail,
    Message,
    Part,
    UnixMs,
)

MAX_ALERTS: Final = 10
MAX_SUBJECT_BYTES: Final = 192
MAX_TOLD_BYTES: Final = 80

Subject = Annotated[str, Field(max_length=MAX_SUBJECT_BYTES), fit(MAX_SUBJECT_BYTES)]
ToldText = Annotated[str, Field(max_length=MAX_TOLD_BYTES), fit(MAX_TOLD_BYTES)]


class ToldAlert(Part):
    """One of the alerts that are told together."""

    subject: Subject
    """What it is about: a device, a rollout, a release."""
    device: DeviceId | None = None
    """The device that it is about, if it is one."""
    fingerprint: Fingerprint
    """The same for the same rule and subject, for ever, and in the webhooks."""
    text: ToldText = ""
    """The alert in words."""


class ControllerAlert(Message):
    """Alerts of one rule that began, or that are over, told together."""

    status: Literal["firing", "resolved"]
    rule: CodeText
    """Which rule; see the runbook."""
    severity: Literal["critical", "warning", "info"]
    summary: Detail
    """All of it in words."""
    count: Count
    """How many alerts."""
    since_unix_ms: UnixMs
    """When the first of them began."""
    alerts: Annotated[tuple[ToldAlert, ...], Field(max_length=MAX_ALERTS, fail_fast=True)] = ()
    """The first of them."""
