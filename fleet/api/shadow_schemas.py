"""What the API says and takes of shadows."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from fleet.core.states import ShadowRule
from wire.ids import DeviceId
from wire.messages import Seconds


class ShadowIn(BaseModel):
    """How the devices of the first phase try a release as a shadow before they serve it."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    duration_s: Annotated[Seconds, Field(gt=0)]
    sample_ratio: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Share of the requests that it is given."""
    min_agreement: Annotated[float, Field(gt=0, le=0.999999)] = 0.98
    """The true share of rows that agree must be proven to be this at least."""
    min_rows: Annotated[int, Field(ge=1, le=1_000_000_000)] = 500
    rtol: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Numbers agree within `atol` plus this share of the active release's; labels when they are equal."""
    atol: Annotated[float, Field(ge=0, le=1e12)] = 0.0

    def rule(self) -> ShadowRule:
        """Return it in the engine's terms."""
        return ShadowRule(**self.model_dump())


class ShadowClass(BaseModel):
    """Rows that the active release gave one label; an empty one stands for all that are not named."""

    label: str
    row_count: int
    disagree_count: int


class ShadowDevice(BaseModel):
    """One device of a trial. `state` is null where it has not said anything of its shadow yet."""

    device: DeviceId
    state: str | None = None
    code: str | None = None
    row_count: int = 0
    agree_count: int = 0


class RolloutShadow(BaseModel):
    """The trial of a rollout, and what was compared so far on all its devices.

    `agreement_low` and `agreement_high` are bounds of the true agreement, each wrong with a chance of 5 %.
    Latencies are of the same requests; memory is the largest seen on one device, proportional (PSS).
    """

    state: Literal["waiting", "open", "passed", "stopped"]
    duration_s: float
    sample_ratio: float
    min_agreement: float
    min_rows: int
    needed_rows: int
    rtol: float
    atol: float
    opened_unix_ms: int | None = None
    closed_unix_ms: int | None = None
    row_count: int = 0
    agree_count: int = 0
    refused_count: int = 0
    failed_count: int = 0
    sampled_count: int = 0
    dropped_count: int = 0
    agreement: float | None = None
    agreement_low: float | None = None
    agreement_high: float | None = None
    active_p50_ms: float | None = None
    active_p99_ms: float | None = None
    shadow_p50_ms: float | None = None
    shadow_p99_ms: float | None = None
    active_pss_bytes: int = 0
    shadow_pss_bytes: int = 0
    classes: list[ShadowClass] = []
    devices: list[ShadowDevice] = []
