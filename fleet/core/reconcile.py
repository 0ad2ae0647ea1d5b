"""Desired against reported state: what to publish, and what a device returns to."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from enum import Enum
from typing import Final, NamedTuple

from wire import messages as m
from wire.capture import CaptureRequest

from .states import ReleaseKey

REPUBLISH_EVERY_MS: Final = 5_000
"""Shortest time between two desired states to one device that say the same."""

MAX_GENERATION_LEAD: Final = 1_000_000
"""How far a device may be ahead of this store: more desired states than a store that was set back can
have forgotten. What is further ahead is a lie, or the work of a thief of the director's key."""


class Remedy(Enum):
    """What a device's report asks of the controller."""

    NOTHING = "nothing"
    REPUBLISH = "republish"
    """The device lags: the broker may have lost its desired state."""
    RENUMBER = "renumber"
    """The device has seen a higher generation (the store was set back): it ignores ours."""


def remedy(*, desired_generation: int, reported_generation: int) -> Remedy:
    """Return what a report calls for; idempotent, since publishing again changes nothing.

    A generation that cannot be is not followed: it would take our own number to the end with it. Such
    a device listens again when the director's key has been rotated, and counts from the beginning.

    A device that was never given anything (generation 0) is left as it is, whatever it runs: its
    models may come from a controller whose store was lost.
    """
    if desired_generation in (0, reported_generation):
        return Remedy.NOTHING
    if reported_generation - desired_generation > MAX_GENERATION_LEAD:
        return Remedy.NOTHING
    if reported_generation > desired_generation:
        return Remedy.RENUMBER
    return Remedy.REPUBLISH


def next_generation(*, desired_generation: int, reported_generation: int) -> int:
    """Return the number of the next desired state: above all that the device can have seen.

    One that claims a number that cannot be (see `remedy`) gets ours, and ignores it.
    """
    if reported_generation - desired_generation > MAX_GENERATION_LEAD:
        reported_generation = 0
    return min(max(desired_generation, reported_generation) + 1, m.MAX_INTEGER)


def desired_message(
    device: str,
    generation: int,
    models: Sequence[m.DesiredModel],
    lifted: Sequence[m.LiftedQuarantine] = (),
    *,
    capture: CaptureRequest | None = None,
    shadow: m.DesiredShadow | None = None,
) -> m.Desired:
    """Return the whole desired state of a device, its models in the order of their names."""
    ordered = tuple(sorted(models, key=lambda model: model.name))
    return m.Desired(
        device=device,
        generation=generation,
        models=ordered,
        lifted=tuple(lifted),
        capture=capture,
        shadow=shadow,
    )


class Rollback(NamedTuple):
    """Where a rollback takes one device; `release` is None where it stays, and `reason` says why."""

    release: ReleaseKey | None
    reason: str = ""


def rollback_of(
    *,
    present: str | None,
    confirmed: Sequence[ReleaseKey],
    quarantined: Collection[str],
) -> Rollback:
    """Return the release that the device confirmed before the present one.

    Args:
        present: Manifest digest of the release that the device is assigned now.
        confirmed: Its confirmed releases, newest first, without those that were rolled back by
            hand: a second rollback goes one further back, never to and fro.
        quarantined: Digests that the device refuses, quarantined or below the model's floor.
    """
    if present is None:
        return Rollback(None, "no release of this model is assigned to it")
    earlier = list(confirmed)
    positions = [n for n, release in enumerate(earlier) if release.manifest == present]
    if positions:
        earlier = earlier[positions[0] + 1 :]
    candidates = [r for r in earlier if r.manifest != present]
    for release in candidates:
        if release.manifest not in quarantined:
            return Rollback(release)
    if candidates:
        return Rollback(None, "every release confirmed before is quarantined on it, or dead")
    return Rollback(None, "no release was confirmed on it before the present one")


def previous_of(
    *, target: str, confirmed: Sequence[ReleaseKey], quarantined: Collection[str]
) -> ReleaseKey | None:
    """Return what a halted rollout of `target` sets a device back to: its newest good release."""
    return next(
        (r for r in confirmed if r.manifest != target and r.manifest not in quarantined), None
    )
