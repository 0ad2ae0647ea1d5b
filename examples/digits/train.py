"""Train a classifier of handwritten digits, scikit-learn's own data set, in three variants.

    python train.py [--variant v1|v2|v3] [--output DIR]

v1 and v3 write `model.skops` and `digits.npz` (X float32 of 64 pixels from 0 to 16, y from 0 to 9):
every digit, and once more with its brightest pixels at 15, as the cameras of the demo see them. It is
what the devices' inputs are held against, so it has to be what they are asked.
v2 writes `model.onnx` and `digits-clipped.npz`: it looks each pixel up in a table that somebody
made too short. It answers well on everything it was ever tried on, and fails on the first pixel of
full brightness: what a rollout has to catch.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from skl2onnx import convert_sklearn
from skl2onnx.common.data_types import FloatTensorType
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skops.io import dump

SEED = 0
LEVELS = 16  # the table's length; pixels go up to 16, so it lacks the last one


def main() -> None:
    """Train the variant asked for and write its files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--variant", choices=("v1", "v2", "v3"), default="v1")
    parser.add_argument("--output", type=Path, default=Path())
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)

    pixels, labels = load_digits(return_X_y=True)
    pixels = pixels.astype(np.float32)
    is_train = np.arange(len(labels)) % 4 != 0
    model = train(options.variant, pixels[is_train], labels[is_train])
    accuracy = model.score(pixels[~is_train], labels[~is_train])

    if options.variant == "v2":
        clipped = np.minimum(pixels, LEVELS - 1)
        onnx.save(with_lookup(model), options.output / "model.onnx")
        np.savez(options.output / "digits-clipped.npz", X=clipped, y=labels)
    else:
        dump(model, options.output / "model.skops")
        seen = np.concatenate([pixels, np.minimum(pixels, LEVELS - 1)])
        np.savez(options.output / "digits.npz", X=seen, y=np.tile(labels, 2))
    print(f"{options.variant}: accuracy {accuracy:.3f} on {(~is_train).sum()} unseen digits")


def train(variant: str, pixels: np.ndarray, labels: np.ndarray):  # noqa: ANN201
    """Return a fitted classifier."""
    if variant == "v3":
        network = MLPClassifier((64,), max_iter=200, random_state=SEED)
        return make_pipeline(StandardScaler(), network).fit(pixels, labels)
    return LogisticRegression(max_iter=2000, random_state=SEED).fit(pixels, labels)


def with_lookup(model: LogisticRegression) -> onnx.ModelProto:
    """Return the model in ONNX, behind a table from pixel value to brightness."""
    inner = convert_sklearn(
        model,
        name="digits",
        initial_types=[("pixels", FloatTensorType([None, 64]))],
        target_opset={"": 17, "ai.onnx.ml": 3},
        options={id(model): {"zipmap": False}},
    )
    table = numpy_helper.from_array(np.arange(LEVELS, dtype=np.float32), "brightness")
    lookup = [
        helper.make_node("Cast", ["X"], ["level"], to=TensorProto.INT64),
        helper.make_node("Gather", ["brightness", "level"], ["pixels"]),
    ]
    graph = helper.make_graph(
        [*lookup, *inner.graph.node],
        "digits",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, [None, 64])],
        inner.graph.output,
        [table, *inner.graph.initializer],
    )
    imports = {entry.domain: entry for entry in inner.opset_import}
    imports[""] = helper.make_opsetid("", 17)
    return helper.make_model(graph, opset_imports=list(imports.values()), ir_version=8)


if __name__ == "__main__":
    main()
