"""Desired state, reported state, and the history of what was confirmed."""

from __future__ import annotations

import json
from dataclasses import dataclass

from sqlalchemy import Connection, delete, func, insert, select, update

from fleet.core.states import ReleaseKey
from wire import messages as m

from .devices import Selection
from .schema import (
    CONFIRMED,
    DESIRED,
    DESIRED_MODELS,
    LIFTED,
    PRESENCE,
    REPORTED,
    REPORTED_MODELS,
)

KEEP_CONFIRMED = 8
"""Releases that a device can be rolled back over, per model; devices keep fewer on disk."""


@dataclass(frozen=True, slots=True)
class ReportedRow:
    """The head of a device's report."""

    boot: str
    seq: int
    generation: int
    quarantined: tuple[m.QuarantinedBundle, ...]
    inventory: m.Inventory


@dataclass(frozen=True, slots=True)
class ReportedModelRow:
    """What a device says of one model."""

    device: str
    model: str
    state: str
    active_version: str | None
    active_manifest: str | None
    fallback_version: str | None
    target_manifest: str | None
    outcome: str | None
    code: str | None
    detail: str
    served: int


@dataclass(frozen=True, slots=True)
class DesiredModelRow:
    """What a device shall serve of one model; `generation` is the one that assigned it."""

    device: str
    model: m.DesiredModel
    generation: int


class States:
    """The tables of desired, reported and confirmed state, within one transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    # -- desired

    def generations(self, selection: Selection) -> dict[str, int]:
        """Return the generation of each selected device that was ever given anything."""
        query = select(DESIRED).where(DESIRED.c.device.in_(selection.ids()))
        return {row.device: row.generation for row in self._connection.execute(query)}

    def lagging(self) -> list[str]:
        """Return the devices that are online and act on an older generation than the newest."""
        query = (
            select(DESIRED.c.device)
            .join(PRESENCE, PRESENCE.c.device == DESIRED.c.device)
            .outerjoin(REPORTED, REPORTED.c.device == DESIRED.c.device)
            .where(
                PRESENCE.c.state == "online",
                func.coalesce(REPORTED.c.generation, 0) < DESIRED.c.generation,
            )
            .order_by(DESIRED.c.device)
        )
        return list(self._connection.execute(query).scalars())

    def desired(self, selection: Selection) -> list[DesiredModelRow]:
        """Return the models that the selected devices shall serve, sorted by device and model."""
        query = (
            select(DESIRED_MODELS)
            .where(DESIRED_MODELS.c.device.in_(selection.ids()))
            .order_by(DESIRED_MODELS.c.device, DESIRED_MODELS.c.model)
        )
        return [
            DesiredModelRow(
                row.device, m.DesiredModel.model_validate_json(row.body), row.generation
            )
            for row in self._connection.execute(query)
        ]

    def set_generation(self, device: str, generation: int) -> None:
        """Set the number of a device's newest desired state."""
        self._connection.execute(delete(DESIRED).where(DESIRED.c.device == device))
        self._connection.execute(insert(DESIRED).values(device=device, generation=generation))

    def set_desired(self, device: str, model: m.DesiredModel, generation: int) -> None:
        """Make a device's desired release of one model this one."""
        self.drop_desired(device, model.name)
        self._connection.execute(
            insert(DESIRED_MODELS).values(
                device=device,
                model=model.name,
                version=model.version,
                manifest=model.manifest,
                generation=generation,
                body=model.model_dump_json(),
            )
        )

    def drop_desired(self, device: str, model: str) -> None:
        """Take a model out of a device's desired state."""
        self._connection.execute(
            delete(DESIRED_MODELS).where(
                DESIRED_MODELS.c.device == device, DESIRED_MODELS.c.model == model
            )
        )

    def others(self, model: str, manifest: str) -> int:
        """Return how many devices shall serve another release of a model than this one."""
        query = (
            select(func.count())
            .select_from(DESIRED_MODELS)
            .where(DESIRED_MODELS.c.model == model, DESIRED_MODELS.c.manifest != manifest)
        )
        return self._connection.execute(query).scalar_one()

    # -- quarantines that a person lifted

    def lifted(self, selection: Selection) -> dict[str, list[m.LiftedQuarantine]]:
        """Return the lifts that the selected devices have not yet acted on, oldest first."""
        query = select(LIFTED).where(LIFTED.c.device.in_(selection.ids()))
        result: dict[str, list[m.LiftedQuarantine]] = {}
        for row in self._connection.execute(query.order_by(LIFTED.c.generation, LIFTED.c.manifest)):
            lift = m.LiftedQuarantine(manifest=row.manifest or None, generation=row.generation)
            result.setdefault(row.device, []).append(lift)
        return result

    def add_lifted(self, device: str, manifest: str | None, generation: int) -> None:
        """Note a lift; one of every bundle takes the place of all before."""
        same = LIFTED.c.device == device
        if manifest is not None:
            same &= LIFTED.c.manifest == manifest
        self._connection.execute(delete(LIFTED).where(same))
        self._connection.execute(
            insert(LIFTED).values(device=device, manifest=manifest or "", generation=generation)
        )

    def drop_lifted(self, device: str, generation: int) -> None:
        """Forget the lifts that a device has acted on: it reported `generation`."""
        self._connection.execute(
            delete(LIFTED).where(LIFTED.c.device == device, LIFTED.c.generation <= generation)
        )

    # -- reported

    def reports(self, selection: Selection) -> dict[str, ReportedRow]:
        """Return the heads of the selected devices' reports."""
        query = select(REPORTED).where(REPORTED.c.device.in_(selection.ids()))
        return {
            row.device: ReportedRow(
                row.boot,
                row.seq,
                row.generation,
                tuple(m.QuarantinedBundle.model_validate(q) for q in json.loads(row.quarantined)),
                m.Inventory.model_validate_json(row.inventory),
            )
            for row in self._connection.execute(query)
        }

    def heads(self, selection: Selection) -> dict[str, tuple[int, frozenset[str]]]:
        """Return the generation and the quarantined digests of the selected devices' reports."""
        query = select(REPORTED.c.device, REPORTED.c.generation, REPORTED.c.quarantined).where(
            REPORTED.c.device.in_(selection.ids())
        )
        return {
            device: (generation, frozenset(q["manifest"] for q in json.loads(quarantined)))
            for device, generation, quarantined in self._connection.execute(query)
        }

    def shadows(self, selection: Selection) -> dict[str, m.ReportedShadow]:
        """Return what those of the selected devices that have a shadow report of it."""
        query = select(REPORTED.c.device, REPORTED.c.shadow).where(
            REPORTED.c.device.in_(selection.ids()), REPORTED.c.shadow.is_not(None)
        )
        return {
            device: m.ReportedShadow.model_validate_json(body)
            for device, body in self._connection.execute(query)
        }

    def reported(self, selection: Selection, model: str | None = None) -> list[ReportedModelRow]:
        """Return what the selected devices say of their models, or of one; sorted as `desired` is."""
        query = (
            select(REPORTED_MODELS)
            .where(REPORTED_MODELS.c.device.in_(selection.ids()))
            .order_by(REPORTED_MODELS.c.device, REPORTED_MODELS.c.model)
        )
        if model is not None:
            query = query.where(REPORTED_MODELS.c.model == model)
        return [ReportedModelRow(*row) for row in self._connection.execute(query)]

    def set_reported(self, device: str, report: m.Reported, now_unix_ms: int) -> None:
        """Replace a device's report, whole."""
        self._connection.execute(delete(REPORTED).where(REPORTED.c.device == device))
        self._connection.execute(
            insert(REPORTED).values(
                device=device,
                boot=report.boot,
                seq=report.seq,
                generation=report.generation,
                quarantined=json.dumps([q.model_dump() for q in report.quarantined]),
                inventory=report.inventory.model_dump_json(),
                received_unix_ms=now_unix_ms,
                shadow=report.shadow.model_dump_json() if report.shadow else None,
            )
        )
        self._connection.execute(delete(REPORTED_MODELS).where(REPORTED_MODELS.c.device == device))
        rows = {model.name: _reported_model(device, model) for model in report.models}
        if rows:
            self._connection.execute(insert(REPORTED_MODELS), list(rows.values()))

    # -- confirmed

    def confirmed(
        self, selection: Selection, model: str
    ) -> dict[str, list[tuple[ReleaseKey, m.DesiredModel]]]:
        """Return the confirmed releases of one model by device, newest first.

        Those that were rolled back by hand are left out. Each comes with the desired state under
        which it was confirmed, so that going back uses the same probation and guards.
        """
        query = (
            select(CONFIRMED)
            .where(
                CONFIRMED.c.device.in_(selection.ids()),
                CONFIRMED.c.model == model,
                CONFIRMED.c.is_void.is_(False),
            )
            .order_by(CONFIRMED.c.id.desc())
        )
        result: dict[str, list[tuple[ReleaseKey, m.DesiredModel]]] = {}
        for row in self._connection.execute(query):
            entry = ReleaseKey(row.version, row.manifest)
            body = m.DesiredModel.model_validate_json(row.body)
            result.setdefault(row.device, []).append((entry, body))
        return result

    def confirmed_keys(self, selection: Selection, model: str) -> dict[str, list[ReleaseKey]]:
        """Return what `confirmed` does, without the desired states."""
        query = (
            select(CONFIRMED.c.device, CONFIRMED.c.version, CONFIRMED.c.manifest)
            .where(
                CONFIRMED.c.device.in_(selection.ids()),
                CONFIRMED.c.model == model,
                CONFIRMED.c.is_void.is_(False),
            )
            .order_by(CONFIRMED.c.id.desc())
        )
        result: dict[str, list[ReleaseKey]] = {}
        for device, version, manifest in self._connection.execute(query):
            result.setdefault(device, []).append(ReleaseKey(version, manifest))
        return result

    def add_confirmed(self, device: str, model: m.DesiredModel, now_unix_ms: int) -> bool:
        """Note that a device confirmed a release; return whether that is new."""
        mine = (CONFIRMED.c.device == device, CONFIRMED.c.model == model.name)
        query = (
            select(CONFIRMED.c.id, CONFIRMED.c.manifest)
            .where(*mine, CONFIRMED.c.is_void.is_(False))
            .order_by(CONFIRMED.c.id.desc())
        )
        rows = self._connection.execute(query).all()
        if rows and rows[0].manifest == model.manifest:
            return False
        self._connection.execute(
            insert(CONFIRMED).values(
                device=device,
                model=model.name,
                version=model.version,
                manifest=model.manifest,
                body=model.model_dump_json(),
                confirmed_unix_ms=now_unix_ms,
                is_void=False,
            )
        )
        if len(rows) >= KEEP_CONFIRMED:
            oldest = rows[KEEP_CONFIRMED - 1].id
            self._connection.execute(delete(CONFIRMED).where(*mine, CONFIRMED.c.id <= oldest))
        return True

    def void_confirmed_after(self, device: str, model: str, manifest: str) -> None:
        """Forget what a device confirmed after `manifest`: it was rolled back by hand."""
        newest = (
            select(CONFIRMED.c.id)
            .where(
                CONFIRMED.c.device == device,
                CONFIRMED.c.model == model,
                CONFIRMED.c.manifest == manifest,
                CONFIRMED.c.is_void.is_(False),
            )
            .order_by(CONFIRMED.c.id.desc())
            .limit(1)
            .scalar_subquery()
        )
        self._connection.execute(
            update(CONFIRMED)
            .where(
                CONFIRMED.c.device == device, CONFIRMED.c.model == model, CONFIRMED.c.id > newest
            )
            .values(is_void=True)
        )


def _reported_model(device: str, model: m.ReportedModel) -> dict[str, object]:
    return {
        "device": device,
        "model": model.name,
        "state": model.state.value,
        "active_version": model.active.version if model.active else None,
        "active_manifest": model.active.manifest if model.active else None,
        "fallback_version": model.fallback.version if model.fallback else None,
        "target_manifest": model.target.manifest if model.target else None,
        "outcome": model.outcome.value if model.outcome else None,
        "code": model.code,
        "detail": model.detail,
        "served": model.served,
    }
