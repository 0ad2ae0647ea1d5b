"""What people do about alerts: look, acknowledge, silence, try the receivers."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from fleet import acts
from fleet.core import alerts as core
from fleet.core.alerts import Alert, Rule, Silence
from fleet.core.rights import Scope, is_within
from fleet.store.alerts import AlertRow, SilenceRow
from fleet.store.deliveries import MQTT
from fleet.store.devices import Selection
from fleet.store.store import Store, Tx
from fleet.tokens import out_of_scope
from wire.errors import PeerError

from . import message as say
from .courier import Answer, post_all
from .watch import HISTORY_MS, Watch, tags_of

TEST_RULE: Final = Rule("test", "info")
BROKER_S: Final = 5.0
"""How long the broker may take for the test alert."""


@dataclass(frozen=True, slots=True)
class Listed:
    """An alert as somebody sees it; `is_silenced` now."""

    row: AlertRow
    is_silenced: bool


def page(
    tx: Tx, scope: Scope, now_unix_ms: int, *, is_all: bool, before: int | None, limit: int
) -> list[Listed]:
    """Return the newest alerts that somebody may see, newest first."""
    found: list[AlertRow] = []
    rows: list[AlertRow] | None = None
    while rows is None or (len(rows) == limit and len(found) < limit):
        since = now_unix_ms - HISTORY_MS
        rows = tx.alerts.page(scope, is_all=is_all, since_unix_ms=since, before=before, limit=limit)
        before = rows[-1].id if rows else before
        found += [row for row in rows if not scope or _is_seen(tx, row, scope)]
    found = found[:limit]
    silences = [row.silence for row in tx.alerts.silences(now_unix_ms)]
    tags = tags_of(tx, found) if silences else {}
    return [
        Listed(
            row,
            any(
                s.covers(row.alert.rule, row.alert.subject, tags.get(row.id, {})) for s in silences
            ),
        )
        for row in found
    ]


def acknowledge(
    tx: Tx, watch: Watch, number: int, *, by: str, scope: Scope, now_unix_ms: int
) -> AlertRow:
    """Note that somebody knows of an alert: nobody is told again, until it is over.

    Raises:
        PeerError: `unknown_alert` or `alert_not_firing`.
    """
    row = tx.alerts.get(number)
    if row is None or not _is_seen(tx, row, scope):
        raise PeerError(
            f"there is no alert {number}", code="unknown_alert", hint="`fleet alerts` lists them"
        )
    acts.about(f"{row.alert.rule} {row.alert.subject}")
    if row.alert.state != "firing":
        raise PeerError(
            f"alert {number} is {row.alert.state}: there is nothing to acknowledge",
            code="alert_not_firing",
        )
    rule = watch.rule(row.alert.rule)
    new = core.acknowledged(row.alert, by, now_unix_ms, rule)
    if new == row.alert:
        return row
    due = core.due_unix_ms(new, rule)
    row = replace(row, alert=new, due_unix_ms=due, acknowledged_unix_ms=now_unix_ms)
    tx.alerts.save([row])
    return row


def silence(
    tx: Tx, wish: Silence, *, by: str, why: str, scope: Scope, now_unix_ms: int
) -> SilenceRow:
    """Have nobody told of the alerts that a silence covers, until it ends.

    Raises:
        PeerError: `out_of_scope`.
    """
    if not is_within(wish.match, scope):
        raise out_of_scope(scope, "a silence must match these tags")
    acts.about(words(wish))
    return tx.alerts.add_silence(wish, by=by, why=why, now_unix_ms=now_unix_ms)


def silences(tx: Tx, scope: Scope, now_unix_ms: int) -> list[SilenceRow]:
    """Return the silences that hold, and that somebody may see."""
    rows = tx.alerts.silences(now_unix_ms)
    return [row for row in rows if is_within(row.silence.match, scope)]


def end_silence(tx: Tx, number: int, *, scope: Scope, now_unix_ms: int) -> SilenceRow:
    """End a silence: what it held back is told, if it still fires.

    Raises:
        PeerError: `unknown_silence`.
    """
    row = next((row for row in silences(tx, scope, now_unix_ms) if row.id == number), None)
    if row is None:
        raise PeerError(
            f"there is no silence {number}",
            code="unknown_silence",
            hint="`fleet alert silences` lists them",
        )
    acts.about(words(row.silence))
    tx.alerts.drop_silence(number)
    tx.alerts.due_now(now_unix_ms, state="firing", is_breached=True)
    return row


def try_receivers(store: Store, watch: Watch, *, by: str, now_unix_ms: int) -> dict[str, Answer]:
    """Send every receiver a test alert; return what each answered, by its name."""
    acts.about(f"{len(watch.receivers)} webhooks and the topic")
    alert = Alert("test", by or "test", "firing", True, now_unix_ms, now_unix_ms, now_unix_ms)
    text = f"a test by {by}: nothing is wrong"
    telling = say.Telling(TEST_RULE, "firing", [AlertRow(0, alert, text)], 1, now_unix_ms, 0, 1, {})
    bodies = dict(watch.bodies(telling))
    with store.write() as tx:
        number = tx.deliveries.add([(MQTT, bodies[MQTT])], now_unix_ms)[0]
    answers = post_all(watch.receivers, bodies, f"test-{now_unix_ms}-{number}")
    return answers | {MQTT: _until_published(store, number)}


def words(wish: Silence) -> str:
    """Return which alerts a silence is about, in words."""
    tags = " ".join(f"{key}={value}" for key, value in sorted(wish.match.items()))
    return " ".join(filter(None, (wish.rule or "every rule", wish.subject, tags)))


def _until_published(store: Store, number: int) -> Answer:
    deadline_s = time.monotonic() + BROKER_S
    while time.monotonic() < deadline_s:
        with store.read() as tx:
            if not tx.deliveries.is_waiting(number):
                return Answer(True, True, "the broker has it")
        time.sleep(0.05)
    return Answer(False, False, f"the broker did not take it within {BROKER_S:g} s; it waits")


def _is_seen(tx: Tx, row: AlertRow, scope: Mapping[str, str]) -> bool:
    """Whether an alert is about nothing outside a scope."""
    if not scope:
        return True
    if row.device is not None:
        return bool(tx.devices.ids(Selection(device=row.device, scope=scope)))
    if row.alert.rule == "rollout_stopped":
        return is_within(tx.rollouts.match_of(row.alert.subject) or {}, scope)
    return False
