"""ONNX files that devices could not serve are refused, and what is served is described."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from converter.inspect import (
    DATATYPES,
    MAX_MODEL_BYTES,
    describe_input,
    describe_tensors,
    graph_inputs,
    minimum_runtime,
    operators,
    read_model,
)
from wire.errors import BundleError

FLOAT = TensorProto.FLOAT


def tensor(name="X", kind=FLOAT, shape=(None, 4)):
    return helper.make_tensor_value_info(name, kind, shape)


def refuse(call, code, says):
    with pytest.raises(BundleError) as caught:
        call()
    assert caught.value.code == code, caught.value
    assert says in f"{caught.value} {caught.value.hint}"
    assert str(caught.value).isprintable()


@pytest.fixture
def saved(tmp_path):
    def save(model):
        path = tmp_path / "m.onnx"
        path.write_bytes(model.SerializeToString())
        return path

    return save


def branch(constants):
    """An If whose branches hold a graph of their own."""
    value = [tensor("Z", shape=None)]
    node = helper.make_node("Add", ["X", "W"], ["Z"])
    return helper.make_graph([node], "branch", [], value, constants)


def external(name="W"):
    weight = onnx.numpy_helper.from_array(np.ones(4, np.float32), name)
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="/etc/passwd")
    return weight


def test_a_good_model_is_read(saved, doubling):
    assert read_model(saved(doubling)) == doubling


@pytest.mark.parametrize("content", [b"", b"\0", b"no protobuf at all", b"\x08\x08", b"PK\x03\x04"])
def test_another_file_is_no_onnx_file(tmp_path, content):
    (tmp_path / "m.onnx").write_bytes(content)
    refuse(lambda: read_model(tmp_path / "m.onnx"), "source_unreadable", "no ONNX file")


def test_a_file_cut_anywhere_is_refused(tmp_path, doubling):
    whole = doubling.SerializeToString()
    for length in range(len(whole)):
        (tmp_path / "m.onnx").write_bytes(whole[:length])
        with pytest.raises(BundleError) as caught:
            read_model(tmp_path / "m.onnx")
        assert caught.value.code in ("source_unreadable", "model_invalid")


def test_a_file_that_is_not_there_or_too_large_is_refused(tmp_path):
    refuse(lambda: read_model(tmp_path / "m.onnx"), "source_unreadable", "No such file")
    refuse(lambda: read_model(tmp_path), "source_unreadable", "Is a directory")
    with (tmp_path / "m.onnx").open("wb") as file:
        file.truncate(MAX_MODEL_BYTES + 1)  # sparse
    refuse(lambda: read_model(tmp_path / "m.onnx"), "model_invalid", "over 2 GB")


def test_what_the_checker_refuses_is_refused_in_one_line(saved, graph):
    model = graph([("Add", ["X", "nowhere"], ["Y"])])
    refuse(lambda: read_model(saved(model)), "model_invalid", "onnx.checker")
    model = graph([("NoSuchOperator", ["X"], ["Y"])])
    refuse(lambda: read_model(saved(model)), "model_invalid", "NoSuchOperator")


def test_weights_in_other_files_are_found_wherever_they_are(saved, graph):
    plain = graph([("Add", ["X", "W"], ["Y"])])
    plain.graph.initializer.append(external())
    attribute = graph([("Add", ["X", "W"], ["Y"]), ("Constant", [], ["W"], {"value": external()})])
    inner = graph([
        ("If", ["yes"], ["Y"], {"then_branch": branch([external()]),
                                "else_branch": branch([external()])}),
    ], constants=[("yes", np.bool_(True))])  # fmt: skip
    sparse = graph([("Add", ["X", "W"], ["Y"])])
    values, indices = external(), onnx.numpy_helper.from_array(np.arange(4), "i")
    sparse.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [4]))
    for model in (plain, attribute, inner, sparse):
        refuse(lambda model=model: read_model(saved(model)), "model_invalid", "in other files")


@pytest.mark.parametrize(
    ("opset", "ir", "runtime"),
    [
        (7, 3, "1.20"),
        (17, 8, "1.20"),
        (21, 10, "1.20"),
        (22, 10, "1.21"),
        (23, 8, "1.23"),
        (17, 11, "1.23"),
        (24, 8, "1.24"),
        (25, 13, "1.24"),
        (26, 13, "1.25"),
        (17, 14, "1.32"),
        (28, 14, "1.32"),
    ],
)
def test_the_oldest_runtime_follows_from_opset_and_format(graph, opset, ir, runtime):
    model = graph([("Add", ["X", "X"], ["Y"])], opset=opset, ir=ir)
    assert minimum_runtime(model) == runtime


@pytest.mark.parametrize(
    ("opset", "ir", "says"), [(29, 8, "opset 29"), (17, 15, "IR version 15"), (17, 10**9, "IR")]
)
def test_what_no_runtime_loads_is_refused(saved, graph, opset, ir, says):
    model = graph([("Add", ["X", "X"], ["Y"])], opset=opset, ir=ir)
    refuse(lambda: read_model(saved(model)), "model_invalid", says)


@pytest.mark.parametrize("kind", sorted(DATATYPES))
def test_every_tensor_type_of_the_protocol_is_described(kind):
    (spec,) = describe_tensors([tensor("X", kind, (None, "n", 3, 0))], "input")
    assert (spec.name, spec.datatype, spec.shape) == ("X", DATATYPES[kind], (-1, -1, 3, -1))


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ([tensor("")], "unprintable name"),
        ([tensor("a\nb")], "unprintable name"),
        ([tensor("naïve")], "unprintable name"),
        ([tensor("x" * 129)], "unprintable name"),
        ([tensor("c", TensorProto.COMPLEX64)], "output c is no tensor of a known type"),
        ([tensor("b", TensorProto.BFLOAT16)], "output b is no tensor of a known type"),
        ([helper.make_tensor_sequence_value_info("s", FLOAT, None)], "maps and sequences"),
        (
            [
                helper.make_value_info(
                    "m",
                    helper.make_map_type_proto(
                        TensorProto.INT64, helper.make_tensor_type_proto(FLOAT, None)
                    ),
                )
            ],
            "maps and sequences",
        ),
        ([tensor("X", shape=[1] * 9)], "output X: shape"),
        ([tensor("X", shape=[2**40])], "output X: shape"),
        ([tensor(f"x{i}") for i in range(65)], "over 64 outputs"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_described_is_refused(values, says):
    refuse(lambda: describe_tensors(values, "output"), "model_invalid", says)


def test_an_input_with_an_initializer_is_none(graph):
    inputs = [tensor(), tensor("W", shape=(4,)), tensor("S", shape=(4,))]
    model = graph([("Sum", ["X", "W", "S"], ["Y"])], inputs, constants=[("W", np.ones(4, "f4"))])
    values = onnx.numpy_helper.from_array(np.ones(1, np.float32), "S")
    indices = onnx.numpy_helper.from_array(np.zeros(1, np.int64), "i")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [4]))
    assert [value.name for value in graph_inputs(model)] == ["X"]
    assert describe_input(model).shape == (-1, 4)


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ([tensor(), tensor("Z")], "2 inputs"),
        ([tensor(shape=(1, 4))], "[1, 4]"),
        ([tensor(shape=(None, 4, 1))], "[-1, 4, 1]"),
        ([tensor(shape=(None,))], "[-1]"),
        ([tensor(shape=None)], "[]"),
    ],
)
def test_one_input_of_any_number_of_rows_is_needed(graph, inputs, says):
    nodes = [("Sum", [value.name for value in inputs], ["Y"])]
    refuse(lambda: describe_input(graph(nodes, inputs)), "model_invalid", says)


def test_a_model_without_inputs_is_refused(graph):
    model = graph([("Add", ["W", "W"], ["Y"])], constants=[("W", np.ones(4, "f4"))])
    del model.graph.input[:]
    refuse(lambda: describe_input(model), "model_invalid", "0 inputs")


def test_operators_are_found_in_branches_and_functions(graph):
    body = branch([onnx.numpy_helper.from_array(np.ones(4, np.float32), "W")])
    model = graph(
        [("If", ["yes"], ["Y"], {"then_branch": body, "else_branch": body})],
        constants=[("yes", np.bool_(True))],
    )
    function = helper.make_function(
        "mine", "Twice", ["a"], ["b"], [helper.make_node("Mul", ["a", "a"], ["b"])],
        [helper.make_opsetid("", 17)],
    )  # fmt: skip
    model.functions.append(function)
    assert operators(model) == ["ai.onnx:Add", "ai.onnx:If", "ai.onnx:Mul"]
