"""The fleet's certificate authority: ECDSA over P-256, one level, online with the controller.

It says who may talk. What may run is said by TUF's offline keys, so that a stolen authority is not
a stolen fleet (decision 0006).
"""

from __future__ import annotations

import datetime as dt
import hashlib
import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from wire.errors import ConfigError, PeerError

from .folder import KeyPair, PkiFolder, write_private
from .grants import CERTIFICATE_URN, CONTROLLER_NAME, DEVICE_DAYS, OBSERVER_NAME

DAY_MS: Final = 24 * 3_600_000
CA_DAYS: Final = 20 * 365
"""Longer than a device lives: a new authority would have to be carried to each by hand."""
PROGRAM_DAYS: Final = 365
"""The fleet's own programs; renewed where the authority is, when a third of it is left."""
BACKDATE_MS: Final = 3_600_000
"""Certificates hold from an hour ago, or a tenth of a short life: clocks of one fleet differ."""
MAX_CSR_BYTES: Final = 4096
UNREADABLE: Final = (
    ValueError, TypeError, UnsupportedAlgorithm, InvalidSignature, x509.InvalidVersion,
)  # fmt: skip
"""What the library raises for PEM texts that are no request, or no certificate."""
"""One of ours has 450."""

_COMMON_NAME: Final = NameOID.COMMON_NAME


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate that was signed.

    Attributes:
        serial: Forty hexadecimal digits.
        name: Its common name.
        key_digest: sha-256 of the public key's DER (SubjectPublicKeyInfo).
        pem: The certificate itself.
        not_before_unix_ms: Holds from here on.
        not_after_unix_ms: Until here.
    """

    serial: str
    name: str
    key_digest: str
    pem: str
    not_before_unix_ms: int
    not_after_unix_ms: int


@dataclass(frozen=True, slots=True)
class Request:
    """A certificate signing request whose own signature is right.

    Attributes:
        name: The common name that it asks for.
        key_digest: sha-256 of the public key's DER.
    """

    name: str
    key_digest: str
    public_key: ec.EllipticCurvePublicKey


class CertificateAuthority:
    """Signs certificates and lists of revoked ones. Safe from any thread: it keeps no state."""

    def __init__(self, folder: PkiFolder) -> None:
        """Load the authority's key.

        Raises:
            ConfigError: `pki_missing`.
        """
        self.folder = folder
        try:
            key = serialization.load_pem_private_key(folder.ca.key.read_bytes(), None)
            self._certificate = x509.load_pem_x509_certificate(folder.ca.certificate.read_bytes())
        except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as exc:
            raise ConfigError(
                f"the fleet has no usable certificate authority in {folder.root}: {exc}",
                code="pki_missing",
                hint="restore it from a backup of the store; `fleet init` makes one with a new fleet",
            ) from exc
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise ConfigError(
                f"{folder.ca.key} is no key of an elliptic curve",
                code="pki_missing",
                hint="restore it from a backup of the store",
            )
        self._key = key

    @classmethod
    def found(cls, folder: PkiFolder, hosts: Iterable[str], now_unix_ms: int) -> Self:
        """Make a new authority, and the certificates of the fleet's own programs.

        Args:
            folder: Where; an authority that is there already stays as it is.
            hosts: Names and addresses by which devices reach broker and controller, beside loopback.
            now_unix_ms: The time.
        """
        if not folder.is_founded:
            key = ec.generate_private_key(ec.SECP256R1())
            # Two fleets' authorities must not be confused by those who look them up by name.
            name = _name(f"modelfleet CA {_key_digest(key.public_key())[:8]}")
            certificate = (
                _builder(name, name, key.public_key(), now_unix_ms, CA_DAYS * DAY_MS)
                .serial_number(x509.random_serial_number())
                .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
                .add_extension(_usage(is_ca=True), critical=True)
                .add_extension(
                    x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
                )
                .sign(key, hashes.SHA256())
            )
            write_private(folder.ca.key, _private(key))
            write_private(folder.ca.certificate, _pem(certificate))
        authority = cls(folder)
        authority.renew_programs(hosts, now_unix_ms)
        return authority

    @property
    def pem(self) -> str:
        """The authority's own certificate."""
        return _pem(self._certificate).decode()

    @property
    def fingerprint(self) -> str:
        """Return the sha-256 of the authority's certificate (DER): what a join token carries."""
        return self._certificate.fingerprint(hashes.SHA256()).hex()

    def renew_programs(self, hosts: Iterable[str], now_unix_ms: int) -> bool:
        """Make the certificates of the fleet's programs that are absent, old or for other hosts.

        Returns:
            Whether one was made.
        """
        names = sorted({"localhost", "127.0.0.1", "::1", *hosts})
        made = self._renew(self.folder.server, names[0], names, now_unix_ms)
        for pair, name in (
            (self.folder.controller, CONTROLLER_NAME),
            (self.folder.observer, OBSERVER_NAME),
        ):
            made |= self._renew(pair, name, (), now_unix_ms)
        return made

    def issue_program(
        self, pair: KeyPair, name: str, now_unix_ms: int, *, days: float = PROGRAM_DAYS
    ) -> None:
        """Make key and certificate of a client of the broker that is no device."""
        self._make(pair, name, (), now_unix_ms, int(days * DAY_MS))

    def issue(self, request: Request, now_unix_ms: int, *, days: float = DEVICE_DAYS) -> Issued:
        """Sign a device's request; the name in it is the caller's to judge."""
        serial = x509.random_serial_number()
        certificate = self._sign(
            request.name, request.public_key, serial, (), now_unix_ms, int(days * DAY_MS)
        )
        return read_certificate(_pem(certificate).decode())

    def revocations(self, serials: Sequence[tuple[str, int]], now_unix_ms: int) -> bytes:
        """Return the list of revoked certificates (PEM).

        Args:
            serials: Serial number and instant of revocation (milliseconds of the Unix epoch).
            now_unix_ms: The time.
        """
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self._certificate.subject)
            .last_update(_instant(now_unix_ms - BACKDATE_MS))
            # A broker refuses everybody once its list is out of date, and nothing is gained by it:
            # who could keep a newer list from the broker could change the broker.
            .next_update(self._certificate.not_valid_after_utc)
        )
        for serial, at_unix_ms in serials:
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder()
                .serial_number(int(serial, 16))
                .revocation_date(_instant(at_unix_ms))
                .build()
            )
        signed = builder.sign(self._key, hashes.SHA256())
        return signed.public_bytes(serialization.Encoding.PEM)

    def has_signed(self, pem: str) -> bool:
        """Return whether a certificate is one of this authority's; its dates are not looked at."""
        try:
            certificate = x509.load_pem_x509_certificate(pem.encode())
            certificate.verify_directly_issued_by(self._certificate)
        except UNREADABLE:
            return False
        return True

    def _renew(self, pair: KeyPair, name: str, hosts: Sequence[str], now_unix_ms: int) -> bool:
        try:
            certificate = x509.load_pem_x509_certificate(pair.certificate.read_bytes())
            is_good = (
                pair.key.exists()
                and _unix_ms(certificate.not_valid_after_utc) - now_unix_ms
                > PROGRAM_DAYS * DAY_MS // 3
                and _hosts(certificate) == set(hosts)
                and self.has_signed(_pem(certificate).decode())
            )
        except (OSError, ValueError):
            is_good = False
        if not is_good:
            self._make(pair, name, hosts, now_unix_ms, PROGRAM_DAYS * DAY_MS)
        return not is_good

    def _make(
        self, pair: KeyPair, name: str, hosts: Sequence[str], now_unix_ms: int, life_ms: int
    ) -> None:
        # The key stays: a crash between two files must not leave a key without its certificate.
        try:
            key = serialization.load_pem_private_key(pair.key.read_bytes(), None)
        except (OSError, ValueError):
            key = ec.generate_private_key(ec.SECP256R1())
            write_private(pair.key, _private(key))
        public = key.public_key()
        assert isinstance(public, ec.EllipticCurvePublicKey)  # noqa: S101 - we made it
        serial = x509.random_serial_number()
        certificate = self._sign(name, public, serial, hosts, now_unix_ms, life_ms)
        write_private(pair.certificate, _pem(certificate))

    def _sign(  # noqa: PLR0917 - what a certificate says, in its order
        self,
        name: str,
        key: ec.EllipticCurvePublicKey,
        serial: int,
        hosts: Sequence[str],
        now_unix_ms: int,
        life_ms: int,
    ) -> x509.Certificate:
        """Sign for a server when `hosts` are given, else for a client."""
        usage = ExtendedKeyUsageOID.SERVER_AUTH if hosts else ExtendedKeyUsageOID.CLIENT_AUTH
        names = [_host(host) for host in hosts] or [
            x509.UniformResourceIdentifier(f"{CERTIFICATE_URN}{serial:040x}")
        ]
        own = self._certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        return (
            _builder(_name(name), self._certificate.subject, key, now_unix_ms, life_ms)
            .serial_number(serial)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(is_ca=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own), critical=False
            )
            .sign(self._key, hashes.SHA256())
        )


def new_request(path: Path, name: str) -> str:
    """Make a private key at `path`, and return the signing request (PEM) for a name.

    Raises:
        StorageError: `pki_unwritable`.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    write_private(path, _private(key))
    csr = x509.CertificateSigningRequestBuilder().subject_name(_name(name))
    return csr.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


def read_request(pem: str) -> Request:
    """Return what a certificate signing request asks for.

    Raises:
        PeerError: `csr_invalid`: unreadable, not signed by its own key, or another kind of key.
    """
    hint = "`fleet-agent enroll` makes one: ECDSA over P-256, the device's id as common name"
    if len(pem) > MAX_CSR_BYTES:
        raise PeerError("the signing request is too large", code="csr_invalid", hint=hint)
    try:
        csr = x509.load_pem_x509_csr(pem.encode())
        key = csr.public_key()
        names = csr.subject.get_attributes_for_oid(_COMMON_NAME)
        is_signed = csr.is_signature_valid
    except UNREADABLE as exc:
        raise PeerError(
            "the signing request cannot be read", code="csr_invalid", hint=hint
        ) from exc
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise PeerError("the key is not one over P-256", code="csr_invalid", hint=hint)
    if not is_signed or len(names) != 1:
        raise PeerError(
            "the signing request is not signed by its key, or has no name",
            code="csr_invalid",
            hint=hint,
        )
    return Request(str(names[0].value), _key_digest(key), key)


def read_certificate(pem: str) -> Issued:
    """Return what a certificate says; nothing of it is verified.

    Raises:
        PeerError: `certificate_invalid`.
    """
    try:
        certificate = x509.load_pem_x509_certificate(pem.encode())
        (name,) = certificate.subject.get_attributes_for_oid(_COMMON_NAME)
        key = certificate.public_key()
    except UNREADABLE as exc:
        raise PeerError(
            f"the certificate cannot be read: {exc}"[:200], code="certificate_invalid"
        ) from exc
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise PeerError("the certificate is of another kind", code="certificate_invalid")
    return Issued(
        serial=f"{certificate.serial_number:040x}",
        name=str(name.value),
        key_digest=_key_digest(key),
        pem=_pem(certificate).decode(),
        not_before_unix_ms=_unix_ms(certificate.not_valid_before_utc),
        not_after_unix_ms=_unix_ms(certificate.not_valid_after_utc),
    )


def is_signed_by(certificate_pem: str, signature: bytes, text: bytes) -> bool:
    """Return whether the key of a certificate signed `text` (ECDSA, SHA-256)."""
    key = x509.load_pem_x509_certificate(certificate_pem.encode()).public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        return False
    try:
        key.verify(signature, text, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    now_unix_ms: int,
    life_ms: int,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .not_valid_before(_instant(now_unix_ms - min(BACKDATE_MS, life_ms // 10)))
        .not_valid_after(_instant(now_unix_ms + life_ms))
    )


def _usage(*, is_ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_ca,
        key_cert_sign=is_ca,
        crl_sign=is_ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(_COMMON_NAME, common)])


def _host(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def _hosts(certificate: x509.Certificate) -> set[str]:
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return {
        str(name.value) for name in names if not isinstance(name, x509.UniformResourceIdentifier)
    }


def _key_digest(key: ec.EllipticCurvePublicKey) -> str:
    der = key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha256(der).hexdigest()


def _private(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _instant(unix_ms: int) -> dt.datetime:
    return dt.datetime.fromtimestamp(unix_ms // 1000, dt.UTC)


def _unix_ms(instant: dt.datetime) -> int:
    return int(instant.timestamp() * 1000)
