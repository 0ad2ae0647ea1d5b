"""Tiny models made for the bed, and bundles that the real converter makes of them."""

import subprocess
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from tests.spine.processes import BIN, ENVIRONMENT

NAME = "digits"
N_FEATURES = 4
LIMIT = 4
"""What a fragile model looks up by: it raises for a first feature of this much or more."""


def answering(
    number: float, *, is_fragile: bool = False, is_varied: bool = False, spare: int = 0
) -> onnx.ModelProto:
    """Return a model that answers `number` to every row.

    Models that differ in `spare` alone differ in their bytes.

    It looks the answer up in a table, by the row's first feature. A fragile one does so for
    features that the table does not have, which none of its training rows holds. A varied one adds
    a tenth of that feature, rounded down.
    """
    index = "inside" if not is_fragile else "X"
    nodes = [
        helper.make_node("Slice", [index, "first", "second", "columns"], ["key"]),
        helper.make_node("Cast", ["key"], ["place"], to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "place"], ["Y"]),
    ]
    constants = {
        "first": np.array([0]),
        "second": np.array([1]),
        "columns": np.array([1]),
        "table": np.float32([number + is_varied * key / 10 for key in range(LIMIT + spare)]),
    }
    if not is_fragile:
        nodes.insert(0, helper.make_node("Clip", ["X", "lowest", "highest"], ["inside"]))
        constants |= {"lowest": np.float32(0), "highest": np.float32(LIMIT - 1)}
    graph = helper.make_graph(
        nodes,
        "answering",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, [None, N_FEATURES])],
        [helper.make_tensor_value_info("Y", TensorProto.FLOAT, [None, 1])],
        [onnx.numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


class Bundles:
    """Bundles by version, each converted once. Version N answers N; one after "-fragile" fails on live data.

    The last number of a version makes another model of it; a fragile one then bears that much more. A
    wide one has a baseline of many rows.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        for kind, count in (("few", 64), ("wide", 4000)):
            rows = np.random.default_rng(0).uniform(0, LIMIT - 1, (count, N_FEATURES))
            np.savez(folder / f"{kind}.npz", X=rows.astype(np.float32))

    def path(self, version: str) -> Path:
        """Return the bundle of a version, such as 1.0.0 or 3.0.0-fragile."""
        output = self._folder / f"{version}.bundle"
        if not output.exists():
            source = self._folder / f"{version}.onnx"
            spare = int(version.partition("-")[0].rpartition(".")[2])
            onnx.save(
                answering(
                    answer_of(version),
                    is_fragile="fragile" in version,
                    is_varied="varied" in version,
                    spare=spare,
                ),
                source,
            )
            command = ["convert", str(source), "--name", NAME, "--version", version]
            data = self._folder / ("wide.npz" if "wide" in version else "few.npz")
            command += ["--data", str(data), "--output", str(output)]
            done = subprocess.run(
                [BIN / "fleet", *command],
                env=ENVIRONMENT, capture_output=True, text=True, check=False,
            )  # fmt: skip
            assert done.returncode == 0, done.stdout + done.stderr
        return output


def answer_of(version: str) -> float:
    """Return what a version answers."""
    return float(version.partition(".")[0])
