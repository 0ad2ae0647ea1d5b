"""Releases as the model repository of a Triton Inference Server, for servers beside the fleet.

One folder a model: `config.pbtxt`, and for each version a folder named by an integer, with the model
in it. The layout is that of `docs/user_guide/model_repository.md` of triton-inference-server/server,
the text a `ModelConfig` of `protobuf/model_config.proto` of triton-inference-server/common, the rules
for shapes those of `ValidateIOShape` in `src/model_config_utils.cc` of triton-inference-server/core
and of `CompareDimsSupported` in `src/onnxruntime_utils.cc` of the onnxruntime backend (all read
2026-11-28).

Triton does what its configuration says and no more: it has no self-test, no limits on values, no
guards. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from wire.errors import BundleError
from wire.manifest import MODEL, Datatype, Manifest, TensorSpec

CONFIG: Final = "config.pbtxt"
RELEASE: Final = "release.json"
PLATFORM: Final = "onnxruntime_onnx"
MAX_NUMBER: Final = 2**63 - 1
"""Triton keeps the number of a version in 64 bits; a folder whose name begins with 0 is ignored."""
MAX_BATCH_SIZE: Final = 2**31 - 1
DEFAULT_BATCH_SIZE: Final = 256
"""Rows of one request, and what Triton may put together; a manifest knows no limit. What the converter
measures latency with."""

_FREE: Final = -1
_TYPES: Final[dict[Datatype, str]] = {
    "BOOL": "TYPE_BOOL", "BYTES": "TYPE_STRING",
    "INT8": "TYPE_INT8", "INT16": "TYPE_INT16", "INT32": "TYPE_INT32", "INT64": "TYPE_INT64",
    "UINT8": "TYPE_UINT8", "UINT16": "TYPE_UINT16", "UINT32": "TYPE_UINT32",
    "UINT64": "TYPE_UINT64", "FP16": "TYPE_FP16", "FP32": "TYPE_FP32", "FP64": "TYPE_FP64",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Numbered:
    """A release under the integer that Triton knows it by.

    Attributes:
        number: 1 or more.
        manifest: Of its bundle.
        manifest_digest: sha-256 of the manifest.
    """

    number: int
    manifest: Manifest
    manifest_digest: str

    @property
    def release(self) -> str:
        """The release as people name it."""
        return f"{self.manifest.name}:{self.manifest.version}"


def make_config(versions: Sequence[Numbered], *, max_batch_size: int = DEFAULT_BATCH_SIZE) -> str:
    """Return the `config.pbtxt` of one model, the same text for the same versions.

    All versions are offered: Triton by itself loads the one with the highest number only.

    Args:
        versions: Of one model, one or more.
        max_batch_size: Rows that Triton may give the model at once, where the rows are free.

    Raises:
        BundleError: `triton_unfit`, a shape that Triton does not take; `triton_differ`, versions
            with other inputs or outputs than the first, which one configuration cannot describe.
    """
    first = versions[0].manifest
    is_batched = takes_batches(first)
    tensors = _tensors(first, is_batched=is_batched)
    for other in versions[1:]:
        batches_alike = takes_batches(other.manifest) == is_batched
        if not batches_alike or _tensors(other.manifest, is_batched=is_batched) != tensors:
            raise BundleError(
                f"{other.release} has other inputs or outputs than {versions[0].release}",
                code="triton_differ",
                hint="Triton has one configuration for all versions of a model: export them apart",
            )
    lines = [f"name: {_quoted(first.name)}", f"platform: {_quoted(PLATFORM)}"]
    if is_batched:
        lines.append(f"max_batch_size: {max_batch_size}")
    lines += [*tensors, "version_policy { all { } }"]
    for version in sorted(versions, key=lambda version: version.number):
        lines += _parameter(f"release.{version.number}", version.release)
        lines += _parameter(f"manifest.{version.number}", version.manifest_digest)
    return "\n".join(lines) + "\n"


def make_release(version: Numbered) -> bytes:
    """Return the `release.json` of one version: which release this is."""
    manifest = version.manifest
    facts = {
        "model": manifest.name,
        "version": manifest.version,
        "number": version.number,
        "manifest": version.manifest_digest,
        "model_sha256": manifest.file(MODEL).sha256,
    }
    return json.dumps(facts, indent=2).encode() + b"\n"


def takes_batches(manifest: Manifest) -> bool:
    """Return whether the first dimension of all inputs and outputs is free, and so the rows'."""
    return all(spec.shape[:1] == (_FREE,) for spec in (*manifest.inputs, *manifest.outputs))


def open_outputs(manifest: Manifest) -> list[str]:
    """Return the outputs whose rows have a free dimension.

    Triton holds an output's dimensions against those that onnxruntime infers, and takes them only
    when they are equal. A manifest has what the model's file declares, which may leave free what
    can be inferred.
    """
    return [spec.name for spec in manifest.outputs if _FREE in spec.shape[1:]]


def _tensors(manifest: Manifest, *, is_batched: bool) -> list[str]:
    return [
        line
        for field, specs in (("input", manifest.inputs), ("output", manifest.outputs))
        for spec in specs
        for line in _tensor(field, spec, is_batched=is_batched)
    ]


def _tensor(field: str, spec: TensorSpec, *, is_batched: bool) -> Iterator[str]:
    shape = spec.shape[1:] if is_batched else spec.shape
    if 0 in shape or not spec.shape:
        raise BundleError(
            f"{field} {spec.name!r} has the shape {list(spec.shape)}: Triton takes no dimension of 0, "
            "and there must be one",
            code="triton_unfit",
        )
    yield f"{field} {{"
    yield f"  name: {_quoted(spec.name)}"
    yield f"  data_type: {_TYPES[spec.datatype]}"
    # Triton refuses empty dims: one value a row is [1] for its clients, and nothing for the model.
    yield f"  dims: [ {', '.join(map(str, shape or (1,)))} ]"
    if not shape:
        yield "  reshape { shape: [ ] }"
    yield "}"


def _parameter(key: str, text: str) -> Iterator[str]:
    yield "parameters {"
    yield f"  key: {_quoted(key)}"
    yield f"  value {{ string_value: {_quoted(text)} }}"
    yield "}"


def _quoted(text: str) -> str:
    """Return printable ASCII, as all names in a manifest are, as a string of the text format."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
