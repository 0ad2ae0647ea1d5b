"""The controller: one loop thread that owns the link, and commands that any thread may give.

The loop takes what the link delivered, stores it in one transaction together with the decisions
that follow from it, then acknowledges and publishes. Commands (from the API's threads) are
transactions of their own; the loop sends what they stored. So the store is the only state that
matters: a controller that is killed anywhere starts again from it.
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

from fleet.api.schemas import (
    DeviceIn,
)
from fleet.core.rights import WHOLE_FLEET, Scope
from fleet.store.devices import Selection
from fleet.store.journal import RECORD_DAYS
from fleet.store.record_ranges import RANGE_DAYS
from fleet.store.store import Store, Tx
from fleet.trust.authority import DESIRED_AGAIN_MS, Accepted, Authority
from fleet.trust.stored import publish_all
from wire import codec, topics
from wire import messages as m
from wire.errors import StorageError
from wire.link import Connected, Delivered, Disconnected, Link, LinkEvent, Published, Will

from . import registry, rollouts, shadows
from .alerts import evidence as alert_evidence
from .alerts.watch import Watch
from .audit import Witness
from .capture.limits import CaptureLimits
from .commands import Commands, ResultT
from .evidence import Sight
from .inbox import Inbox
from .ingest import Ingest, Outcome, ack_messages
from .metrics import Metrics, Moment, render
from .monitoring.drift import DriftSettings
from .monitoring.windows import KEEP_DAYS_MS, WindowKeeper
from .pki.enrolment import Enrolment
from .publisher import Publisher
from .version import VERSION

log = logging.getLogger(__name__)

Clock = Callable[[], int]
"""Milliseconds of the Unix epoch."""

TICK_MS: Final = 1_000
"""How often timers (soak, silence) are looked at; all else happens on events."""
MAX_BATCH: Final = 512
"""Deliveries in one transaction: one sync of the disk for all of them."""
RECONCILE_EVERY_MS: Final = 30_000
"""How often online devices that act on an older generation are sent the newest again."""
PRUNE_EVERY_MS: Final = 3_600_000
TRUST_EVERY_MS: Final = 600_000
"""How often expiries are looked at."""
DAY_MS: Final = 24 * 3_600_000


class Controller(Commands):
    """See the module. `run` is the loop's thread; `run_once` is the same, one round at a time."""

    def __init__(
        self,
        store: Store,
        link: Link,
        clock: Clock,
        authority: Authority,
        *,
        broker_url: str = "",
        witness: Witness | None = None,
        approval_limit: float | None = None,
        drift: DriftSettings | None = None,
        alerts: Watch | None = None,
        captures: CaptureLimits | None = None,
    ) -> None:
        self.store = store
        self.broker_url = broker_url
        self.enrolment: Enrolment | None = None
        self.ingest = Ingest()
        self.metrics = Metrics()
        self.drift = drift or DriftSettings()
        self.windows = WindowKeeper(store.chunks, self.drift.slot_ms)
        self.inbox = Inbox()
        self.alerts = alerts or Watch()
        self._link = link
        self._clock = clock
        self._authority = authority
        self._publisher = Publisher(store, link, authority)
        self.labels = self._publisher.labels
        self._witness = witness
        self._approval_limit = approval_limit
        self._capture_keep_ms = (captures or CaptureLimits()).keep_ms
        self._boot = secrets.token_hex(8)
        self._birth = 0
        self._connected_unix_ms: int | None = None
        self._next_tick_unix_ms = 0
        self._next_prune_unix_ms = 0
        self._next_reconcile_unix_ms = 0
        self._next_renewal_unix_ms = 0
        self._next_trust_unix_ms = 0
        self._must_greet = False
        self._must_listen = False
        self._has_new_chunks = True
        self._has_failed = False
        self._is_asked_to_stop = False
        self._stopping = threading.Event()

    # -- life

    def admit_by(self, enrolment: Enrolment) -> None:
        """Let devices in and put them out by this. Call before `start`."""
        self.enrolment = enrolment

    def start(self) -> None:
        """Connect to the broker. Call once, then `run`, or `run_once` again and again."""
        self._link.start(self.inbox.put, self._will)

    def run(self) -> None:
        """Work until `stop` is called, or until the link has ended for good.

        Raises:
            StorageError: `store_taken`: another controller has the store now.
        """
        while not self._stopping.is_set() and self._link.is_alive():
            self.run_once(TICK_MS / 1000)

    def run_once(self, timeout_s: float = 0.0) -> bool:
        """Do what is to be done now, waiting at most `timeout_s` seconds for something to do.

        A failing store costs this round: nothing is acknowledged, and the broker is asked for the
        retained state again once the store works.

        Returns:
            Whether there was anything to do.
        """
        events = self.inbox.take(MAX_BATCH, timeout_s)
        self._handle(events)
        try:
            self._tick()
            self._send()
        except StorageError as exc:
            self._on_store_failed(exc)
            self._stopping.wait(timeout_s)
        else:
            self._has_failed = False
        is_sending = self.is_connected and not self._publisher.is_idle
        return bool(events) or not self.inbox.is_empty or is_sending

    def stop(self) -> None:
        """Say goodbye to the broker and end; `run` returns. Idempotent, from any thread."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        self.inbox.wake()
        topic = topics.ControllerPresence()
        self._link.publish(topic.text, self._presence("offline"), qos=topic.qos, retain=True)
        self._link.stop()

    def ask_to_stop(self) -> None:
        """Let those who watch know that the end is near; only sets a flag, for signal handlers."""
        self._is_asked_to_stop = True

    @property
    def is_stopping(self) -> bool:
        """Whether the end was asked for."""
        return self._is_asked_to_stop or self._stopping.is_set()

    @property
    def is_connected(self) -> bool:
        """Whether the broker can be reached."""
        return self._connected_unix_ms is not None

    @property
    def is_alive(self) -> bool:
        """Whether the link can still recover by itself."""
        return self._link.is_alive()

    def metrics_text(self) -> bytes:
        """Return what Prometheus scrapes; from any thread."""
        dropped = {
            "malformed": self.ingest.malformed_count,
            "unknown_device": self.ingest.unknown_count,
            "inbox_full": self.inbox.dropped_count,
        }
        moment = Moment(self.is_connected, self.inbox.delivery_count, dropped)
        with self.store.read() as tx:
            return render(self.metrics, tx, moment)

    def now_unix_ms(self) -> int:
        """Return the time, as everything here sees it."""
        return self._clock()

    # -- commands, from any thread

    def push_bundle(self, path: Path) -> registry.Pushed:
        """See `registry.push`."""
        pushed = registry.push(self.store, path, self._clock())
        self._has_new_chunks = True
        self.inbox.wake()
        return pushed

    def add_devices(self, devices: Iterable[DeviceIn], *, scope: Scope = WHOLE_FLEET) -> None:
        """See `registry.add_devices`. Devices that are already connected are heard at once."""
        self.command(lambda tx: registry.add_devices(tx, list(devices), self._clock(), scope=scope))
        self._must_listen = True

    def accept_trust(self, files: Mapping[str, str], *, may_skip: bool = False) -> Accepted:
        """See `Authority.accept`."""
        accepted = self.command(
            lambda tx: self._authority.accept(tx, files, self._clock(), may_skip=may_skip)
        )
        if accepted.has_new_director:
            self._next_renewal_unix_ms = 0
        return accepted

    def command(self, do: Callable[[Tx], ResultT]) -> ResultT:
        """Run a transaction, and let the loop send what it stored."""
        with self.store.write() as tx:
            result = do(tx)
        self.inbox.wake()
        return result

    # -- the loop's parts

    def _handle(self, events: list[LinkEvent]) -> None:
        """Work through events; all deliveries of one connection make one transaction."""
        deliveries: list[Delivered] = []
        for event in events:
            match event:
                case Delivered():
                    deliveries.append(event)
                case Published(token=token):
                    self._publisher.on_published(token)
                case Connected() | Disconnected():
                    self._store_deliveries(deliveries)
                    deliveries = []
                    self._on_connection(event)
        self._store_deliveries(deliveries)

    def _on_connection(self, event: Connected | Disconnected) -> None:
        if isinstance(event, Connected):
            log.info("connected to the broker %s", self.broker_url)
            self._connected_unix_ms = self._clock()
            self._must_greet = True
            return
        if self.is_connected:
            log.warning("lost the broker: %s", event.reason)
        self._connected_unix_ms = None
        self._publisher.on_disconnected()

    def _store_deliveries(self, deliveries: list[Delivered]) -> None:
        if not deliveries:
            return
        try:
            self._store_batch(deliveries)
        except StorageError as exc:
            # The records come again, since they are not acknowledged; the rest is retained.
            self._on_store_failed(exc)
        except Exception:
            # Our bug, met by one message: the others must not suffer. That one is dropped.
            log.exception("a batch of %d messages could not be stored", len(deliveries))
            if len(deliveries) > 1:
                for delivery in deliveries:
                    self._store_deliveries([delivery])

    def _store_batch(self, deliveries: list[Delivered]) -> None:
        now = self._clock()
        sight = self._sight()
        with self.store.write() as tx:
            outcome: Outcome = self.ingest.apply(tx, deliveries, now)
            self.windows.take_in(tx, outcome.fresh, now)
            shadows.take_in(tx, outcome.fresh)
            alert_evidence.take_in(self.alerts, tx, outcome, now)
            news = frozenset(outcome.changed)
            for rollout in tx.rollouts.concerned_ids(news):
                rollouts.advance(tx, rollouts.get(tx, rollout), sight, news=news)
        with self.store.read() as tx:
            self.metrics.stored(tx, [record for _, record in outcome.fresh])
        self._publisher.acknowledge(ack_messages(outcome.stored))
        self._publisher.repeat(outcome.lagging, now)
        self._publisher.repeat_chunks(outcome.missing, now)

    def _on_store_failed(self, exc: StorageError) -> None:
        if exc.code == "store_taken":  # a second controller must not go on beside the first
            raise exc
        if not self._has_failed:
            log.error("%s (%s)", exc, exc.hint)
        self._has_failed = self._must_listen = True

    def _greet(self) -> None:
        """Say what a broker must know that may have forgotten everything."""
        with self.store.write() as tx:
            publish_all(tx)
            tx.live.doubt()
            self.alerts.on_connected(tx, self._clock())
        self._publisher.on_connected(())
        self._next_renewal_unix_ms = 0
        self._must_greet = False
        self._must_listen = True
        self._next_tick_unix_ms = 0

    def _tick(self) -> None:
        now = self._clock()
        if is_new := self.is_connected and self._must_greet:
            self._greet()
        if self.is_connected and (self._must_listen or self.inbox.has_overflowed()):
            self._must_listen = False
            self._link.subscribe(topics.CONTROLLER_FILTERS, qos=1)
        if is_new:  # devices answer that, and are heard by now
            topic = topics.ControllerPresence()
            self._link.publish(topic.text, self._presence("online"), qos=topic.qos, retain=True)
        # A clock that was set back must not stop the ticks.
        if 0 < self._next_tick_unix_ms - now <= TICK_MS:
            return
        self._next_tick_unix_ms = now + TICK_MS
        if self.is_connected:
            self._step_all()
        if self.is_connected and not 0 < self._next_reconcile_unix_ms - now <= RECONCILE_EVERY_MS:
            self._next_reconcile_unix_ms = now + RECONCILE_EVERY_MS
            with self.store.read() as tx:
                lagging = tx.states.lagging()
            self._publisher.repeat(lagging, now)
        self._keep_fresh(now)
        alert_evidence.look(self.alerts, self.store, self._sight())
        self._prune(now)
        self.windows.look(self.store, now)
        if self._witness is not None:
            self._witness.look(now)

    def _keep_fresh(self, now: int) -> None:
        """Sign again what expires: the timestamp daily, the snapshot, and every desired state."""
        if not 0 < self._next_trust_unix_ms - now <= TRUST_EVERY_MS:
            self._next_trust_unix_ms = now + TRUST_EVERY_MS
            with self.store.write() as tx:
                self._authority.refresh(tx, now)
                alert_evidence.look_at_expiries(self.alerts, tx, now)
        if self.is_connected and not 0 < self._next_renewal_unix_ms - now <= DESIRED_AGAIN_MS:
            self._next_renewal_unix_ms = now + DESIRED_AGAIN_MS
            with self.store.read() as tx:
                devices = tx.states.generations(Selection())
            self._publisher.renew(sorted(devices))

    def _prune(self, now: int) -> None:
        """Drop records that are too old, once an hour; never right after the clock has jumped.

        A machine that starts with a clock far ahead would drop all there are. By the time that it
        has run for an hour its clock is set.
        """
        wait_ms = self._next_prune_unix_ms - now
        if 0 < wait_ms <= PRUNE_EVERY_MS:
            return
        self._next_prune_unix_ms = now + PRUNE_EVERY_MS
        if -PRUNE_EVERY_MS < wait_ms <= 0:
            with self.store.write() as tx:
                tx.journal.prune_records(now - RECORD_DAYS * DAY_MS)
                tx.journal.ranges.prune(now - RANGE_DAYS * DAY_MS)
                tx.drift.prune(now - KEEP_DAYS_MS)
                tx.captures.prune(now - self._capture_keep_ms)
                self.alerts.prune(tx, now)

    def _step_all(self) -> None:
        with self.store.read() as tx:
            live = tx.rollouts.live_ids()
        for rollout in live:
            with self.store.write() as tx:
                rollouts.advance(tx, rollouts.get(tx, rollout), self._sight())

    def _send(self) -> None:
        self._publisher.load()
        if self._has_new_chunks:
            self._has_new_chunks = False
            self._publisher.load_chunks()
        self._publisher.pump(self._clock())
        self._publisher.settle()

    def _sight(self) -> Sight:
        now = self._clock()
        if self._connected_unix_ms is not None:
            self._connected_unix_ms = min(self._connected_unix_ms, now)  # the clock was set back
        return Sight(now, self._connected_unix_ms)

    def _will(self) -> Will:
        self._birth += 1
        return Will(topics.ControllerPresence().text, self._presence("offline"))

    def _presence(self, state: str) -> bytes:
        message = m.ControllerPresence.model_validate(
            {"state": state, "boot": self._boot, "birth": self._birth, "version": VERSION}
        )
        return codec.encode(message)
