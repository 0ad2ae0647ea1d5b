"""Alerts: what a rule says of one subject, when that becomes an alarm, and when somebody is told.

An alert is one rule's breach by one subject: it is *pending* until the breach has held for the
rule's time, then *firing*, and *resolved* once there was none for the rule's other time. That, and
values with one limit to raise and another to clear, keep what flutters from being told again and
again.

Instants are milliseconds of the Unix epoch by the controller's clock, because alerts outlive the
process. A clock that was set back makes an alert wait anew: it fires nothing and resolves nothing.
One that was set forward lets the time pass that it skipped.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Final, Literal

State = Literal["pending", "firing", "resolved"]
News = Literal["", "firing", "resolved"]
"""What the receivers have yet to be told of an alert."""
Severity = Literal["critical", "warning", "info"]

FNV_OFFSET: Final = 14_695_981_039_346_656_037
FNV_PRIME: Final = 1_099_511_628_211
SEPARATOR: Final = 255
"""The 64-bit FNV-1a hash (draft-eastlake-fnv, section 5), and the byte between labels that
Prometheus feeds it (prometheus/common, model/signature.go)."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule as it is set.

    Attributes:
        name: What alerts of it are called.
        severity: For whoever is told.
        for_ms: How long a breach lasts before the alert fires.
        clear_for_ms: How long there is none before it resolves.
        repeat_ms: After how long receivers are told again, while it fires and nobody acknowledges.
        is_over_when_acknowledged: Whether the breach is a thing of the past, that only wants to be
            known: who acknowledges the alert ends it.
    """

    name: str
    severity: Severity = "warning"
    for_ms: int = 0
    clear_for_ms: int = 0
    repeat_ms: int = 4 * 3_600_000
    is_over_when_acknowledged: bool = False


@dataclass(frozen=True, slots=True)
class Alert:
    """One alert, identified by `rule` and `subject`; a new breach after its end is a new one.

    Attributes:
        rule: The name of its rule.
        subject: What breaches it: a device, a release, a rollout.
        state: See the module.
        is_breached: What the newest evidence says.
        since_unix_ms: Since when the evidence has said so.
        began_unix_ms: When the breach began.
        fired_unix_ms: When it fired.
        resolved_unix_ms: When it resolved.
        news: What receivers have yet to be told.
        news_unix_ms: Since when they should be.
        told_unix_ms: When they were last told that it fires.
        acknowledged_by: Who said that they know; empty while nobody has.
    """

    rule: str
    subject: str
    state: State
    is_breached: bool
    since_unix_ms: int
    began_unix_ms: int
    fired_unix_ms: int | None = None
    resolved_unix_ms: int | None = None
    news: News = ""
    news_unix_ms: int | None = None
    told_unix_ms: int | None = None
    acknowledged_by: str = ""

    @property
    def is_open(self) -> bool:
        """Whether it is not over."""
        return self.state != "resolved"


@dataclass(frozen=True, slots=True)
class Silence:
    """Which alerts nobody shall be told of, until when.

    Attributes:
        rule: Alerts of this rule, None of all.
        subject: Subjects of this form, with `*` and `?`, None all.
        match: Only of devices, or rollouts, with these tags.
        until_unix_ms: When it ends.
    """

    rule: str | None
    subject: str | None
    match: Mapping[str, str] = field(default_factory=dict)
    until_unix_ms: int = 0

    def covers(self, rule: str, subject: str, tags: Mapping[str, str]) -> bool:
        """Whether an alert about something with these tags is meant."""
        return (
            self.rule in (None, rule)
            and (self.subject is None or fnmatchcase(subject, self.subject))
            and all(tags.get(key) == value for key, value in self.match.items())
        )


def noted(
    alert: Alert | None, now_unix_ms: int, key: tuple[str, str], *, is_breached: bool
) -> Alert | None:
    """Return an alert with new evidence, not judged yet.

    Args:
        alert: As it was; None or a resolved one where none is open.
        now_unix_ms: The time.
        key: Rule and subject.
        is_breached: Whether the rule is breached now.
    """
    if alert is None or not alert.is_open:
        if not is_breached:
            return None
        rule, subject = key
        return Alert(rule, subject, "pending", True, now_unix_ms, now_unix_ms)
    if alert.is_breached == is_breached:
        return alert
    return replace(alert, is_breached=is_breached, since_unix_ms=now_unix_ms)


def step(
    alert: Alert | None,
    is_breached: bool | None,  # noqa: FBT001 - the evidence itself
    now_unix_ms: int,
    rule: Rule,
    *,
    subject: str = "",
) -> Alert | None:
    """Return what becomes of an alert; None is that there is none. Total.

    Args:
        alert: As it was; None or a resolved one where none is open.
        is_breached: Whether the rule is breached now; None is no evidence, and changes nothing.
        now_unix_ms: The time.
        rule: The rule as it is set.
        subject: What a new alert would be about.
    """
    if is_breached is None:
        return alert
    new = noted(alert, now_unix_ms, (rule.name, subject), is_breached=is_breached)
    return judged(new, now_unix_ms, rule) if new is not None else None


def judged(alert: Alert, now_unix_ms: int, rule: Rule) -> Alert | None:
    """Return what an alert is after the evidence that it has; None is dropped before it fired."""
    if not alert.is_open:
        return alert
    if now_unix_ms < alert.since_unix_ms:  # the clock was set back
        return replace(alert, since_unix_ms=now_unix_ms)
    held_ms = now_unix_ms - alert.since_unix_ms
    if alert.state == "pending":
        if not alert.is_breached:
            return None
        if held_ms < rule.for_ms:
            return alert
        alert = replace(alert, state="firing", fired_unix_ms=now_unix_ms)
    elif not alert.is_breached and held_ms >= rule.clear_for_ms:
        was_told = alert.told_unix_ms is not None
        return replace(
            alert,
            state="resolved",
            resolved_unix_ms=now_unix_ms,
            # Who was never told that it fires need not hear that it is over.
            news="resolved" if was_told else "",
            news_unix_ms=now_unix_ms if was_told else None,
        )
    return _to_be_told(alert, now_unix_ms, rule)


def _to_be_told(alert: Alert, now_unix_ms: int, rule: Rule) -> Alert:
    if alert.news or not alert.is_breached or alert.acknowledged_by:
        return alert
    told = alert.told_unix_ms
    if told is not None and told > now_unix_ms:  # the clock was set back
        return replace(alert, told_unix_ms=now_unix_ms)
    if told is not None and now_unix_ms - told < rule.repeat_ms:
        return alert
    return replace(alert, news="firing", news_unix_ms=now_unix_ms)


def due_unix_ms(alert: Alert, rule: Rule) -> int | None:
    """Return when `judged` may change an alert next without new evidence; None is never."""
    if not alert.is_open:
        return None
    if alert.state == "pending":
        return alert.since_unix_ms + (rule.for_ms if alert.is_breached else 0)
    if not alert.is_breached:
        return alert.since_unix_ms + rule.clear_for_ms
    if alert.news or alert.acknowledged_by:
        return None
    if alert.told_unix_ms is None:
        return alert.since_unix_ms
    return alert.told_unix_ms + rule.repeat_ms


def acknowledged(alert: Alert, by: str, now_unix_ms: int, rule: Rule) -> Alert:
    """Return a firing alert that somebody knows of: receivers hear of it again when it is over."""
    if alert.state != "firing" or alert.acknowledged_by:
        return alert
    new = replace(alert, acknowledged_by=by, news="", news_unix_ms=None)
    if rule.is_over_when_acknowledged and new.is_breached:
        return replace(new, is_breached=False, since_unix_ms=now_unix_ms)
    return new


def above(value: float, *, raise_at: float, clear_at: float) -> bool | None:
    """Return whether a value breaches an upper limit; None between the two, and for no number.

    Args:
        value: The measured one.
        raise_at: Breached from here on.
        clear_at: No longer breached from here down; not above `raise_at`.
    """
    if value >= raise_at:
        return True
    return False if value <= clear_at else None


def below(value: float, *, raise_at: float, clear_at: float) -> bool | None:
    """Return whether a value breaches a lower limit, as `above` mirrored."""
    return above(-value, raise_at=-raise_at, clear_at=-clear_at)


def fingerprint(labels: Mapping[str, str]) -> str:
    """Return what Alertmanager calls an alert with these labels: 16 hex digits, the same for ever."""
    value = FNV_OFFSET
    for name in sorted(labels):
        for byte in (*name.encode(), SEPARATOR, *labels[name].encode(), SEPARATOR):
            value = (value ^ byte) * FNV_PRIME % 2**64
    return f"{value:016x}"
