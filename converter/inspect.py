"""What an ONNX file is: checked before anything runs it, and described for the manifest."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import onnx

from wire.errors import BundleError
from wire.manifest import TensorSpec

MAX_MODEL_BYTES: Final = 2 * 1024**3 - 1
"""protobuf's own limit; larger models need external data, which a bundle does not carry."""
MAX_IR_VERSION: Final = 12

DATATYPES: Final = {
    onnx.TensorProto.BOOL: "BOOL",
    onnx.TensorProto.UINT8: "UINT8",
    onnx.TensorProto.UINT16: "UINT16",
    onnx.TensorProto.UINT32: "UINT32",
    onnx.TensorProto.UINT64: "UINT64",
    onnx.TensorProto.INT8: "INT8",
    onnx.TensorProto.INT16: "INT16",
    onnx.TensorProto.INT32: "INT32",
    onnx.TensorProto.INT64: "INT64",
    onnx.TensorProto.FLOAT16: "FP16",
    onnx.TensorProto.FLOAT: "FP32",
    onnx.TensorProto.DOUBLE: "FP64",
    onnx.TensorProto.STRING: "BYTES",
}
# The oldest onnxruntime for each ai.onnx opset, from its table of versions.
_RUNTIMES: Final = ((21, "1.20"), (22, "1.21"), (23, "1.22"), (24, "1.23"), (25, "1.24"))


def read_model(path: Path) -> onnx.ModelProto:
    """Return the model in `path`, checked.

    Raises:
        BundleError: `source_unreadable` or `model_invalid`.
    """
    try:
        size = path.stat().st_size
        # protobuf's own error would not say what is wrong.
        model = onnx.load_model(path, load_external_data=False) if size <= MAX_MODEL_BYTES else None
    except OSError as exc:
        raise BundleError(f"cannot read {path}: {exc.strerror}", code="source_unreadable") from exc
    except Exception as exc:  # protobuf's own error type is not public
        raise BundleError(f"{path} is no ONNX file", code="source_unreadable") from exc
    if model is None:
        raise BundleError(f"{path} is over 2 GB", code="model_invalid")
    for tensor in model.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise BundleError(
                f"{path} keeps weights in other files",
                code="model_invalid",
                hint="save it as one file: onnx.save(model, path, save_as_external_data=False)",
            )
    try:
        onnx.checker.check_model(model)
    except Exception as exc:  # as above
        text = (str(exc).strip().splitlines() or ["unknown"])[0][:300]
        raise BundleError(f"{path}: onnx.checker: {text}", code="model_invalid") from exc
    if model.ir_version > MAX_IR_VERSION:
        raise BundleError(
            f"{path} has IR version {model.ir_version}, devices load up to {MAX_IR_VERSION}",
            code="model_invalid",
            hint="export it with an older opset, or set model.ir_version",
        )
    return model


def describe_tensors(values: Any, kind: str, *, rows: int | None = None) -> list[TensorSpec]:
    """Return the inputs or outputs of a graph as the manifest has them.

    Raises:
        BundleError: `model_invalid` for anything but tensors of known types with printable names.
    """
    specs = []
    for value in values:
        if not re.fullmatch(r"[ -~]{1,128}", value.name):
            raise BundleError(f"an {kind} has an unprintable name", code="model_invalid")
        tensor = value.type.tensor_type
        datatype = DATATYPES.get(tensor.elem_type) if value.type.HasField("tensor_type") else None
        if datatype is None:
            raise BundleError(
                f"{kind} {value.name} is no tensor of a known type",
                code="model_invalid",
                hint="outputs that are maps or sequences cannot be answered over HTTP",
            )
        shape = [
            dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else -1
            for dim in tensor.shape.dim
        ]
        specs.append(
            TensorSpec.model_validate({"name": value.name, "datatype": datatype, "shape": shape})
        )
    return specs


def graph_inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """Return the inputs that a caller must give: those without an initializer."""
    given = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in given]


def operators(model: onnx.ModelProto) -> list[str]:
    """Return the operators used, subgraphs included, as `domain:name`, sorted."""
    found: set[str] = set()
    graphs = [model.graph]
    while graphs:
        for node in graphs.pop().node:
            found.add(f"{node.domain or 'ai.onnx'}:{node.op_type}")
            for attribute in node.attribute:
                if attribute.type == onnx.AttributeProto.GRAPH:
                    graphs.append(attribute.g)
                graphs.extend(attribute.graphs)
    return sorted(found)


def minimum_runtime(model: onnx.ModelProto) -> str:
    """Return the oldest onnxruntime that loads the model's opset."""
    opset = max((e.version for e in model.opset_import if e.domain in ("", "ai.onnx")), default=1)
    for newest, runtime in _RUNTIMES:
        if opset <= newest:
            return runtime
    raise BundleError(
        f"ai.onnx opset {opset} is newer than any device's runtime",
        code="model_invalid",
        hint=f"export it with opset {_RUNTIMES[-1][0]} or older",
    )
