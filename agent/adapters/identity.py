"""Who this device is: its key and certificate, the authority's, the root of trust, where to go.

Everything is in `<state dir>/identity`, written so that a power cut anywhere leaves either the
identity before or the one after. `device.pem` holds key and certificate in one file, since they are
of use only together: it is put in place last when the device enrols, and replaced by one rename when
the certificate that came after has proven itself.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from pydantic import TypeAdapter, ValidationError

from wire.enrolment import CONFIRM_CONTEXT, RENEW_CONTEXT, ConfirmRequest, RenewRequest, Welcome
from wire.errors import PeerError, StorageError
from wire.link_paho import TlsFiles

from .durable import storage_error, sync_directory, write_durably

log = logging.getLogger(__name__)

FOLDER: Final = "identity"
PRIVATE: Final = 0o600
UNREADABLE: Final = (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion)
"""What the library raises for PEM texts that are no key, or no certificate."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a device belongs, as it was told when it enrolled."""

    device: str
    broker_url: str
    door_url: str


_PLACE: Final = TypeAdapter(Place)


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
        self.ca = self.folder / "ca.pem"
        self.root = self.folder / "root.json"
        self._place = self.folder / "fleet.json"
        self._current = self.folder / "device.pem"
        self._key = self.folder / "new.key"
        self._trial = self.folder / "new.pem"
        self._unconfirmed = self.folder / "unconfirmed"

    @property
    def is_enrolled(self) -> bool:
        """Whether the device has a certificate."""
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
            return _PLACE.validate_json(self._place.read_bytes())
        except (OSError, ValidationError) as exc:
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

    def enrol(self, welcome: Welcome, door_url: str) -> None:
        """Keep what the controller answered; the device is enrolled when this returns.

        Raises:
            PeerError: `certificate_invalid`: it is not for our key.
            StorageError: `disk_full` or `storage_error`; to be done again.
        """
        pair = self._paired(welcome)
        place = {
            "device": welcome.device,
            "broker_url": welcome.broker_url,
            "door_url": door_url,
        }
        try:
            write_durably(self.ca, welcome.ca.encode())
            if welcome.root:
                write_durably(self.root, welcome.root.encode())
            write_durably(self._place, json.dumps(place, indent=1).encode())
            write_durably(self._unconfirmed, b"")
            self._trial.unlink(missing_ok=True)
            write_durably(self._current, pair, mode=PRIVATE)
            self._key.unlink(missing_ok=True)
        except OSError as exc:
            raise storage_error(self._current, exc) from exc

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

        Raises:
            StorageError: `identity_unreadable`.
        """
        key, certificate = self._read(self._current)
        pem = _pem(certificate)
        return ConfirmRequest(certificate=pem, signature=_sign(key, CONFIRM_CONTEXT + pem.encode()))

    def confirmed(self) -> None:
        """Take note that the controller has been told."""
        self._unconfirmed.unlink(missing_ok=True)

    def _key_in_waiting(self) -> ec.EllipticCurvePrivateKey | None:
        try:
            key = _load_key(self._key.read_bytes())
        except (OSError, *UNREADABLE):
            return None
        if not self.is_enrolled:
            return key
        # A crash may have left a key behind that is in use by now.
        is_used = key.public_key() == self._read(self._current)[0].public_key()
        return None if is_used else key

    def _paired(self, welcome: Welcome) -> bytes:
        """Return key in waiting and certificate as one file."""
        try:
            key = _load_key(self._key.read_bytes())
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
            data = path.read_bytes()
            return _load_key(data), x509.load_pem_x509_certificate(data)
        except (OSError, *UNREADABLE) as exc:
            raise _unreadable(path, exc) from exc


def _load_key(data: bytes) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(data, None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError("another kind of key")  # noqa: TRY004 - caught with cryptography's own
    return key


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
        hint="let the device in again: `fleet device token NAME`, then `fleet-agent enroll`",
    )
