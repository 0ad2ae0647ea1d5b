"""What is asked of the converter, and what it answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

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
    timeout_s: float = DEFAULT_TIMEOUT_S


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
        row_count: Rows compared.
        worst: One sentence per output on its largest error.
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
