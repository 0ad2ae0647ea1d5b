"""What a bundle contains and requires. Its digest is the sha-256 of the bytes as shipped.

Nobody serialises a manifest again: the bytes that the converter wrote are stored, sent, hashed and
parsed, never rebuilt.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Annotated, Final, Literal, Self

from pydantic import ConfigDict, Field, ValidationError, model_validator

from .codec import first_fault, parse_json
from .errors import BundleError, PeerError
from .ids import Digest, ModelName, Version
from .messages import Part

MAX_MANIFEST_BYTES: Final = 1024 * 1024
MAX_FILE_BYTES: Final = 4 * 1024**3
MAX_FILES: Final = 16
MAX_MEMORY_MB: Final = 1024 * 1024
"""One tebibyte: more than any device has, and what eight models add up to still fits a limit of
the kernel."""

MANIFEST: Final = "manifest.json"
MODEL: Final = "model.onnx"
GOLDEN: Final = "golden.npz"
BASELINE: Final = "baseline.json"
PARITY: Final = "parity.json"
SCHEMA: Final = "schema.json"
CARD: Final = "model_card.md"
MAX_CARD_BYTES: Final = 256 * 1024
"""Of text for people, which every device stores."""
REQUIRED_FILES: Final = frozenset({MODEL, GOLDEN, BASELINE, PARITY})

Datatype = Literal[
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64",
    "FP16", "FP32", "FP64", "BYTES",
]  # fmt: skip
"""Tensor element types by their names in the Open Inference Protocol."""

MAX_NAME_CHARS: Final = 128
PrintableName = Annotated[str, Field(pattern=r"^[ -~]{1,128}$")]


class _Strict(Part):
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class ArtifactEntry(_Strict):
    """One file of the bundle beside the manifest."""

    path: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
    """File name; there are no directories."""
    sha256: Digest
    bytes: Annotated[int, Field(ge=0, le=MAX_FILE_BYTES)]
    """Size of the file."""
    media_type: Annotated[str, Field(max_length=128)]
    """For people and browsers; nothing depends on it."""


class TensorSpec(_Strict):
    """One input or output."""

    name: PrintableName
    """As in the ONNX graph and in inference requests."""
    datatype: Datatype
    shape: Annotated[
        tuple[Annotated[int, Field(ge=-1, le=2**31)], ...], Field(max_length=8, fail_fast=True)
    ]
    """-1 is a free dimension; the first is the rows."""
    feature_names: Annotated[
        tuple[PrintableName, ...], Field(max_length=65_536, fail_fast=True)
    ] = ()
    """Names of the columns, in order, where they are known."""
    units: Annotated[tuple[str, ...], Field(max_length=65_536, fail_fast=True)] = ()
    """Units of the columns, in the same order."""


class Budgets(_Strict):
    """What the author promises, never measured: bytes must not depend on the building machine."""

    p99_ms: Annotated[float, Field(gt=0)] | None = None
    """99th percentile of latency."""
    memory_mb: Annotated[int, Field(gt=0, le=MAX_MEMORY_MB)] | None = None
    """Memory beyond that of the empty runtime; the device caps the process by it."""


class Lineage(_Strict):
    """Where the model came from; no clock time, so that equal inputs give equal bytes."""

    data_sha256: Digest | None = None
    """Digest of the file of training data."""
    code_commit: Annotated[str, Field(max_length=64)] | None = None
    """Commit of the training code."""
    source_sha256: Digest | None = None
    """Digest of the file that was converted, where its author's signature was verified."""
    source_signer: Annotated[str, Field(pattern=r"^[ -~]{1,256}$")] | None = None
    """Who signed that (OpenSSF Model Signing): `key HASH` or `certificate HASH, SUBJECT`."""
    parameters: dict[str, str] = Field(default_factory=dict)
    metrics: dict[str, float] = Field(default_factory=dict)


class Manifest(_Strict):
    """`manifest.json` of a bundle."""

    v: Literal[1] = 1
    name: ModelName
    """The line of models."""
    version: Version
    """The release's name for people; the digest of these bytes identifies it."""
    files: Annotated[tuple[ArtifactEntry, ...], Field(max_length=MAX_FILES, fail_fast=True)]
    """All files of the bundle but this one; the required four, and others."""
    inputs: Annotated[tuple[TensorSpec, ...], Field(min_length=1, max_length=64, fail_fast=True)]
    outputs: Annotated[tuple[TensorSpec, ...], Field(min_length=1, max_length=64, fail_fast=True)]
    opset: dict[str, Annotated[int, Field(ge=1, le=1000)]]
    """ONNX operator sets by domain; the empty domain is ONNX itself."""
    ir_version: Annotated[int, Field(ge=1, le=1000)]
    """Version of the ONNX format."""
    ops: Annotated[tuple[str, ...], Field(fail_fast=True)]
    """Operators that the graph uses."""
    minimum_runtime: Annotated[str, Field(pattern=r"^[0-9]{1,6}(\.[0-9]{1,6}){0,2}$")]
    """Oldest onnxruntime that knows these operator sets."""
    device_class: Annotated[str, Field(max_length=64)] = "any"
    """Machine type that it is made for, such as `aarch64`; `any` is all."""
    budgets: Budgets = Budgets()
    nan_policy: Literal["reject", "pass"] = "reject"
    """Whether NaN and infinite inputs are refused or reach the model."""
    lineage: Lineage = Lineage()

    @model_validator(mode="after")
    def _files_are_complete(self) -> Self:
        paths = [entry.path for entry in self.files]
        if len(set(paths)) != len(paths):
            raise ValueError("a file is listed twice")
        if MANIFEST in paths:
            raise ValueError("the manifest lists itself")
        if missing := REQUIRED_FILES - set(paths):
            raise ValueError(f"missing {', '.join(sorted(missing))}")
        if any(entry.path == CARD and entry.bytes > MAX_CARD_BYTES for entry in self.files):
            raise ValueError(f"{CARD} is over {MAX_CARD_BYTES} bytes")
        for specs in (self.inputs, self.outputs):
            if len({spec.name for spec in specs}) != len(specs):
                raise ValueError("two tensors have the same name")
        return self

    def file(self, path: str) -> ArtifactEntry:
        """Return the entry of a required file."""
        return next(entry for entry in self.files if entry.path == path)


def parse_manifest(payload: bytes) -> Manifest:
    """Return the manifest that `payload` holds.

    Raises:
        BundleError: `manifest_invalid`.
    """
    try:
        parse_json(payload, max_bytes=MAX_MANIFEST_BYTES)
        return Manifest.model_validate_json(payload, strict=True)
    except PeerError as exc:
        raise BundleError(f"manifest.json: {exc}", code="manifest_invalid") from exc
    except ValidationError as exc:
        fault = first_fault(exc)
        raise BundleError(f"manifest.json: {fault}", code="manifest_invalid") from exc


def digest_of(payload: bytes) -> str:
    """Return the sha-256 of `payload` as 64 hexadecimal digits."""
    return hashlib.sha256(payload).hexdigest()


def label_output(outputs: Sequence[TensorSpec]) -> TensorSpec | None:
    """Return the output whose answers are classes: the first of one value a row that is no float."""
    for spec in outputs:
        if tuple(spec.shape[1:]) in ((), (1,)) and not spec.datatype.startswith("FP"):
            return spec
    return None


def column_names(spec: TensorSpec, width: int) -> list[str]:
    """Return the names of the columns of a tensor that has `width` of them."""
    if len(spec.feature_names) == width:
        names = list(spec.feature_names)
    elif width == 1:
        names = [spec.name]
    else:
        names = [f"{spec.name}[{number}]" for number in range(width)]
    return [name[:MAX_NAME_CHARS] for name in names]
