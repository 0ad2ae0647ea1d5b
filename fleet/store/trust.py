"""Signed documents in the controller's store, as they were handed in or signed."""

from __future__ import annotations

from typing import Final, NamedTuple

from sqlalchemy import Connection, delete, func, insert, select

from .schema import TRUST

KEEP_VERSIONS: Final = 10
"""Of each role but the root, whose versions are all kept: a client follows them one by one. The
others a client may be in the midst of fetching."""
ROOT: Final = "root"


class TrustRow(NamedTuple):
    """One version of one role's document."""

    role: str
    version: int
    body: str


class Trust:
    """The table `trust`, within one transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def newest(self, role: str) -> TrustRow | None:
        """Return the newest document of a role."""
        query = select(TRUST).where(TRUST.c.role == role).order_by(TRUST.c.version.desc()).limit(1)
        row = self._connection.execute(query).one_or_none()
        return TrustRow(*row) if row is not None else None

    def version(self, role: str) -> int:
        """Return the version of a role's newest document, 0 without any."""
        query = select(func.max(TRUST.c.version)).where(TRUST.c.role == role)
        return self._connection.execute(query).scalar_one() or 0

    def get(self, role: str, version: int) -> TrustRow | None:
        """Return one version of a role's document."""
        query = select(TRUST).where(TRUST.c.role == role, TRUST.c.version == version)
        row = self._connection.execute(query).one_or_none()
        return TrustRow(*row) if row is not None else None

    def roots(self) -> list[TrustRow]:
        """Return all versions of the root, oldest first."""
        query = select(TRUST).where(TRUST.c.role == ROOT).order_by(TRUST.c.version)
        return [TrustRow(*row) for row in self._connection.execute(query)]

    def all_newest(self) -> list[TrustRow]:
        """Return the newest document of every role."""
        newest = (
            select(TRUST.c.role, func.max(TRUST.c.version).label("version"))
            .group_by(TRUST.c.role)
            .subquery()
        )
        query = (
            select(TRUST)
            .join(
                newest,
                (TRUST.c.role == newest.c.role) & (TRUST.c.version == newest.c.version),
            )
            .order_by(TRUST.c.role)
        )
        return [TrustRow(*row) for row in self._connection.execute(query)]

    def add(self, role: str, version: int, body: str) -> None:
        """Store a document; of other roles than the root the oldest versions go."""
        self._connection.execute(insert(TRUST).values(role=role, version=version, body=body))
        if role == ROOT:
            return
        kept = (
            select(TRUST.c.version)
            .where(TRUST.c.role == role)
            .order_by(TRUST.c.version.desc())
            .limit(KEEP_VERSIONS)
        )
        self._connection.execute(
            delete(TRUST).where(TRUST.c.role == role, TRUST.c.version.not_in(kept))
        )
