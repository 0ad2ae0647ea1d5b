"""What a device says of a shadow: how its answers compare with those of the active release.

The texts below fields are their meaning in `docs/topics.md`; run `make docs` after changing one.
"""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field

from .ids import Digest, ModelName, RolloutId, Version
from .latency import LATENCY_BINS
from .messages import Count, Label, Part, Record, Seconds, UnixMs

MAX_CLASSES: Final = 24
"""Labels told apart in one record; the rows of all others are counted under an empty one."""
MAX_WINDOW_COUNT: Final = 999_999_999
MAX_BIN_COUNT: Final = 999_999

WindowCount = Annotated[int, Field(ge=0, le=MAX_WINDOW_COUNT)]
LatencyCounts = Annotated[
    tuple[Annotated[int, Field(ge=0, le=MAX_BIN_COUNT)], ...],
    Field(max_length=LATENCY_BINS, fail_fast=True),
]


class ShadowClass(Part):
    """Rows that the active release gave one label."""

    label: Label
    """The label as text; empty for all that found no place of their own."""
    row_count: WindowCount
    disagree_count: WindowCount
    """Those to which the shadow gave another label, or none."""


class ShadowTelemetry(Record):
    """How a shadow's answers compared with the active release's in one window, on one device.

    Windows of one manifest and one `active_manifest` add up, over time and over devices.
    """

    start_unix_ms: UnixMs
    """When the window began."""
    duration_s: Seconds
    """Length of the window."""
    model: ModelName
    version: Version
    manifest: Digest
    """The shadow's."""
    active_manifest: Digest
    """Of the release that answered the application."""
    rollout: RolloutId
    """The rollout that asked for it."""
    sampled_count: WindowCount = 0
    """Requests that were chosen for the shadow."""
    dropped_count: WindowCount = 0
    """Those that found its queue full, or were too long for it: nobody waits for a shadow."""
    row_count: WindowCount = 0
    """Rows compared: each row of a request that the shadow was given."""
    agree_count: WindowCount = 0
    """Rows in which both gave the same answer."""
    refused_count: WindowCount = 0
    """Rows that the shadow's contract forbids; they do not agree."""
    failed_count: WindowCount = 0
    """Rows at which the shadow raised, or whose answer has nothing in common to compare; the same."""
    classes: Annotated[
        tuple[ShadowClass, ...], Field(max_length=MAX_CLASSES + 1, fail_fast=True)
    ] = ()
    """By the active release's label; empty for a model that answers no labels."""
    active_latency: LatencyCounts = ()
    """Of the same requests, counts over the bins of `wire/latency.py`, zeros at the end left out."""
    shadow_latency: LatencyCounts = ()
    """The same for the shadow, which runs at idle priority and encodes but sends no answer."""
    active_pss_bytes: Count = 0
    """Proportional memory of the process that serves; 0 where the kernel does not say."""
    shadow_pss_bytes: Count = 0
    """The same of the shadow's."""
