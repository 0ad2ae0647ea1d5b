"""What the HTTP API takes and answers: the contract between the controller and its clients."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, RootModel, field_validator, model_validator

from fleet.api.shadow_schemas import RolloutShadow, ShadowIn
from fleet.core.audit import Outcome
from fleet.core.rights import Role
from wire.ids import (
    NAME_PATTERN,
    AliasName,
    DeviceId,
    Digest,
    ModelName,
    RolloutId,
    Version,
    VersionOrAlias,
)
from wire.messages import Guards, LiftedQuarantine, Probation, Seconds

TagKey = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,31}$")]
TagValue = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
MAX_TAGS = 64
"""Of a device, and to match at once; a query grows with them."""
MAX_TOLERANCE = 1_000_000
"""More devices than one controller has been tried with."""
TokenName = Annotated[str, Field(pattern=NAME_PATTERN)]
MAX_EXPIRY_S = 10 * 366 * 86_400
DEFAULT_EXPIRY_S = 90 * 86_400
"""A token that was forgotten, in a script or a backup, does not open the fleet for years."""
"""Ten years; longer is never."""
Tags = Annotated[dict[TagKey, TagValue], Field(max_length=MAX_TAGS)]
PhaseShare = Annotated[str, Field(pattern=r"^([1-9][0-9]{0,5}|([1-9][0-9]?|100)%)$")]
"""A number of devices (`1`) or a share of the matched ones (`50%`), cumulative."""

RolloutState = Literal[
    "proposed",  # too large a part of the fleet for one person: waits for a second one
    "running",
    "paused",
    "halted",
    "inconclusive",
    "finished",
    "aborted",
]
MemberState = Literal[
    "waiting",  # its phase has not opened
    "pending",  # offline when its phase opened, or since; keeps its desired state, never blocks
    "in_progress",  # desired state published, no outcome yet
    "confirmed",
    "rolled_back",
    "rollback_failed",  # as rolled_back, but nothing serves in its place
    "rejected",
    "failed",
    "superseded",  # another rollout or a rollback took the device over
    "withdrawn",  # halted or aborted before it was confirmed; set back to its previous release
]


class Schema(BaseModel):
    """Base of requests and answers; an unknown key in a request is an error."""

    model_config = ConfigDict(extra="forbid")


class ErrorBody(Schema):
    """The body of every answer that is not a success."""

    code: str
    message: str
    hint: str = ""


class DeviceIn(Schema):
    """A device to add."""

    id: DeviceId
    tags: Tags = Field(default_factory=dict)


class DevicePatch(Schema):
    """What to change of a device; `tags` replaces all of them."""

    tags: Tags


class LastUpdate(Schema):
    """How the newest rollout of a model that came to an end on a device ended there."""

    rollout: RolloutId
    version: Version
    state: MemberState
    code: str | None = None
    detail: str = ""


class DeviceModel(Schema):
    """One model on one device: wanted and reported; `last_update` only when one device is asked for."""

    name: ModelName
    desired_version: Version | None = None
    desired_manifest: Digest | None = None
    active_version: Version | None = None
    active_manifest: Digest | None = None
    fallback_version: Version | None = None
    state: str | None = None
    outcome: str | None = None
    code: str | None = None
    detail: str = ""
    served: int = 0
    last_update: LastUpdate | None = None


class QuarantinedBundle(Schema):
    """A bundle that a device refuses to try again; model and version where it is a release."""

    manifest: Digest
    code: str
    model: ModelName | None = None
    version: Version | None = None


class Device(Schema):
    """A device as the controller knows it."""

    id: DeviceId
    tags: Tags
    state: Literal["online", "offline", "never_seen"]
    last_seen_unix_ms: int | None = None
    agent: str = ""
    desired_generation: int = 0
    reported_generation: int = 0
    models: list[DeviceModel] = Field(default_factory=list)
    quarantined: list[QuarantinedBundle] = Field(default_factory=list)
    """The newest ones, by the last report."""
    lifted: list[LiftedQuarantine] = Field(default_factory=list)
    """Quarantines that it was told to end, and has not answered yet."""
    inventory: dict[str, object] = Field(default_factory=dict)


class StoredRecord(Schema):
    """One record of a device: an event or a piece of telemetry, as it was received."""

    boot: str
    seq: int
    channel: str
    received_unix_ms: int
    body: dict[str, object]


class Release(Schema):
    """A bundle that was pushed."""

    model: ModelName
    version: Version
    manifest: Digest
    index: Digest
    bytes: int
    chunk_count: int
    created_unix_ms: int
    device_count: int = 0
    """Devices that report it active."""
    number: int | None = None
    """Counts the model's releases as they were signed; null while it is not, or is retired."""
    aliases: list[AliasName] = Field(default_factory=list)
    """What it is called by; see `GET /v1/aliases`."""
    is_dead: bool = False
    """Whether it is below its model's floor: no device runs it any more."""


class Model(Schema):
    """A line of releases; `newest_version` is the one pushed last."""

    name: ModelName
    release_count: int
    newest_version: Version


class PushResult(Schema):
    """What `POST /v1/bundles` did. `new_chunk_count` of `chunk_count` had to be published."""

    release: Release
    is_new: bool
    new_chunk_count: int
    new_bytes: int


TrustFile = Annotated[
    str, Field(pattern=r"^([1-9][0-9]{0,8}\.)?[A-Za-z0-9][A-Za-z0-9_-]{0,79}\.json$")
]


class TrustFiles(RootModel[dict[TrustFile, str]]):
    """Signed documents: file name, such as `12.model-digits.json`, to the document's text."""


class TrustAccepted(Schema):
    """What `POST /v1/trust/metadata` did, one line for each change; `snapshot` is the newest."""

    changes: list[str]
    snapshot: int


class TrustKeyIn(Schema):
    """A key to make on the controller, for one of the roles whose keys it holds."""

    role: Literal["snapshot", "timestamp", "director"]


class TrustKey(Schema):
    """A public key as TUF writes it."""

    keyid: Digest
    key: dict[str, object]


class ProbationIn(Probation):
    """As on the wire, but an unknown key is an error: a typing mistake must not mean a default."""

    model_config = ConfigDict(extra="forbid")


class GuardsIn(Guards):
    """As on the wire, but an unknown key is an error."""

    model_config = ConfigDict(extra="forbid")


class RolloutIn(Schema):
    """A rollout to start. Devices must carry every tag of `match`; an empty one matches all."""

    model: ModelName
    version: VersionOrAlias
    match: Tags = Field(default_factory=dict)
    phases: Annotated[list[PhaseShare], Field(min_length=1, max_length=20)] = ["1", "50%", "100%"]
    soak_s: Seconds = 60.0
    tolerance: Annotated[int, Field(ge=0, le=MAX_TOLERANCE)] = 0
    """Failed devices, over the whole rollout, that do not yet halt it."""
    probation: ProbationIn = ProbationIn()
    guards: GuardsIn = GuardsIn()
    alias: AliasName | None = None
    """Has this alias mean the release once it has finished, where no device is to serve another one."""
    shadow: ShadowIn | None = None
    """How the first phase's devices try it as a shadow before; null is not."""

    @field_validator("phases")
    @classmethod
    def _phases_grow(cls, phases: list[str]) -> list[str]:
        # A count and a share compare only once the number of devices is known.
        for unit in ("%", ""):
            sizes = [int(p.rstrip("%")) for p in phases if p.endswith("%") == bool(unit)]
            if any(later <= earlier for earlier, later in pairwise(sizes)):
                raise ValueError("phases are cumulative: each must be larger than the one before")
        return phases

    @model_validator(mode="after")
    def _probation_has_room(self) -> Self:
        if self.probation.min_s > self.probation.max_s:
            raise ValueError("the shortest probation is longer than the longest")
        return self


class RolloutMember(Schema):
    """One device of a rollout. `phase` counts from 0."""

    device: DeviceId
    phase: int
    state: MemberState
    previous_version: Version | None = None
    code: str | None = None
    detail: str = ""


class RolloutPhase(Schema):
    """One phase. `size` and `settled_count`, of whom nothing more is waited for, are cumulative."""

    share: str
    size: int
    settled_count: int
    state: Literal["waiting", "open", "passed", "stopped"]
    opened_unix_ms: int | None = None
    closed_unix_ms: int | None = None


class RolloutApproval(Schema):
    """That a rollout needs a second person, and who that was; `limit_ratio` is from 0 to 1."""

    asked_by: str
    limit_ratio: float
    approved_by: str | None = None
    approved_unix_ms: int | None = None


class Rollout(Schema):
    """A rollout and where it stands; a page of `members` only when one rollout is asked for."""

    id: RolloutId
    model: ModelName
    version: Version
    manifest: Digest
    match: Tags
    state: RolloutState
    reason: str = ""
    soak_s: float
    tolerance: int
    phases: list[RolloutPhase]
    counts: dict[MemberState, int]
    created_unix_ms: int
    ended_unix_ms: int | None = None
    approval: RolloutApproval | None = None
    alias: AliasName | None = None
    """What moves to its release when it has finished."""
    shadow: RolloutShadow | None = None
    members: list[RolloutMember] | None = None


class RollbackIn(Schema):
    """A rollback by hand: each matched device returns to the release it confirmed before."""

    model: ModelName
    match: Tags = Field(default_factory=dict)


class RollbackDevice(Schema):
    """What a rollback does to one device; `to_version` is None where nothing to return to."""

    device: DeviceId
    from_version: Version | None
    to_version: Version | None
    reason: str = ""


class RollbackResult(Schema):
    """All devices that a rollback matched."""

    model: ModelName
    devices: list[RollbackDevice]


class QuarantineLiftIn(Schema):
    """Quarantines to end: of one bundle, or of every one, on one device or on all that match."""

    manifest: Digest | None = None
    """Digest of the bundle's manifest; null is every one."""
    device: DeviceId | None = None
    match: Tags = Field(default_factory=dict)


class QuarantineLiftDevice(Schema):
    """What became of it on one device; where nothing is lifted, `reason` says why."""

    device: DeviceId
    is_lifted: bool
    reason: str = ""


class QuarantineLiftResult(Schema):
    """All devices that were meant."""

    manifest: Digest | None
    devices: list[QuarantineLiftDevice]


class Health(Schema):
    """`GET /v1/health`, for anyone: it lives."""

    state: Literal["alive"] = "alive"


class Status(Schema):
    """`GET /v1/status`: 200 when store and broker are reachable, else 503."""

    version: str
    store: Literal["ok", "failing"]
    broker: Literal["connected", "disconnected"]
    broker_url: str
    device_count: int
    online_count: int


class TokenIn(Schema):
    """A token to make; an empty scope is the whole fleet."""

    name: TokenName
    role: Role
    scope: Tags = Field(default_factory=dict)
    expires_s: Annotated[int, Field(ge=1, le=MAX_EXPIRY_S)] | Literal["never"] = DEFAULT_EXPIRY_S


class Token(Schema):
    """A token as it is stored: without the token itself."""

    name: str
    role: Role
    scope: Tags
    state: Literal["live", "expired", "revoked"]
    created_unix_ms: int
    created_by: str
    expires_unix_ms: int | None = None
    last_used_unix_ms: int | None = None
    revoked_unix_ms: int | None = None


class NewToken(Token):
    """A token that was just made; this is the only time that `token` is told."""

    token: str


class AuditEntry(Schema):
    """One row of the audit log; `digest` is over all the rest."""

    seq: int
    at_unix_ms: int
    who: str
    what: str
    subject: str
    outcome: Outcome
    code: str
    previous: Digest
    digest: Digest


class WatchEvent(Schema):
    """One server-sent event of `GET /v1/watch`; its `data:` line is this object."""

    id: int
    at_unix_ms: int
    kind: Literal[
        "presence",
        "update",
        "alarm",
        "alert",
        "drift",
        "rollout",
        "rollback",
        "release",
        "device",
        "trust",
    ]
    subject: str
    """The device, rollout or release it speaks of."""
    text: str
    """One line for a person."""
    detail: dict[str, object] = Field(default_factory=dict)
