"""Routes about how right answers are: what is known of it, and labels for it."""

from __future__ import annotations

from typing import Annotated

from fastapi import FastAPI, Query

from fleet import aliases
from fleet.controller import Controller
from fleet.core.cbpe import CAVEAT
from fleet.core.rights import Right
from fleet.monitoring import feedback
from fleet.store.devices import Selection
from fleet.store.store import Tx
from wire.performance import GivenLabel

from . import performance_schemas as s
from .access import By, needs
from .drift import DAY_S, MAX_SPAN_S
from .errors import no_model
from .query import Match, parse_match


def add_routes(app: FastAPI, controller: Controller) -> None:
    """Add these routes."""

    @app.get("/v1/models/{model}/performance", openapi_extra=needs(Right.SEE))
    def show_performance(
        by: By,
        model: str,
        *,
        version: str | None = None,
        device: str | None = None,
        match: Match = None,
        group: Annotated[str | None, Query(max_length=32, description="Key of a tag.")] = None,
        since_s: Annotated[float, Query(gt=0, le=MAX_SPAN_S)] = DAY_S,
    ) -> s.PerformanceReport:
        """Say how right each release was: by labels, else an estimate by scores; `group` divides it."""
        from fleet.monitoring.performance import report

        now = controller.now_unix_ms()
        selection = Selection(match=parse_match(match), device=device, scope=by.scope)
        with controller.store.read() as tx:
            meant = _meant(tx, model, version)  # what is no name of a model ends here
            head = s.PerformanceReport(
                model=model,
                since_unix_ms=now - int(since_s * 1000),
                until_unix_ms=now,
                caveat=CAVEAT,
                releases=[],
            )
            return report(tx, controller.windows, head, selection, version=meant, group=group)

    @app.post(
        "/v1/devices/{device}/models/{model}/feedback",
        status_code=202,
        openapi_extra=needs(Right.STEER),
    )
    def give_labels(by: By, device: str, model: str, body: s.FeedbackIn) -> s.FeedbackResult:
        """Send labels to the device that answered; it refuses, and counts, what it does not know."""
        labels = [
            GivenLabel(id=one.id, label=_text(one.label), row=one.row, version=one.version)
            for one in body.labels
        ]

        def give(tx: Tx) -> None:
            messages = feedback.relay(tx, device, model, labels, scope=by.scope)
            controller.labels.put(device, messages)

        controller.command(give)
        return s.FeedbackResult(sent_count=len(labels))


def _text(label: bool | float | str) -> str:  # noqa: FBT001 - a label, not a flag
    if isinstance(label, bool):
        return "true" if label else "false"
    return label if isinstance(label, str) else repr(label)


def _meant(tx: Tx, model: str, version: str | None) -> str | None:
    """Return the version that is asked for, by itself or by an alias; None for all that answered."""
    if not tx.releases.page(model, after="", limit=1):
        raise no_model(model)
    return None if version is None else aliases.resolve(tx, model, version).version
