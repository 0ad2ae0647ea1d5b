"""Aliases, what was live where and when, and where a release comes from and went."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from fleet.core.aliases import MoveKind
from fleet.core.live import Certainty, Ending
from wire.ids import AliasName, DeviceId, Digest, ModelName, RolloutId, Version, VersionOrAlias

from .drift_schemas import DriftFinding
from .run_schemas import StoredRun
from .schemas import Release, RolloutState, Schema, Tags

MAX_WHY_CHARS = 300
Why = Annotated[str, Field(max_length=MAX_WHY_CHARS)]


class AliasIn(Schema):
    """What an alias is to mean; a version, or `@` and another alias, which is resolved now."""

    version: VersionOrAlias
    why: Why = ""


class AliasBackIn(Schema):
    """One step back."""

    why: Why = ""


class Alias(Schema):
    """What an alias means now, and since when."""

    model: ModelName
    alias: AliasName
    version: Version
    manifest: Digest
    since_unix_ms: int
    moved_by: str
    why: str


class AliasMove(Schema):
    """One move of an alias; version and manifest are null where it was deleted."""

    id: int
    model: ModelName
    alias: AliasName
    version: Version | None
    manifest: Digest | None
    kind: MoveKind
    moved_unix_ms: int
    moved_by: str
    why: str


class LiveSpan(Schema):
    """One release of one model on one device, from when to when.

    It began between `earliest_unix_ms` and `since_unix_ms`, and ended between `last_known_unix_ms`
    and `until_unix_ms`, by the controller's clock: apart where the device was not heard meanwhile.
    """

    id: int
    device: DeviceId
    model: ModelName
    version: Version
    manifest: Digest
    earliest_unix_ms: int
    since_unix_ms: int
    last_known_unix_ms: int | None = None
    until_unix_ms: int | None = None
    ending: Ending
    """Empty while it lasts."""
    code: str
    certainty: Certainty | None = None
    """Only where an instant was asked for."""


class BundleFile(Schema):
    """One file of a bundle."""

    path: str
    sha256: Digest
    bytes: int


class ManifestOrigin(Schema):
    """What the bundle itself says of where it comes from; its signature covers it."""

    data_sha256: Digest | None = None
    code_commit: str | None = None
    source_sha256: Digest | None = None
    source_signer: str | None = None
    parameters: dict[str, str] = Field(default_factory=dict)
    metrics: dict[str, float] = Field(default_factory=dict)


class LineageRollout(Schema):
    """One rollout of the release."""

    id: RolloutId
    state: RolloutState
    reason: str
    match: Tags
    counts: dict[str, int]
    created_unix_ms: int
    ended_unix_ms: int | None = None


class LineageWindows(Schema):
    """What one device was asked of the release: windows of counts, and their rows."""

    device: DeviceId
    window_count: int
    row_count: int
    first_unix_ms: int
    """Begin of the first."""
    last_unix_ms: int
    """End of the last."""


class Lineage(Schema):
    """Where a release comes from, and where it went.

    Devices, windows and findings are cut to what was asked for and to what the caller may see.
    """

    release: Release
    files: list[BundleFile] = Field(default_factory=list)
    origin: ManifestOrigin | None = None
    """Null where the manifest cannot be read."""
    run: StoredRun | None = None
    """Null where nobody has said how it was made."""
    rollouts: list[LineageRollout] = Field(default_factory=list)
    device_count: int
    """Devices that it ever was live on; `spans` are the newest of them."""
    spans: list[LiveSpan] = Field(default_factory=list)
    windows: list[LineageWindows] = Field(default_factory=list)
    findings: list[DriftFinding] = Field(default_factory=list)
    at_unix_ms: int | None = None
    """The instant that was asked for."""


class Retraining(Schema):
    """Whether the triggers of a model's retraining are stopped, and why."""

    is_stopped: bool
    why: Why = ""
