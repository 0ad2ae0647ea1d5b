"""Bundles from strangers: what is wrong with each is said, and nothing is unpacked to disk."""

import gzip
import io
import json
import tarfile

import pytest

from wire.bundle import read_bundle
from wire.errors import BundleError
from wire.manifest import digest_of

FILES = {
    "model.onnx": b"model" * 1000,
    "golden.npz": b"golden",
    "baseline.json": b"{}",
    "parity.json": b"{}",
}


def manifest(files=FILES):
    tensor = {"name": "X", "datatype": "FP32", "shape": [-1, 4]}
    return json.dumps(
        {
            "v": 1,
            "name": "digits",
            "version": "1.0.0",
            "files": [
                {"path": p, "sha256": digest_of(b), "bytes": len(b), "media_type": "x/y"}
                for p, b in files.items()
            ],
            "inputs": [tensor],
            "outputs": [tensor],
            "opset": {"": 17},
            "ir_version": 8,
            "ops": [],
            "minimum_runtime": "1.20",
        }
    ).encode()


def tar(members):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
            else:
                info.type, info.linkname = content
                archive.addfile(info)
    return out.getvalue()


def sparse():
    """Return a tar whose GNU sparse member says that it unpacks to 1 GiB of nothing."""
    info = tarfile.TarInfo("model.onnx")
    info.type = tarfile.GNUTYPE_SPARSE
    head = bytearray(info.tobuf(format=tarfile.GNU_FORMAT))
    head[483:495] = b"%011o\0" % 2**30
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head) + bytes(10240)


def pax():
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo("manifest.json")
        info.pax_headers = {"comment": "more than meets the eye"}
        archive.addfile(info)
    return out.getvalue()


GOOD = [("manifest.json", manifest()), *FILES.items()]


def write(tmp_path, data):
    path = tmp_path / "digits.bundle"
    path.write_bytes(data)
    return path


def test_a_good_bundle_is_read_whole(tmp_path):
    bundle = read_bundle(write(tmp_path, tar(GOOD)))
    assert (bundle.manifest.name, bundle.manifest.version) == ("digits", "1.0.0")
    assert bundle.manifest_digest == digest_of(manifest())
    assert bundle.files == dict(GOOD)


@pytest.mark.parametrize(
    ("data", "code", "says"),
    [
        (b"", "bundle_unreadable", "bundle"),
        (b"\0" * 10240, "bundle_unreadable", "empty"),
        (b"not a tar" * 999, "bundle_unreadable", "fleet convert"),
        (tar(GOOD)[:3000], "bundle_unreadable", ""),
        (gzip.compress(tar(GOOD)), "bundle_unreadable", ""),
        (tar(GOOD[1:]), "bundle_incomplete", "manifest.json"),
        (tar(GOOD[:-1]), "bundle_incomplete", "parity.json"),
        (tar([*GOOD, ("extra.sh", b"rm")]), "bundle_unreadable", "extra.sh"),
        (tar([*GOOD, GOOD[1]]), "bundle_unreadable", "twice"),
        (tar([*GOOD, ("../up", b"")]), "bundle_unreadable", "plain file name"),
        (tar([*GOOD, ("/etc/x", b"")]), "bundle_unreadable", "plain file name"),
        (tar([*GOOD, ("l", (tarfile.SYMTYPE, "/etc/passwd"))]), "bundle_unreadable", "regular"),
        (sparse(), "bundle_unreadable", "plain regular"),
        (pax(), "bundle_unreadable", "plain regular"),
        (tar([*GOOD, ("d", (tarfile.DIRTYPE, ""))]), "bundle_unreadable", "regular"),
        (tar([*GOOD, *((f"f{n}", b"") for n in range(40))]), "bundle_unreadable", "more than"),
        (
            tar([GOOD[0], ("model.onnx", b"MODEL" * 1000), *GOOD[2:]]),
            "digest_mismatch",
            "model.onnx",
        ),
        (tar([("manifest.json", b"{}"), *GOOD[1:]]), "manifest_invalid", "manifest.json"),
        (tar([("manifest.json", b"\xff"), *GOOD[1:]]), "manifest_invalid", "manifest.json"),
    ],
)
def test_a_bad_one_is_refused_in_words(tmp_path, data, code, says):
    with pytest.raises(BundleError) as caught:
        read_bundle(write(tmp_path, data))
    assert caught.value.code == code
    assert says in f"{caught.value} {caught.value.hint}"
    assert len(str(caught.value)) <= 300


def test_a_missing_one_is_said_to_be_missing(tmp_path):
    with pytest.raises(BundleError, match="there is no"):
        read_bundle(tmp_path / "none.bundle")
