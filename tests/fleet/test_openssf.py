"""OpenSSF signatures, against the reference command in both directions."""

import base64
import hashlib
import json
import shutil
import socket

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from fleet.interop.openssf import MAX_SIGNATURE_BYTES, sign_files, verify_source
from tests.fleet.authors import Author, verify
from tests.fleet.secured import new_key
from wire.errors import ConfigError, PeerError
from wire.manifest import Lineage

FILES = {"model.onnx": b"a model", "config.json": b"{}", "part/weights.bin": b"weights"}
NESTED = "part/weights.bin"


@pytest.fixture(scope="module")
def author(tmp_path_factory):
    return Author(tmp_path_factory.mktemp("author") / "her")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory):
    return Author(tmp_path_factory.mktemp("stranger") / "his")


@pytest.fixture(scope="module")
def signed(tmp_path_factory, author):
    """A model's folder, signed by its author in each way there is."""
    folder = tmp_path_factory.mktemp("signed") / "model"
    write(folder)
    author.sign(folder, folder / "key.sig")
    other = [folder / "key.sig"]
    author.sign(folder, folder / "certificate.sig", with_certificate=True, ignored=other)
    author.sign(folder / "model.onnx", folder.parent / "file.sig")
    author.sign(folder, folder.parent / "unsigned.sig", ignored=[*other, folder / "model.onnx"])
    return folder


@pytest.fixture
def model(signed, tmp_path):
    """A copy of it, with the signature that a key made inside, and the others beside."""
    folder = tmp_path / "model"
    shutil.copytree(signed, folder)
    (folder / "certificate.sig").rename(tmp_path / "certificate.sig")
    for name in ("file.sig", "unsigned.sig"):
        shutil.copy(signed.parent / name, tmp_path / name)
    return folder


def write(folder, files=FILES):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def verified(folder, author, *, source="model.onnx", signature="key.sig", key=None, chain=()):
    if not chain:
        key = key or author.public
    return verify_source(
        folder / source, folder / signature, public_key=key, certificates=list(chain)
    )


def refused(code, *args, **options):
    with pytest.raises((PeerError, ConfigError)) as caught:
        verified(*args, **options)
    assert caught.value.code == code, str(caught.value)
    assert caught.value.hint
    assert len(str(caught.value)) < 1000
    assert str(caught.value).isprintable()
    return str(caught.value)


# -- theirs


@pytest.mark.parametrize(
    ("source", "signature"),
    [("model.onnx", "key.sig"), (NESTED, "key.sig"), ("model.onnx", "../file.sig")],
)
def test_what_the_reference_signs_with_a_key_is_good(model, author, source, signature):
    found = verified(model, author, source=source, signature=signature)
    assert found.sha256 == hashlib.sha256(FILES[source]).hexdigest()
    # The name of the key that is in the signature itself.
    material = json.loads((model / signature).read_text())["verificationMaterial"]
    assert found.signer == f"key {material['publicKey']['hint']}"
    assert Lineage(source_sha256=found.sha256, source_signer=found.signer)


def test_what_the_reference_signs_with_a_certificate_is_good(model, author):
    shutil.copy(model / "key.sig", model / "kept")
    (model / "kept").rename(model / "key.sig")
    found = verified(model, author, signature="../certificate.sig", chain=[author.authority])
    assert found.signer.startswith("certificate ")
    assert found.signer.endswith("CN=an author?")
    assert Lineage(source_sha256=found.sha256, source_signer=found.signer)


def test_no_connection_is_made(model, author, monkeypatch):
    def connect(*_):
        pytest.fail("it wants the network")

    monkeypatch.setattr(socket, "create_connection", connect)
    monkeypatch.setattr(socket.socket, "connect", connect)
    assert verified(model, author)
    assert verified(model, author, signature="../certificate.sig", chain=[author.authority])


@pytest.mark.parametrize("source", ["model.onnx", "config.json"])
def test_a_file_that_was_changed_is_refused(model, author, source):
    (model / "model.onnx").write_bytes(b"another")
    assert "model.onnx" in refused("source_signature_invalid", model, author, source=source)
    said = refused("source_signature_invalid", model, author, signature="../file.sig")
    assert "does not verify" in said


def test_a_file_that_is_missing_or_added_is_refused(model, author):
    (model / NESTED).unlink()
    assert NESTED in refused("source_signature_invalid", model, author)
    write(model)
    assert verified(model, author)
    (model / "setup.py").write_bytes(b"")
    assert "setup.py" in refused("source_signature_invalid", model, author)


def test_a_file_that_the_author_left_out_is_not_taken_for_signed(model, author):
    said = refused("source_signature_invalid", model, author, signature="../unsigned.sig")
    assert "says nothing of model.onnx" in said


def test_another_key_or_authority_is_refused(model, author, stranger):
    assert "Key mismatch" in refused("source_signature_invalid", model, stranger)
    chain = [stranger.authority]
    refused("source_signature_invalid", model, author, signature="../certificate.sig", chain=chain)
    said = refused("source_signature_invalid", model, author, chain=[author.authority])
    assert "not made with a certificate" in said
    said = refused("source_signature_invalid", model, author, signature="../certificate.sig")
    assert "not made with a key" in said


def test_a_forged_envelope_is_refused(model, author, stranger):
    stranger.sign(model, model.parent / "forged.sig", ignored=[model / "key.sig"])
    (forged, good) = (
        json.loads(path.read_text()) for path in (model.parent / "forged.sig", model / "key.sig")
    )
    forged["verificationMaterial"] = good["verificationMaterial"]
    (model / "key.sig").write_text(json.dumps(forged))
    assert "another key has made it" in refused("source_signature_invalid", model, author)
    # What was signed, with one byte of it changed.
    payload = bytearray(base64.b64decode(good["dsseEnvelope"]["payload"]))
    payload[-2] ^= 0x02
    good["dsseEnvelope"]["payload"] = base64.b64encode(payload).decode()
    (model / "key.sig").write_text(json.dumps(good))
    with pytest.raises(PeerError):
        verified(model, author)


def changed(text, **changes):
    bundle = json.loads(text)
    statement = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"])) | changes
    bundle["dsseEnvelope"]["payload"] = base64.b64encode(json.dumps(statement).encode()).decode()
    return json.dumps(bundle)


@pytest.mark.parametrize(
    "spoilt",
    [
        lambda _: "",
        lambda _: "garbage",
        lambda text: text[:-40],
        lambda _: "[" * 100_000,
        lambda text: text + " " * MAX_SIGNATURE_BYTES,
        lambda _: "[]",
        lambda _: "{}",
        lambda text: text.replace('"dsseEnvelope"', '"dsseEnvelope":{},"dsseEnvelope"'),
        lambda text: text.replace('"dsseEnvelope"', '"messageSignature":{},"dsseEnvelope"'),
        lambda text: text.replace('"payload":"', '"payload":"*'),
        lambda text: json.dumps(json.loads(text) | {"dsseEnvelope": 1}),
        lambda text: changed(text, predicateType="https://model_signing/Digests/v0.1"),
        lambda text: changed(text, predicate=None),
        lambda text: changed(text, predicate={"resources": [1], "serialization": {}}),
    ],
)
def test_what_is_no_signature_is_refused(model, author, spoilt):
    path = model / "key.sig"
    path.write_text(spoilt(path.read_text()))
    assert "is no OpenSSF signature" in refused("source_signature_unreadable", model, author)


def test_a_key_or_certificate_that_cannot_be_used_is_named(model, author, tmp_path):
    encoding, form = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    weak = rsa.generate_private_key(public_exponent=65_537, key_size=2048).public_key()
    (tmp_path / "rsa.pem").write_bytes(weak.public_bytes(encoding, form))
    koblitz = new_key(curve=ec.SECP256K1()).public_key()
    (tmp_path / "koblitz.pem").write_bytes(koblitz.public_bytes(encoding, form))
    names = (tmp_path / f"{name}.pem" for name in ("none", "rsa", "koblitz"))
    for name in (*names, author.key, model / "model.onnx"):
        assert str(name) in refused("key_unreadable", model, author, key=name)
    said = refused(
        "key_unreadable", model, author, signature="../certificate.sig", chain=[model / "model.onnx"]
    )  # fmt: skip
    assert "no certificate" in said


# -- ours

BUNDLE = {"manifest.json": b"{}", "model.onnx": b"a model", "golden.npz": b"rows"}


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()])
def test_the_reference_takes_what_we_sign_and_not_what_was_changed(tmp_path, stranger, curve):
    author = Author(tmp_path / "author", curve)
    signature = tmp_path / "digits-1.0.0.bundle.sig"
    signature.write_bytes(sign_files(BUNDLE, "digits-1.0.0", author.key))
    folder = tmp_path / "digits-1.0.0"
    write(folder, BUNDLE)
    assert verify(folder, signature, author.public)[0] == 0
    # And so do we.
    assert verify_source(
        folder / "model.onnx", signature, public_key=author.public, certificates=[]
    )
    if curve.name != "secp256r1":
        return
    assert verify(folder, signature, stranger.public)[0] == 1
    (folder / "added").write_bytes(b"")
    assert verify(folder, signature, author.public)[0] == 1
    (folder / "added").unlink()
    (folder / "golden.npz").write_bytes(b"others")
    assert verify(folder, signature, author.public)[0] == 1


def test_a_key_that_cannot_sign_is_refused(tmp_path, author):
    locked = new_key().private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )
    (tmp_path / "locked.pem").write_bytes(locked)
    new_key(tmp_path / "koblitz.pem", ec.SECP256K1())
    names = ("none.pem", "locked.pem", "koblitz.pem")
    for path in (author.public, *(tmp_path / name for name in names)):
        with pytest.raises(ConfigError, match="no EC private key") as caught:
            sign_files(BUNDLE, "digits-1.0.0", path)
        assert caught.value.code == "key_unreadable"
