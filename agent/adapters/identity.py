"""Who this device is: its key and certificate, the authority's, the root of trust, where to go.

Everything is in `<state dir>/identity`, written so that a power cut anywhere leaves either the
identity before or the one after. `device.pem` holds key and certificate in one file, since they are
of use only together: it is put in place last when the device enrols, and replaced by one rename when
the certificate that came after has proven itself. All of it is kept a second time (`identity_files`).
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from agent.core.root import HeldRoot, choose_root
from wire.endpoint import TlsFiles
from wire.enrolment import CONFIRM_CONTEXT, RENEW_CONTEXT, ConfirmRequest, RenewRequest, Welcome
from wire.errors import PeerError, StorageError

from .database import move_aside
from .durable import storage_error, sync_directory, write_durably
from .identity_files import (
    CA,
    CURRENT,
    FILES,
    PLACE,
    PRIVATE,
    ROOT,
    UNREADABLE,
    IdentityCopy,
    Place,
    check_pair,
    find_faults,
    find_root,
    in_words,
    load_key,
    place_text,
    read_pair,
    read_place,
)

log = logging.getLogger(__name__)

FOLDER: Final = "identity"
LOCK: Final = "identity.lock"
LOCK_AGAIN_S: Final = 0.2
AGAIN: Final = (
    "`fleet device token NAME` prints the command that lets it in again; its models serve on"
)


ON_TRUST: Final = (
    "the root of trust is taken on trust from the controller: nobody else vouches for it"
)
PIN_IT: Final = (
    "enrol by a token that `fleet device token NAME` makes beside the fleet's root.json, or name a copy"
    " of that as [trust] root"
)


@dataclass(frozen=True, slots=True)
class Span:
    """When a certificate holds."""

    not_before_unix_ms: int
    not_after_unix_ms: int


class Identity:
    """The files of a device's identity. One thread changes them; the link's reads them."""

    def __init__(self, state_dir: Path) -> None:
        """Look at `<state dir>/identity`; nothing is made before it is needed."""
        self.folder = state_dir / FOLDER
        self.ca = self.folder / CA
        self.root = self.folder / ROOT
        self._place = self.folder / PLACE
        self._current = self.folder / CURRENT
        self._key = self.folder / "new.key"
        self._trial = self.folder / "new.pem"
        self._unconfirmed = self.folder / "unconfirmed"
        self._lock = state_dir / LOCK
        self._copy = IdentityCopy(state_dir, self.folder)

    @contextlib.contextmanager
    def held(self, patience_s: float = 0.0) -> Iterator[None]:
        """Keep every other program from changing the identity, `fleet-agent enroll` beside the agent.

        Args:
            patience_s: How long to wait for another one to be done.

        Raises:
            StorageError: `identity_in_use`, `disk_full` or `storage_error`.
        """
        deadline_s = time.monotonic() + patience_s
        try:
            self._lock.parent.mkdir(parents=True, exist_ok=True)
            file = self._lock.open("wb")
        except OSError as exc:
            raise storage_error(self._lock, exc) from exc
        with file:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except OSError as exc:
                    if time.monotonic() >= deadline_s:
                        raise StorageError(
                            f"another program is changing the identity in {self.folder}",
                            code="identity_in_use",
                            hint="an enrolment or a renewal is under way: try again in a moment",
                        ) from exc
                time.sleep(LOCK_AGAIN_S)
            yield

    @property
    def has_traces(self) -> bool:
        """Whether anything is left of an identity, in whatever condition."""
        return self._copy.exists or any((self.folder / name).exists() for name in FILES)

    def fault(self) -> StorageError | None:
        """Return why the device cannot go to its fleet with what it has, or None if it can.

        It is `identity_unreadable` where the second copy has what is damaged, and `identity_lost`
        where nothing has.
        """
        faults = find_faults(self.folder)
        faults.pop(ROOT, None)  # installs need it, the way to the fleet does not
        if not faults:
            return None
        if self.has_copy:
            return StorageError(
                f"{self.folder}: {in_words(faults)}",
                code="identity_unreadable",
                hint="an agent that starts puts it back from its second copy",
            )
        copy = "its second copy is damaged too" if self._copy.exists else "there is no second copy"
        return StorageError(
            f"the identity of this device is lost: {self.folder}: {in_words(faults)}; {copy}",
            code="identity_lost",
            hint=AGAIN,
        )

    def heal(self) -> str | None:
        """Put back what is missing or damaged; return what that was, or None if nothing could be.

        Raises:
            StorageError: `disk_full` or `storage_error`.
        """
        restored = None
        if find_faults(self.folder):
            restored = self._copy.restore()
            if self.root.exists() and ROOT in find_faults(self.folder):
                move_aside(self.root)  # a root of trust that has changed is none
        if self.is_on_trial:
            try:
                check_pair(self._trial, self.ca)
            except (OSError, *UNREADABLE) as exc:
                log.warning("the new certificate is damaged (%s): going on without it", exc)
                self.drop_trial()
        return restored

    def keep(self) -> None:
        """Bring the second copy up to date.

        Raises:
            StorageError: `identity_unreadable`, `disk_full` or `storage_error`.
        """
        self._copy.keep()

    @property
    def has_copy(self) -> bool:
        """Whether there is a second copy that is whole."""
        return self._copy.read() is not None

    @property
    def is_enrolled(self) -> bool:
        """Whether the device has a certificate, in whatever condition."""
        return self._current.exists()

    @property
    def is_on_trial(self) -> bool:
        """Whether a newer certificate waits for its proof."""
        return self._trial.exists()

    @property
    def is_unconfirmed(self) -> bool:
        """Whether the controller is still to be told that the certificate works."""
        return self._unconfirmed.exists()

    def place(self) -> Place:
        """Return where the device belongs.

        Raises:
            StorageError: `identity_unreadable`.
        """
        try:
            return read_place(self._place)
        except (OSError, ValueError) as exc:
            raise _unreadable(self._place, exc) from exc

    def span(self) -> Span:
        """Return when the certificate holds that is in use.

        Raises:
            StorageError: `identity_unreadable`.
        """
        certificate = self._read(self._current)[1]
        return Span(
            int(certificate.not_valid_before_utc.timestamp() * 1000),
            int(certificate.not_valid_after_utc.timestamp() * 1000),
        )

    def files(self) -> TlsFiles:
        """Return what the next connection is made with: the newer certificate, while it is on trial."""
        return TlsFiles(self.ca, self._trial if self._trial.exists() else self._current)

    def new_request(self, device: str) -> str:
        """Return a signing request (PEM) for the key in waiting, which is made when there is none.

        The key is on disk before this returns: whoever asks again asks for the same.

        Raises:
            StorageError: `disk_full` or `storage_error`.
        """
        key = self._key_in_waiting()
        if key is None:
            key = ec.generate_private_key(ec.SECP256R1())
            try:
                self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                sync_directory(self.folder.parent)
                write_durably(self._key, _key_pem(key), mode=PRIVATE)
            except OSError as exc:
                raise storage_error(self._key, exc) from exc
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, device)])
        csr = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
        return csr.public_bytes(serialization.Encoding.PEM).decode()

    def held_root(self) -> HeldRoot | None:
        """Return the root of trust of this device by what is left of its identity, None if nothing tells."""
        return find_root(self.folder, self._copy)

    def enrol(
        self,
        welcome: Welcome,
        door_url: str,
        *,
        root_sha256: str = "",
        named_root: HeldRoot | None = None,
    ) -> None:
        """Keep what the controller answered; the device is enrolled when this returns.

        Args:
            welcome: The answer.
            door_url: Where it came from.
            root_sha256: Digest of the root of trust in the join token; empty where it has none.
            named_root: What a person has named as root of trust; it counts before what is here.

        Raises:
            PeerError: `certificate_invalid`: it is not for our key; `wrong_root`.
            StorageError: `disk_full` or `storage_error`; to be done again.
        """
        pair = self._paired(welcome)
        held = named_root or self.held_root()
        root = choose_root(welcome.root, pin=root_sha256, held=held)
        ca = welcome.ca.encode()
        place = Place(
            device=welcome.device,
            broker_url=welcome.broker_url,
            door_url=door_url,
            ca_sha256=hashlib.sha256(ca).hexdigest(),
            root_sha256=root.digest,
            is_root_pinned=root.is_pinned,
        )
        try:
            write_durably(self.ca, ca)
            if root.text:
                write_durably(self.root, root.text.encode())
            write_durably(self._place, place_text(place).encode())
            write_durably(self._unconfirmed, b"")
            self._trial.unlink(missing_ok=True)
            write_durably(self._current, pair, mode=PRIVATE)
            self._key.unlink(missing_ok=True)
        except OSError as exc:
            raise storage_error(self._current, exc) from exc
        try:
            self.keep()
        except StorageError as exc:
            log.warning("%s", exc)  # it is in, and confirms nothing before that is made up for
        if root.text and not root.is_pinned:
            log.warning("%s; %s", ON_TRUST, PIN_IT)

    def renewal(self, device: str) -> RenewRequest:
        """Return the request for the next certificate, signed by the key of the present one.

        Raises:
            StorageError: As `new_request`, or `identity_unreadable`.
        """
        csr = self.new_request(device)
        key, certificate = self._read(self._current)
        return RenewRequest(
            certificate=_pem(certificate),
            csr=csr,
            signature=_sign(key, RENEW_CONTEXT + csr.encode()),
        )

    def begin_trial(self, welcome: Welcome) -> None:
        """Have the next connection made with the certificate that came.

        Raises:
            PeerError: `certificate_invalid`: it is not for our key.
            StorageError: `disk_full` or `storage_error`.
        """
        pair = self._paired(welcome)
        try:
            write_durably(self._trial, pair, mode=PRIVATE)
            self._key.unlink(missing_ok=True)
        except OSError as exc:
            raise storage_error(self._trial, exc) from exc

    def settle_trial(self) -> None:
        """Let the newer certificate take the place of the present one: it has connected.

        Raises:
            StorageError: `disk_full` or `storage_error`.
        """
        try:
            write_durably(self._unconfirmed, b"")
            self._trial.rename(self._current)
            sync_directory(self.folder)
        except OSError as exc:
            raise storage_error(self._current, exc) from exc

    def drop_trial(self) -> None:
        """Go on with the present certificate: the newer one does not connect."""
        self._trial.unlink(missing_ok=True)

    def confirmation(self) -> ConfirmRequest:
        """Return the word to the controller that the certificate works.

        The controller retires the ones before at that word: by then the second copy must hold this
        one, or it would lock the device out when it is needed.

        Raises:
            StorageError: As `keep`.
        """
        self.keep()
        key, certificate = self._read(self._current)
        pem = _pem(certificate)
        return ConfirmRequest(certificate=pem, signature=_sign(key, CONFIRM_CONTEXT + pem.encode()))

    def confirmed(self) -> None:
        """Take note that the controller has been told."""
        self._unconfirmed.unlink(missing_ok=True)

    def _key_in_waiting(self) -> ec.EllipticCurvePrivateKey | None:
        try:
            key = load_key(self._key.read_bytes())
        except (OSError, *UNREADABLE):
            return None
        with contextlib.suppress(StorageError):
            # A crash may have left a key behind that is in use by now.
            if key.public_key() == self._read(self._current)[0].public_key():
                return None
        return key

    def _paired(self, welcome: Welcome) -> bytes:
        """Return key in waiting and certificate as one file."""
        try:
            key = load_key(self._key.read_bytes())
            certificate = x509.load_pem_x509_certificate(welcome.certificate.encode())
            is_for_key = certificate.public_key() == key.public_key()  # decoded only now
        except (OSError, *UNREADABLE) as exc:
            raise PeerError(
                f"the certificate that came cannot be used: {exc}"[:200], code="certificate_invalid"
            ) from exc
        if not is_for_key:
            raise PeerError(
                "the certificate that came is for another key", code="certificate_invalid"
            )
        return _key_pem(key) + _pem(certificate).encode()

    def _read(self, path: Path) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
        try:
            return read_pair(path)
        except (OSError, *UNREADABLE) as exc:
            raise _unreadable(path, exc) from exc


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _sign(key: ec.EllipticCurvePrivateKey, text: bytes) -> str:
    return key.sign(text, ec.ECDSA(hashes.SHA256())).hex()


def _unreadable(path: Path, exc: Exception) -> StorageError:
    return StorageError(
        f"{path} cannot be used: {exc}"[:300],
        code="identity_unreadable",
        hint=AGAIN,
    )
