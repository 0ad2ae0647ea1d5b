"""Join tokens, and the certificates that devices got for them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, fields

from sqlalchemy import Connection, and_, delete, func, insert, not_, or_, select, update

from fleet.pki.grants import observer_name

from .schema import CERTIFICATES, DEVICES, JOIN_TOKENS


@dataclass(frozen=True, slots=True)
class TokenRow:
    """A join token; `serial` is the certificate that it was exchanged for, or None."""

    device: str
    expires_unix_ms: int
    serial: str | None


@dataclass(frozen=True, slots=True)
class CertificateRow:
    """A device's certificate; `revoked_unix_ms` is None while it is not revoked."""

    serial: str
    device: str
    key_digest: str
    pem: str
    issued_unix_ms: int
    not_after_unix_ms: int
    revoked_unix_ms: int | None = None


_IS_OBSERVERS = CERTIFICATES.c.device.startswith(observer_name(""), autoescape=True)
_COLUMNS = tuple(CERTIFICATES.c[field.name] for field in fields(CertificateRow))


class Identities:
    """The tables `join_tokens` and `certificates`, within one transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def add_token(self, digest: str, device: str, now_unix_ms: int, expires_unix_ms: int) -> None:
        """Let a token be exchanged until it expires; the device's older ones end."""
        self.drop_tokens(device)
        self._connection.execute(
            insert(JOIN_TOKENS).values(
                digest=digest,
                device=device,
                created_unix_ms=now_unix_ms,
                expires_unix_ms=expires_unix_ms,
            )
        )

    def token(self, digest: str) -> TokenRow | None:
        """Return a token by the digest of its secret."""
        row = self._connection.execute(
            select(JOIN_TOKENS).where(JOIN_TOKENS.c.digest == digest)
        ).one_or_none()
        return None if row is None else TokenRow(row.device, row.expires_unix_ms, row.serial)

    def open_tokens(self, now_unix_ms: int) -> list[tuple[str, int]]:
        """Return device and expiry of every token that would still be taken."""
        query = (
            select(JOIN_TOKENS.c.device, JOIN_TOKENS.c.expires_unix_ms)
            .where(JOIN_TOKENS.c.serial.is_(None), JOIN_TOKENS.c.expires_unix_ms > now_unix_ms)
            .order_by(JOIN_TOKENS.c.device)
        )
        return [(row.device, row.expires_unix_ms) for row in self._connection.execute(query)]

    def use_token(self, digest: str, serial: str) -> None:
        """Note what a token was exchanged for: it is used up."""
        self._connection.execute(
            update(JOIN_TOKENS).where(JOIN_TOKENS.c.digest == digest).values(serial=serial)
        )

    def drop_tokens(self, device: str) -> None:
        """Forget a device's tokens, used or not."""
        self._connection.execute(delete(JOIN_TOKENS).where(JOIN_TOKENS.c.device == device))

    def add_certificate(self, row: CertificateRow) -> None:
        """Keep a certificate, after all others."""
        newest = select(func.coalesce(func.max(CERTIFICATES.c.number), 0)).scalar_subquery()
        self._connection.execute(
            insert(CERTIFICATES).values(
                serial=row.serial,
                device=row.device,
                key_digest=row.key_digest,
                pem=row.pem,
                issued_unix_ms=row.issued_unix_ms,
                not_after_unix_ms=row.not_after_unix_ms,
                revoked_unix_ms=row.revoked_unix_ms,
                number=newest + 1,
            )
        )

    def certificate(self, serial: str) -> CertificateRow | None:
        """Return a certificate by its serial number."""
        row = self._connection.execute(
            select(*_COLUMNS).where(CERTIFICATES.c.serial == serial)
        ).one_or_none()
        return None if row is None else CertificateRow(*row)

    def certificates(self, device: str | None = None) -> list[CertificateRow]:
        """Return a device's certificates, or all; oldest first, whatever the clock said."""
        query = select(*_COLUMNS).order_by(CERTIFICATES.c.number)
        if device is not None:
            query = query.where(CERTIFICATES.c.device == device)
        return [CertificateRow(*row) for row in self._connection.execute(query)]

    def observers(self) -> list[CertificateRow]:
        """Return the certificates of observers that are not revoked, by name; expired ones too."""
        query = (
            select(*_COLUMNS)
            .where(
                CERTIFICATES.c.revoked_unix_ms.is_(None),
                _IS_OBSERVERS,
            )
            .order_by(CERTIFICATES.c.device)
        )
        return [CertificateRow(*row) for row in self._connection.execute(query)]

    def usable(self, now_unix_ms: int) -> list[tuple[str, str]]:
        """Return serial number and device of what is neither revoked nor expired."""
        query = (
            select(CERTIFICATES.c.serial, CERTIFICATES.c.device)
            .where(
                CERTIFICATES.c.revoked_unix_ms.is_(None),
                CERTIFICATES.c.not_after_unix_ms > now_unix_ms,
            )
            .order_by(CERTIFICATES.c.serial)
        )
        return [(row.serial, row.device) for row in self._connection.execute(query)]

    def revoked(self, now_unix_ms: int) -> list[tuple[str, int]]:
        """Return serial number and instant of what is revoked and would not have expired yet."""
        query = (
            select(CERTIFICATES.c.serial, CERTIFICATES.c.revoked_unix_ms)
            .where(
                CERTIFICATES.c.revoked_unix_ms.is_not(None),
                CERTIFICATES.c.not_after_unix_ms > now_unix_ms,
            )
            .order_by(CERTIFICATES.c.serial)
        )
        return [(row.serial, row.revoked_unix_ms) for row in self._connection.execute(query)]

    def revoke(self, device: str, now_unix_ms: int, *, but: Collection[str] = ()) -> int:
        """Revoke a device's certificates, expired ones too; return how many.

        Args:
            device: Whose.
            now_unix_ms: The time.
            but: Serial numbers of those that stay.
        """
        chosen = and_(
            CERTIFICATES.c.device == device,
            CERTIFICATES.c.revoked_unix_ms.is_(None),
            CERTIFICATES.c.serial.not_in(but),
        )
        count: int = self._connection.execute(
            select(func.count()).select_from(CERTIFICATES).where(chosen)
        ).scalar_one()
        self._connection.execute(
            update(CERTIFICATES).where(chosen).values(revoked_unix_ms=now_unix_ms)
        )
        return count

    def put_out(self, now_unix_ms: int) -> dict[str, frozenset[str]]:
        """Return who has revoked certificates and none that may be used, each with those that would still hold.

        Expired ones count for nothing: no broker takes them. Nor does it of an observer that it has a
        next certificate: nobody renews those, so that the one before may be in other hands.
        """
        unexpired = CERTIFICATES.c.not_after_unix_ms > now_unix_ms
        let_in = select(CERTIFICATES.c.device).where(
            CERTIFICATES.c.revoked_unix_ms.is_(None), unexpired
        )
        query = (
            select(CERTIFICATES.c.device, CERTIFICATES.c.serial)
            .where(
                CERTIFICATES.c.revoked_unix_ms.is_not(None),
                unexpired,
                or_(CERTIFICATES.c.device.not_in(let_in), _IS_OBSERVERS),
            )
            .order_by(CERTIFICATES.c.device)
        )
        found: dict[str, frozenset[str]] = {}
        for row in self._connection.execute(query):
            found[row.device] = found.get(row.device, frozenset()) | {row.serial}
        return found

    def revoke_strangers(self, issued_before_unix_ms: int, now_unix_ms: int) -> int:
        """Revoke what devices have that are not in the fleet; return how many certificates.

        Args:
            issued_before_unix_ms: Younger ones stay: an audit's devices are in no fleet.
            now_unix_ms: The time.
        """
        chosen = and_(
            CERTIFICATES.c.revoked_unix_ms.is_(None),
            CERTIFICATES.c.issued_unix_ms < issued_before_unix_ms,
            CERTIFICATES.c.device.not_in(select(DEVICES.c.id)),
            not_(_IS_OBSERVERS),
        )
        done = self._connection.execute(
            update(CERTIFICATES).where(chosen).values(revoked_unix_ms=now_unix_ms)
        )
        return done.rowcount

    def prune(self, before_unix_ms: int) -> None:
        """Forget revoked certificates that expired before: nothing can be done with them."""
        self._connection.execute(
            delete(CERTIFICATES).where(
                CERTIFICATES.c.revoked_unix_ms.is_not(None),
                CERTIFICATES.c.not_after_unix_ms < before_unix_ms,
            )
        )
