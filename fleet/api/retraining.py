"""The route by which whoever watches a project says whether its triggers train on."""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import FastAPI, Path

from fleet import acts
from fleet.alerts.watch import Finding
from fleet.controller import Controller
from fleet.core.rights import Right
from wire.ids import NAME_PATTERN

from .access import By, needs
from .lineage_schemas import Retraining

RULE: Final = "retraining_stopped"
Model = Annotated[str, Path(pattern=NAME_PATTERN)]


def add_routes(app: FastAPI, controller: Controller) -> None:
    """Add this route."""

    @app.put(
        "/v1/models/{model}/retraining", openapi_extra=needs(Right.RELEASE, is_whole_fleet=True)
    )
    def tell_retraining(by: By, model: Model, body: Retraining) -> Retraining:
        """Say that triggers stopped, which raises an alert, or that they train again."""
        now = controller.now_unix_ms()
        why = f": {body.why}" if body.why else ""
        found = Finding(model, body.is_stopped, f"{model} is trained by no trigger any more{why}")
        acts.about(f"{model} {'stopped' if body.is_stopped else 'trains'}{why}")
        controller.command(lambda tx: controller.alerts.observe(tx, RULE, [found], now))
        return body
