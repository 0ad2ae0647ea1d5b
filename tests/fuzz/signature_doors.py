"""The door at which the signature of a model's author comes in, with whatever it says inside."""

from functools import cache

from cryptography.hazmat.primitives import serialization

from fleet.interop.openssf import sign_files, verify_source
from tests.fleet.secured import new_key
from tests.fuzz.device_doors import as_file, folder
from tests.fuzz.door import Door
from tests.fuzz.samples import matching
from wire.errors import PeerError


def doors():
    yield Door(
        "signature of a source model",
        as_file("model.sig", _verified),
        (PeerError,),
        lambda random: sign_files(
            {"model.onnx": b"onnx"}, matching(r"[a-z0-9-]{1,64}", random), _author() / "key.pem"
        ),
        None,  # written by the author's tools
        ("fleet.interop.openssf",),
        weight=0.2,
    )


def _verified(path):
    model = _author() / "model/model.onnx"
    return verify_source(model, path, public_key=_author() / "public.pem", certificates=[])


@cache
def _author():
    home = folder() / "author"
    (home / "model").mkdir(parents=True)
    (home / "model/model.onnx").write_bytes(b"onnx")
    public = new_key(home / "key.pem").public_key()
    encoding, form = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    (home / "public.pem").write_bytes(public.public_bytes(encoding, form))
    return home
