"""The models of the benchmarks: the README's digits, and a dense network of a wanted size."""

from __future__ import annotations

import itertools
import sys
import tarfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from programs import BIN, BUILD, ROOT, run

SEED = 20_261_123
PIXELS = 64
LABELS = 10
IR_VERSION = 10
OPSET = 17


class Models:
    """Makes each bundle once per run of the benchmarks."""

    def __init__(self, directory: Path = BUILD / "models") -> None:
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)

    def digits(self, version: str = "1.0.0") -> Path:
        """Return the bundle of the README's logistic regression; versions differ in name alone."""
        model, data = self._directory / "model.skops", self._directory / "digits.npz"
        if not model.exists():
            train = ROOT / "examples" / "digits" / "train.py"
            run([sys.executable, train, "--output", self._directory], cwd=self._directory)
        return self._convert(model, "digits", version, data)

    def digits_onnx(self) -> Path:
        """Return the very file that the bundle of `digits` carries, for peers."""
        path = self._directory / "digits.onnx"
        with tarfile.open(self.digits()) as bundle:
            member = next(m for m in bundle.getmembers() if m.name.endswith("model.onnx"))
            stream = bundle.extractfile(member)
            if stream is None:
                raise RuntimeError(f"{member.name} in the bundle is no file")
            path.write_bytes(stream.read())
        return path

    def digits_body(self) -> bytes:
        """Return the request of the benchmarks: one row of 64 pixels."""
        self.digits()
        with np.load(self._directory / "digits.npz", allow_pickle=False) as arrays:
            pixels = ",".join(str(int(value)) for value in arrays["X"][0])
        tensor = f'{{"name":"X","shape":[1,{PIXELS}],"datatype":"FP32","data":[{pixels}]}}'
        return f'{{"inputs":[{tensor}]}}'.encode()

    def network(self, version: str, *, width: int, layers: int, body: int, head: int) -> Path:
        """Return the bundle of a dense network with random weights.

        Args:
            version: Of the release.
            width: Units of each hidden layer; each has `width ** 2` weights of 4 bytes.
            layers: Hidden layers.
            body: Seed of all layers but the last.
            head: Seed of the last layer: two networks that share `body` differ there alone.
        """
        stem = f"net-{width}-{layers}-{body}-{head}"
        path, data = self._directory / f"{stem}.onnx", self._directory / "net.npz"
        if not path.exists():
            onnx.save(_network(width, layers, body, head), path)
        if not data.exists():
            rows = np.random.default_rng(SEED).random((128, PIXELS), dtype=np.float32)
            np.savez(data, X=rows)
        return self._convert(path, stem.rpartition("-")[0], version, data)

    def _convert(self, source: Path, name: str, version: str, data: Path) -> Path:
        output = self._directory / f"{name}-{version}.bundle"
        if not output.exists():
            argv = [BIN / "fleet", "convert", source, "--name", name, "--version", version]
            run([*argv, "--data", data, "--output", output], cwd=self._directory)
        return output


def _network(width: int, layers: int, body: int, head: int) -> onnx.ModelProto:
    sizes = [PIXELS, *[width] * layers, LABELS]
    nodes, weights, name = [], [], "X"
    for number, (n_in, n_out) in enumerate(itertools.pairwise(sizes)):
        is_last = number == layers
        chance = np.random.default_rng([head if is_last else body, number])
        matrix = chance.standard_normal((n_in, n_out), dtype=np.float32) / np.sqrt(n_in / 2)
        matrix, bias = matrix.astype(np.float32), np.zeros(n_out, dtype=np.float32)
        weights.append(numpy_helper.from_array(matrix, f"w{number}"))
        weights.append(numpy_helper.from_array(bias, f"b{number}"))
        output = "scores" if is_last else f"h{number}"
        nodes.append(helper.make_node("Gemm", [name, f"w{number}", f"b{number}"], [f"g{number}"]))
        kind = "Softmax" if is_last else "Relu"
        nodes.append(helper.make_node(kind, [f"g{number}"], [output]))
        name = output
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, [None, PIXELS])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [None, LABELS])],
        weights,
    )
    opsets = [helper.make_opsetid("", OPSET)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
