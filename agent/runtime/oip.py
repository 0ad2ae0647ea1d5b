"""The Open Inference Protocol v2 over HTTP with JSON: bytes in, typed requests and bytes out. Pure.

Element types are not converted: a float for an integer tensor is refused, an integer for a float
tensor is fine. JSON has no NaN, yet clients write `NaN` and `Infinity`: they are read here, and
non-finite outputs are written the same way; a label never rests on them (`LoadedModel.answer`). Every
error body is `{"error": text}`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from wire.manifest import Manifest, TensorSpec
from wire.performance import MAX_REQUEST_ID_CHARS

Array = npt.NDArray[Any]

MAX_BODY_BYTES: Final = 16 * 1024 * 1024
"""A batch of 100,000 rows of 20 features as JSON; larger ones belong into several requests."""
MAX_DIMENSIONS: Final = 8
BINARY_HEADER: Final = b"inference-header-content-length"

DTYPES: Final[Mapping[str, np.dtype[Any]]] = {
    "BOOL": np.dtype(np.bool_), "UINT8": np.dtype(np.uint8), "UINT16": np.dtype(np.uint16),
    "UINT32": np.dtype(np.uint32), "UINT64": np.dtype(np.uint64), "INT8": np.dtype(np.int8),
    "INT16": np.dtype(np.int16), "INT32": np.dtype(np.int32), "INT64": np.dtype(np.int64),
    "FP16": np.dtype(np.float16), "FP32": np.dtype(np.float32), "FP64": np.dtype(np.float64),
    "BYTES": np.dtype(object),
}  # fmt: skip


class RequestError(Exception):
    """The request cannot be answered, and that is the client's doing."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Request:
    """A valid request for one model: feeds by input name, and the outputs wanted, in order."""

    feeds: dict[str, Array]
    outputs: tuple[TensorSpec, ...]
    n_rows: int
    id: str | None


class _Input(msgspec.Struct):
    name: str
    shape: list[int]
    datatype: str
    data: msgspec.Raw = msgspec.Raw()
    parameters: dict[str, Any] = {}


class _Output(msgspec.Struct):
    name: str
    parameters: dict[str, Any] = {}


class _Body(msgspec.Struct):
    inputs: list[_Input]
    id: str | None = None
    outputs: list[_Output] | None = None
    parameters: dict[str, Any] = {}


_decoder: Final = msgspec.json.Decoder(_Body)
_element_decoders: Final[Mapping[str, msgspec.json.Decoder[list[Any]]]] = {
    "f": msgspec.json.Decoder(list[float]),
    "i": msgspec.json.Decoder(list[int]),
    "u": msgspec.json.Decoder(list[int]),
    "b": msgspec.json.Decoder(list[bool]),
    "O": msgspec.json.Decoder(list[str]),
}
_ELEMENT_TYPES: Final[Mapping[str, tuple[type, ...]]] = {
    "f": (float, int), "i": (int,), "u": (int,), "b": (bool,), "O": (str,),
}  # fmt: skip
_encoder: Final = msgspec.json.Encoder()


def parse_request(manifest: Manifest, body: bytes) -> Request:
    """Return the request that `body` makes of a model.

    Raises:
        RequestError: With the status to answer and a sentence that names the tensor.
    """
    parsed = _parse_body(body)
    if parsed.id is not None and len(parsed.id) > MAX_REQUEST_ID_CHARS:
        raise RequestError(f"id is longer than {MAX_REQUEST_ID_CHARS} characters")
    outputs = _choose_outputs(manifest, parsed)
    given = {tensor.name: tensor for tensor in parsed.inputs}
    if len(given) != len(parsed.inputs):
        raise RequestError("an input is given twice")
    specs = {spec.name: spec for spec in manifest.inputs}
    if unknown := sorted(set(given) - set(specs)):
        raise RequestError(f"unknown input {unknown[0]!r}; the model takes {_names(specs)}")
    if missing := sorted(set(specs) - set(given)):
        raise RequestError(f"input {missing[0]!r} is missing; the model takes {_names(specs)}")
    feeds = {name: _tensor(spec, given[name]) for name, spec in specs.items()}
    first = feeds[manifest.inputs[0].name]
    return Request(feeds, outputs, first.shape[0] if first.ndim else 1, parsed.id)


def encode_answer(
    manifest: Manifest, request: Request, answers: Sequence[Array], *, is_finite: bool
) -> bytes:
    """Return the body of a good answer.

    Args:
        manifest: Of the model.
        request: What was asked; its `outputs` belong to `answers` one by one.
        answers: The output tensors.
        is_finite: Whether all of them are; only then the fast encoder may be used, which would
            write NaN as null.
    """
    body: dict[str, Any] = {"model_name": manifest.name, "model_version": manifest.version}
    if request.id is not None:
        body["id"] = request.id
    body["outputs"] = [
        {
            "name": spec.name,
            "datatype": spec.datatype,
            "shape": list(answer.shape),
            "data": answer.reshape(-1).tolist(),
        }
        for spec, answer in zip(request.outputs, answers, strict=True)
    ]
    return _encoder.encode(body) if is_finite else json.dumps(body).encode()


def are_finite(arrays: Sequence[Array]) -> bool:
    """Return whether no float among `arrays` is NaN or infinite."""
    return all(bool(np.isfinite(a).all()) for a in arrays if a.dtype.kind == "f")


def encode_error(message: str) -> bytes:
    """Return the body of every answer that is not a success."""
    return _encoder.encode({"error": message})


def encode_json(body: Mapping[str, Any]) -> bytes:
    """Return a metadata or health body."""
    return _encoder.encode(body)


def model_metadata(manifest: Manifest) -> dict[str, Any]:
    """Return the body of `GET /v2/models/<name>`."""
    return {
        "name": manifest.name,
        "versions": [manifest.version],
        "platform": "onnx_onnxv1",
        "inputs": [_metadata(spec) for spec in manifest.inputs],
        "outputs": [_metadata(spec) for spec in manifest.outputs],
    }


def split_path(path: str) -> list[str]:
    """Return the parts of a path, with or without a slash at its end."""
    return [part for part in path.split("/") if part]


def _parse_body(body: bytes) -> _Body:
    try:
        try:
            parsed = _decoder.decode(body)
        except msgspec.DecodeError:
            if b"NaN" not in body and b"Infinity" not in body:
                raise
            # Rare: bare NaN or Infinity, which only the lenient parser reads.
            loose = json.loads(body)
            if isinstance(loose, dict) and isinstance(loose.get("inputs"), list):
                loose["inputs"] = [_keep_raw(tensor) for tensor in loose["inputs"]]
            parsed = msgspec.convert(loose, _Body)
    except (msgspec.DecodeError, ValueError, RecursionError, TypeError) as exc:
        raise RequestError(f"the body is no inference request: {exc}"[:300]) from exc
    if not parsed.inputs:
        raise RequestError("inputs is empty")
    _refuse_repeated_keys(body, parsed)
    wants_binary = any(
        parameters.get("binary_data") or parameters.get("binary_data_output")
        for parameters in [parsed.parameters, *(o.parameters for o in parsed.outputs or ())]
    )
    if wants_binary or any("binary_data_size" in t.parameters for t in parsed.inputs):
        raise RequestError("binary tensor data is not supported; send and ask for JSON data")
    return parsed


def _refuse_repeated_keys(body: bytes, parsed: _Body) -> None:
    """Refuse an object that has a key twice: which of the two was meant nobody knows.

    The fast parser takes the last. A second one, ten times as slow, only gets what may have such
    a key: more quotes than an ordinary body of numbers, and more of some key than there is use for.
    """
    n_inputs, n_outputs = len(parsed.inputs), len(parsed.outputs or ())
    if body.count(b'"') == 2 + 12 * n_inputs:  # `inputs`; four keys and two texts for each
        return
    most = {
        b'"inputs"': 1, b'"outputs"': 1, b'"id"': 1, b'"name"': n_inputs + n_outputs,
        b'"shape"': n_inputs, b'"datatype"': n_inputs, b'"data"': n_inputs,
        b'"parameters"': 1 + n_inputs + n_outputs,
    }  # fmt: skip
    if any(body.count(key) > count for key, count in most.items()):
        try:
            json.loads(body, object_pairs_hook=_unique)
        except (ValueError, RecursionError) as exc:
            raise RequestError(f"the body is no inference request: {exc}"[:300]) from exc


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"an object has the key {key[:32]!r} twice")
        found[key] = value
    return found


def _keep_raw(tensor: Any) -> Any:
    if isinstance(tensor, dict) and "data" in tensor:
        # `Raw` needs JSON text; NaN survives as a token that `_flatten` reads again.
        tensor["data"] = msgspec.Raw(json.dumps(tensor["data"]).encode())
    return tensor


def _choose_outputs(manifest: Manifest, parsed: _Body) -> tuple[TensorSpec, ...]:
    if not parsed.outputs:
        return manifest.outputs
    specs = {spec.name: spec for spec in manifest.outputs}
    for output in parsed.outputs:
        if output.name not in specs:
            raise RequestError(f"unknown output {output.name!r}; the model has {_names(specs)}")
    return tuple(specs[name] for name in dict.fromkeys(o.name for o in parsed.outputs))


def _tensor(spec: TensorSpec, given: _Input) -> Array:
    if given.datatype != spec.datatype:
        raise RequestError(
            f"input {spec.name!r} is {spec.datatype}, the request says {given.datatype[:32]!r}"
        )
    shape = given.shape
    is_right = len(shape) == len(spec.shape) and all(
        size >= 0 and wanted in (-1, size) for size, wanted in zip(shape, spec.shape, strict=True)
    )
    if not is_right:
        raise RequestError(
            f"input {spec.name!r} has shape {list(spec.shape)} (-1 is free), "
            f"the request says {shape[:MAX_DIMENSIONS]}"
        )
    dtype = DTYPES[spec.datatype]
    values = _elements(spec, dtype.kind, bytes(given.data))
    if len(values) != math.prod(shape):
        raise RequestError(
            f"input {spec.name!r}: shape {shape} takes {math.prod(shape)} elements, "
            f"data has {len(values)}"
        )
    try:
        with np.errstate(over="ignore"):
            return np.array(values, dtype=dtype).reshape(shape)
    except (OverflowError, ValueError) as exc:
        raise RequestError(f"input {spec.name!r}: {exc}"[:300]) from exc


def _elements(spec: TensorSpec, kind: str, raw: bytes) -> list[Any]:
    """Return the flat elements of `data`, which may be nested or flat."""
    if not raw:
        raise RequestError(f"input {spec.name!r} has no data")
    try:
        return _element_decoders[kind].decode(raw)
    except msgspec.DecodeError:
        pass  # nested, non-finite or wrong: the slow way finds out
    except RecursionError as exc:
        raise RequestError(f"input {spec.name!r}: data is nested too deeply") from exc
    try:
        data = json.loads(raw)
    except (ValueError, RecursionError) as exc:
        raise RequestError(f"input {spec.name!r}: data cannot be read") from exc
    if not isinstance(data, list):
        raise RequestError(f"input {spec.name!r}: data is not an array")
    return _flatten(spec, kind, data)


def _flatten(spec: TensorSpec, kind: str, data: list[Any]) -> list[Any]:
    """Return the elements of rectangular nested lists; level by level, so depth costs nothing."""
    level = data
    for _ in range(MAX_DIMENSIONS):
        if not level or not isinstance(level[0], list):
            break
        sizes = {len(item) if isinstance(item, list) else -1 for item in level}
        if len(sizes) != 1:
            raise RequestError(f"input {spec.name!r}: data is ragged")
        level = [element for item in level for element in item]
    wanted = _ELEMENT_TYPES[kind]
    for position, element in enumerate(level):
        # bool is a subclass of int: compare types exactly.
        if type(element) not in wanted:
            raise RequestError(
                f"input {spec.name!r}: element {position} is no {spec.datatype} value"
            )
    return level


def _metadata(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)}


def _names(specs: Mapping[str, TensorSpec]) -> str:
    return ", ".join(repr(name) for name in specs)
