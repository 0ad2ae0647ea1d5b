"""What was live where, from when to when: spans, made of what devices report.

A report says what serves at the moment that it was made, and carries no time; devices send one at
every change, and one whenever they connect. So a change that is reported by a connected device
happened just now, and one that comes after a silence somewhen within it. Each span says both: the
earliest instant at which it can have begun, and the one since which it is known.

Instants are milliseconds of the Unix epoch by the controller's clock. One that was set back makes
spans of no length; none overlaps another.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from wire.lifecycle import Outcome, UpdateState

from .states import ReleaseKey

Ending = Literal[
    "",  # it lasts
    "replaced",  # by another release
    "rolled_back",  # by the device itself
    "rollback_failed",  # the same, and nothing serves in its place
    "stopped",  # nothing serves, for another reason
    "removed",  # the device has the model no longer
    "device_removed",
]
Certainty = Literal["certain", "possible"]


@dataclass(frozen=True, slots=True)
class Span:
    """One release of one model on one device.

    Attributes:
        device: The device's id.
        model: The model's name.
        release: What served.
        earliest_unix_ms: Before this it did not serve yet.
        since_unix_ms: From here on it is known to have served.
        last_known_unix_ms: To here it is known to have served; None while it lasts.
        until_unix_ms: From here on it is known to serve no longer; None while it lasts.
        ending: How it ended.
        code: Why, as the device said.
        id: Its number in the store; 0 until it is there.
    """

    device: str
    model: str
    release: ReleaseKey
    earliest_unix_ms: int
    since_unix_ms: int
    last_known_unix_ms: int | None = None
    until_unix_ms: int | None = None
    ending: Ending = ""
    code: str = ""
    id: int = 0


@dataclass(frozen=True, slots=True)
class Said:
    """What a report says of one model; see `wire.messages.ReportedModel`."""

    active: ReleaseKey | None
    state: UpdateState = UpdateState.IDLE
    target: str | None = None
    outcome: Outcome | None = None
    code: str = ""


def changes(
    device: str,
    newest: Mapping[str, Span],
    said: Mapping[str, Said],
    *,
    heard_unix_ms: int | None,
    now_unix_ms: int,
) -> tuple[list[Span], list[Span]]:
    """Return the spans that a report ends, and those that it begins. Total; none where all is as before.

    Args:
        device: Whose report it is.
        newest: Its newest span of each model, whether it lasts or not.
        said: What it says, by model.
        heard_unix_ms: When the device was last known to be as before; None where that is now.
        now_unix_ms: The time.
    """
    heard = now_unix_ms if heard_unix_ms is None else min(heard_unix_ms, now_unix_ms)
    ended: list[Span] = []
    begun: list[Span] = []
    for model in sorted(newest.keys() | said.keys()):
        last, new = newest.get(model), said.get(model)
        old = last if last is not None and last.until_unix_ms is None else None
        active = new.active if new is not None else None
        if old is not None and active is not None and old.release.manifest == active.manifest:
            continue
        if old is not None:
            ending, code = _ending(old.release.manifest, new)
            last = end(old, ending, code=code, heard_unix_ms=heard, now_unix_ms=now_unix_ms)
            ended.append(last)
        if active is not None:
            before = -1 if last is None else last.until_unix_ms or 0
            known = -1 if last is None else last.last_known_unix_ms or 0
            since = max(now_unix_ms, before)
            earliest = min(max(heard, known), since)
            begun.append(Span(device, model, active, earliest, since))
    return ended, begun


def end(
    span: Span, ending: Ending, *, code: str = "", heard_unix_ms: int, now_unix_ms: int
) -> Span:
    """Return a span that lasts, ended."""
    until = max(now_unix_ms, span.since_unix_ms)
    known = min(max(heard_unix_ms, span.since_unix_ms), until)
    return replace(span, last_known_unix_ms=known, until_unix_ms=until, ending=ending, code=code)


def certainty(span: Span, at_unix_ms: int, heard_unix_ms: int | None) -> Certainty | None:
    """Return whether a span's release served at an instant: certainly, possibly, or not (None).

    Args:
        span: The span.
        at_unix_ms: The instant.
        heard_unix_ms: When its device was last heard, for a span that lasts; None is not known.
    """
    if at_unix_ms < span.earliest_unix_ms:
        return None
    if span.until_unix_ms is not None and at_unix_ms >= span.until_unix_ms:
        return None
    known = span.last_known_unix_ms if span.until_unix_ms is not None else heard_unix_ms
    is_known = at_unix_ms >= span.since_unix_ms and (known is None or at_unix_ms <= known)
    return "certain" if is_known else "possible"


def _ending(manifest: str, said: Said | None) -> tuple[Ending, str]:
    if said is None:
        return "removed", ""
    if said.target == manifest:
        if said.outcome is Outcome.ROLLBACK_FAILED:
            return "rollback_failed", said.code
        if said.outcome is Outcome.ROLLED_BACK or said.state is UpdateState.ROLLING_BACK:
            return "rolled_back", said.code
    return ("replaced" if said.active is not None else "stopped"), said.code
