"""The bundle on disk: the same bytes every time, whole or not there, and never in a wrong place."""

import io
import os
import stat
import subprocess
import tarfile

import pytest

from converter.bundle import check_output, describe_files, write_bundle
from wire.bundle import read_bundle
from wire.errors import BundleError, StorageError
from wire.manifest import Manifest, TensorSpec, digest_of

FILES = {
    "model.onnx": b"model" * 1000,
    "golden.npz": b"golden",
    "baseline.json": b"{}",
    "parity.json": b"{}",
}
TENSOR = TensorSpec(name="X", datatype="FP32", shape=(-1, 4))


def manifest(**changes):
    return Manifest(
        name="m",
        version="1",
        files=describe_files(FILES),
        inputs=(TENSOR,),
        outputs=(TENSOR.model_copy(update=changes),),
        opset={"ai.onnx": 17},
        ir_version=8,
        ops=(),
        minimum_runtime="1.20",
    )


def refuse(call, says):
    with pytest.raises(StorageError) as caught:
        call()
    assert caught.value.code == "output_unwritable"
    assert says in str(caught.value)
    assert "--output" in caught.value.hint


def test_it_is_read_back_as_it_was_written(tmp_path):
    path = tmp_path / "m.bundle"
    digest, size = write_bundle(path, manifest(), FILES)
    bundle = read_bundle(path)
    assert bundle.manifest == manifest()
    assert bundle.manifest_digest == digest == digest_of(bundle.files["manifest.json"])
    assert {name: bundle.files[name] for name in FILES} == FILES
    assert size == path.stat().st_size
    assert b"null" not in bundle.files["manifest.json"]


def test_the_bytes_depend_on_the_content_alone(tmp_path):
    os.utime(tmp_path, (0, 0))
    write_bundle(tmp_path / "a", manifest(), FILES)
    write_bundle(tmp_path / "b", manifest(), dict(reversed(FILES.items())))
    content = (tmp_path / "a").read_bytes()
    assert content == (tmp_path / "b").read_bytes()
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as archive:
        members = archive.getmembers()
        assert [member.name for member in members] == ["manifest.json", *sorted(FILES)]
        for member in members:
            assert (member.uid, member.gid, member.mtime, member.mode) == (0, 0, 0, 0o644)
            assert (member.uname, member.gname) == ("", "")


def test_it_is_readable_as_the_user_wishes(tmp_path):
    old = os.umask(0o027)
    try:
        write_bundle(tmp_path / "m", manifest(), FILES)
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "m").stat().st_mode) == 0o640


def test_an_old_one_is_replaced_in_one_step(tmp_path):
    path = tmp_path / "m.bundle"
    path.write_bytes(b"old" * 100_000)
    with path.open("rb") as reader:
        assert reader.read(3) == b"old"
        write_bundle(path, manifest(), FILES)
        assert reader.read() == (b"old" * 100_000)[3:]  # who reads the old one keeps it
    assert read_bundle(path).manifest == manifest()
    assert list(tmp_path.iterdir()) == [path]


def test_what_devices_would_refuse_is_not_written(tmp_path):
    path = tmp_path / "m.bundle"
    path.write_bytes(b"old")
    with pytest.raises(BundleError) as caught:
        write_bundle(path, manifest(feature_names=("naïve",)), FILES)
    assert caught.value.code == "manifest_invalid"
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["none/m.bundle", "file/m.bundle", "x" * 300, "directory"])
def test_a_place_that_cannot_be_written_is_said_and_left_alone(tmp_path, name):
    (tmp_path / "file").write_bytes(b"file")
    (tmp_path / "directory").mkdir()
    before = sorted(tmp_path.rglob("*"))
    path = tmp_path / name
    refuse(lambda: check_output(path, ()), "cannot write")
    refuse(lambda: write_bundle(path, manifest(), FILES), "cannot write")
    assert sorted(tmp_path.rglob("*")) == before


def test_something_that_is_no_file_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    refuse(lambda: check_output(tmp_path / "pipe", ()), "something else than a file")
    refuse(lambda: check_output(type(tmp_path)(os.devnull), ()), "something else than a file")


def test_what_is_converted_is_not_replaced(tmp_path):
    source, data, link = tmp_path / "m.skops", tmp_path / "d.npz", tmp_path / "link"
    source.write_bytes(b"s")
    link.symlink_to(source)
    refuse(lambda: check_output(source, (source, data)), "it is what is to be converted")
    refuse(lambda: check_output(link, (source, data)), "it is what is to be converted")
    check_output(data, (source, data))  # is not there
    check_output(tmp_path / "new", (source, data))
    write_bundle(tmp_path / "old", manifest(), FILES)
    check_output(tmp_path / "old", (source, data))


@pytest.mark.system
def test_a_full_disk_leaves_the_old_one_and_nothing_else(tmp_path, require_root):
    path = tmp_path / "m.bundle"
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", tmp_path], check=True)
    try:
        write_bundle(path, manifest(), FILES)
        before = path.read_bytes()
        large = {**FILES, "model.onnx": b"model" * 20_000}
        refuse(lambda: write_bundle(path, manifest(), large), "No space left on device")
        assert path.read_bytes() == before
        assert list(tmp_path.iterdir()) == [path]
    finally:
        subprocess.run(["umount", tmp_path], check=True)
