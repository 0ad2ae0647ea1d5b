"""Which incarnation is which: starts them on demand, and turns their news into machine events."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from wire.errors import StorageError
from wire.latency import since
from wire.lifecycle import Code
from wire.manifest import TensorSpec
from wire.messages import Inventory
from wire.performance import Feedback

from .adapters import host as machine
from .adapters.content_files import ContentStore
from .core.backoff import respawn_delay_s
from .core.events import (
    CandidatePassed,
    CandidateRefused,
    Event,
    Evidence,
    GoldenRowsChecked,
    RuntimeAccepts,
    RuntimeEnded,
    Serve,
    ShadowEnded,
    StartCandidate,
    StartShadow,
    StopShadow,
)
from .core.guards import reference_p99_ms
from .core.states import DeviceState, OnProbation, Ref, SelfTesting, ShadowWish
from .ports import (
    CandidateFailed,
    CandidateReady,
    Counters,
    GoldenChecked,
    Heartbeat,
    Promoted,
    RuntimeDied,
    RuntimeHost,
    ServedModel,
    ShadowGone,
    ShadowOrder,
    TapStats,
)

log = logging.getLogger(__name__)

NOTHING: Final = Counters()
MARK_EVERY_S: Final = 1800.0
MARKS: Final = 3
"""What a release served like is taken from its last one to one and a half hours."""
DISPLACED: Final = RuntimeEnded("displaced", "it had made room for a candidate")


@dataclass(frozen=True, slots=True)
class Shadowed:
    """The shadow that runs: which incarnation, of which wish and version, beside which release."""

    incarnation: int
    wish: ShadowWish
    version: str
    active_manifest: str


class Runtimes:
    """Drives a `RuntimeHost`; used by the loop's thread only."""

    def __init__(
        self,
        host: RuntimeHost,
        content: ContentStore,
        *,
        is_replacing: bool,
        loaded: Callable[[ServedModel, Sequence[TensorSpec]], None] | None = None,
        beat: Callable[[], None] | None = None,
    ) -> None:
        """Begin with no incarnation.

        Args:
            host: Starts and ends them.
            content: Where the models are.
            is_replacing: Whether the old incarnation ends before the new one starts.
            loaded: Told of each release that is about to be run, with its inputs; maybe again.
            beat: Called now and then while a bundle is read, which may take minutes.
        """
        self._host = host
        self._content = content
        self._loaded: dict[str, ServedModel] = {}
        self._candidate: int | None = None
        self._is_auto = False
        self._serving: int | None = None
        self._serving_since_s = 0.0
        self._is_replacing = is_replacing
        self._on_loaded = loaded
        self._beat = beat
        self._due: tuple[float, Serve] | None = None
        self._seen = NOTHING
        self._seen_at_s = 0.0
        self._newest: Mapping[str, Counters] = {}
        self._marks: deque[tuple[float, Mapping[str, Counters]]] = deque(maxlen=MARKS)
        self._shadow: Shadowed | None = None
        self._tapped = self._told = TapStats()
        self.restart_count = 0
        self.inventory = Inventory(
            arch=machine.architecture(),
            cores=machine.core_count(),
            memory_bytes=machine.memory_bytes(),
        )

    def serve(self, effect: Serve) -> CandidateRefused | None:
        """Start an incarnation that accepts when it is ready; later, after failures."""
        delay_s = respawn_delay_s(effect.failure_count)
        if delay_s > 0:
            self._due = (time.monotonic() + delay_s, effect)
            return None
        return self._start(effect.models, auto_promote=True)

    def start_candidate(self, effect: StartCandidate) -> CandidateRefused | None:
        """Start an incarnation that waits for `promote`."""
        return self._start(effect.models, auto_promote=False)

    def shadow(self, effect: StartShadow | StopShadow) -> ShadowEnded | None:
        """Start what shall answer beside the active release, or end it; return why that is impossible."""
        if isinstance(effect, StopShadow):
            self._shadow = None
            self._host.stop_shadow()
            return None
        wish = effect.wish
        if self._is_replacing:
            detail = 'swap is "replace": there is no room for two models'
            return ShadowEnded(wish.manifest, Code.SHADOW_NO_ROOM, detail)
        try:
            model = self._load(wish.assignment.name, wish.assignment.ref)
        except StorageError as exc:
            return ShadowEnded(wish.manifest, exc.code, str(exc))
        order = ShadowOrder(wish.sample_ratio, wish.rtol, wish.atol)
        number = self._host.start_shadow(model, order)
        self._shadow = Shadowed(number, wish, model.version, effect.active.manifest)
        self._tapped = self._told = TapStats()
        return None

    def close_shadow(self) -> None:
        """Ask the shadow for what it compared."""
        if self._shadow is not None:
            self._host.close_shadow()

    def shadowed(self, incarnation: int) -> tuple[Shadowed, TapStats] | None:
        """Return whose window a shadow closed, and what was given since the last one; None of a stale one."""
        if self._shadow is None or self._shadow.incarnation != incarnation:
            return None
        before, self._told = self._told, self._tapped
        return self._shadow, TapStats(
            max(0, self._told.sampled_count - before.sampled_count),
            max(0, self._told.dropped_count - before.dropped_count),
        )

    def promote(self) -> None:
        """Let the candidate accept."""
        self._host.promote()

    def discard_candidate(self) -> RuntimeEnded | None:
        """End the candidate; return the event of what it had displaced, if that is gone."""
        is_gap = self._candidate is not None and self._serving is None and self._is_replacing
        self._candidate = None
        self._host.discard_candidate()
        return DISPLACED if is_gap else None

    def check_golden(self, name: str) -> None:
        """Run a served model's golden rows again."""
        self._host.check_golden(name)

    def close_window(self) -> None:
        """Ask for the telemetry window of what serves."""
        if self._serving is not None:
            self._host.close_window()

    def close_columns(self) -> None:
        """Ask for the counts of the columns of what serves."""
        if self._serving is not None:
            self._host.close_columns()

    def give_labels(self, feedback: Feedback) -> None:
        """Have what serves count labels; where nothing serves they are lost, and may come again."""
        if self._serving is not None:
            self._host.give_labels(feedback.model, feedback.labels)

    def forget(self, keep: frozenset[str]) -> None:
        """Drop what is remembered of bundles that are no longer here."""
        self._loaded = {key: model for key, model in self._loaded.items() if key in keep}

    def tick(self, now_s: float) -> CandidateRefused | None:
        """Start what is due, and let the host enforce its deadlines."""
        self._host.tick()
        if self._due is None or now_s < self._due[0]:
            return None
        return self._start(self._due[1].models, auto_promote=True)

    def is_alive(self) -> bool:
        """Return whether the host still hears its runtimes."""
        return self._host.is_alive()

    def stop(self) -> None:
        """Drain and end all incarnations."""
        self._due = None
        self._host.stop()

    def translate(self, item: object, state: DeviceState) -> Iterable[Event]:
        """Return what an event of the host means to the update machine; stale ones mean nothing."""
        match item:
            case CandidateReady(incarnation=number) if number == self._candidate:
                self._learn(item)
                return () if self._is_auto else (CandidatePassed(self._served_p99_ms(state)),)
            case CandidateFailed(incarnation=number) if number == self._candidate:
                self._candidate = None
                refused = CandidateRefused(item.model, item.code, item.detail)
                is_gap = self._is_replacing and self._serving is None and not self._is_auto
                return (refused, DISPLACED) if is_gap else (refused,)
            case Promoted(incarnation=number) if number == self._candidate:
                self._serving, self._candidate = number, None
                self._seen, self._seen_at_s = NOTHING, time.monotonic()
                self._serving_since_s = self._seen_at_s
                self._tapped = self._told = TapStats()  # its own tap counts from nothing
                self._newest = {}
                self._marks.clear()
                return (RuntimeAccepts(),)
            case RuntimeDied(incarnation=number) if number == self._serving:
                self._serving = None
                self._loaded.clear()
                self.restart_count += 1
                served_s = time.monotonic() - self._serving_since_s
                return (RuntimeEnded(item.code, item.detail, served_s),)
            case RuntimeDied(incarnation=number) if number == self._candidate:
                self._candidate = None
                return (CandidateRefused(None, item.code, item.detail),)
            case Heartbeat(incarnation=number) if number == self._serving:
                return self._sample(item, state)
            case ShadowGone(incarnation=number) if (
                self._shadow and number == self._shadow.incarnation
            ):
                manifest, self._shadow = self._shadow.wish.manifest, None
                return (ShadowEnded(manifest, item.code, item.detail),)
            case GoldenChecked(incarnation=number) if number == self._serving:
                return (GoldenRowsChecked(item.is_passed, item.detail),)
            case _:
                return ()

    def _start(
        self, models: tuple[tuple[str, Ref], ...], *, auto_promote: bool
    ) -> CandidateRefused | None:
        self._due = None
        served: list[ServedModel] = []
        for name, ref in models:
            try:
                served.append(self._load(name, ref))
            except StorageError as exc:
                return CandidateRefused(name, exc.code, str(exc))
        self._is_auto = auto_promote
        if self._is_replacing:
            self._serving = None
        self._candidate = self._host.start_candidate(tuple(served), auto_promote=auto_promote)
        return None

    def _load(self, name: str, ref: Ref) -> ServedModel:
        """Return a model with every byte verified: once, and again after what served has ended by itself."""
        if (known := self._loaded.get(ref.manifest)) is not None:
            return known
        manifest, files = self._content.load(ref.manifest, beat=self._beat)
        model = ServedModel(
            name=name,
            version=manifest.version,
            manifest=ref.manifest,
            files=files,
            memory_mb=manifest.budgets.memory_mb,
        )
        self._loaded[ref.manifest] = model
        if self._on_loaded is not None:
            self._on_loaded(model, manifest.inputs)
        return model

    def _sample(self, beat: Heartbeat, state: DeviceState) -> Iterable[Event]:
        now_s = time.monotonic()
        elapsed_s, self._seen_at_s = now_s - self._seen_at_s, now_s
        self._newest = beat.models
        if beat.tap is not None:
            self._tapped = beat.tap
        if not self._marks or now_s - self._marks[-1][0] >= MARK_EVERY_S:
            self._marks.append((now_s, beat.models))
        if not isinstance(state.update, OnProbation):
            return ()
        counters = beat.models.get(state.update.assignment.name, NOTHING)
        before, self._seen = self._seen, counters
        return (
            Evidence(
                elapsed_s=elapsed_s,
                request_count=max(0, _judged(counters) - _judged(before)),
                failure_count=max(0, _failed(counters) - _failed(before)),
                non_finite_count=max(0, counters.non_finite - before.non_finite),
                latency=since(counters.latency, before.latency),
                rss_bytes=max(0, beat.rss_bytes),
                shift=counters.shift,
            ),
        )

    def _served_p99_ms(self, state: DeviceState) -> float | None:
        """Return the recent 99th percentile of what a candidate's target takes the place of."""
        if not isinstance(state.update, SelfTesting) or not self._marks:
            return None
        name = state.update.assignment.name
        newest, oldest = self._newest.get(name, NOTHING), self._marks[0][1].get(name, NOTHING)
        return reference_p99_ms(since(newest.latency, oldest.latency))

    def _learn(self, ready: CandidateReady) -> None:
        # Validated, since a report that does not fit could not be sent.
        self.inventory = Inventory(
            arch=self.inventory.arch,
            cores=self.inventory.cores,
            memory_bytes=self.inventory.memory_bytes,
            runtime=ready.runtime,
            max_opset=ready.max_opset,
            protections=ready.protections,
        )


def _judged(counters: Counters) -> int:
    return counters.request_count - counters.client


def _failed(counters: Counters) -> int:
    return counters.runtime + counters.deadline
