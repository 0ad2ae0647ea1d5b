"""`fleet export triton`: what it writes, as Triton would read it, and what it refuses to write."""

import json
import os

import onnx
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper
from typer.testing import CliRunner

from fleet.cli.main import app
from fleet.durable import folder_durably
from fleet.interop.triton import Numbered, make_config
from tests.fleet.bundles import bundle
from wire.errors import ModelfleetError
from wire.manifest import parse_manifest

FP32, INT64 = {"datatype": "FP32"}, {"datatype": "INT64"}

# The fields that are written, by their names, numbers and types in Triton's model_config.proto.
STRING, INT32, INT64_FIELD, MESSAGE, ENUM = 9, 5, 3, 11, 14
TYPES = (
    "INVALID", "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64",
    "FP16", "FP32", "FP64", "STRING", "BF16",
)  # fmt: skip
MESSAGES = {
    "ModelTensorReshape": [("shape", 1, INT64_FIELD, "*")],
    "ModelInput": [
        ("name", 1, STRING, ""), ("data_type", 2, ENUM, "DataType"),
        ("dims", 4, INT64_FIELD, "*"), ("reshape", 5, MESSAGE, "ModelTensorReshape"),
    ],
    "ModelOutput": [
        ("name", 1, STRING, ""), ("data_type", 2, ENUM, "DataType"),
        ("dims", 3, INT64_FIELD, "*"), ("reshape", 5, MESSAGE, "ModelTensorReshape"),
    ],
    "All": [],
    "ModelVersionPolicy": [("all", 2, MESSAGE, "All")],
    "ModelParameter": [("string_value", 1, STRING, "")],
    "ParametersEntry": [("key", 1, STRING, ""), ("value", 2, MESSAGE, "ModelParameter")],
    "ModelConfig": [
        ("name", 1, STRING, ""), ("platform", 2, STRING, ""),
        ("version_policy", 3, MESSAGE, "ModelVersionPolicy"), ("max_batch_size", 4, INT32, ""),
        ("input", 5, MESSAGE, "*ModelInput"), ("output", 6, MESSAGE, "*ModelOutput"),
        ("parameters", 14, MESSAGE, "*ParametersEntry"),
    ],
}  # fmt: skip


def _message():
    file = descriptor_pb2.FileDescriptorProto(name="m.proto", package="inference", syntax="proto3")
    enum = file.enum_type.add(name="DataType")
    for number, name in enumerate(TYPES):
        enum.value.add(name=f"TYPE_{name}", number=number)
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, number, kind, of in fields:
            of_type = f".inference.{of.strip('*')}" if of.strip("*") else None
            label = 3 if of.startswith("*") else 1
            message.field.add(name=field, number=number, type=kind, label=label, type_name=of_type)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("inference.ModelConfig"))


ModelConfig = _message()


def parsed(text):
    return text_format.Parse(text, ModelConfig())


def parameters(config):
    return {entry.key: entry.value.string_value for entry in config.parameters}


@pytest.fixture
def pack(tmp_path):
    """Return a function that writes a bundle, and returns where it is."""

    def write(file="b", version="1.0.0", *, model=b"", **changes):
        path = tmp_path / f"{file}.bundle"
        path.write_bytes(bundle(version, model=model, **changes))
        return path

    return write


def run(*argv):
    return CliRunner().invoke(app, ["export", "triton", *map(str, argv)])


def export(*argv):
    done = run(*argv)
    assert done.exit_code == 0, done.output
    return done


def refused(code, *argv):
    error = run(*argv).exception
    assert isinstance(error, ModelfleetError), error
    assert error.code == code
    return str(error)


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_the_folder_is_the_layout_that_triton_reads(pack, tmp_path):
    first, second = pack("a", "1.0.0"), pack("b", "1.1.0")
    other = pack("c", "7", name="ink")
    done = export(first, other, second, "--output", tmp_path / "out")
    assert files(tmp_path / "out") == [
        "digits/1/model.onnx", "digits/1/release.json",
        "digits/2/model.onnx", "digits/2/release.json", "digits/config.pbtxt",
        "ink/1/model.onnx", "ink/1/release.json", "ink/config.pbtxt",
    ]  # fmt: skip
    config = parsed((tmp_path / "out/digits/config.pbtxt").read_text())
    assert (config.name, config.platform, config.max_batch_size) == (
        "digits", "onnxruntime_onnx", 256,
    )  # fmt: skip
    assert config.version_policy.HasField("all")
    assert [(i.name, i.data_type, list(i.dims)) for i in config.input] == [("X", 11, [64])]
    (label,) = config.output
    assert (label.name, label.data_type, list(label.dims)) == ("y", 9, [1])
    assert label.HasField("reshape")
    assert not label.reshape.shape
    release = json.loads((tmp_path / "out/digits/2/release.json").read_text())
    assert (release["model"], release["version"], release["number"]) == ("digits", "1.1.0", 2)
    assert parameters(config)["release.1"] == "digits:1.0.0"
    assert parameters(config)["release.2"] == "digits:1.1.0"
    assert parameters(config)["manifest.2"] == release["manifest"]
    assert "next: tritonserver --model-repository=" in done.stdout


def test_the_numbers_may_be_given(pack, tmp_path):
    first, second = pack("a", "1.0.0"), pack("b", "1.1.0")
    done = export(
        first, second, "--version", 12, "--version", 3, "--json", "--output", tmp_path / "out"
    )
    assert [(one["version"], one["number"]) for one in json.loads(done.stdout)] == [
        ("1.0.0", 12), ("1.1.0", 3),
    ]  # fmt: skip
    config = parsed((tmp_path / "out/digits/config.pbtxt").read_text())
    assert parameters(config)["release.12"] == "digits:1.0.0"
    assert parameters(config)["release.3"] == "digits:1.1.0"


@pytest.mark.parametrize("numbers", [(0,), (2**63,), (1, 2), (5, 5, 5)])
def test_numbers_that_triton_would_not_take_are_wrong_usage(pack, tmp_path, numbers):
    bundles = [pack(str(at), f"1.{at}") for at in range(3 if len(numbers) == 3 else 1)]
    options = [text for number in numbers for text in ("--version", number)]
    assert run(*bundles, *options, "--output", tmp_path / "out").exit_code == 2
    assert sorted(tmp_path.iterdir()) == bundles


def test_the_same_bundles_give_the_same_bytes(pack, tmp_path):
    path = pack()
    export(path, "--output", tmp_path / "one")
    export(path, "--output", tmp_path / "two")
    for name in files(tmp_path / "one"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


@pytest.mark.parametrize(
    ("shapes", "dims"),
    [
        (([8, 64], [8]), ([8, 64], [8])),  # so many rows and no other
        (([-1, 64], [3]), ([-1, 64], [3])),  # one answer for all rows together
    ],
)
def test_without_free_rows_there_are_no_batches(pack, tmp_path, shapes, dims):
    changed = {
        "inputs": [{"name": "X", **FP32, "shape": shapes[0]}],
        "outputs": [{"name": "y", **INT64, "shape": shapes[1]}],
    }
    export(pack(**changed), "--output", tmp_path / "out")
    text = (tmp_path / "out/digits/config.pbtxt").read_text()
    config = parsed(text)
    assert "max_batch_size" not in text
    assert (list(config.input[0].dims), list(config.output[0].dims)) == dims
    assert not config.output[0].HasField("reshape")


def test_free_columns_are_left_free_and_text_is_a_string(pack, tmp_path):
    changed = {"inputs": [{"name": "X", "datatype": "BYTES", "shape": [-1, -1, 3]}]}
    export(pack(**changed), "--max-batch-size", 8, "--output", tmp_path / "out")
    config = parsed((tmp_path / "out/digits/config.pbtxt").read_text())
    assert config.max_batch_size == 8
    assert TYPES[config.input[0].data_type] == "STRING"
    assert list(config.input[0].dims) == [-1, 3]


@pytest.mark.parametrize(("shape", "is_told"), [([-1, -1], True), ([-1, 3], False)])
def test_an_output_that_triton_may_know_better_is_told(pack, tmp_path, shape, is_told):
    path = pack(outputs=[{"name": "scores", **FP32, "shape": shape}])
    done = export(path, "--output", tmp_path / "out")
    assert ("digits:1.0.0: output scores has a free dimension" in done.stderr) == is_told


@given(
    name=st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=128),
    datatype=st.sampled_from(
        ["BYTES", *(name for name in TYPES if name not in ("INVALID", "STRING", "BF16"))]
    ),
    shape=st.lists(st.sampled_from([-1, 1, 2, 2**31]), min_size=1, max_size=8),
)
def test_any_tensor_is_read_back_as_it_was(name, datatype, shape):
    raw = {
        "name": "m", "version": "1", "opset": {"": 17}, "ir_version": 8, "ops": [],
        "minimum_runtime": "1.17",
        "files": [
            {"path": path, "sha256": "0" * 64, "bytes": 0, "media_type": ""}
            for path in ("model.onnx", "golden.npz", "baseline.json", "parity.json")
        ],
        "inputs": [{"name": name, "datatype": datatype, "shape": shape}],
        "outputs": [{"name": name, "datatype": datatype, "shape": shape}],
    }  # fmt: skip
    manifest = parse_manifest(json.dumps(raw).encode())
    config = parsed(make_config([Numbered(1, manifest, "0" * 64)]))
    for tensor in (*config.input, *config.output):
        assert tensor.name == name
        assert TYPES[tensor.data_type] == {"BYTES": "STRING"}.get(datatype, datatype)
        rest = shape[1:] if config.max_batch_size else shape
        assert list(tensor.dims) == (rest or [1])
    assert bool(config.max_batch_size) == (shape[:1] == [-1])


@pytest.mark.parametrize("shape", [[-1, 0], []])
def test_a_shape_of_nothing_is_refused(pack, tmp_path, shape):
    path = pack(inputs=[{"name": "X", **FP32, "shape": shape}])
    says = refused("triton_unfit", path, "--output", tmp_path / "out")
    assert f"input 'X' has the shape {shape}" in says
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("shape", [[-1, 65], [8, 64]])
def test_versions_that_one_configuration_cannot_describe_are_refused(pack, tmp_path, shape):
    first = pack("a", "1.0.0")
    second = pack("b", "1.1.0", inputs=[{"name": "X", **FP32, "shape": shape}])
    says = refused("triton_differ", first, second, "--output", tmp_path / "out")
    assert "digits:1.1.0 has other inputs or outputs than digits:1.0.0" in says
    assert not (tmp_path / "out").exists()


def test_a_release_is_there_once(pack, tmp_path):
    path = pack()
    assert "twice" in refused("release_twice", path, path, "--output", tmp_path / "out")


@pytest.mark.parametrize("name", ["../out2", "/x", "a/b", ".", "..", "a\n", "", "é", "a\0"])
def test_a_hostile_name_leaves_nothing_anywhere(pack, tmp_path, name):
    path = pack(name=name)
    (tmp_path / "deep").mkdir()
    refused("manifest_invalid", path, "--output", tmp_path / "deep" / "out")
    assert list((tmp_path / "deep").iterdir()) == []
    assert sorted(one.name for one in tmp_path.iterdir()) == ["b.bundle", "deep"]


def test_a_model_that_names_other_files_is_refused(pack, tmp_path):
    weights = helper.make_tensor("W", TensorProto.FLOAT, [1], b"1234", raw=True)
    onnx.external_data_helper.set_external_data(weights, "../../secret")
    graph = helper.make_graph([], "g", [], [], [weights])
    path = pack(model=helper.make_model(graph).SerializeToString())
    assert str(path) in refused("model_refused", path, "--output", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("there", ["folder", "empty", "file", "link", "nowhere"])
def test_what_is_there_is_left_alone(pack, tmp_path, there):
    path, out = pack(), tmp_path / "out"
    if there in ("folder", "empty"):
        out.mkdir()
    if there == "folder":
        (out / "mine").write_text("mine")
    if there == "file":
        out.write_text("mine")
    if there == "link":
        (tmp_path / "target").mkdir()
        out.symlink_to(tmp_path / "target")
    if there == "nowhere":
        out.symlink_to(tmp_path / "gone")
    before = sorted(str(one) for one in tmp_path.rglob("*"))
    refused("output_exists", path, "--output", out)
    assert sorted(str(one) for one in tmp_path.rglob("*")) == before


def test_what_came_there_meanwhile_is_left_alone(tmp_path):
    out = tmp_path / "out"

    def come_late():
        with folder_durably(out) as part:
            (part / "ours").write_text("ours")
            out.mkdir()
            (out / "theirs").write_text("theirs")

    with pytest.raises(OSError, match="not empty"):
        come_late()
    assert [str(one.relative_to(tmp_path)) for one in sorted(tmp_path.rglob("*"))] == [
        "out",
        "out/theirs",
    ]


def test_others_may_read_it(pack, tmp_path):
    before = os.umask(0o022)
    try:
        export(pack(), "--output", tmp_path / "out")
    finally:
        os.umask(before)
    for path in (tmp_path / "out").rglob("*"):
        assert path.stat().st_mode & 0o777 == (0o755 if path.is_dir() else 0o644)
