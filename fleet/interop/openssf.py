"""OpenSSF Model Signing: the signature of a model's author is verified, one of a bundle is made.

The door to `model_signing`, which an extra brings. Signatures are Sigstore bundles made with a key or
a certificate; nothing here needs the network, so those without a key, by an identity, are refused.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Final, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from wire.errors import ConfigError, PeerError, StorageError

MAX_SIGNATURE_BYTES: Final = 8 * 1024 * 1024
"""About 40,000 files."""
MAX_SIGNER_CHARS: Final = 256
"""As in the manifest."""
PREDICATE: Final = "https://model_signing/signature/v1.0"
"""What version 1.0 of the format calls itself; older ones do not say all that was signed."""
T = TypeVar("T")
CURVES: Final = "P-256, P-384 or P-521"
_CURVES: Final = {"secp256r1", "secp384r1", "secp521r1"}
_PARTS: Final = {"mediaType", "verificationMaterial", "dsseEnvelope"}


@dataclass(frozen=True, slots=True)
class SignedSource:
    """A source model that its author signed.

    Attributes:
        sha256: Of the file that is to be converted.
        signer: `key HASH`, the hash that signatures themselves name a key by, or
            `certificate HASH, SUBJECT`.
    """

    sha256: str
    signer: str


def verify_source(
    source: Path, signature: Path, *, public_key: Path | None, certificates: Sequence[Path]
) -> SignedSource:
    """Verify a signature over a model's file, or over a folder in which it is.

    Of a folder every file must be as signed, with none missing and none added but the signature. The
    folder is the nearest above `source` under which the signature names it. Certificates count as
    of the day they were made: neither their end nor a revocation is looked at.

    Args:
        source: The file that is to be converted.
        signature: The Sigstore bundle (JSON).
        public_key: Of who must have signed (PEM, P-256, P-384 or P-521); None with `certificates`.
        certificates: Files of the authorities (PEM) that vouch for who must have signed.

    Raises:
        PeerError: `source_signature_unreadable` or `source_signature_invalid`.
        ConfigError: `model_signing_missing`, or `key_unreadable`: of a key or certificate given.
        StorageError: `scratch_unwritable`.
    """
    library = _library()
    bundle = _read_bundle(signature)
    signed = _signed(bundle, signature)
    root = _root_of(source.absolute(), signed, signature)
    with _scratch() as folder:
        copy = folder / "signature"
        # As it was understood here: the library reads the same, whatever a reader makes of oddities.
        copy.write_text(json.dumps(bundle))
        config = library.verifying.Config()
        if public_key is not None:
            signer = _key_signer(bundle, signature, public_key)
            config.use_elliptic_key_verifier(public_key=public_key)
        else:
            for path in certificates:
                _load(path, x509.load_pem_x509_certificates, "no certificate (PEM)")
            signer = _certificate_signer(bundle, signature)
            config.use_certificate_verifier(certificate_chain=certificates)
        hashing = _hashing(library, signed.how, signature)
        hashing.set_ignored_paths(paths=[signature.absolute()])
        config.set_hashing_config(hashing)
        with _refusing(signature, root):
            config.verify(root, copy)
    with source.open("rb") as file:
        return SignedSource(hashlib.file_digest(file, "sha256").hexdigest(), signer)


def sign_files(files: Mapping[str, bytes], name: str, private_key: Path) -> bytes:
    """Return a signature over files as they lie in a folder called `name`.

    Args:
        files: Name and content of each; there are no directories.
        name: What the signature calls the model.
        private_key: The signer's (PEM, not encrypted, P-256, P-384 or P-521).

    Raises:
        ConfigError: `model_signing_missing` or `key_unreadable`.
        StorageError: `scratch_unwritable`.
    """
    library = _library()

    def unlocked(data: bytes) -> object:
        return serialization.load_pem_private_key(data, password=None)

    what = f"no EC private key (PEM, {CURVES}) without a passphrase"
    key = _load(private_key, unlocked, what)
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name not in _CURVES:
        raise _key_unreadable(private_key, what)
    with _scratch() as scratch:
        folder, signature = scratch / name, scratch / "signature"
        folder.mkdir()
        for file, content in files.items():
            (folder / file).write_bytes(content)
        signer = library.signing.Config().use_elliptic_key_signer(private_key=private_key)
        signer.sign(folder, signature)
        return signature.read_bytes()


@dataclass(frozen=True, slots=True)
class _Signed:
    """What a signature speaks of: names of files, and how they were hashed."""

    names: frozenset[str]
    how: Mapping[str, Any]


def _library() -> ModuleType:
    try:
        import model_signing
    except ImportError as exc:
        raise ConfigError(
            f"OpenSSF Model Signing is not installed: {exc}",
            code="model_signing_missing",
            hint="pip install 'modelfleet[model-signing]'",
        ) from exc
    return model_signing


def _read_bundle(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_SIGNATURE_BYTES + 1)
        bundle = json.loads(data[:MAX_SIGNATURE_BYTES], object_pairs_hook=_once)
    except (OSError, ValueError, RecursionError) as exc:
        raise _unreadable(path, exc) from exc
    if len(data) > MAX_SIGNATURE_BYTES:
        raise _unreadable(path, f"it is over {MAX_SIGNATURE_BYTES // 2**20} MiB")
    is_bundle = isinstance(bundle, dict) and bundle.keys() == _PARTS
    if not is_bundle or not all(isinstance(bundle[part], dict) for part in _PARTS - {"mediaType"}):
        raise _unreadable(path, "it has not the parts of a Sigstore bundle with an envelope")
    return dict(bundle)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("it says something twice")
    return found


def _signed(bundle: dict[str, Any], path: Path) -> _Signed:
    """Return what the signature is over; that it is a good one is not known yet."""
    try:
        payload = base64.b64decode(bundle["dsseEnvelope"]["payload"], validate=True)
        statement = json.loads(payload, object_pairs_hook=_once)
        kind, predicate = statement["predicateType"], statement.get("predicate", {})
        resources, how = predicate.get("resources", []), dict(predicate.get("serialization", {}))
        names = [str(resource["name"]) for resource in resources]
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as exc:
        raise _unreadable(path, exc) from exc
    if kind != PREDICATE:
        raise _unreadable(path, f"it says {str(kind)[:80]!r}; version 1.0 of the format is taken")
    if how.get("method") == "shards":
        names = [re.sub(r":[0-9]+:[0-9]+$", "", name) for name in names]
    return _Signed(frozenset(names), how)


def _root_of(source: Path, signed: _Signed, signature: Path) -> Path:
    if signed.names == {"."}:
        return source
    for folder in source.parents:
        if source.relative_to(folder).as_posix() in signed.names:
            return folder
    raise PeerError(
        f"{signature} says nothing of {source.name}",
        code="source_signature_invalid",
        hint="is it the signature of another model? It names files from the signed folder on",
    )


def _hashing(library: ModuleType, how: Mapping[str, Any], signature: Path) -> Any:
    """Return how the files are to be hashed: as the signature says it was done."""
    config = library.hashing.Config()
    try:
        algorithm = {"hashing_algorithm": how["hash_type"]}
        if how["method"] == "shards":
            config.use_shard_serialization(**algorithm, shard_size=int(how["shard_size"]))
        else:
            config.use_file_serialization(**algorithm)
        return config.set_allow_symlinks(how["allow_symlinks"] is True)
    except (KeyError, TypeError, ValueError) as exc:
        raise _unreadable(signature, exc) from exc


def _key_signer(bundle: dict[str, Any], signature: Path, public_key: Path) -> str:
    what = f"no EC public key (PEM, {CURVES})"
    key = _load(public_key, serialization.load_pem_public_key, what)
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in _CURVES:
        raise _key_unreadable(public_key, what)
    if "publicKey" not in bundle["verificationMaterial"]:
        raise _invalid(signature, "it was not made with a key", "give --certificate-chain")
    encoding, form = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    return f"key {hashlib.sha256(key.public_bytes(encoding, form)).hexdigest()}"


def _certificate_signer(bundle: dict[str, Any], signature: Path) -> str:
    material = bundle["verificationMaterial"]
    if "x509CertificateChain" not in material:
        hint = "give --public-key if it was made with a key; what Sigstore vouches for is not taken"
        raise _invalid(signature, "it was not made with a certificate", hint)
    try:
        first = material["x509CertificateChain"]["certificates"][0]["rawBytes"]
        certificate = x509.load_der_x509_certificate(base64.b64decode(first, validate=True))
        subject = certificate.subject.rfc4514_string()
    except (KeyError, IndexError, TypeError, ValueError) as exc:
        raise _unreadable(signature, exc) from exc
    text = f"certificate {certificate.fingerprint(hashes.SHA256()).hex()}, {subject}"
    return re.sub(r"[^ -~]", "?", text)[:MAX_SIGNER_CHARS]


def _load(path: Path, parse: Callable[[bytes], T], what: str) -> T:
    try:
        return parse(path.read_bytes())
    except (OSError, ValueError, TypeError) as exc:
        raise _key_unreadable(path, what) from exc


def _key_unreadable(path: Path, what: str) -> ConfigError:
    return ConfigError(
        f"{path} is {what}",
        code="key_unreadable",
        hint="`openssl ecparam -name prime256v1 -genkey -noout` makes a key,"
        " `openssl ec -pubout` its public half",
    )


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    try:
        with tempfile.TemporaryDirectory(prefix="signing-") as folder:
            yield Path(folder)
    except OSError as exc:
        raise StorageError(
            f"cannot write a temporary file: {exc.strerror or exc}",
            code="scratch_unwritable",
            hint="set TMPDIR to a directory with room for the bundle",
        ) from exc


@contextlib.contextmanager
def _refusing(signature: Path, root: Path) -> Iterator[None]:
    try:
        with contextlib.redirect_stdout(sys.stderr):  # the library warns there; ours is for data
            yield
    except Exception as exc:  # whatever it raises: the signature is not good
        why = re.sub(r"[^ -~]", "?", str(exc))[:300] or "another key has made it"
        hint = "is every file as its author gave it, and nothing of yours among them?"
        raise _invalid(signature, f"for {root}: {why}", hint) from exc


def _invalid(path: Path, why: str, hint: str) -> PeerError:
    text = f"{path} does not verify: {why}"
    return PeerError(text, code="source_signature_invalid", hint=hint)


def _unreadable(path: Path, why: Exception | str) -> PeerError:
    if isinstance(why, KeyError):
        why = f"it lacks {why}"
    return PeerError(
        f"{path} is no OpenSSF signature of a model: {why}"[:300],
        code="source_signature_unreadable",
        hint="`model_signing sign` makes them, as model.sig for example",
    )
