"""Tokens of the API: who bears them, what for, until when. The tokens themselves are not stored."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, func, insert, select, update

from .schema import TOKENS


@dataclass(frozen=True, slots=True)
class TokenRow:
    """One token; `expires_unix_ms` None is never. `created_by` is the name of a token, or local."""

    name: str
    digest: str
    role: str
    scope: Mapping[str, str] = field(default_factory=dict)
    created_unix_ms: int = 0
    created_by: str = "local"
    expires_unix_ms: int | None = None
    last_used_unix_ms: int | None = None
    revoked_unix_ms: int | None = None

    def is_live(self, now_unix_ms: int) -> bool:
        """Whether it opens anything now."""
        is_over = self.expires_unix_ms is not None and now_unix_ms >= self.expires_unix_ms
        return self.revoked_unix_ms is None and not is_over


class Tokens:
    """The table `tokens`, within one transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def add(self, row: TokenRow) -> None:
        """Store a token of a new name."""
        self._connection.execute(
            insert(TOKENS).values(
                name=row.name,
                digest=row.digest,
                role=row.role,
                scope=json.dumps(dict(row.scope)),
                created_unix_ms=row.created_unix_ms,
                created_by=row.created_by,
                expires_unix_ms=row.expires_unix_ms,
                last_used_unix_ms=row.last_used_unix_ms,
                revoked_unix_ms=row.revoked_unix_ms,
            )
        )

    def get(self, name: str) -> TokenRow | None:
        """Return the token of a name, dead or alive."""
        row = self._connection.execute(select(TOKENS).where(TOKENS.c.name == name)).one_or_none()
        return _row(row) if row is not None else None

    def by_digest(self, digest: str) -> TokenRow | None:
        """Return the token with this sha-256."""
        query = select(TOKENS).where(TOKENS.c.digest == digest)
        row = self._connection.execute(query).one_or_none()
        return _row(row) if row is not None else None

    def all(self) -> list[TokenRow]:
        """Return all tokens, sorted by name."""
        return [
            _row(row) for row in self._connection.execute(select(TOKENS).order_by(TOKENS.c.name))
        ]

    def count(self) -> int:
        """Return how many tokens there ever were."""
        return self._connection.execute(select(func.count()).select_from(TOKENS)).scalar_one()

    def set_used(self, name: str, now_unix_ms: int) -> None:
        """Note that a token was used."""
        self._connection.execute(
            update(TOKENS).where(TOKENS.c.name == name).values(last_used_unix_ms=now_unix_ms)
        )

    def revoke(self, name: str, now_unix_ms: int) -> None:
        """End a token; the moment of the first time stays."""
        self._connection.execute(
            update(TOKENS)
            .where(TOKENS.c.name == name, TOKENS.c.revoked_unix_ms.is_(None))
            .values(revoked_unix_ms=now_unix_ms)
        )


def _row(row: Any) -> TokenRow:
    return TokenRow(
        name=row.name,
        digest=row.digest,
        role=row.role,
        scope=json.loads(row.scope),
        created_unix_ms=row.created_unix_ms,
        created_by=row.created_by,
        expires_unix_ms=row.expires_unix_ms,
        last_used_unix_ms=row.last_used_unix_ms,
        revoked_unix_ms=row.revoked_unix_ms,
    )
