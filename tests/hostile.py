"""Hostile and broken models, made from their description; a few kB each but where size is the point.

All take X, float32 [n, 4], and answer Y, float32 [n, 1], as far as they answer at all.
"""

import numpy as np
import onnx
from onnx import TensorProto, helper

N_FEATURES = 4
FOR_EVER = 2**62
MEMORY_MARKER = "*/_ORT_MEM_ADDR_/*"
"""By which onnxruntime's own code points at memory of the process instead of at a file."""


def const(name, array):
    return onnx.numpy_helper.from_array(np.asarray(array), name)


def proto(nodes, constants=(), *, functions=(), domains=()):
    """Return a model from X to Y."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, [None, N_FEATURES])],
        [helper.make_tensor_value_info("Y", TensorProto.FLOAT, [None, 1])],
        [const(name, value) for name, value in dict(constants).items()],
    )
    imports = [helper.make_opsetid("", 17), *(helper.make_opsetid(d, 1) for d in domains)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8, functions=list(functions))


SUM = helper.make_node("ReduceSum", ["X", "axis"], ["sum"], keepdims=1)
AXIS = {"axis": np.array([1])}


def plus(name, nodes, constants, **more):
    """Return a model that answers the row's sum plus what `nodes` make under `name`, a scalar."""
    add = helper.make_node("Add", ["sum", name], ["Y"])
    return proto([*nodes, SUM, add], AXIS | constants, **more)


def fine():
    return plus("zero", [], {"zero": np.float32(0)})


# -- for ever


def loop(turns, *, of="X"):
    """Loop over the sum; `of` X only from a first feature of 10, so that golden rows pass."""
    nodes = [
        helper.make_node("ReduceMax", ["X"], ["max"], keepdims=0),
        helper.make_node("GreaterOrEqual", ["max", "limit"], ["is_big"]),
        helper.make_node("Where", ["is_big", "many", "one"], ["turns"]),
        SUM,
        helper.make_node("Loop", ["turns", "yes", "sum"], ["Y"], body=_round()),
    ]
    constants = AXIS | {
        "limit": np.float32(10 if of == "X" else -1e30),
        "many": np.int64(turns),
        "one": np.int64(1),
        "yes": np.bool_(True),
    }
    return proto(nodes, constants)


def _round():
    """What a Loop does: nothing, and goes on."""
    return helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["go_on"]),
            helper.make_node("Identity", ["acc"], ["acc_out"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("acc", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("acc_out", TensorProto.FLOAT, None),
        ],
    )


def crashing(*, always):
    """Give a Loop an empty trip count: onnxruntime 1.32 reads it all the same, and ends by SIGSEGV.

    Unless `always`, only from a first feature of 10. Found by `make soak`, as seeds 5202, 8730 and 13394.
    """
    nodes = [
        helper.make_node("ReduceMax", ["X"], ["max"], keepdims=0),
        helper.make_node("Less", ["max", "limit"], ["is_small"]),
        helper.make_node("Cast", ["is_small"], ["count"], to=TensorProto.INT64),
        helper.make_node("Reshape", ["count", "first"], ["end"]),
        helper.make_node("Slice", ["first", "start", "end"], ["turns"]),
        SUM,
        helper.make_node("Loop", ["turns", "yes", "sum"], ["Y"], body=_round()),
    ]
    constants = AXIS | {
        "limit": np.float32(-1e30 if always else 10),
        "first": np.array([1]),
        "start": np.array([0]),
        "yes": np.bool_(True),
    }
    return proto(nodes, constants)


def folded_for_hours():
    """Multiply 6,000 by 6,000 matrices twenty times; the loader does, as they are constant."""
    nodes = [helper.make_node("ConstantOfShape", ["shape"], ["m0"], value=one())]
    nodes += [helper.make_node("MatMul", [f"m{i}", f"m{i}"], [f"m{i + 1}"]) for i in range(20)]
    nodes.append(helper.make_node("ReduceMin", ["m20"], ["least"], keepdims=0))
    return plus("least", nodes, {"shape": np.array([6000, 6000])})


def one():
    return helper.make_tensor("v", TensorProto.FLOAT, [1], [1.0])


def chain(count):
    nodes = [helper.make_node("Identity", [f"a{i}"], [f"a{i + 1}"]) for i in range(count)]
    nodes.insert(0, helper.make_node("Identity", ["sum"], ["a0"]))
    return proto([SUM, *nodes, helper.make_node("Identity", [f"a{count}"], ["Y"])], AXIS)


def doubling_functions(count=30):
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    made = []
    for number in range(count):
        called = ("Identity", "") if number == 0 else (f"f{number - 1}", "local")
        nodes = [
            helper.make_node(called[0], ["x"], ["a"], domain=called[1]),
            helper.make_node(called[0], ["a"], ["y"], domain=called[1]),
        ]
        made.append(helper.make_function("local", f"f{number}", ["x"], ["y"], nodes, imports))
    call = helper.make_node(f"f{count - 1}", ["sum"], ["Y"], domain="local")
    return proto([SUM, call], AXIS, functions=made, domains=["local"])


def recursive_function():
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    again = helper.make_node("f", ["x"], ["y"], domain="local")
    made = helper.make_function("local", "f", ["x"], ["y"], [again], imports)
    call = helper.make_node("f", ["sum"], ["Y"], domain="local")
    return proto([SUM, call], AXIS, functions=[made], domains=["local"])


def nested(depth):
    """Nest `depth` subgraphs, written field by field: protobuf's own library stops at 100."""
    name, op, branch, kind = b"then_branch", b"If", 6, 20
    node = _field(1, b"sum") + _field(2, b"Y") + _field(4, b"Identity")
    for _ in range(depth):
        attribute = (
            _field(1, name) + _field(branch, _field(1, node)) + bytes([kind << 3 & 127 | 128, 1, 5])
        )
        node = _field(1, b"yes") + _field(2, b"Y") + _field(4, op) + _field(5, attribute)
    return b"\x08\x08" + _field(7, _field(1, node))


def _field(number, body):
    length, coded = len(body), b""
    while length > 127:
        coded += bytes([length & 127 | 128])
        length >>= 7
    return bytes([number << 3 | 2]) + coded + bytes([length]) + body


# -- memory


def bomb_at_load():
    """Fill 64 GiB with ones while loading, by constant folding."""
    nodes = [
        helper.make_node("ConstantOfShape", ["shape"], ["ones"], value=one()),
        helper.make_node("ReduceMin", ["ones"], ["least"], keepdims=0),
    ]
    return plus("least", nodes, {"shape": np.array([2**34])})


def doubling_concat():
    nodes = [
        helper.make_node("Concat", [f"c{i}", f"c{i}"], [f"c{i + 1}"], axis=0) for i in range(36)
    ]
    nodes.append(helper.make_node("ReduceMin", ["c36"], ["least"], keepdims=0))
    return plus("least", nodes, {"c0": np.ones(1, np.float32)})


def tiled():
    nodes = [
        helper.make_node("Tile", ["unit", "times"], ["tiles"]),
        helper.make_node("ReduceMin", ["tiles"], ["least"], keepdims=0),
    ]
    return plus("least", nodes, {"unit": np.ones(1, np.float32), "times": np.array([2**36])})


def bomb_at_run():
    """Fill 64 GiB for a first feature of 10 or more, a handful of bytes for less."""
    nodes = [
        helper.make_node("ReduceMax", ["X"], ["max"], keepdims=0),
        helper.make_node("GreaterOrEqual", ["max", "limit"], ["is_big"]),
        helper.make_node("Where", ["is_big", "many", "few"], ["size"]),
        helper.make_node("ConstantOfShape", ["size"], ["ones"], value=one()),
        helper.make_node("ReduceMin", ["ones"], ["least"], keepdims=0),
    ]
    sizes = {"many": np.array([2**34]), "few": np.array([4]), "limit": np.float32(10)}
    return plus("least", nodes, sizes)


def growing():
    """Fill 2 MiB for each unit of the largest feature.

    onnxruntime keeps what it took for the largest so far: under features that grow, so does the
    process, as if each request leaked. An ONNX model has no state in which it could leak more.
    """
    nodes = [
        helper.make_node("ReduceMax", ["X"], ["max"], keepdims=0),
        helper.make_node("Mul", ["max", "per_unit"], ["wanted"]),
        helper.make_node("Cast", ["wanted"], ["count"], to=TensorProto.INT64),
        helper.make_node("Reshape", ["count", "vector"], ["size"]),
        helper.make_node("ConstantOfShape", ["size"], ["ones"], value=one()),
        helper.make_node("Gather", ["ones", "first"], ["least"]),
    ]
    constants = {
        "per_unit": np.float32(2 * 2**20 / 4),
        "vector": np.array([1]),
        "first": np.int64(0),
    }
    return plus("least", nodes, constants)


# -- what the file refers to


def external(**where):
    model = fine()
    tensor = model.graph.initializer[1]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in where.items():
        tensor.external_data.add(key=key, value=str(value))
    return model


def renamed(**names):
    model = fine()
    for key, value in names.items():
        setattr(model.graph.node[1], key, value)
    return model


def invalid_utf8():
    """Put bytes that are no UTF-8 into a string attribute."""
    return as_bytes(trees(post_transform="MARK")).replace(b"MARK", b"\xff\xfe\xfd\xfc")


def custom_op():
    call = helper.make_node("Backdoor", ["sum"], ["Y"], domain="com.example")
    return proto([SUM, call], AXIS, domains=["com.example"])


def trees(**changes):
    """One regression tree: X[0] <= 0.5 ? 1 : 2, with attributes changed."""
    attributes = {
        "nodes_treeids": [0, 0, 0], "nodes_nodeids": [0, 1, 2], "nodes_featureids": [0, 0, 0],
        "nodes_values": [0.5, 0.0, 0.0], "nodes_modes": ["BRANCH_LEQ", "LEAF", "LEAF"],
        "nodes_truenodeids": [1, 0, 0], "nodes_falsenodeids": [2, 0, 0],
        "target_treeids": [0, 0], "target_nodeids": [1, 2], "target_ids": [0, 0],
        "target_weights": [1.0, 2.0], "n_targets": 1,
    } | changes  # fmt: skip
    node = helper.make_node(
        "TreeEnsembleRegressor", ["X"], ["Y"], domain="ai.onnx.ml", **attributes
    )
    return proto([node], domains=["ai.onnx.ml"])


BRANCHES = ["BRANCH_LEQ", "BRANCH_LEQ", "LEAF"]


def as_bytes(model):
    return model if isinstance(model, bytes) else model.SerializeToString()


def random_bytes(count=4096, seed=7):
    return np.random.default_rng(seed).bytes(count)
