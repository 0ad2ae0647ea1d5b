"""What a conversion came to, for people and for `--json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ConvertReport:
    """A finished conversion.

    Attributes:
        output: The bundle.
        bytes: Its size.
        manifest: The digest that identifies the release.
        name: The model's name.
        version: The release's version.
        verdict: `agrees`, or `no_original` for a source that is already ONNX.
        row_count: Rows compared.
        golden_row_count: Rows in the self-test.
        worst: One sentence per output on its largest error.
        metrics: Accuracy or r2 of the converted model on the given labels, if there are any.
        warnings: What the user should know though nothing failed.
    """

    output: Path
    bytes: int
    manifest: str
    name: str
    version: str
    verdict: str
    row_count: int
    golden_row_count: int
    worst: tuple[str, ...]
    metrics: Mapping[str, float]
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, object]:
        """Return the report as what `json.dumps` takes."""
        return {
            "output": str(self.output),
            "bytes": self.bytes,
            "manifest": self.manifest,
            "name": self.name,
            "version": self.version,
            "verdict": self.verdict,
            "row_count": self.row_count,
            "golden_row_count": self.golden_row_count,
            "worst": list(self.worst),
            "metrics": dict(self.metrics),
            "warnings": list(self.warnings),
        }
