"""The loop: the only writer of the agent's state.

    event -> core.step -> new state on disk -> effects -> events …

Everything outside hands its news over through one queue. An event whose state cannot be written
waits, in its order, until the disk works again; only what keeps the device serving goes on without.
So no candidate starts whose try is not on disk.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from wire import codec, topics
from wire.capture import CaptureFacts
from wire.errors import PeerError, StorageError
from wire.link import Connected, Delivered, Disconnected, LinkEvent
from wire.mailbox import Mailbox
from wire.messages import ControllerPresence, Desired, Inventory
from wire.performance import Feedback

from .adapters.fetcher import Fetcher
from .adapters.metadata_pull import MetadataPulled
from .adapters.sdnotify import Notifier
from .adapters.state_sqlite import FOUND_AGAIN
from .capture import Capture
from .core import report
from .core.events import (
    BundleStaged,
    CandidatePassed,
    CandidateRefused,
    Collect,
    DirectorGone,
    Event,
    Evidence,
    FetchFailed,
    GoldenRowsChecked,
    RuntimeAccepts,
    RuntimeEnded,
    ShadowEnded,
    Started,
    Stopping,
    TryDue,
)
from .core.postponed import with_postponed
from .core.states import DeviceState, OnProbation, RollingBack, SelfTesting
from .core.update import step
from .effects import Effects
from .ports import RuntimeEvent, StateStore
from .runtimes import DISPLACED, Runtimes
from .telemetry import TelemetryReporter
from .trust import Trust
from .uplink import Uplink

log = logging.getLogger(__name__)

TICK_S: Final = 0.5
MAX_INBOX: Final = 2048
"""Deliveries waiting; the broker's are dropped above, since all of them can be had again."""
MAX_INBOX_BYTES: Final = 2 * 1024 * 1024
"""Of these deliveries; 256 control messages at their longest."""
SAVE_EVIDENCE_S: Final = 5.0
"""Evidence of a probation is put on disk this often: one sync per second would wear flash."""
SAVE_AGAIN_S: Final = 5.0
"""A store that fails (locked, full disk) is left alone this long: each try may block for 2 s."""
KEEPS_SERVING: Final = (Started, Stopping, RuntimeEnded, RuntimeAccepts, CandidateRefused)


@dataclass(frozen=True, slots=True)
class StopRequested:
    """Somebody wants the agent to end: a signal, or a part that died (then with an error)."""

    error: str | None = None


@dataclass(frozen=True, slots=True)
class Noticed:
    """Another part has found what a person should look at; recorded as an alarm."""

    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class CaptureNews:
    """There are more or fewer captured rows than was last reported."""

    facts: CaptureFacts


Item = Event | RuntimeEvent | LinkEvent | MetadataPulled | StopRequested | Noticed | CaptureNews


class Inbox:
    """The queue into the loop; safe from any thread and from signal handlers."""

    def __init__(self) -> None:
        self._items: Mailbox[Item] = Mailbox()
        # Each is counted up by one thread alone, the link's and the loop's, and needs no lock.
        self._put_bytes = 0
        self._got_bytes = 0
        self.dropped_count = 0

    def put(self, item: Item) -> None:
        """Add an item; a delivery is dropped when too many wait."""
        if isinstance(item, Delivered):
            waiting_bytes = self._put_bytes - self._got_bytes
            if len(self._items) >= MAX_INBOX or waiting_bytes > MAX_INBOX_BYTES:
                self.dropped_count += 1
                return
            self._put_bytes += len(item.payload)
        self._items.put(item)

    def get(self, timeout_s: float) -> Item | None:
        """Return the next item, or None after the timeout."""
        item = self._items.get(timeout_s)
        if isinstance(item, Delivered):
            self._got_bytes += len(item.payload)
        return item


class Loop:
    """Owns the state; everything here runs in one thread."""

    def __init__(
        self,
        *,
        device: str,
        inbox: Inbox,
        store: StateStore,
        effects: Effects,
        runtimes: Runtimes,
        fetcher: Fetcher,
        uplink: Uplink,
        trust: Trust,
        telemetry: TelemetryReporter,
        notifier: Notifier,
        is_link_alive: Callable[[], bool],
        capture: Capture | None = None,
    ) -> None:
        self._device = device
        self._inbox = inbox
        self._store = store
        self._effects = effects
        self._runtimes = runtimes
        self._fetcher = fetcher
        self._uplink = uplink
        self._trust = trust
        self._telemetry = telemetry
        self._notifier = notifier
        self._is_link_alive = is_link_alive
        self._capture = capture
        self._captured = capture.facts if capture is not None else None
        self._state = DeviceState()
        self._saved_at_s = 0.0
        self._save_again_at_s = 0.0
        self._is_on_disk = True
        self._has_failed = False
        self._postponed: deque[Event] = deque()
        self._is_ready = False
        self._inventory_seen = runtimes.inventory

    def run(self) -> str | None:
        """Run until a stop is requested; return the error that asked for it, if any."""
        self._state = self._store.load()
        self._is_on_disk = self._store.fault is None
        self._publish_report()
        self._apply(Started())
        # The runtime loads what is installed meanwhile: serving waits for no metadata.
        self._trust.start([assignment.name for assignment in self._state.desired or ()])
        self._fetcher.on_trust()
        next_tick_s = time.monotonic() + TICK_S
        while True:
            item = self._inbox.get(min(next_tick_s, self._trust.due_s) - time.monotonic())
            match item:
                case StopRequested(error=error):
                    self._stop(error)
                    return error
                case None:
                    pass
                case _:
                    self._handle(item)
            now_s = time.monotonic()
            if now_s >= self._trust.due_s:
                self._refresh_trust()
            if now_s >= next_tick_s:
                next_tick_s = now_s + TICK_S
                self._tick(now_s)

    def _handle(self, item: Item) -> None:
        match item:
            case Connected():
                log.info("connected to the broker")
                self._fetcher.on_link(is_up=True)
                self._uplink.connected()
                self._trust.connected()
            case Disconnected(reason=reason):
                log.warning("broker: %s", reason)
                self._fetcher.on_link(is_up=False)
                self._uplink.disconnected()
            case Delivered():
                self._delivered(item)
            case Noticed(code=code, detail=detail):
                self._uplink.alarm(code, detail)
            case CaptureNews(facts=facts):
                self._captured = facts
                self._publish_report()
            case MetadataPulled(documents=documents):
                self._trust.take(documents)
            case (
                BundleStaged()
                | FetchFailed()
                | CandidateRefused()
                | RuntimeEnded()
                | TryDue()
                | ShadowEnded()
            ):
                self._apply(item)  # told by the fetcher, or known at once when an effect ran
            case _:
                for told in self._runtimes.translate(item, self._state):
                    event = self._effects.second_look(told, self._state)
                    self._tell_of_death(event)
                    self._apply(event)
                self._telemetry.observe(item)
                if self._runtimes.inventory != self._inventory_seen:
                    self._publish_report()
                    self._keep_inventory()

    def _tell_of_death(self, event: Event) -> None:
        """Say that a runtime ended by itself; on probation the rollback says it."""
        if isinstance(event, CandidateRefused) and event.model is None:
            is_tried = isinstance(self._state.update, SelfTesting | OnProbation)
            is_first = self._state.serve_failure_count == 0  # it may be repeated for ever
            if is_first and not is_tried:
                log.warning("no runtime could start: %s (%s)", event.detail, event.code)
                self._uplink.alarm(event.code, event.detail)
            return
        if not isinstance(event, RuntimeEnded) or event is DISPLACED:
            return
        log.warning("the runtime ended: %s (%s); another is started", event.detail, event.code)
        if not isinstance(self._state.update, OnProbation):
            self._uplink.alarm(event.code, event.detail)

    def _delivered(self, delivery: Delivered) -> None:
        try:
            match topics.parse(delivery.topic):
                case topics.Desired(device=self._device):
                    self._take_desired(delivery.payload)
                case topics.Trust() | topics.ModelTrust() as topic:
                    self._trust.deliver(topic, delivery.payload)
                case topics.Ack(device=self._device):
                    self._uplink.acknowledged(delivery.payload)
                case topics.Feedback(device=self._device) if not delivery.retained:
                    self._runtimes.give_labels(codec.decode(Feedback, delivery.payload))
                case topics.ControllerPresence() if delivery.payload:
                    presence = codec.decode(ControllerPresence, delivery.payload)
                    if presence.state == "online" and not delivery.retained:
                        self._uplink.controller_seen()
                case _:
                    log.debug("ignored a message on %s", delivery.topic)
        except PeerError as exc:
            log.warning("refused a message on %s: %s", delivery.topic, exc)
            if not delivery.retained:
                self._uplink.alarm(exc.code, f"{delivery.topic}: {exc}")

    def _take_desired(self, payload: bytes) -> None:
        if not payload:
            return  # a cleared retained message is no command
        try:
            desired = self._trust.open(payload, self._state)
        except PeerError as exc:
            self._trust.refuse(exc)
            return
        if desired is not None:
            self._receive(desired)

    def _receive(self, desired: Desired) -> None:
        """Act on a desired state; what it asks of captured rows is on disk before its generation is."""
        is_new = desired.generation > self._state.generation
        if is_new and desired.capture is not None and self._capture is not None:
            self._capture.ask(desired.capture)
        self._apply(report.received(desired))

    def _refresh_trust(self) -> None:
        """Bring the metadata up to date, and go on with what has waited for it."""
        desired = self._trust.refresh(self._state)
        if self._trust.is_director_gone and self._state.generation:
            log.warning("the key that signed the last desired state is trusted no more")
            self._apply(DirectorGone())
        self._fetcher.on_trust()
        if desired is not None:
            self._receive(desired)

    def _apply(self, event: Event) -> None:
        """Step the machine, or keep an event for later whose state cannot be put on disk."""
        if isinstance(event, (*KEEPS_SERVING, Evidence)):
            self._step(event)  # evidence comes again every second
            if isinstance(event, RuntimeEnded | CandidateRefused):
                # What was heard of a runtime that is gone means nothing to the next one.
                stale = (CandidatePassed, GoldenRowsChecked)
                self._postponed = deque(e for e in self._postponed if not isinstance(e, stale))
        elif self._postponed or not self._step(event):
            self._postponed = deque(with_postponed(self._postponed, event))

    def _step(self, event: Event) -> bool:
        """Step the machine and run its effects; return whether its state allowed that."""
        before = self._state
        after, effects = step(before, event)
        if after != before and not self._save(event, after):
            return False
        self._state = after
        is_news = report.is_news(before, after)
        if self._store.fault is not None:
            # What is on disk may be newer, and need what this state does not.
            effects = tuple(effect for effect in effects if not isinstance(effect, Collect))
        for follow_up in self._effects.run(effects, after):
            self._inbox.put(follow_up)
        if is_news:
            self._publish_report()
        if after.is_serving and not self._is_ready:
            self._is_ready = True
            self._notifier.ready()
        return True

    def _save(self, event: Event, after: DeviceState) -> bool:
        """Put the new state on disk; return whether to go on with it."""
        now_s = time.monotonic()
        # Counts of requests alone may be lost; a try that is counted or given back may not.
        is_sample = isinstance(event, Evidence) and isinstance(after.update, OnProbation)
        if is_sample and now_s - self._saved_at_s < SAVE_EVIDENCE_S:
            return True
        if now_s >= self._save_again_at_s and self._write(after):
            return True
        # A bad model must not go on because the disk is full: on disk it is still on probation.
        is_safe = isinstance(event, KEEPS_SERVING) or isinstance(after.update, RollingBack)
        if is_sample or is_safe:
            self._is_on_disk = False
            return True
        return False

    def _write(self, state: DeviceState) -> bool:
        try:
            self._store.save(state)
        except StorageError as exc:
            log.error("%s; %s", exc, exc.hint)  # noqa: TRY400 - the cause is in the message
            if exc.code == FOUND_AGAIN:
                self._inbox.put(StopRequested(f"{exc}; {exc.hint}"))
            if not self._has_failed:
                self._uplink.alarm(exc.code, str(exc))
            self._has_failed = True
            self._save_again_at_s = time.monotonic() + SAVE_AGAIN_S
            return False
        self._saved_at_s = time.monotonic()
        self._is_on_disk, self._has_failed = True, False
        return True

    def _catch_up(self) -> None:
        """Put on disk what could not be put there, and work through what waited for that."""
        if time.monotonic() < self._save_again_at_s:
            return
        if not self._is_on_disk and not self._write(self._state):
            return
        while self._postponed and self._step(self._postponed[0]):
            self._postponed.popleft()

    def _publish_report(self) -> None:
        state, seen = self._state, self._runtimes.inventory
        self._inventory_seen = seen
        inventory: Inventory = seen.model_copy(update={"capture": self._captured})
        self._uplink.report(lambda boot, seq: report.reported(state, inventory, boot=boot, seq=seq))

    def _keep_inventory(self) -> None:
        try:
            self._store.save_inventory(self._inventory_seen)
        except StorageError as exc:
            log.warning("%s", exc)  # `fleet-agent doctor` will know less, nothing else suffers

    def _tick(self, now_s: float) -> None:
        self._catch_up()
        if (refused := self._runtimes.tick(now_s)) is not None:
            self._apply(refused)
        self._uplink.tick(now_s)
        self._trust.tick(self._state, now_s)
        self._telemetry.tick(now_s)
        dead = [
            name
            for name, is_alive in (
                ("the broker link", self._is_link_alive()),
                ("the fetcher", self._fetcher.is_alive()),
                ("the ear for the runtimes", self._runtimes.is_alive()),
                ("the keeper of captured rows", self._capture is None or self._capture.is_alive()),
            )
            if not is_alive
        ]
        if dead:
            self._inbox.put(StopRequested(f"{dead[0]} has ended unexpectedly"))
            return
        self._notifier.status(self._effects.summary(self._state))
        self._notifier.watchdog()

    def _stop(self, error: str | None) -> None:
        self._notifier.stopping()
        log.info("stopping")
        if error is None:  # else the model under trial may have brought a part of this process down
            self._apply(Stopping())
        if not self._is_on_disk:
            self._write(self._state)
        self._runtimes.stop()
        while (item := self._inbox.get(0)) is not None:
            if not isinstance(item, (Delivered, StopRequested)):
                self._telemetry.observe(item)
        self._uplink.leave()
