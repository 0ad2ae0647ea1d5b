"""What the controller watches, and what it tells.

Evidence comes with the deliveries, and is noted in their transaction; nothing is looked for in all
devices. At each tick one indexed query finds the alerts whose time has come, and they are judged
(`fleet.core.alerts`). What is to be told waits for `group_s`, so that many alerts of one rule are
told as one, and becomes a delivery for each receiver in the transaction that says so: a controller
that is killed loses none and makes none twice.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from fleet.core import alerts as core
from fleet.core.alerts import News, Rule
from fleet.store.alerts import AlertRow, Group
from fleet.store.deliveries import MQTT
from fleet.store.devices import Selection
from fleet.store.journal import EventRow
from fleet.store.store import Tx

from . import message as say
from .settings import AlertsSection, Receiver

log = logging.getLogger(__name__)

PAGE: Final = 2_000
"""Alerts in one transaction of a tick: about 0.2 s."""
MAX_AGE_MS: Final = 24 * 3_600_000
"""A delivery that could not be made for so long is given up."""
HISTORY_MS: Final = 30 * MAX_AGE_MS
"""How long alerts that are over are kept."""
BLIND: Final = frozenset({"device_offline"})
"""Rules without evidence while the broker cannot be reached."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What a rule finds of one subject.

    Attributes:
        subject: A device, a release, a rollout, at most 192 characters.
        is_breached: Whether it is as it should not be.
        text: One line for a person, without when.
        device: The device that it is about, if it is one.
        over: Why it is over, where that is more than that it is as it should be.
    """

    subject: str
    is_breached: bool
    text: str
    device: str | None = None
    over: str = ""


class Watch:
    """The rules as they are set, and who is told. Its methods run in the caller's transaction."""

    def __init__(
        self,
        settings: AlertsSection | None = None,
        *,
        receivers: Iterable[Receiver] = (),
        certificates: Mapping[str, Path] | None = None,
        url: str = "",
        wake: Callable[[], None] = lambda: None,
    ) -> None:
        """Prepare, read nothing.

        Args:
            settings: `[alerts]`; by default every rule as it comes.
            receivers: The webhooks.
            certificates: Files of certificates that only a person can renew, by what they are.
            url: The API's, for people.
            wake: Called, from any thread, when there is something to deliver.
        """
        self.settings = settings or AlertsSection()
        self.rules = self.settings.rules()
        self.receivers = tuple(receivers)
        self.certificates = dict(certificates or {})
        self._wake = wake
        self._url = url
        self.next_requests_unix_ms = 0
        self.next_labels_unix_ms = 0
        self._was_connected: bool | None = None
        self._is_new = True
        self._has_told = False

    def rule(self, name: str) -> Rule:
        """Return a rule; one that is switched off clears at once."""
        return self.rules.get(name) or Rule(name)

    # -- evidence

    def observe(self, tx: Tx, rule: str, findings: Iterable[Finding], now_unix_ms: int) -> None:
        """Take note of findings, each in place of what was known of its subject, its words too."""
        newest = {finding.subject: finding for finding in findings}
        if rule not in self.rules or not newest:
            return
        known = tx.alerts.open_of(rule, newest)
        changed: list[AlertRow] = []
        gone: list[int] = []
        for subject, finding in newest.items():
            row = known.get(subject)
            old = row.alert if row is not None else None
            new = core.step(
                old, finding.is_breached, now_unix_ms, self.rules[rule], subject=subject
            )
            if new is None and row is not None:
                gone.append(row.id)
            elif new is not None and (row is None or new != old):
                changed.append(self._row(row, new, finding))
            elif row is not None and finding.is_breached and finding.text != row.text:
                # When it is due stays: new words alone wake nobody.
                changed.append(replace(row, text=finding.text))
        tx.alerts.save(changed)
        tx.alerts.drop(gone)

    def pulse(self, tx: Tx, rule: str, findings: Iterable[Finding], now_unix_ms: int) -> None:
        """Take note of what happened just now and is over: its alert ends `clear_for_s` later."""
        newest = list({finding.subject: finding for finding in findings}.values())
        self.observe(tx, rule, newest, now_unix_ms)
        self.observe(tx, rule, [replace(f, is_breached=False) for f in newest], now_unix_ms)

    def report(
        self,
        tx: Tx,
        rule: str,
        findings: Iterable[Finding],
        now_unix_ms: int,
        *,
        over: str = "",
    ) -> None:
        """Make the open alerts of a rule these findings: the one door for who looks elsewhere.

        A subject that is not among them, or not breached, is as it should be; or is over, as `over` says.
        """
        newest = {finding.subject: finding for finding in findings}
        for subject, row in tx.alerts.open_of(rule).items():
            newest.setdefault(subject, Finding(subject, False, row.text, row.device, over))
        self.observe(tx, rule, newest.values(), now_unix_ms)

    def on_connected(self, tx: Tx, now_unix_ms: int) -> None:
        """Count the silence of devices from now on: before, nobody could be heard."""
        if (rule := self.rules.get("device_offline")) is not None:
            tx.alerts.see_presence(rule.name, now_unix_ms, now_unix_ms + rule.for_ms)

    # -- the tick

    def is_due(self, tx: Tx, now_unix_ms: int, *, is_connected: bool) -> bool:
        """Whether there is anything to do in this tick."""
        return bool(
            self._is_new
            or is_connected != self._was_connected
            or tx.alerts.due(now_unix_ms, but=self._blind(is_connected=is_connected), limit=1)
            or tx.alerts.groups()
        )

    def tick(self, tx: Tx, now_unix_ms: int, *, is_connected: bool) -> bool:
        """Judge what is due, at most `PAGE` alerts, and tell what has waited long enough.

        Returns:
            Whether there may be more that is due.
        """
        if self._is_new:
            self._begin(tx, now_unix_ms)
        text = "the controller cannot reach the broker"
        if is_connected != self._was_connected:
            lost = Finding("broker", not is_connected, text)
            self.observe(tx, "broker_lost", [lost], now_unix_ms)
        self._is_new, self._was_connected = False, is_connected
        blind = self._blind(is_connected=is_connected)
        rows = tx.alerts.due(now_unix_ms, but=blind, limit=PAGE)
        changed, gone = [], []
        for row in rows:
            new = self._judged(row, now_unix_ms)
            if new is None:
                gone.append(row.id)
            else:
                changed.append(self._row(row, new, None))
        tx.alerts.save(changed)
        tx.alerts.drop(gone)
        if len(rows) == PAGE:
            return True  # what belongs to one group may still come
        for group in tx.alerts.groups():
            # A clock that was set back ends the wait.
            if not 0 <= now_unix_ms - group.first_unix_ms < self.settings.group_s * 1000:
                self._tell(tx, group, now_unix_ms)
        return False

    def committed(self) -> None:
        """Have delivered what a tick told; call when its transaction is on disk."""
        if self._has_told:
            self._has_told = False
            self._wake()

    def prune(self, tx: Tx, now_unix_ms: int) -> None:
        """Forget what is long over, and give up what could not be delivered for long."""
        tx.alerts.prune(now_unix_ms - HISTORY_MS)
        if dropped := tx.deliveries.drop_old(now_unix_ms - MAX_AGE_MS):
            log.error("alerts: %d deliveries are a day old and are given up", dropped)

    def _begin(self, tx: Tx, now_unix_ms: int) -> None:
        """Look at all open alerts again: rules and receivers may be others than before."""
        tx.alerts.due_now(now_unix_ms)
        if dropped := tx.deliveries.drop_others([MQTT, *(r.name for r in self.receivers)]):
            log.warning("alerts: %d deliveries to receivers that are no longer there", dropped)

    def _blind(self, *, is_connected: bool) -> frozenset[str]:
        return frozenset() if is_connected else BLIND

    def _judged(self, row: AlertRow, now_unix_ms: int) -> core.Alert | None:
        rule = self.rule(row.alert.rule)
        if rule.name not in self.rules:
            return core.step(row.alert, False, now_unix_ms, rule)
        return core.judged(row.alert, now_unix_ms, rule)

    def _row(self, row: AlertRow | None, alert: core.Alert, finding: Finding | None) -> AlertRow:
        due = core.due_unix_ms(alert, self.rule(alert.rule))
        if row is None:
            text, device = (finding.text, finding.device) if finding else ("", None)
            return AlertRow(0, alert, text, device, due)
        text = row.text
        if finding is not None and finding.is_breached:
            text = finding.text
        elif finding is not None and finding.over:
            text = f"{text}; over: {finding.over}"
        return replace(row, alert=alert, text=text, due_unix_ms=due)

    # -- telling

    def _tell(self, tx: Tx, group: Group, now_unix_ms: int) -> None:
        if group.news == "firing":
            self._hold_back(tx, group.rule, now_unix_ms)
        rule = self.rule(group.rule)
        telling = self.telling(tx, rule, group.news)
        tx.alerts.set_told(rule.name, group.news, now_unix_ms, rule.repeat_ms)
        if telling.count == 0:
            return
        tx.deliveries.add(self.bodies(telling), now_unix_ms)
        text = f"{group.news}: {say.summary(telling)}"
        detail: dict[str, object] = {"rule": rule.name, "count": telling.count}
        tx.journal.note([EventRow("alert", rule.name, text, detail)], now_unix_ms)
        log.log(logging.INFO if group.news == "resolved" else logging.WARNING, "alert %s", text)
        self._has_told = True

    def telling(self, tx: Tx, rule: Rule, news: News) -> say.Telling:
        """Return what there is to tell of a rule."""
        rows = tx.alerts.to_tell(rule.name, news, limit=say.MAX_SHOWN)
        count, began = tx.alerts.summary(rule.name, news)
        devices, _ = tx.devices.counts(Selection())
        return say.Telling(
            rule=rule,
            news=news,
            rows=rows,
            count=count,
            began_unix_ms=began,
            device_count=devices,
            firing_count=tx.alerts.state_counts().get((rule.name, "firing"), 0),
            tags=tx.alerts.tags_of(row.device for row in rows if row.device is not None),
        )

    def bodies(self, telling: say.Telling) -> list[tuple[str, str]]:
        """Return what each receiver is told."""
        hooks = [(r.name, say.webhook(telling, r.name, self._url)) for r in self.receivers]
        return [*hooks, (MQTT, say.mqtt(telling))]

    def _hold_back(self, tx: Tx, rule: str, now_unix_ms: int) -> None:
        """Take what is silenced out of a group, until the silence ends."""
        silences = [
            row.silence
            for row in tx.alerts.silences(now_unix_ms)
            if row.silence.rule in (None, rule)
        ]
        after = 0
        while silences and (rows := tx.alerts.to_tell(rule, "firing", after=after, limit=PAGE)):
            after = rows[-1].id
            tags = tags_of(tx, rows)
            held: dict[int, list[int]] = {}
            for row in rows:
                ends = [
                    silence.until_unix_ms
                    for silence in silences
                    if silence.covers(rule, row.alert.subject, tags.get(row.id, {}))
                ]
                if ends:
                    held.setdefault(max(ends), []).append(row.id)
            for until, ids in held.items():
                tx.alerts.hold(ids, until)


def tags_of(tx: Tx, rows: Sequence[AlertRow]) -> dict[int, dict[str, str]]:
    """Return the tags of what alerts are about, by the alerts' numbers: devices and rollouts."""
    by_device = tx.alerts.tags_of(row.device for row in rows if row.device is not None)
    found = {}
    for row in rows:
        if row.device is not None:
            found[row.id] = by_device.get(row.device, {})
        elif row.alert.rule == "rollout_stopped":
            found[row.id] = tx.rollouts.match_of(row.alert.subject) or {}
    return found
