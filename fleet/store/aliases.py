"""Aliases: names that are moved from release to release, and every move."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, replace
from typing import Any

from sqlalchemy import Connection, func, insert, select

from fleet.core.aliases import AliasMove

from .lineage_schema import ALIAS_MOVES, ROLLOUT_ALIASES


class Aliases:
    """The tables `alias_moves` and `rollout_aliases`, within one transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def newest(self, model: str, alias: str) -> AliasMove | None:
        """Return the newest move of an alias, its deletion too; None if there never was one."""
        found = self.history(model, alias, limit=1)
        return found[0] if found else None

    def move(self, number: int) -> AliasMove | None:
        """Return a move by its number."""
        row = self._connection.execute(
            select(ALIAS_MOVES).where(ALIAS_MOVES.c.id == number)
        ).one_or_none()
        return _move(row) if row is not None else None

    def history(
        self, model: str, alias: str, *, before: int | None = None, limit: int
    ) -> list[AliasMove]:
        """Return the moves of an alias, newest first, those with a number below `before`."""
        query = select(ALIAS_MOVES).where(
            ALIAS_MOVES.c.model == model, ALIAS_MOVES.c.alias == alias
        )
        if before is not None:
            query = query.where(ALIAS_MOVES.c.id < before)
        query = query.order_by(ALIAS_MOVES.c.id.desc()).limit(limit)
        return [_move(row) for row in self._connection.execute(query)]

    def standing(self, model: str | None = None) -> list[AliasMove]:
        """Return what each alias means now, of one model or of all, sorted by model and alias."""
        newest = select(func.max(ALIAS_MOVES.c.id)).group_by(
            ALIAS_MOVES.c.model, ALIAS_MOVES.c.alias
        )
        if model is not None:
            newest = newest.where(ALIAS_MOVES.c.model == model)
        query = (
            select(ALIAS_MOVES)
            .where(ALIAS_MOVES.c.id.in_(newest), ALIAS_MOVES.c.version.is_not(None))
            .order_by(ALIAS_MOVES.c.model, ALIAS_MOVES.c.alias)
        )
        return [_move(row) for row in self._connection.execute(query)]

    def add(self, move: AliasMove) -> AliasMove:
        """Store a move; return it with its number."""
        values = asdict(move)
        del values["id"]
        done = insert(ALIAS_MOVES).values(**values).returning(ALIAS_MOVES.c.id)
        return replace(move, id=int(self._connection.execute(done).scalar_one()))

    def wish(self, rollout: str, alias: str, by: str) -> None:
        """Note that an alias shall move to the release of a rollout that finishes."""
        self._connection.execute(
            insert(ROLLOUT_ALIASES).values(rollout=rollout, alias=alias, asked_by=by)
        )

    def wishes(self, rollouts: Iterable[str]) -> dict[str, tuple[str, str]]:
        """Return the alias that each of these rollouts moves, and who asked for that, by rollout."""
        query = select(ROLLOUT_ALIASES).where(ROLLOUT_ALIASES.c.rollout.in_(list(rollouts)))
        return {row.rollout: (row.alias, row.asked_by) for row in self._connection.execute(query)}


def _move(row: Any) -> AliasMove:
    return AliasMove(
        row.model,
        row.alias,
        row.version,
        row.manifest,
        row.kind,
        row.back_to,
        row.moved_unix_ms,
        row.moved_by,
        row.why,
        row.id,
    )
