"""What an ONNX file is: checked before anything runs it, and described for the manifest."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import onnx
from pydantic import ValidationError

from wire.codec import first_fault
from wire.errors import BundleError
from wire.manifest import TensorSpec

from .wording import first_line

MAX_MODEL_BYTES: Final = 2 * 1024**3 - 1
"""protobuf's own limit; larger models need external data, which a bundle does not carry."""
MAX_OUTPUTS: Final = 64
"""As in the manifest."""

DATATYPES: Final[Mapping[int, str]] = {
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
# The first onnxruntime that loads each ai.onnx opset, and each version of the format: tried on the
# wheels of 1.20 to 1.32.
_FOR_OPSET: Final = (
    (21, "1.20"), (22, "1.21"), (23, "1.23"), (25, "1.24"), (26, "1.25"), (28, "1.32"),
)  # fmt: skip
_FOR_IR: Final = ((10, "1.20"), (11, "1.23"), (13, "1.24"), (14, "1.32"))


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
    if not model.graph.node:
        raise BundleError(f"{path} is no ONNX file: it has no graph", code="source_unreadable")
    minimum_runtime(model)
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in _tensors(model)):
        raise BundleError(
            f"{path} keeps weights in other files",
            code="model_invalid",
            hint="save it as one file: onnx.save(model, path, save_as_external_data=False)",
        )
    try:
        onnx.checker.check_model(model)
    except Exception as exc:  # as above
        raise BundleError(f"{path}: onnx.checker: {first_line(exc)}", code="model_invalid") from exc
    return model


def describe_tensors(values: Iterable[onnx.ValueInfoProto], kind: str) -> list[TensorSpec]:
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
                hint="maps and sequences cannot be answered over HTTP: skl2onnx exports tensors with"
                " options={'zipmap': False}",
            )
        shape = [
            dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else -1
            for dim in tensor.shape.dim
        ]
        try:
            specs.append(
                TensorSpec.model_validate(
                    {"name": value.name, "datatype": datatype, "shape": shape}
                )
            )
        except ValidationError as exc:
            raise BundleError(
                f"{kind} {value.name}: {first_fault(exc)}", code="model_invalid"
            ) from exc
    if len(specs) > MAX_OUTPUTS:
        raise BundleError(f"the model has over {MAX_OUTPUTS} {kind}s", code="model_invalid")
    return specs


def describe_input(model: onnx.ModelProto) -> TensorSpec:
    """Return the model's only input.

    Raises:
        BundleError: `model_invalid` unless there is one, of [any number of rows, features].
    """
    specs = describe_tensors(graph_inputs(model), "input")
    if len(specs) != 1:
        raise BundleError(
            f"the model has {len(specs)} inputs; one of [rows, features] is supported",
            code="model_invalid",
            hint="concatenate them into one inside the graph",
        )
    spec = specs[0]
    if len(spec.shape) != 2 or spec.shape[0] != -1:
        raise BundleError(
            f"input {spec.name} has the shape {list(spec.shape)} (-1 is free); [-1, features] is "
            "supported: any number of rows",
            code="model_invalid",
            hint="export it with a free first dimension, and reshape inside the graph",
        )
    return spec


def graph_inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """Return the inputs that a caller must give: those without an initializer."""
    given = {tensor.name for tensor in model.graph.initializer}
    given |= {tensor.values.name for tensor in model.graph.sparse_initializer}
    return [value for value in model.graph.input if value.name not in given]


def operators(model: onnx.ModelProto) -> list[str]:
    """Return the operators used, subgraphs and functions included, as `domain:name`, sorted."""
    return sorted({f"{node.domain or 'ai.onnx'}:{node.op_type}" for node in _nodes(model)})


def minimum_runtime(model: onnx.ModelProto) -> str:
    """Return the oldest onnxruntime that loads the model's opset and format.

    Raises:
        BundleError: `model_invalid` when none does.
    """
    opset = max((e.version for e in model.opset_import if e.domain in ("", "ai.onnx")), default=1)
    for_opset = next((runtime for newest, runtime in _FOR_OPSET if opset <= newest), None)
    for_format = next((runtime for newest, runtime in _FOR_IR if model.ir_version <= newest), None)
    if for_opset is None:
        raise BundleError(
            f"ai.onnx opset {opset} is newer than any device's runtime",
            code="model_invalid",
            hint=f"export it with opset {_FOR_OPSET[-1][0]} or older",
        )
    if for_format is None:
        raise BundleError(
            f"IR version {model.ir_version} is newer than any device's runtime",
            code="model_invalid",
            hint=f"set model.ir_version to {_FOR_IR[-1][0]} or less and save it again",
        )
    return max(for_opset, for_format)


def _nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    pending: list[Any] = [model.graph, *model.functions]
    while pending:
        for node in pending.pop().node:
            yield node
            for attribute in node.attribute:
                if attribute.type == onnx.AttributeProto.GRAPH:
                    pending.append(attribute.g)
                pending.extend(attribute.graphs)


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Yield every constant, wherever it stands."""
    graphs = [model.graph]
    for node in _nodes(model):
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)
            graphs += [attribute.g, *attribute.graphs]
    for graph in graphs:
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
