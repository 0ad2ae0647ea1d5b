"""A fleet whose alerts a webhook gets, and a person who listens to the topic; its clock is moved by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fleet.alerts.settings import AlertsSection, Receiver
from fleet.alerts.watch import Finding, Watch
from tests.fleet.peers import Fleet
from wire import codec, topics
from wire.alerts import ControllerAlert
from wire.link import Connected, Delivered, LinkEvent

HOOK = Receiver("hook", "http://127.0.0.1:9/alerts")
DAY_S = 86_400


class Fold(Fleet):
    """A fleet whose alerts one webhook gets, and a person who listens to the topic."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.got: list[Any] = []
        section = AlertsSection.model_validate(settings)
        super().__init__(
            folder, watch=lambda: Watch(section, receivers=[HOOK], url="https://fleet.example")
        )
        self.heard: list[ControllerAlert] = []
        self.ear = self.broker.link("ear")
        self.ear.start(self._listen, lambda: None)
        self.settle()

    def _listen(self, event: LinkEvent) -> None:
        match event:
            case Connected():
                self.ear.subscribe([topics.ControllerAlert().text], qos=1)
            case Delivered(payload=payload, retained=retained):
                assert not retained
                self.heard.append(codec.decode(ControllerAlert, payload))
            case _:
                pass

    def told(self) -> list[tuple[str, str, int]]:
        """Return what the webhook shall get: status, rule and the number of alerts."""
        return [(b["status"], b["groupLabels"]["alertname"], count(b)) for b in self.bodies()]

    def bodies(self) -> list[Any]:
        """Return all that the webhook was told; it takes what waits."""
        with self.store.write() as tx:
            waiting = tx.deliveries.waiting(HOOK.name)
            tx.deliveries.done([delivery.id for delivery in waiting])
        self.got += [json.loads(delivery.body) for delivery in waiting]
        return self.got

    def wait(self, seconds: float, *, step_s: float = 1.0) -> None:
        for _ in range(int(seconds // (DAY_S // 2))):
            super().wait(DAY_S // 2, step_s=step_s)
            self.bodies()
        super().wait(seconds % (DAY_S // 2), step_s=step_s)

    def states(self, rule: str) -> dict[str, str]:  # type: ignore[override]
        with self.store.read() as tx:
            return {s: row.alert.state for s, row in tx.alerts.open_of(rule).items()}

    def report(self, rule: str, *findings: Finding) -> None:
        with self.store.write() as tx:
            self.controller.alerts.report(tx, rule, findings, self.now_unix_ms)
        self.settle()


def count(body: Any) -> int:
    return len(body["alerts"]) + int(body["truncatedAlerts"])
