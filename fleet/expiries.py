"""What expires soon: in words for `fleet up` and `fleet keys show`, and for the alerts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

from cryptography import x509
from tuf.api.metadata import Signed

from fleet.pki.grants import observer_name
from fleet.store.identities import CertificateRow
from fleet.trust.documents import SNAPSHOT, TIMESTAMP, Document, to_unix_ms

WARN_DAYS: Final = 30
DAY_MS: Final = 24 * 3_600_000


def expiries(documents: Iterable[Document[Signed]]) -> dict[str, int]:
    """Return when the documents that people sign expire, role to milliseconds of the Unix epoch."""
    return {
        d.role: to_unix_ms(d.signed.expires)
        for d in documents
        if d.role not in (SNAPSHOT, TIMESTAMP)
    }


def soon_words(found: Mapping[str, int], now_unix_ms: int) -> Iterator[str]:
    """Yield a warning for each document that expires within 30 days, or has expired."""
    for role, expires_unix_ms in sorted(found.items(), key=lambda item: item[1]):
        days = (expires_unix_ms - now_unix_ms) // DAY_MS
        if days < 0:
            yield f"{role} HAS EXPIRED: devices install nothing new of it; `fleet keys renew {role}`"
        elif days <= WARN_DAYS:
            yield f"{role} expires in {days} days; `fleet keys renew {role}`"


def certificate_end(path: Path) -> int | None:
    """Return when the first certificate of a file expires; None where it cannot be read."""
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError):
        return None
    return int(certificate.not_valid_after_utc.timestamp() * 1000)


def observer_label(row: CertificateRow) -> str:
    """Return what an observer's certificate is called."""
    return f"observer {row.device.removeprefix(observer_name(''))}"


def observer_words(rows: Iterable[CertificateRow], now_unix_ms: int) -> Iterator[str]:
    """Yield a warning for each observer whose certificate expires within 30 days, or has expired."""
    for row in rows:
        name = row.device.removeprefix(observer_name(""))
        days = (row.not_after_unix_ms - now_unix_ms) // DAY_MS
        if days <= WARN_DAYS:
            said = "has expired" if days < 0 else f"expires in {days} days"
            yield f"the certificate of the observer {name} {said}; `fleet observer {name}` makes the next"
