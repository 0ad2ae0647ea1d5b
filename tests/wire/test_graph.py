"""The sieve before a model is loaded, on files that hang, harm or lie, and on ones that are fine."""

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from wire import graph
from wire.errors import BundleError
from wire.graph import Op, refuse_undeclared, scan_model


def model(nodes, *, initializers=(), functions=(), opsets=(("", 17), ("local", 1))):
    value = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [None]) for n in ("X", "Y")]
    made = helper.make_graph(nodes, "g", value[:1], value[1:], initializer=list(initializers))
    imports = [helper.make_opsetid(*opset) for opset in opsets]
    return helper.make_model(made, opset_imports=imports, functions=list(functions))


def identity(count):
    return [helper.make_node("Identity", [f"a{i}"], [f"a{i + 1}"]) for i in range(count)]


def nested(depth):
    node = helper.make_node("Identity", ["X"], ["Y"])
    for _ in range(depth):
        body = helper.make_graph(
            [node], "b", [], [helper.make_tensor_value_info("Y", TensorProto.FLOAT, [None])]
        )
        node = helper.make_node("If", ["c"], ["Y"], then_branch=body)
    return model([node])


def calling(*chain):
    """Functions, each with the operators that it calls, by name; those of `local` are functions."""
    made = []
    for name, calls in chain:
        nodes = [
            helper.make_node(c, ["x"], ["y"], domain="local" if c.startswith("f") else "")
            for c in calls
        ]
        imports = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
        made.append(helper.make_function("local", name, ["x"], ["y"], nodes, imports))
    first = helper.make_node(chain[-1][0], ["X"], ["Y"], domain="local")
    return model([first], functions=made)


def external(**where):
    tensor = onnx.numpy_helper.from_array(np.zeros(4, np.float32), "w")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in where.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def named(**names):
    node = helper.make_node(names.get("op", "Identity"), ["X"], [names.get("output", "Y")])
    node.name = names.get("node", "n")
    node.domain = names.get("domain", "")
    return model([node])


DOUBLING = [("f0", ["Identity", "Identity"])]
DOUBLING += [(f"f{i}", [f"f{i - 1}", f"f{i - 1}"]) for i in range(1, 30)]

REFUSED = {
    "20,001 nodes in a row": (model(identity(20_001)), "more than 20,000 nodes"),
    "17 subgraphs deep": (nested(17), "nested more than 16"),
    "functions that double thirty times": (calling(*DOUBLING), "expand to more than 50,000"),
    "a function that calls itself": (calling(("f0", ["f0"])), "calls itself"),
    "two functions that call each other": (calling(("f0", ["f1"]), ("f1", ["f0"])), "calls itself"),
    "weights by absolute path": (
        model(identity(1), initializers=[external(location="/etc/passwd")]),
        "outside its file",
    ),
    "weights outside without a path": (model(identity(1), initializers=[external()]), "outside"),
    "weights outside in an attribute": (
        model([helper.make_node("Constant", [], ["Y"], value=external(location="../x"))]),
        "outside",
    ),
    "escape codes in an output": (named(output="Y\x1b[31m"), r"'Y\x1b[31m'"),
    "a newline in a node's name": (named(node="a\nb"), "not printable"),
    "a tab in a domain": (named(domain="a\tb"), "not printable"),
    "a name of 513 bytes": (named(node="n" * 513), "too long"),
    "letters beyond ASCII": (named(op="Identit\u00e9"), "not printable"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_hangs_harms_or_lies_is_refused(case):
    made, words = REFUSED[case]
    with pytest.raises(BundleError) as caught:
        scan_model(made.SerializeToString())
    assert caught.value.code == "model_refused"
    assert words in str(caught.value)


def test_the_last_that_is_allowed_is_let_through():
    assert scan_model(model(identity(20_000)).SerializeToString()).node_count == 20_000
    assert scan_model(nested(16).SerializeToString()).depth == 16
    assert scan_model(named(node="n" * 512).SerializeToString()).node_count == 1
    thirteen = scan_model(calling(*DOUBLING[:14]).SerializeToString())
    assert thirteen.expanded_node_count == 2**14


def test_operators_are_found_in_subgraphs_and_functions_but_not_the_functions_themselves():
    inner = calling(("f0", ["Relu", "Relu"]), ("f1", ["f0", "Abs"]))
    assert scan_model(inner.SerializeToString()).ops == {
        Op("ai.onnx", "Relu"),
        Op("ai.onnx", "Abs"),
    }
    assert Op("ai.onnx", "If") in scan_model(nested(2).SerializeToString()).ops


def test_an_operator_that_the_manifest_does_not_declare_is_refused():
    facts = scan_model(nested(1).SerializeToString())
    refuse_undeclared(facts, ("ai.onnx:If", "ai.onnx:Identity", "ai.onnx:Add"))
    with pytest.raises(BundleError, match=r"ai\.onnx:If, which its manifest does not declare"):
        refuse_undeclared(facts, ("ai.onnx:Identity",))


def test_millions_of_numbers_in_an_attribute_do_not_count_as_fields(monkeypatch):
    monkeypatch.setattr(graph, "MAX_FIELDS", 100)
    numbers = {"floats": [0.5] * 50_000, "ints": list(range(-100, 50_000))}
    made = model([helper.make_node("Identity", ["X"], ["Y"], **numbers)])
    assert scan_model(made.SerializeToString()).node_count == 1
    strings = model([helper.make_node("Identity", ["X"], ["Y"], modes=["LEQ"] * 200)])
    with pytest.raises(BundleError, match="more than 100 fields"):
        scan_model(strings.SerializeToString())


def is_answered(data):
    """Whether a walk ends in facts or in a refusal; anything else is raised."""
    try:
        scan_model(data)
    except BundleError as exc:
        return exc.code == "model_refused"
    return True


@given(st.binary(max_size=400))
def test_any_bytes_end_in_facts_or_in_a_refusal(data):
    assert is_answered(data)


@given(st.data())
def test_a_damaged_model_ends_in_facts_or_in_a_refusal(data):
    whole = bytearray(calling(("f0", ["Relu"]), ("f1", ["f0", "Abs"])).SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    assert is_answered(bytes(whole[: data.draw(st.integers(0, len(whole)))]))


def test_a_file_of_nothing_but_fields_is_given_up():
    with pytest.raises(BundleError, match="fields"):
        scan_model(b"\x08\x01" * (graph.MAX_FIELDS + 1))
