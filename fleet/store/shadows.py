"""Shadows: which devices shall run one, the trials of rollouts, and what was compared."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select, update

from fleet.core.shadow import Counts, ShadowSums, merged
from fleet.core.states import ShadowRule, ShadowTrial
from wire import messages as m

from .devices import BATCH
from .shadow_schema import DESIRED_SHADOWS, SHADOW_SUMS, TRIALS


class Shadows:
    """The tables of shadows, within one transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def desired(self, device: str) -> m.DesiredShadow | None:
        """Return the shadow that a device shall run, or None."""
        query = select(DESIRED_SHADOWS.c.body).where(DESIRED_SHADOWS.c.device == device)
        body = self._connection.execute(query).scalar_one_or_none()
        return m.DesiredShadow.model_validate_json(body) if body is not None else None

    def models(self, devices: Iterable[str]) -> dict[str, str]:
        """Return the models of which devices shall run a shadow, by device."""
        found: dict[str, str] = {}
        wanted = sorted(set(devices))
        table = DESIRED_SHADOWS
        for start in range(0, len(wanted), BATCH):
            query = select(table.c.device, table.c.model).where(
                table.c.device.in_(wanted[start : start + BATCH])
            )
            found |= {row.device: row.model for row in self._connection.execute(query)}
        return found

    def set_desired(self, device: str, shadow: m.DesiredShadow) -> None:
        """Make this the shadow of a device."""
        self._connection.execute(delete(DESIRED_SHADOWS).where(DESIRED_SHADOWS.c.device == device))
        values = {"device": device, "model": shadow.model, "rollout": shadow.rollout}
        self._connection.execute(
            insert(DESIRED_SHADOWS).values(**values, body=shadow.model_dump_json())
        )

    def drop_desired(self, device: str, model: str) -> bool:
        """End the shadow that a device shall run of a model; return whether there was one."""
        table = DESIRED_SHADOWS
        query = delete(table).where(table.c.device == device, table.c.model == model)
        return bool(self._connection.execute(query).rowcount)

    def add_trial(self, rollout: str, trial: ShadowTrial) -> None:
        """Store the trial of a new rollout."""
        self._connection.execute(insert(TRIALS).values(rollout=rollout, **_trial_values(trial)))

    def save_trial(self, rollout: str, trial: ShadowTrial) -> None:
        """Store what a step changed of a trial."""
        self._connection.execute(
            update(TRIALS).where(TRIALS.c.rollout == rollout).values(**_trial_values(trial))
        )

    def trial(self, rollout: str) -> ShadowTrial | None:
        """Return the trial of a rollout, or None."""
        row = self._connection.execute(
            select(TRIALS).where(TRIALS.c.rollout == rollout)
        ).one_or_none()
        if row is None:
            return None
        return ShadowTrial(
            rule=ShadowRule(
                duration_s=row.duration_s,
                sample_ratio=row.sample_ratio,
                min_agreement=row.min_agreement,
                min_rows=row.min_rows,
                rtol=row.rtol,
                atol=row.atol,
            ),
            state=row.state,
            opened_unix_ms=row.opened_unix_ms,
            closed_unix_ms=row.closed_unix_ms,
            devices=tuple((device, number) for device, number in json.loads(row.devices)),
        )

    def add_sums(self, rollout: str, device: str, sums: ShadowSums) -> None:
        """Add to what a device compared for a rollout."""
        mine = (SHADOW_SUMS.c.rollout == rollout, SHADOW_SUMS.c.device == device)
        body = self._connection.execute(
            select(SHADOW_SUMS.c.body).where(*mine)
        ).scalar_one_or_none()
        if body is not None:
            sums = merged(_parse(body), sums)
            self._connection.execute(delete(SHADOW_SUMS).where(*mine))
        self._connection.execute(
            insert(SHADOW_SUMS).values(
                rollout=rollout,
                device=device,
                row_count=sums.row_count,
                agree_count=sums.agree_count,
                body=json.dumps(asdict(sums), separators=(",", ":")),
            )
        )

    def counts(self, rollout: str) -> Counts:
        """Return what all devices compared for a rollout."""
        table = SHADOW_SUMS
        query = select(func.sum(table.c.row_count), func.sum(table.c.agree_count))
        rows, agreed = self._connection.execute(query.where(table.c.rollout == rollout)).one()
        return Counts(int(rows or 0), int(agreed or 0))

    def sums(self, rollout: str) -> dict[str, ShadowSums]:
        """Return what each device compared for a rollout."""
        query = (
            select(SHADOW_SUMS.c.device, SHADOW_SUMS.c.body)
            .where(SHADOW_SUMS.c.rollout == rollout)
            .order_by(SHADOW_SUMS.c.device)
        )
        return {row.device: _parse(row.body) for row in self._connection.execute(query)}


def _trial_values(trial: ShadowTrial) -> dict[str, Any]:
    return {
        **asdict(trial.rule),
        "state": trial.state,
        "opened_unix_ms": trial.opened_unix_ms,
        "closed_unix_ms": trial.closed_unix_ms,
        "devices": json.dumps(trial.devices, separators=(",", ":")),
    }


def _parse(body: str) -> ShadowSums:
    said: dict[str, Any] = json.loads(body)
    said["classes"] = {label: (rows, off) for label, (rows, off) in said["classes"].items()}
    for name in ("active_latency", "shadow_latency"):
        said[name] = tuple(said[name])
    return ShadowSums(**said)
