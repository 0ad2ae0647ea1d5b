"""What the API says of drift."""

from __future__ import annotations

from typing import Literal

from wire.ids import Digest, ModelName, Version

from .schemas import Schema


class DriftFinding(Schema):
    """One cause that drift was traced to."""

    id: int
    model: ModelName
    version: Version | None
    level: Literal["fleet", "group", "device"]
    who: str
    """A device's id, a group as KEY=VALUE, or empty for the fleet."""
    features: list[str]
    since_unix_ms: int
    drifted_count: int
    """Devices with a drift of their own; 0 where it shows only in all of them together."""
    device_count: int
    opened_unix_ms: int
    closed_unix_ms: int | None = None
    text: str
    """The same in words."""


class DriftBin(Schema):
    """One bin of numbers, or one label, with its share of the rows."""

    label: str
    reference_ratio: float
    observed_ratio: float


class DriftColumn(Schema):
    """One input feature or output, over a span."""

    name: str
    is_output: bool
    kind: Literal["number", "label"]
    verdict: Literal["no_baseline", "reference_too_small", "too_few_rows", "stable", "drifted"]
    """Of the newest windows, by the test that raises findings, on all rows that are shown."""
    p_value: float
    row_count: int
    effective_rows: float
    """What the rows that were tested are worth: rows that resemble each other count as fewer."""
    psi: float
    """Population stability index over the whole span, nats."""
    js_bits: float
    """Jensen-Shannon divergence, bits."""
    wasserstein_bins: float | None
    """Over how many bins a row moved on average; null for labels."""
    missing_ratio: float
    below_ratio: float
    """Below the least value of the reference."""
    above_ratio: float
    bins: list[DriftBin]


class DriftReport(Schema):
    """How what a release is asked and answers lies beside its baseline."""

    model: ModelName
    version: Version
    manifest: Digest
    since_unix_ms: int
    until_unix_ms: int
    device_count: int
    row_count: int
    columns: list[DriftColumn]
    findings: list[DriftFinding]
