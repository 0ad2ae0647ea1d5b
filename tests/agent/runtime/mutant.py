"""Loads and runs mutated models as a candidate would, confined, until one is too much for it.

`python mutant.py FIRST COUNT FOLDER` prints a seed before its mutant is tried, and what came of it after.
`test_mutants.py` starts it anew behind each that hung or crashed.
"""

import sys
from pathlib import Path

import numpy as np

from agent.runtime.confine import confine, limit_memory
from tests import hostile
from wire.errors import BundleError
from wire.graph import scan_model

ALLOWANCE_BYTES = 1024 * 2**20
MAX_FLIPS = 3


def forest():
    """A small forest as skl2onnx writes it."""
    return hostile.trees(
        nodes_treeids=[0] * 3 + [1] * 3,
        nodes_nodeids=[0, 1, 2] * 2,
        nodes_featureids=[0, 0, 0, 3, 0, 0],
        nodes_values=[0.5, 0.0, 0.0] * 2,
        nodes_modes=["BRANCH_LEQ", "LEAF", "LEAF"] * 2,
        nodes_truenodeids=[1, 0, 0] * 2,
        nodes_falsenodeids=[2, 0, 0] * 2,
        target_treeids=[0, 0, 1, 1],
        target_nodeids=[1, 2, 1, 2],
        target_ids=[0] * 4,
        target_weights=[1.0, 2.0, 3.0, 4.0],
    )


def svm():
    """A support vector regressor with an RBF kernel and two vectors."""
    node = hostile.helper.make_node(
        "SVMRegressor", ["X"], ["Y"], domain="ai.onnx.ml", coefficients=[0.5, -0.5],
        kernel_params=[0.1, 0.0, 3.0], kernel_type="RBF", n_supports=2, rho=[0.2],
        support_vectors=[0.1, 0.2, 0.3, 0.4, 0.4, 0.3, 0.2, 0.1],
    )  # fmt: skip
    return hostile.proto([node], domains=["ai.onnx.ml"])


def loop():
    return hostile.loop(3)


def branches():
    """Two Ifs, one inside the other."""
    node = hostile.helper.make_node("Identity", ["sum"], ["Y"])
    for _ in range(2):
        value = hostile.helper.make_tensor_value_info("Y", hostile.TensorProto.FLOAT, None)
        branch = hostile.helper.make_graph([node], "b", [], [value])
        node = hostile.helper.make_node(
            "If", ["yes"], ["Y"], then_branch=branch, else_branch=branch
        )
    return hostile.proto([hostile.SUM, node], hostile.AXIS | {"yes": np.bool_(True)})


SOURCES = (forest, svm, loop, branches)


def mutant(seed):
    """Return the mutant of a seed: a few bytes changed, cut, doubled or moved."""
    chance = np.random.default_rng(seed)
    data = bytearray(hostile.as_bytes(SOURCES[seed % len(SOURCES)]()))
    for _ in range(int(chance.integers(1, MAX_FLIPS + 1))):
        place, length = int(chance.integers(len(data))), int(chance.integers(1, 9))
        match chance.integers(8):
            case 0:
                del data[place : place + length]
            case 1:
                data[place:place] = data[place : place + length]
            case 2:
                data[place:place] = b"\xff" * length
            case 3 | 4:
                data[place] = int(chance.choice([0, 1, 127, 128, 255]))
            case _:
                data[place] ^= 1 << int(chance.integers(8))
    return bytes(data)


def try_one(session, data):
    """Sieve, load and run one mutant as the runtime does; return what came of it."""
    try:
        scan_model(data)
    except BundleError:
        return "refused"
    options = session.ort.SessionOptions()
    options.intra_op_num_threads = 1
    try:
        loaded = session.ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        loaded.run(None, {"X": np.ones((2, hostile.N_FEATURES), np.float32)})
    except Exception:  # noqa: BLE001 - as agent/runtime/session.py does
        return "failed"
    return "ran"


def main():
    first, count = int(sys.argv[1]), int(sys.argv[2])
    confine([Path(sys.argv[3])])
    from agent.runtime import session  # inside the walls, as in the runtime

    limit_memory(ALLOWANCE_BYTES)
    for seed in range(first, first + count):
        sys.stdout.write(f"{seed}\n")
        sys.stdout.flush()
        sys.stdout.write(f"{try_one(session, mutant(seed))}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
