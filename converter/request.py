"""What is asked of the converter."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

NanPolicy = Literal["reject", "pass"]

DEFAULT_TIMEOUT_S: Final = 600.0
"""For one child process: a forest of a thousand deep trees exports in about a minute."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How far the converted model may be from the original.

    Attributes:
        probability_abs: Largest absolute error of a probability. 1e-5 is about 80 float32 steps
            at 1: sums of a few hundred terms stay below, a wrong formula does not.
        value_rel: Largest error of any other number, relative to the larger of the expected value
            and the root mean square of its column.
        tie_margin: A label may differ where the original's two best scores are no further apart
            than this: forests with an even number of trees do tie exactly.
        rounding_share: Share of rows whose answer may change when float64 inputs are rounded to
            the float32 that the device takes; 0..1.
    """

    probability_abs: float = 1e-5
    value_rel: float = 1e-5
    tie_margin: float = 1e-4
    rounding_share: float = 0.01


@dataclass(frozen=True, slots=True)
class ConvertRequest:
    """One conversion.

    Attributes:
        source: Path to .skops, .onnx, .joblib or .pkl, or `module:attribute`, importable from the
            current directory: an estimator, or a callable without arguments that returns one.
        name: The model's name on the devices.
        version: The release's version.
        data: Rows: .npz with `X` (n_rows, n_features) and optionally `y` and `feature_names`, or
            one array per named column; .npy with X alone; .csv with a header and optionally `y`.
        output: `NAME.bundle` for a tar; any other name becomes a directory.
        trust_pickle: Allow .joblib and .pkl, whose loading runs code as the user.
        p99_ms: Declared latency budget, or None.
        memory_mb: Declared memory budget, or None.
        device_class: Architecture it is made for, or any.
        nan_policy: `reject`: the device refuses NaN and infinities. `pass`: the model gets them.
        limits: How far the converted model may be from the original.
        code_commit: Commit of the training code, for the lineage.
        timeout_s: For each of the two child processes.
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
    limits: Limits = Limits()
    code_commit: str | None = None
    timeout_s: float = DEFAULT_TIMEOUT_S
