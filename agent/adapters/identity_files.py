"""The files of a device's identity, judged, and kept a second time.

    <state dir>/identity/        ca.pem, root.json, fleet.json, device.pem: what is in use
    <state dir>/identity.copy    the same files in one text, sealed

What is in use shows by itself when a bit of it has changed: fleet.json is sealed and names the digests of
ca.pem and root.json, which come with an enrolment only; the certificate is signed by that authority, and
the key is the certificate's. So the first copy is judged without the second, is never the older one, and
wins while it is whole; the second is asked only for what is missing or damaged.

The second is one renewal behind from the rename that settles a new certificate until it is written. Both
certificates are good then: the controller retires the older ones when the device confirms the new one,
and a device confirms only what is in both copies (`Identity.confirmation`). So what the second copy holds
opens the broker at any time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import TypeAdapter

from agent.core.root import HeldRoot, digest_of
from wire.endpoint import TlsFiles
from wire.errors import StorageError

from .database import move_aside
from .durable import sealed, storage_error, unsealed, write_durably

CA: Final = "ca.pem"
ROOT: Final = "root.json"
PLACE: Final = "fleet.json"
CURRENT: Final = "device.pem"
FILES: Final = (CA, ROOT, PLACE, CURRENT)
COPY: Final = "identity.copy"
PRIVATE: Final = 0o600
UNREADABLE: Final = (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion)
"""What the libraries raise for texts that are no key, no certificate, or no JSON."""
log = logging.getLogger(__name__)

_FIRST: Final = 0
"""The number in a seal, which orders nothing here."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a device belongs, as it was told when it enrolled.

    `ca_sha256` and `root_sha256` are of the files that came with it; the latter is empty where the
    fleet had no root of trust to give. `is_root_pinned` says that somebody vouched for that root other
    than the controller.
    """

    device: str
    broker_url: str
    door_url: str
    ca_sha256: str = ""
    root_sha256: str = ""
    is_root_pinned: bool = False


_PLACE: Final = TypeAdapter(Place)
_TEXTS: Final = TypeAdapter(dict[str, str])


def read_place(path: Path) -> Place:
    """Return what fleet.json says.

    Raises:
        OSError: It cannot be read.
        ValueError: It is not as it was written.
    """
    return _place(path.read_bytes().decode())


def _place(text: str) -> Place:
    # An agent of before wrote JSON as it stands, and no digests.
    return _PLACE.validate_json(text if text.startswith("{") else unsealed(text)[1])


def place_text(place: Place) -> str:
    """Return what `read_place` reads."""
    return sealed(_FIRST, _PLACE.dump_json(place).decode())


def load_key(data: bytes) -> ec.EllipticCurvePrivateKey:
    """Return a private key; raises one of `UNREADABLE`."""
    key = serialization.load_pem_private_key(data, None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError("another kind of key")  # noqa: TRY004 - caught with cryptography's own
    return key


def read_pair(path: Path) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    """Return key and certificate of one file; raises OSError or one of `UNREADABLE`."""
    data = path.read_bytes()
    return load_key(data), x509.load_pem_x509_certificate(data)


def check_pair(path: Path, ca: Path) -> None:
    """Check that key and certificate are of each other and of the authority, and that TLS takes them.

    Raises:
        OSError: The file cannot be read, or TLS refuses it.
        ValueError, TypeError: It is not as it was written; and what else `UNREADABLE` names.
    """
    key, certificate = read_pair(path)
    if key.public_key() != certificate.public_key():
        raise ValueError("its key is not that of its certificate")
    try:
        certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(ca.read_bytes()))
    except InvalidSignature as exc:
        raise ValueError("its certificate is not signed by the authority") from exc
    TlsFiles(ca, path).context()


def find_faults(folder: Path) -> dict[str, str]:
    """Return which files of an identity are missing or damaged, and why in words."""
    faults: dict[str, str] = {}
    place = None
    with _noted(faults, PLACE):
        place = read_place(folder / PLACE)
    with _noted(faults, CA):
        _check_digest(folder / CA, place.ca_sha256 if place else "")
    if place is None or place.root_sha256:
        with _noted(faults, ROOT):
            _check_digest(folder / ROOT, place.root_sha256 if place else "")
    with _noted(faults, CURRENT):
        # Without a sound authority there is none to ask; that is put back first.
        if CA in faults:
            read_pair(folder / CURRENT)
        else:
            check_pair(folder / CURRENT, folder / CA)
    return faults


@contextlib.contextmanager
def _noted(faults: dict[str, str], name: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        faults[name] = "gone"
    except (OSError, *UNREADABLE) as exc:
        words = str(exc).splitlines() or [type(exc).__name__]
        faults[name] = words[0][:200]


def _check_digest(path: Path, wanted: str) -> None:
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if wanted and found != wanted:
        raise ValueError("its bytes have changed on disk")


class IdentityCopy:
    """The second copy. Whoever changes the first one holds the identity's lock."""

    def __init__(self, state_dir: Path, folder: Path) -> None:
        """Take note of where both are."""
        self._path = state_dir / COPY
        self._folder = folder

    @property
    def exists(self) -> bool:
        """Whether there is a second copy, in whatever condition."""
        return self._path.exists()

    def read(self) -> Mapping[str, str] | None:
        """Return the files of the second copy by name; None when it is missing or damaged."""
        try:
            return _TEXTS.validate_json(unsealed(self._path.read_bytes().decode())[1])
        except (OSError, ValueError):  # ValidationError and UnicodeDecodeError are of the latter
            return None

    def keep(self) -> None:
        """Put what is in use into the second copy, durably, if that says anything new.

        Raises:
            StorageError: `identity_unreadable`: what is in use is not whole; `disk_full` or
                `storage_error`.
        """
        faults = find_faults(self._folder)
        if faults and (restored := self.restore()) is not None:
            log.error("%s", restored)
            faults = find_faults(self._folder)
        if faults.keys() - {ROOT}:  # a root of trust that is nowhere keeps no certificate from it
            raise StorageError(
                f"{self._folder}: {in_words(faults)}; nothing is copied", code="identity_unreadable"
            )
        try:
            texts = {
                name: (self._folder / name).read_bytes().decode()
                for name in FILES
                if name not in faults and (self._folder / name).exists()
            }
            if texts != self.read():
                data = sealed(_FIRST, json.dumps(texts)).encode()
                write_durably(self._path, data, mode=PRIVATE)
        except OSError as exc:
            raise storage_error(self._path, exc) from exc

    def restore(self) -> str | None:
        """Put back what is missing or damaged in use; return what that was, or None if nothing was.

        What is damaged is moved aside. A kill meanwhile leaves a fault that the next try finds.

        Raises:
            StorageError: `disk_full` or `storage_error`.
        """
        faults = find_faults(self._folder)
        kept = self.read() if faults else None
        if kept is None:
            return None
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._put_back(kept, faults)
            # An enrolment that was cut off in another fleet leaves files that do not fit these.
            if find_faults(self._folder):
                self._put_back(kept, FILES)
        except OSError as exc:
            raise storage_error(self._folder, exc) from exc
        return f"{self._folder}: {in_words(faults)}; put back from {self._path.name}"

    def _put_back(self, kept: Mapping[str, str], names: Collection[str]) -> None:
        for name in FILES:
            path = self._folder / name
            if name not in names or name not in kept:
                continue
            if path.exists():
                move_aside(path)
            write_durably(path, kept[name].encode(), mode=PRIVATE)


def find_root(folder: Path, copy: IdentityCopy) -> HeldRoot | None:
    """Return the root of trust that an identity has or had, None where nothing tells.

    The digest in either copy's fleet.json tells it also where the root itself is lost.
    """
    kept = copy.read() or {}
    in_use, copied = _text(folder / ROOT), kept.get(ROOT, "")
    words = f"{folder} and {COPY} beside it"
    for text in (_text(folder / PLACE), kept.get(PLACE, "")):
        with contextlib.suppress(ValueError):
            place = _place(text)
            if digest := place.root_sha256:
                whole = next((t for t in (in_use, copied) if digest_of(t) == digest), "")
                return HeldRoot(digest, whole, words, is_pinned=place.is_root_pinned)
    # Of an agent of before, or an enrolment that was cut off: no digest says whether it is damaged.
    if text := copied or (in_use if in_use and _is_root(in_use) else ""):
        return HeldRoot(digest_of(text), text, words)
    return None


def _is_root(text: str) -> bool:
    from .ngclient import is_root  # python-tuf takes its time, and is seldom needed here

    return is_root(text.encode())


def _text(path: Path) -> str:
    """Return the text of a file, nothing of one that is gone or none."""
    try:
        return path.read_bytes().decode()
    except (OSError, UnicodeDecodeError):
        return ""


def in_words(faults: Mapping[str, str]) -> str:
    """Return faults for a person."""
    named: dict[str, list[str]] = {}
    for name, why in faults.items():
        named.setdefault(why, []).append(name)
    return "; ".join(f"{', '.join(names)} ({why})" for why, names in named.items())
