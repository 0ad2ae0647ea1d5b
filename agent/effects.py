"""Runs the effects that the update machine asks for."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from typing import Final

from wire import topics
from wire.errors import StorageError
from wire.lifecycle import Code, UpdateState
from wire.messages import UpdateEvent

from .adapters.content_files import ContentStore
from .adapters.fetcher import Fetcher
from .core.backoff import respawn_delay_s
from .core.endings import set_with
from .core.events import (
    Announce,
    CancelFetch,
    CandidateRefused,
    CheckGolden,
    Collect,
    DiscardCandidate,
    Effect,
    Event,
    Fetch,
    GoldenRowsChecked,
    Ignored,
    Promote,
    Serve,
    StartCandidate,
    StartShadow,
    StopShadow,
    TryDue,
    TryStaged,
)
from .core.states import DeviceState, OnProbation, SelfTesting, subject, update_state
from .runtimes import Runtimes
from .uplink import Uplink

log = logging.getLogger(__name__)

DOUBTFUL: Final = frozenset(
    {
        Code.MANIFEST_INVALID,
        Code.MODEL_REFUSED,
        Code.LOAD_FAILED,
        Code.SELF_TEST_FAILED,
        Code.RUNTIME_DIED,
        Code.STORAGE_ERROR,
    }
)
"""How a candidate ends for want of sound files, too: onnxruntime has words of its own for a read that
fails, and a page of a mapped file that cannot be read ends the process."""


class Effects:
    """One method per effect; used by the loop's thread only."""

    def __init__(
        self,
        *,
        device: str,
        content: ContentStore,
        fetcher: Fetcher,
        runtimes: Runtimes,
        uplink: Uplink,
        beat: Callable[[], None] | None = None,
    ) -> None:
        self._beat = beat
        self._device = device
        self._content = content
        self._fetcher = fetcher
        self._runtimes = runtimes
        self._uplink = uplink
        self.ignored_count = 0

    def run(self, effects: Iterable[Effect], state: DeviceState) -> list[Event]:
        """Run effects in order; return the events that are known at once."""
        follow_ups = [self._run(effect, state) for effect in effects]
        return [event for event in follow_ups if event is not None]

    def second_look(self, event: Event, state: DeviceState) -> Event:
        """Return an event; where it blames a bundle whose files are damaged, or unreadable, that instead.

        Every byte is hashed again before a bundle is blamed for what its disk may have done.
        """
        match event:
            case CandidateRefused(model=model, code=code) if code in DOUBTFUL:
                pass
            case GoldenRowsChecked(is_passed=False) if isinstance(state.update, OnProbation):
                model = state.update.assignment.name
            case _:
                return event
        match state.update:
            case SelfTesting(assignment=target):
                tried = set_with(state, target)
            case _:
                tried = state.served_set()
        for name, ref in tried:
            if model not in (name, None):
                continue
            try:
                self._content.load(ref.manifest, beat=self._beat)
            except StorageError as exc:
                self._runtimes.forget(state.needed_manifests() - {ref.manifest})
                return CandidateRefused(name, exc.code, str(exc))
        return event

    def summary(self, state: DeviceState) -> str:
        """Return one line for `systemctl status`."""
        serving = ", ".join(f"{name} {ref.version}" for name, ref in state.served_set())
        name = subject(state.update)
        doing = "" if name is None else f"; {name}: {update_state(state.update)}"
        return f"serving {serving or 'no model'}{doing}"

    def _run(self, effect: Effect, state: DeviceState) -> Event | None:
        match effect:
            case Fetch() | CancelFetch():
                self._fetch(effect)
            case Serve():
                return self._runtimes.serve(effect)
            case TryStaged():
                return TryDue()
            case StartCandidate():
                return self._runtimes.start_candidate(effect)
            case Promote():
                self._runtimes.promote()
            case DiscardCandidate():
                return self._runtimes.discard_candidate()
            case CheckGolden(name=name):
                self._runtimes.check_golden(name)
            case StartShadow() | StopShadow():
                return self._runtimes.shadow(effect)
            case Announce():
                self._announce(effect, state)
            case Collect():
                self._collect(state)
            case Ignored(reason=reason):
                self.ignored_count += 1
                log.debug("ignored an event: %s", reason)
        return None

    def _fetch(self, effect: Fetch | CancelFetch) -> None:
        if isinstance(effect, Fetch):
            self._fetcher.fetch(effect.assignment, respawn_delay_s(effect.failure_count))
        else:
            self._fetcher.cancel()

    def _announce(self, note: Announce, state: DeviceState) -> None:
        is_shadow = state.shadow is not None and state.shadow.code == note.code
        is_bad = is_shadow or (note.after is UpdateState.ROLLING_BACK and note.code != "removed")
        log.log(
            logging.WARNING if is_bad else logging.INFO,
            "%s %s: %s -> %s (%s)%s",
            note.model,
            (note.manifest or "-")[:12],
            note.before,
            note.after,
            note.code,
            f": {note.detail}" if note.detail else "",
        )
        now_unix_ms = time.time_ns() // 1_000_000
        self._uplink.record(
            topics.Event(self._device, "update"),
            lambda boot, seq: UpdateEvent(
                boot=boot,
                seq=seq,
                at_unix_ms=now_unix_ms,
                generation=state.generation,
                model=note.model,
                manifest=note.manifest,
                from_=note.before,
                to=note.after,
                code=note.code,
                detail=note.detail[:300],
            ),
        )

    def _collect(self, state: DeviceState) -> None:
        keep = state.needed_manifests()
        self._runtimes.forget(keep)
        try:
            self._content.collect(keep)
        except OSError as exc:
            log.warning("could not delete unneeded content: %s", exc)
