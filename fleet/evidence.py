"""What the store knows of a rollout's devices, in the engine's terms."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from fleet.core.reconcile import next_generation, previous_of
from fleet.core.states import DeviceEvidence, Rollout, ShadowSeen
from fleet.store.devices import BATCH, Selection
from fleet.store.store import Tx
from wire.lifecycle import Outcome, UpdateState


@dataclass(frozen=True, slots=True)
class Sight:
    """When it is, and since when the controller has seen the devices.

    While the link was down nothing could be heard, so silence counts from `since_unix_ms` on; None
    means that the link is down now, and then nothing is judged and no phase opens.
    """

    now_unix_ms: int
    since_unix_ms: int | None

    def since(self, noted_unix_ms: int | None) -> int:
        """Return from when on silence counts that was noted at a moment, or never.

        A moment that is yet to come was noted before the clock was set back, and says nothing.
        """
        floor = self.since_unix_ms or 0
        if noted_unix_ms is None or noted_unix_ms > self.now_unix_ms:
            return floor
        return max(noted_unix_ms, floor)


class StoredEvidence(Mapping[str, DeviceEvidence]):
    """The evidence of a rollout's members that still exist, read from the store when asked for.

    Most steps are about a few devices that were just heard: these are read first, and all the
    others, in one go, only when a phase opens or the rollout stops.
    """

    def __init__(
        self, tx: Tx, rollout: Rollout, sight: Sight, news: frozenset[str] | None = None
    ) -> None:
        self._tx = tx
        self._rollout = rollout
        self._sight = sight
        self._few: dict[str, DeviceEvidence] = {}
        self._few_ids: frozenset[str] = frozenset()
        self._all: dict[str, DeviceEvidence] | None = None
        if news is not None and len(news) <= BATCH:
            self._few = self._load(Selection(rollout=rollout.id, among=news))
            self._few_ids = news

    def __getitem__(self, device: str) -> DeviceEvidence:
        if self._all is None and device in self._few_ids:
            return self._few[device]
        return self._loaded()[device]

    def __iter__(self) -> Iterator[str]:
        return iter(self._loaded())

    def __len__(self) -> int:
        return len(self._loaded())

    def _loaded(self) -> dict[str, DeviceEvidence]:
        if self._all is None:
            self._all = self._load(Selection(rollout=self._rollout.id))
        return self._all

    def _load(self, selection: Selection) -> dict[str, DeviceEvidence]:
        manifest = self._rollout.release.manifest
        return evidence_of(self._tx, selection, self._rollout.model, manifest, self._sight)


def evidence_of(
    tx: Tx, selection: Selection, model: str, manifest: str, sight: Sight
) -> dict[str, DeviceEvidence]:
    """Return the evidence of the selected devices about one model and the release `manifest`."""
    presence = tx.devices.presence(selection)
    generations = tx.states.generations(selection)
    heads = tx.states.heads(selection)
    reported = {row.device: row for row in tx.states.reported(selection, model)}
    confirmed = tx.states.confirmed_keys(selection, model)
    shadows = tx.states.shadows(selection)
    result = {}
    for device, last_seen in tx.devices.last_seen(selection).items():
        here = presence.get(device)
        seen_generation, quarantined = heads.get(device, (0, frozenset()))
        shadow = shadows.get(device)
        row = reported.get(device)
        result[device] = DeviceEvidence(
            is_online=here is not None and here.state == "online",
            next_generation=next_generation(
                desired_generation=generations.get(device, 0), reported_generation=seen_generation
            ),
            reported_generation=seen_generation,
            offline_since_unix_ms=sight.since(here.since_unix_ms if here else None),
            last_seen_unix_ms=sight.since(last_seen),
            active=row.active_manifest if row else None,
            state=UpdateState(row.state) if row else None,
            target=row.target_manifest if row else None,
            outcome=Outcome(row.outcome) if row and row.outcome else None,
            code=row.code if row else None,
            detail=row.detail if row else "",
            previous=previous_of(
                target=manifest,
                confirmed=confirmed.get(device, []),
                quarantined=quarantined,
            ),
            shadow=ShadowSeen(shadow.manifest, shadow.state, shadow.code) if shadow else None,
        )
    return result
