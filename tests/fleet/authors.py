"""Authors of models, who sign them with the reference implementation's own command."""

import datetime as dt
import subprocess
import sys
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID

from tests.fleet.secured import new_key

MODEL_SIGNING = Path(sys.prefix) / "bin" / "model_signing"
DAY = dt.timedelta(days=1)


def model_signing(*argv):
    """Run the reference command; return its exit code and what it said."""
    done = subprocess.run(
        [MODEL_SIGNING, *map(str, argv)], capture_output=True, text=True, check=False, timeout=240
    )
    return done.returncode, done.stdout + done.stderr


class Author:
    """Somebody with a key, and a certificate of an authority of his own."""

    def __init__(self, folder, curve=None):
        folder.mkdir(parents=True)
        self.key, self.public = folder / "key.pem", folder / "public.pem"
        self.certificate, self.authority = folder / "certificate.pem", folder / "authority.pem"
        key = new_key(self.key, curve)
        encoding, form = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        self.public.write_bytes(key.public_key().public_bytes(encoding, form))
        above = new_key()
        root = _certificate("an authority", above.public_key(), "an authority", above, is_ca=True)
        own = _certificate("an author\n", key.public_key(), "an authority", above, is_ca=False)
        self.authority.write_bytes(root.public_bytes(encoding))
        self.certificate.write_bytes(own.public_bytes(encoding))

    def sign(self, path, signature, *, with_certificate=False, ignored=()):
        """Sign a file or a folder."""
        how = ["key"]
        if with_certificate:
            how = ["certificate", "--signing_certificate", self.certificate]
            how += ["--certificate_chain", self.authority]
        for one in ignored:
            how += ["--ignore-paths", one]
        code, said = model_signing(
            "sign", *how, path, "--private_key", self.key, "--signature", signature
        )
        assert code == 0, said


def verify(path, signature, public_key):
    """Have the reference command verify; return its exit code and what it said."""
    return model_signing(
        "verify", "key", path, "--signature", signature, "--public_key", public_key
    )


def _certificate(name, public_key, issuer, key, *, is_ca):
    now = dt.datetime.now(dt.UTC)
    usage = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
         "encipher_only", "decipher_only"), False,
    )  # fmt: skip
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - DAY)
        .not_valid_after(now + DAY)
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        .add_extension(
            x509.KeyUsage(digital_signature=True, key_cert_sign=is_ca, crl_sign=is_ca, **usage),
            critical=True,
        )
        .sign(key, hashes.SHA256())
    )
