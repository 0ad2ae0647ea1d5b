"""How a device gets in, stays in and is put out: tokens, certificates, renewal, revocation."""

from __future__ import annotations

import re
import secrets
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from fleet import acts
from fleet.core.rights import WHOLE_FLEET, Scope
from fleet.ratelimit import Buckets
from fleet.registry import require_device
from fleet.store.identities import CertificateRow
from fleet.store.journal import EventRow
from fleet.store.store import Store, Tx
from wire.enrolment import (
    CONFIRM_CONTEXT,
    RENEW_CONTEXT,
    SECRET_BYTES,
    JoinToken,
    Welcome,
    parse_token,
)
from wire.errors import PeerError
from wire.ids import NAME_PATTERN

from .access import Access
from .audit import Audit, Finding
from .authority import (
    DAY_MS,
    PROGRAM_DAYS,
    CertificateAuthority,
    Issued,
    Request,
    is_signed_by,
    read_certificate,
    read_request,
)
from .grants import DEVICE_DAYS, observer_name

TOKEN_LIFE_S: Final = 3600.0
PRUNE_DAYS: Final = 30
STRANGER_MS: Final = 3_600_000
"""Age at which a certificate of nobody in the fleet is revoked; those of an audit live for minutes."""
RENEW_BURST: Final = 10
"""Renewals of one device at once: power cuts and restarts, each before the answer was kept."""
RENEW_EVERY_S: Final = 3600.0
RENEW_SHARE: Final = 1 / 24
"""Of a certificate's life, where that is less than `RENEW_EVERY_S`: after so long there may be one more.

An agent asks after 2/3 of a life, and at most every 1/12 where its clock is ahead."""


@dataclass(frozen=True, slots=True)
class Invitation:
    """A join token that was made; it is shown once and not kept."""

    token: str
    expires_unix_ms: int


class Enrolment:
    """Lets devices in and puts them out. Safe from any thread: the store orders what it does."""

    def __init__(
        self,
        authority: CertificateAuthority,
        store: Store,
        access: Access,
        clock: Callable[[], int],
        *,
        broker_url: str,
        door_url: str,
        root: Callable[[], str],
        device_days: float = DEVICE_DAYS,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take note of what devices are told.

        Args:
            authority: Signs.
            store: Keeps tokens (their digests) and certificates.
            access: Tells the broker.
            clock: Milliseconds of the Unix epoch.
            broker_url: Where devices find the broker.
            door_url: Where they find us.
            root: Gives the root of trust that a device begins with, or an empty text.
            device_days: Life of a device's certificate.
            monotonic_s: Seconds of a clock that never goes back.
        """
        self._authority = authority
        self._store = store
        self._access = access
        self._clock = clock
        self._broker_url = broker_url
        self.door_url = door_url
        self._root = root
        self._device_days = device_days
        self._monotonic_s = monotonic_s
        pause_s = min(RENEW_EVERY_S, device_days * 86_400 * RENEW_SHARE)
        self._renewals = Buckets(1 / pause_s, RENEW_BURST)
        self._renewals_lock = threading.Lock()

    def now_unix_ms(self) -> int:
        """Return the time, as everything here sees it."""
        return self._clock()

    @property
    def ca_pem(self) -> str:
        """The authority's certificate."""
        return self._authority.pem

    def invite(
        self, device: str, life_s: float = TOKEN_LIFE_S, *, scope: Scope = WHOLE_FLEET
    ) -> Invitation:
        """Return a token that lets this one device in, once; its older ones end.

        Raises:
            PeerError: `unknown_device`.
        """
        token = JoinToken(secrets.token_hex(SECRET_BYTES), self._authority.fingerprint)
        now = self._clock()
        expires = now + int(life_s * 1000)
        with self._store.write() as tx:
            require_device(tx, device, scope)
            tx.identities.add_token(token.digest, device, now, expires)
            tx.journal.note([EventRow("device", device, "invited by a join token")], now)
        return Invitation(str(token), expires)

    def observe(self, name: str, csr: str) -> Welcome:
        """Return a certificate that reads every topic and writes none; the name's older ones end.

        Who is connected by one of those is cut.

        Raises:
            PeerError: `csr_invalid` or `wrong_device`: the request has another name.
        """
        acts.about(observer_name(name))
        request = read_request(csr)
        now = self._clock()
        if request.name != observer_name(name):
            raise PeerError("the request has another observer's name", code="wrong_device")
        with self._store.write() as tx:
            count = tx.identities.revoke(request.name, now)
            issued = self._issue(tx, request, now, PROGRAM_DAYS)
            tx.journal.note([EventRow("observer", name, "may read every topic")], now)
        if count:
            self.see_out(request.name)
        else:
            self._access.refresh()
        return self._welcome(name, issued.pem)

    def revoke_observer(self, name: str) -> tuple[int, bool]:
        """Put an observer out; return how many certificates it had, and whether its connection was cut.

        Raises:
            PeerError: `unknown_observer`.
        """
        full_name = observer_name(name)
        acts.about(full_name)
        now = self._clock()
        with self._store.write() as tx:
            if not tx.identities.certificates(full_name):
                raise PeerError(
                    f"there is no observer {name[:80]!r}",
                    code="unknown_observer",
                    hint="`fleet observers` lists them",
                )
            count = tx.identities.revoke(full_name, now)
            tx.journal.note([EventRow("observer", name, "revoked")], now)
        return count, self.see_out(full_name)

    def observers(self) -> list[CertificateRow]:
        """Return the certificates of observers, those that have expired too."""
        with self._store.read() as tx:
            return tx.identities.observers()

    def enroll(self, token: str, csr: str) -> Welcome:
        """Exchange a token for a certificate: once, or again for the key that it was used with.

        A device whose answer was lost, in a power cut perhaps, asks again with the same key.

        Raises:
            PeerError: `token_invalid`, `token_used`, `token_expired`, `csr_invalid` or `wrong_device`.
        """
        digest = parse_token(token).digest
        request = read_request(csr)
        now = self._clock()
        with self._store.read() as tx:  # what is refused need not wait for its turn to write
            device, known = _admitted(tx, digest, request, now)
        if known is not None:
            return self._welcome(device, known)
        with self._store.write() as tx:
            device, known = _admitted(tx, digest, request, now)
            if known is not None:
                return self._welcome(device, known)
            issued = self._issue(tx, request, now)
            tx.identities.use_token(digest, issued.serial)
            tx.journal.note([EventRow("device", device, "enrolled")], now)
        self._access.refresh()
        return self._welcome(device, issued.pem)

    def renew(self, certificate: str, csr: str, signature: bytes) -> Welcome:
        """Return a device's next certificate, for one that is not revoked; it may have expired.

        The request is signed by the key of `certificate`. To say it again is to be answered again.
        Of the device's other certificates those are retired that it cannot rely on; see `_relied_on`.

        Raises:
            PeerError: `revoked`, `not_ours`, `not_a_device`, `csr_invalid`, `certificate_invalid`,
                `wrong_device` or `too_many_renewals`.
        """
        request = read_request(csr)
        text = RENEW_CONTEXT + csr.encode()
        now = self._clock()
        with self._store.read() as tx:
            row = self._proven(tx, certificate, signature, text)
            known = _answered(tx, row, request, now)
        if known is not None:
            return self._welcome(row.device, known)
        self._slow_down(row.device)
        with self._store.write() as tx:
            row = self._proven(tx, certificate, signature, text)
            known = _answered(tx, row, request, now)
            if known is not None:
                return self._welcome(row.device, known)
            kept = _relied_on(tx.identities.certificates(row.device), row.serial)
            tx.identities.revoke(row.device, now, but=kept)
            issued = self._issue(tx, request, now)
            tx.journal.note([EventRow("device", row.device, "renewed its certificate")], now)
        self._access.refresh()
        return self._welcome(row.device, issued.pem)

    def confirm(self, certificate: str, signature: bytes) -> int:
        """Retire a device's other certificates, now that this one works; return how many.

        Where there is none nothing is written, so what a device costs by confirming is limited by
        how often it may renew.

        Raises:
            PeerError: `revoked`, `not_ours`, `not_a_device` or `certificate_invalid`.
        """
        text = CONFIRM_CONTEXT + certificate.encode()
        with self._store.read() as tx:
            row = self._proven(tx, certificate, signature, text)
            if not _others(tx, row):
                return 0
        with self._store.write() as tx:
            row = self._proven(tx, certificate, signature, text)
            count = tx.identities.revoke(row.device, self._clock(), but=[row.serial])
        self._access.refresh()
        return count

    def identify(self, certificate: bytes) -> str:
        """Return the device that has shown a certificate (DER) and proven its key to TLS.

        Raises:
            PeerError: `not_ours`, `revoked`, `certificate_expired` or `not_a_device`.
        """
        with self._store.read() as tx:
            row = _known(tx, ssl.DER_cert_to_PEM_cert(certificate))
        if row.not_after_unix_ms <= self._clock():  # a connection may outlive it
            raise PeerError("the certificate has expired", code="certificate_expired")
        return row.device

    def revoke(self, device: str, *, scope: Scope = WHOLE_FLEET) -> tuple[int, bool]:
        """Put a device out; return how many certificates it had, and whether its connection was cut.

        It stays in the fleet's list, and a new token would let it in again.

        Raises:
            PeerError: `unknown_device`.
        """
        now = self._clock()
        with self._store.write() as tx:
            require_device(tx, device, scope)
            tx.identities.drop_tokens(device)
            count = tx.identities.revoke(device, now)
            tx.journal.note([EventRow("device", device, "revoked")], now)
        return count, self.see_out(device)

    def see_out(self, name: str) -> bool:
        """See `Access.see_out`."""
        return self._access.see_out(name)

    def make_good(self, is_ending: Callable[[], bool] = lambda: False) -> None:
        """See `Access.make_good`."""
        self._access.make_good(is_ending)

    def audit(self) -> list[Finding]:
        """Return what an audit of the broker and of what is on record finds; see `audit`.

        Raises:
            StorageError: The store or the folder failed.
        """
        acts.about("the broker")
        audit = Audit(
            self._authority, self._store, self._access, self._clock, self._access.broker_url
        )
        return audit.run()

    def tidy(self) -> None:
        """Forget what has expired, revoke what strangers have, and bring the broker's files up to date."""
        now = self._clock()
        with self._store.write() as tx:
            tx.identities.prune(now - PRUNE_DAYS * DAY_MS)
            # Nobody gets in without being in the fleet: these a controller of before left behind.
            tx.identities.revoke_strangers(now - STRANGER_MS, now)
        self._access.refresh()

    def _proven(self, tx: Tx, certificate: str, signature: bytes, text: bytes) -> CertificateRow:
        """Return the certificate whose key signed `text`, if it is one of ours and not revoked."""
        row = _known(tx, certificate)
        if not is_signed_by(row.pem, signature, text):
            raise _refused("the request is not signed by the certificate's key", "not_ours")
        return row

    def _slow_down(self, device: str) -> None:
        """Let a device's renewal pass, unless it had too many: each is news to the broker.

        Raises:
            PeerError: `too_many_renewals`.
        """
        with self._renewals_lock:
            is_allowed = self._renewals.takes(device, self._monotonic_s())
        if not is_allowed:
            raise PeerError(
                f"{device} has renewed its certificate too often",
                code="too_many_renewals",
                hint="go on with the one that it has, and ask again later",
            )

    def _issue(self, tx: Tx, request: Request, now: int, days: float | None = None) -> Issued:
        issued = self._authority.issue(request, now, days=days or self._device_days)
        tx.identities.add_certificate(
            CertificateRow(
                serial=issued.serial,
                device=issued.name,
                key_digest=issued.key_digest,
                pem=issued.pem,
                issued_unix_ms=now,
                not_after_unix_ms=issued.not_after_unix_ms,
            )
        )
        return issued

    def _welcome(self, device: str, certificate: str) -> Welcome:
        return Welcome(
            device=device,
            certificate=certificate,
            ca=self._authority.pem,
            root=self._root(),
            broker_url=self._broker_url,
        )


def _admitted(tx: Tx, digest: str, request: Request, now: int) -> tuple[str, str | None]:
    """Return whom a token lets in, and the certificate (PEM) that its key has got for it, if any.

    Raises:
        PeerError: `token_invalid`, `token_used`, `token_expired`, `revoked` or `wrong_device`.
    """
    row = tx.identities.token(digest)
    if row is None:
        raise _refused("this join token is unknown here", "token_invalid")
    if row.serial is not None:
        known = tx.identities.certificate(row.serial)
        if known is None or known.key_digest != request.key_digest:
            raise _refused("this join token was used before", "token_used")
        if known.revoked_unix_ms is not None:
            raise _refused(f"{row.device} was put out of the fleet", "revoked")
        return row.device, known.pem
    if row.expires_unix_ms <= now:
        raise _refused("this join token has expired", "token_expired")
    if request.name != row.device:
        raise PeerError(
            f"this join token is for {row.device}, the request for {request.name[:80]!r}",
            code="wrong_device",
            hint="[device] id in the agent's configuration must be the device's id",
        )
    return row.device, None


def _answered(tx: Tx, row: CertificateRow, request: Request, now: int) -> str | None:
    """Return the certificate (PEM) that a renewal's key has got already, or None.

    Raises:
        PeerError: `wrong_device`.
    """
    if request.name != row.device:
        raise PeerError(f"a certificate of {row.device} renews no other's", code="wrong_device")
    for known in tx.identities.certificates(row.device):
        if (known.key_digest, known.revoked_unix_ms) == (request.key_digest, None) and (
            known.not_after_unix_ms > now
        ):
            return known.pem
    return None


def _relied_on(rows: Sequence[CertificateRow], shown: str) -> set[str]:
    """Return the serial numbers that a device may rely on beside the certificate that comes next.

    These are the one that it shows; the one before, which its second copy holds until it confirms;
    and the oldest, which it confirmed last or enrolled with. Those after the one that it shows never
    came into use: their answers were lost, or they did not connect.

    Args:
        rows: All of the device's certificates, oldest first.
        shown: The serial number of the one that signed the request.
    """
    serials = [row.serial for row in rows if row.revoked_unix_ms is None]
    before = serials[: serials.index(shown)]
    return {shown, *before[:1], *before[-1:]}


def _others(tx: Tx, row: CertificateRow) -> list[CertificateRow]:
    """Return the certificates of the same device that are not retired."""
    rows = tx.identities.certificates(row.device)
    return [other for other in rows if other.revoked_unix_ms is None and other.serial != row.serial]


def _known(tx: Tx, certificate: str) -> CertificateRow:
    """Return a certificate (PEM) of a device that is in the fleet; it is one of ours and not revoked.

    Raises:
        PeerError: `not_ours`, `revoked`, `not_a_device` or `certificate_invalid`.
    """
    read = read_certificate(certificate)
    row = tx.identities.certificate(read.serial)
    if row is None or row.pem != read.pem:
        raise _refused("this certificate is not one of this fleet", "not_ours")
    if row.revoked_unix_ms is not None:
        raise _refused(f"this certificate of {row.device} is revoked", "revoked")
    if re.fullmatch(NAME_PATTERN, row.device) is None:  # an observer's is on record too
        raise PeerError(f"{row.device} is no device", code="not_a_device")
    if row.device not in tx.devices.known([row.device]):
        raise _refused(f"{row.device} was removed from the fleet", "revoked")
    return row


def _refused(words: str, code: str) -> PeerError:
    return PeerError(words, code=code, hint="`fleet device token NAME` makes a new join token")
