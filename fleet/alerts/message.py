"""What receivers are told: in words, as Alertmanager's webhook says it, and over MQTT.

The webhook's form is that of version "4" of Alertmanager (its documentation, `webhook_config`), so
that whatever takes alerts from Prometheus takes ours.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from fleet.core.alerts import Alert, News, Rule, fingerprint
from fleet.store.alerts import AlertRow
from wire import codec
from wire.alerts import MAX_ALERTS, ControllerAlert, ToldAlert

MAX_SHOWN: Final = 100
"""Alerts in one message, which is then at most about 100 kB; the rest is a number."""
NOT_OVER: Final = "0001-01-01T00:00:00Z"
"""How Alertmanager says that an alert has no end yet."""


@dataclass(frozen=True, slots=True)
class Telling:
    """What is told at once.

    Attributes:
        rule: Whose alerts.
        news: That they fire, or that they are over.
        rows: The first of them, at most `MAX_SHOWN`.
        count: How many there are.
        began_unix_ms: When the first of them began.
        device_count: How many devices the fleet has.
        firing_count: How many alerts of the rule are firing now.
        tags: Tags of the devices that `rows` are about.
    """

    rule: Rule
    news: News
    rows: Sequence[AlertRow]
    count: int
    began_unix_ms: int
    device_count: int
    firing_count: int
    tags: Mapping[str, Mapping[str, str]]


def summary(telling: Telling) -> str:
    """Return all of it in one line."""
    count, name = telling.count, telling.rule.name
    is_over = telling.news == "resolved"
    if count == 1 and telling.rows:
        text = telling.rows[0].text
        return f"over: {text}" if is_over else f"{text}, since {_minute(telling.began_unix_ms)}"
    if name == "device_offline":
        if is_over:
            return f"over: {count:,} devices were offline"
        text = f"{count:,} of {telling.device_count:,} devices are offline"
    else:
        shown = ", ".join(row.alert.subject for row in telling.rows[:3])
        more = f" and {count - 3:,} more" if count > 3 else ""
        text = f"{name}: {shown}{more}"
        if is_over:
            return f"over: {text}"
    more = f"; {telling.firing_count:,} in all" if telling.firing_count > count else ""
    return f"{text}, since {_minute(telling.began_unix_ms)}{more}"


def labels(alert: Alert, rule: Rule, device: str | None) -> dict[str, str]:
    """Return what identifies an alert to receivers; it never changes while it lives."""
    found = {"alertname": alert.rule, "severity": rule.severity, "subject": alert.subject}
    return found | ({"device": device} if device is not None else {})


def webhook(telling: Telling, receiver: str, url: str) -> str:
    """Return the message of a webhook, as JSON.

    Args:
        telling: What to say.
        receiver: The name of the one who is told.
        url: The API's, for people who follow it.
    """
    shown = [_shown(row, telling, url) for row in telling.rows]
    group = {"alertname": telling.rule.name}
    return json.dumps(
        {
            "version": "4",
            "groupKey": f'{{}}:{{alertname="{telling.rule.name}"}}',
            "truncatedAlerts": telling.count - len(shown),
            "status": telling.news,
            "receiver": receiver,
            "groupLabels": group,
            "commonLabels": _common([alert["labels"] for alert in shown]) or group,
            "commonAnnotations": {"summary": summary(telling)},
            "externalURL": url,
            "alerts": shown,
        },
        ensure_ascii=False,
    )


def mqtt(telling: Telling) -> str:
    """Return the message of the topic."""
    told = tuple(
        ToldAlert(
            subject=row.alert.subject,
            device=row.device,
            fingerprint=fingerprint(labels(row.alert, telling.rule, row.device)),
            text=row.text,
        )
        for row in telling.rows[:MAX_ALERTS]
    )
    message = ControllerAlert(
        status="resolved" if telling.news == "resolved" else "firing",
        rule=telling.rule.name,
        severity=telling.rule.severity,
        summary=summary(telling),
        count=telling.count,
        since_unix_ms=telling.began_unix_ms,
        alerts=told,
    )
    return codec.encode(message).decode()


def _shown(row: AlertRow, telling: Telling, url: str) -> dict[str, Any]:
    alert = row.alert
    named = labels(alert, telling.rule, row.device)
    annotations = {"summary": row.text}
    if tags := telling.tags.get(row.device or ""):
        annotations["tags"] = " ".join(f"{key}={value}" for key, value in sorted(tags.items()))
    is_over = telling.news == "resolved"
    return {
        "status": telling.news,
        "labels": named,
        "annotations": annotations,
        "startsAt": _instant(alert.fired_unix_ms or alert.began_unix_ms),
        "endsAt": _instant(alert.resolved_unix_ms or 0) if is_over else NOT_OVER,
        "generatorURL": f"{url}/v1/alerts" if url else "",
        "fingerprint": fingerprint(named),
    }


def _common(maps: Sequence[Mapping[str, str]]) -> dict[str, str]:
    if not maps:
        return {}
    first, *others = maps
    return {k: v for k, v in first.items() if all(other.get(k) == v for other in others)}


def _at(unix_ms: int) -> datetime:
    """Return an instant; one that no calendar has is the last that one has."""
    return datetime.fromtimestamp(min(max(unix_ms, 0), 253_402_300_799_000) / 1000, UTC)


def _instant(unix_ms: int) -> str:
    return _at(unix_ms).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _minute(unix_ms: int) -> str:
    return _at(unix_ms).strftime("%Y-%m-%d %H:%M UTC")
