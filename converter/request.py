"""What is asked of the converter, and what it answers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from wire.codec import first_fault
from wire.errors import PeerError
from wire.ids import NAME_PATTERN, VERSION_PATTERN
from wire.manifest import Budgets, Lineage
from wire.schema import Schema

MAX_DEVICE_CLASS_CHARS: Final = 64
"""As in the manifest."""
DEFAULT_TIMEOUT_S: Final = 600.0
"""For the child process: a forest of a thousand deep trees exports in about a minute."""


@dataclass(frozen=True, slots=True)
class ConvertRequest:
    """One conversion.

    Attributes:
        source: Path to .skops, .onnx, .joblib or .pkl, or `module:attribute`, importable from the
            current directory: an estimator, or a callable without arguments that returns one.
        name: The model's name on the devices.
        version: The release's version.
        data: Rows: an .npz with `X` (n_rows, n_features) and optionally `y` (n_rows,).
        output: The bundle to write; replaced if it is there.
        trust_pickle: Allow .joblib and .pkl, whose loading runs code as the user.
        p99_ms: Declared latency budget, or None.
        memory_mb: Declared memory budget, or None.
        device_class: Architecture it is made for, or any.
        nan_policy: `reject`: the device refuses NaN and infinities. `pass`: the model gets them.
        code_commit: Commit of the training code, for the lineage.
        source_sha256: Digest of the source, if its author's signature was verified; for the lineage.
        source_signer: Who signed it.
        origin: Where the source comes from, such as a registry's version of it: for the lineage,
            beside the estimator's own parameters.
        schema: What the features may hold, where the reference rows do not say it, or a file of it
            as JSON. None for these alone.
        feature_names: Of the columns of the rows, where the estimator does not know them.
        folder: Where the modules are that a pickle or `module:attribute` is made of; else the
            working directory.
        card: A model card, Markdown in UTF-8, that goes into the bundle; or None.
        timeout_s: For the child process.
    """

    source: str
    name: str
    version: str
    data: Path
    output: Path
    trust_pickle: bool = False
    p99_ms: float | None = None
    memory_mb: int | None = None
    device_class: str = "any"
    nan_policy: str = "reject"
    code_commit: str | None = None
    source_sha256: str | None = None
    source_signer: str | None = None
    origin: Mapping[str, str] = field(default_factory=dict)
    schema: Schema | Path | None = None
    feature_names: tuple[str, ...] = ()
    folder: Path | None = None
    card: Path | None = None
    timeout_s: float = DEFAULT_TIMEOUT_S

    def check(self) -> None:
        """Check what is declared, before any work is done.

        Raises:
            PeerError: `request_invalid`, naming the option.
        """
        fault = None
        try:
            Budgets(p99_ms=self.p99_ms, memory_mb=self.memory_mb)
            Lineage(code_commit=self.code_commit)
        except ValidationError as exc:
            fault = first_fault(exc)
        if not re.fullmatch(NAME_PATTERN, self.name):
            fault = "name: 1 to 64 letters, digits, '_' or '-', beginning with a letter or digit"
        if not re.fullmatch(VERSION_PATTERN, self.version):
            fault = "version: 1 to 64 letters, digits, '.', '_', '+' or '-', beginning like 1.0.0"
        if len(self.device_class) > MAX_DEVICE_CLASS_CHARS:
            fault = f"device_class: at most {MAX_DEVICE_CLASS_CHARS} characters"
        if self.nan_policy not in ("reject", "pass"):
            fault = "nan_policy: reject or pass"
        if self.timeout_s <= 0:
            fault = "timeout: more than 0 s"
        if fault is not None:
            field_name, _, what = fault.partition(": ")
            option = f"--{field_name.replace('_', '-')}"
            raise PeerError(f"{option}: {what}", code="request_invalid")


@dataclass(frozen=True, slots=True)
class ConvertReport:
    """A finished conversion.

    Attributes:
        output: The bundle.
        name: The model's name.
        version: The release's version.
        manifest: The digest that identifies the release.
        bytes: The bundle's size.
        verdict: `parity`, or `no_original` for a source that is already ONNX.
        row_count: Rows that were asked.
        golden_count: Rows of them that devices test themselves with.
        worst: One phrase per output on its largest error; none without an original.
        metrics: Accuracy or r2 of the converted model on the given labels, if there are any.
        warnings: What the user should know though nothing failed.
    """

    output: Path
    name: str
    version: str
    manifest: str
    bytes: int
    verdict: str
    row_count: int
    golden_count: int
    worst: tuple[str, ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the report as what `json.dumps` takes."""
        return {
            **asdict(self),
            "output": str(self.output),
            "worst": list(self.worst),
            "warnings": list(self.warnings),
        }
