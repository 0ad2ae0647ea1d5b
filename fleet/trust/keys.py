"""Keys of people: a folder with one public file for each key, and the private half or where it is.

`root-1a2b3c4d.pub` is the key as TUF writes it, and the URI of its private half: a file beside it
(`root-1a2b3c4d.pem`, encrypted PKCS#8) or a PKCS#11 token. A `.pub` file alone is somebody else's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from securesystemslib.exceptions import KeyMismatchError, UnsupportedLibraryError
from securesystemslib.signer import CryptoSigner, HSMSigner, Key, Signature, Signer, SSlibKey

from fleet.durable import write_durably
from wire.codec import parse_json
from wire.errors import ConfigError, PeerError
from wire.ids import DIGEST_PATTERN

SCHEMES: Final = frozenset({"ed25519", "ecdsa-sha2-nistp256"})
"""What devices verify: Ed25519 from files, P-256 from tokens, which rarely know Ed25519."""
MAX_KEY_BYTES: Final = 4096
OFFLINE_DIR: Final = "offline"
"""In the fleet's directory, until somebody locks it away."""
PUBLIC: Final = ".pub"
PRIVATE: Final = ".pem"
PASSPHRASE_FILE: Final = "passphrase"  # noqa: S105 - a file's name

Secret = Callable[[str], str]
"""Asks for a passphrase or a PIN; the argument says of what."""


@dataclass(frozen=True, slots=True)
class KeyFile:
    """A key in a folder. `uri` is None where the private half is elsewhere."""

    name: str
    key: SSlibKey
    uri: str | None

    @property
    def is_on_token(self) -> bool:
        """Whether the private half is on a PKCS#11 token."""
        return self.uri is not None and self.uri.startswith(f"{HSMSigner.SCHEME}:")


class KeyFolder:
    """The keys at hand, all under one passphrase. Private halves are read when they are to sign."""

    def __init__(self, path: Path, passphrase: Secret, pin: Secret) -> None:
        """Name a folder; it need not be there yet.

        Args:
            path: The folder.
            passphrase: Finds the passphrase; called once at most, and only if it is needed.
            pin: Finds the PIN of a token; the same.
        """
        self.path = path
        self._passphrase = _once(passphrase)
        self._pin = _once(pin)
        self._signers: dict[str, Signer] = {}

    def files(self) -> dict[str, KeyFile]:
        """Return the keys in the folder by key id.

        Raises:
            ConfigError: `keys_missing`: there is no such folder. `key_unreadable`.
        """
        try:
            paths = sorted(p for p in self.path.iterdir() if p.suffix == PUBLIC)
        except OSError as exc:
            raise ConfigError(
                f"there are no keys in {self.path}: {exc.strerror}",
                code="keys_missing",
                hint="mount the medium with the offline keys, and name their folder with --keys or"
                " FLEET_KEYS",
            ) from exc
        found = [read_public(path) for path in paths]
        return {file.key.keyid: file for file in found}

    def signers(self, keyids: set[str]) -> list[Signer]:
        """Return a signer for each of these keys that is at hand with its private half.

        Raises:
            ConfigError: As `files` and `signer`.
        """
        mine = self.files()
        return [
            self.signer(mine[keyid])
            for keyid in sorted(keyids & mine.keys())
            if mine[keyid].uri is not None
        ]

    def signer(self, file: KeyFile) -> Signer:
        """Return what signs with a key of this folder.

        Raises:
            ConfigError: `passphrase_wrong`, `key_unreadable`, `token_unusable` or
                `passphrase_missing`.
        """
        if (known := self._signers.get(file.key.keyid)) is not None:
            return known
        signer = self._token_signer(file) if file.is_on_token else self._file_signer(file)
        self._signers[file.key.keyid] = signer
        return signer

    def make(self, role: str) -> KeyFile:
        """Make a key pair, and write its two files.

        Raises:
            ConfigError: `key_unwritable` or `passphrase_missing`; `passphrase_wrong`: it is not
                that of the keys that are here, and a typing mistake would lock the new one up.
        """
        is_first = True
        if self.path.is_dir():
            mine = (file for file in self.files().values() if file.uri and not file.is_on_token)
            if (other := next(mine, None)) is not None:
                self.signer(other)
                is_first = False
        private = Ed25519PrivateKey.generate()
        signer = CryptoSigner(private)
        name = f"{role}-{signer.public_key.keyid[:8]}"
        words = f"{'new ' if is_first else ''}passphrase for the keys in {self.path}"
        secret = self._passphrase(words).encode()
        pem = private.private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(secret)
        )
        file = KeyFile(name, signer.public_key, f"{CryptoSigner.SCHEME}:{name}{PRIVATE}")
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_durably(self.path / f"{name}{PRIVATE}", pem, mode=0o600)
            write_durably(self.path / f"{name}{PUBLIC}", public_text(file))
        except OSError as exc:
            raise _unwritable(self.path, exc) from exc
        self._signers[file.key.keyid] = signer
        return file

    def take_from_token(self, role: str, number: int, label: str | None) -> KeyFile:
        """Note a P-256 key that is on a token; nothing is written to the token.

        Args:
            role: Begins the file's name.
            number: The key's id on the token; PIV's slot 9c is 2.
            label: The token's label, where several are plugged in.

        Raises:
            ConfigError: `token_unusable` or `key_unwritable`.
        """
        try:
            uri, key = HSMSigner.import_(number, label, self._pin)
        except Exception as exc:  # each PKCS#11 module has errors of its own
            raise _token_unusable(exc) from exc
        file = KeyFile(f"{role}-{key.keyid[:8]}", key, uri)
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_durably(self.path / f"{file.name}{PUBLIC}", public_text(file))
        except OSError as exc:
            raise _unwritable(self.path, exc) from exc
        return file

    def _file_signer(self, file: KeyFile) -> Signer:
        path = self.path / f"{file.name}{PRIVATE}"
        try:
            pem = path.read_bytes()
        except OSError as exc:
            raise ConfigError(
                f"cannot read {path}: {exc.strerror}",
                code="key_unreadable",
                hint=f"{file.name}{PUBLIC} says that the private half is there; restore it from"
                " its second copy",
            ) from exc
        secret = self._passphrase(f"passphrase for {path.name}")
        try:
            return CryptoSigner(load_pem_private_key(pem, secret.encode()), file.key)
        except TypeError:  # a key that somebody left unprotected
            return CryptoSigner(load_pem_private_key(pem, None), file.key)
        except KeyMismatchError as exc:
            raise ConfigError(
                f"{path} is not the private half of {file.name}{PUBLIC}", code="key_unreadable"
            ) from exc
        except (ValueError, UnsupportedAlgorithm) as exc:
            raise ConfigError(
                f"{path} does not open with this passphrase",
                code="passphrase_wrong",
                hint="give it with --passphrase-file, in FLEET_PASSPHRASE, or in a file"
                f" `{PASSPHRASE_FILE}` beside the key",
            ) from exc

    def _token_signer(self, file: KeyFile) -> Signer:
        assert file.uri is not None  # noqa: S101 - asked by is_on_token
        try:
            return _TokenSigner(HSMSigner.from_priv_key_uri(file.uri, file.key, self._pin))
        except (ValueError, UnsupportedLibraryError) as exc:
            raise _token_unusable(exc) from exc


class _TokenSigner(Signer):
    """A token's signer whose many errors become one of ours."""

    def __init__(self, inner: HSMSigner) -> None:
        self._inner = inner

    @property
    def public_key(self) -> SSlibKey:
        return self._inner.public_key

    @classmethod
    def from_priv_key_uri(cls, *_: object, **__: object) -> Signer:
        raise NotImplementedError("made by KeyFolder alone")

    def sign(self, payload: bytes) -> Signature:
        try:
            return self._inner.sign(payload)
        except Exception as exc:
            raise _token_unusable(exc) from exc


def _once(ask: Secret) -> Secret:
    known: list[str] = []

    def find(what: str) -> str:
        if not known:
            known.append(ask(what))
        return known[0]

    return find


def read_public(path: Path) -> KeyFile:
    """Return the key in a `.pub` file.

    Raises:
        ConfigError: `key_unreadable`.
    """
    try:
        raw = parse_json(path.read_bytes()[: MAX_KEY_BYTES + 1], max_bytes=MAX_KEY_BYTES)
        uri = raw.pop("uri", None)
        keyid = raw.pop("keyid")
        key = SSlibKey.from_dict(keyid, raw)
    except (OSError, PeerError, ValueError, KeyError, TypeError, AttributeError) as exc:
        raise ConfigError(f"{path} is no public key: {exc}"[:300], code="key_unreadable") from exc
    if not has_own_id(key) or not isinstance(uri, str | None):
        raise ConfigError(
            f"{path} is no public key that can be used here",
            code="key_unreadable",
            hint=f"it must be of {' or '.join(sorted(SCHEMES))}, under its own key id",
        )
    return KeyFile(path.stem, key, uri)


def has_own_id(key: Key) -> bool:
    """Return whether devices verify with this key, and its id is the digest of no other one.

    People compare ids, and signatures are counted by them: with a key of a thief's behind somebody
    else's id, the thief signs in that name.
    """
    if not isinstance(key, SSlibKey) or key.scheme not in SCHEMES:
        return False
    try:
        right = SSlibKey.from_crypto(key._crypto_key(), scheme=key.scheme)  # noqa: SLF001
    except (ValueError, KeyError, TypeError, AttributeError, UnsupportedAlgorithm):
        return False
    return right.keyid == key.keyid


def public_text(file: KeyFile, *, with_uri: bool = True) -> bytes:
    """Return what a `.pub` file holds."""
    raw = {"keyid": file.key.keyid, **file.key.to_dict()}
    if with_uri and file.uri is not None:
        raw["uri"] = file.uri
    return json.dumps(raw, indent=2).encode() + b"\n"


def match_keyid(given: str, keyids: set[str]) -> str:
    """Return the one key id that `given` begins.

    Raises:
        PeerError: `unknown_key`.
    """
    found = sorted(k for k in keyids if k.startswith(given)) if len(given) >= 8 else []
    if len(found) != 1 or not re.fullmatch(DIGEST_PATTERN, found[0]):
        raise PeerError(
            f"no key is named by {given[:80]!r}",
            code="unknown_key",
            hint="give at least 8 digits of a key id; `fleet keys show` lists them",
        )
    return found[0]


def read_online(path: Path) -> CryptoSigner:
    """Return the signer of a controller's key file, which has no passphrase.

    Raises:
        OSError: It cannot be read.
        ValueError: It is no Ed25519 key.
    """
    private = load_pem_private_key(path.read_bytes(), None)
    if not isinstance(private, Ed25519PrivateKey):
        raise ValueError(f"{path} is no Ed25519 key")  # noqa: TRY004 - a file's fault, not a type's
    return CryptoSigner(private)


def make_online(folder: Path, role: str) -> SSlibKey:
    """Make a key for the controller, readable by its user alone; return the public half.

    Raises:
        OSError: It cannot be written.
    """
    private = Ed25519PrivateKey.generate()
    key = CryptoSigner(private).public_key
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_durably(folder / f"{role}-{key.keyid[:8]}{PRIVATE}", pem, mode=0o600)
    return key


def _unwritable(path: Path, exc: OSError) -> ConfigError:
    return ConfigError(f"cannot write keys to {path}: {exc.strerror}", code="key_unwritable")


def _token_unusable(exc: Exception) -> ConfigError:
    return ConfigError(
        f"the token cannot be used: {str(exc) or type(exc).__name__}"[:300],
        code="token_unusable",
        hint="PYKCS11LIB names its module, for instance /usr/lib/softhsm/libsofthsm2.so; the extra"
        " modelfleet[pkcs11] must be installed; FLEET_PIN holds its PIN",
    )
