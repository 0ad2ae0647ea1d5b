"""What this device believes: signed metadata as it arrives, desired states that it judges, installs.

Metadata is refreshed when deliveries have settled for a moment. A desired state is acted on when a director
has signed it that the metadata names; one whose director knew newer metadata waits for that. Whatever
is expired, missing or an attack stops new installs and nothing else: what serves goes on serving.
"""

from __future__ import annotations

import logging
import math
import secrets
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final

from wire import codec, topics
from wire.errors import ConfigError, ModelfleetError, PeerError, StorageError
from wire.lifecycle import Code
from wire.link import Link
from wire.messages import Desired
from wire.trust import SignedText, open_sealed

from .adapters.trust import MarkStore, TrustStore
from .adapters.trust_mqtt import DeliveredMetadata
from .core import metadata_pull
from .core import trust as core
from .core.states import Assignment, DeviceState, OnProbation
from .core.trust import Fault, Marks, Refused, TrustView, Verdict, Waits

log = logging.getLogger(__name__)

BUILD_UNIX_MS: Final = int(datetime(2026, 11, 25, tzinfo=UTC).timestamp() * 1000)
"""No signature of today is older than this program; tests/test_supply.py has it raised each month."""
SETTLE_S: Final = 0.05
"""Retained documents come together; a refresh waits for this long a silence. What it missed by
that, it finds with the next delivery."""
MAX_SETTLE_S: Final = 1.0
"""And no longer than this for one: a broker that never falls silent puts nothing off."""
AGAIN_S: Final = 60.0
"""Each refresh is followed by another: what has expired meanwhile is told, and one that failed may find
the clock set, or the disk working."""
REST_S: Final = 5.0
"""A disk that fails is left alone this long."""
PATIENCE_S: Final = 60.0
"""What waits for metadata for longer than this is told."""
BURST: Final = 16
"""Alarms of one code within a minute: who sends 10,000 bad messages fills no outbox."""
BURST_S: Final = 60.0
SAME_ALARM_S: Final = 24 * 3600.0
"""The same alarm, word by word, comes once a day while its cause lasts."""


@dataclass(slots=True)
class _Waiting:
    """What waits for metadata: a desired state by its bytes, an install by its name."""

    subject: bytes | str
    fault: Fault
    since_s: float


Alarm = Callable[[str, str], None]
Pull = Callable[[int, Collection[str]], None]
"""Has the controller asked for what follows a root, and for models' documents; returns at once."""


class Trust:
    """Used by the loop's thread, but for `authorise`, which the fetcher's asks too."""

    def __init__(
        self,
        store: TrustStore,
        marks: MarkStore,
        link: Link,
        *,
        device: str,
        alarm: Alarm,
        pull: Pull,
    ) -> None:
        self._store = store
        self._mark_store = marks
        self._link = link
        self._device = device
        self._alarm = alarm
        self._delivered = DeliveredMetadata(store.kept)
        self._pulled: DeliveredMetadata | None = None
        self._view: TrustView | None = None
        self._marks: Marks = {}
        self._models: frozenset[str] = frozenset()
        self._due_s = math.inf
        self._unsettled_s: float | None = None
        self._held: _Waiting | None = None
        self._install: _Waiting | None = None
        self._alarmed: dict[str, deque[tuple[float, str]]] = {}
        self._pull = pull
        self._pulls = metadata_pull.Schedule()
        self._chance = secrets.randbelow(1000) / 1000
        self._failed = ""
        """Code of the newest refresh, if it failed."""
        self.is_director_gone = False
        """Whether the newest refresh found that the generation counts from the beginning."""

    @property
    def due_s(self) -> float:
        """The monotonic instant of the next refresh; infinite while there is nothing to refresh."""
        return self._due_s

    def start(self, models: Collection[str]) -> None:
        """Take what is on disk.

        Args:
            models: Assigned to this device as far as it knows.
        """
        self._models = frozenset(models)
        self._load()

    def _load(self) -> None:
        """Believe what is on disk, fresh or not, until a refresh brings newer metadata."""
        try:
            self._marks = self._mark_store.load_marks()
            self._view = self._store.load(self._models)
        except StorageError as exc:
            log.warning("%s", exc)
            self._due_s = time.monotonic() + REST_S
        except ConfigError as exc:
            self._tell(exc.code, str(exc))
        except ModelfleetError as exc:
            log.info("no trusted metadata yet: %s", exc)

    def connected(self) -> None:
        """Ask for the documents of the assigned models, after each connection."""
        self._subscribe(self._models)

    def deliver(self, topic: topics.Trust | topics.ModelTrust, payload: bytes) -> None:
        """Keep a document for the refresh that follows.

        Raises:
            PeerError: `trust_too_large` or `trust_malformed`.
        """
        if not payload:
            return  # a cleared retained message takes nothing back
        self._delivered.put(topic, payload)
        self._settle()

    def take(self, documents: Iterable[tuple[topics.Trust | topics.ModelTrust, bytes]]) -> None:
        """Keep what the controller gave for the refresh that follows.

        It is not mixed with what the broker delivered: a root that the broker invented would be asked
        for before the documents that are true, and end each refresh.
        """
        self._pulled = DeliveredMetadata(self._store.kept)
        for topic, payload in documents:
            try:
                self._pulled.put(topic, payload)
            except PeerError as exc:
                log.warning("from the controller, %s: %s", topic.text, exc)
        self._settle()

    def _settle(self) -> None:
        """Let the refresh wait for what comes with what has just come."""
        now_s = time.monotonic()
        self._unsettled_s = self._unsettled_s or now_s
        self._due_s = min(now_s + SETTLE_S, self._unsettled_s + MAX_SETTLE_S)

    def open(self, payload: bytes, state: DeviceState) -> Desired | None:
        """Return a desired state that may be acted on; None for one that waits.

        Raises:
            PeerError: It is refused.
        """
        sealed, held = open_sealed(payload), self._held
        fault, desired = self._judge(sealed, state)
        if desired is None:
            is_same = held is not None and held.subject == payload
            since_s = held.since_s if held is not None and is_same else time.monotonic()
            self._held = _Waiting(payload, fault, since_s)
            return None
        # A broker may repeat the present one while the next waits.
        if desired.generation > state.generation or (held and held.subject == payload):
            self._held = None
        return desired

    def refuse(self, exc: PeerError) -> None:
        """Tell of a desired state that was refused."""
        self._tell(exc.code, f"{topics.Desired(self._device).text}: {exc}", is_lasting=False)

    def refresh(self, state: DeviceState) -> Desired | None:
        """Bring the metadata up to date by what was delivered.

        Returns:
            A desired state that has waited, and may be acted on now.
        """
        if not self._refresh():
            return None
        return self._release(replace(state, generation=0) if self.is_director_gone else state)

    def tick(self, state: DeviceState, now_s: float) -> None:
        """Tell of what waits for metadata too long, and have the controller asked for it."""
        self._install = self._waiting_install(state, now_s)
        want = self._want_now(state)
        self._pulls, is_due = metadata_pull.look(self._pulls, want, now_s, self._chance)
        if is_due and want is not None:
            self._pull(self._store.root_version(), want.models)
        name = str(self._install.subject) if self._install else ""
        for waiting, words in ((self._held, "a desired state"), (self._install, name)):
            if waiting is None:
                continue
            is_on_its_way = waiting.fault.code in (Code.TRUST_UNAVAILABLE, Code.TRUST_SIGNATURE)
            if not is_on_its_way or now_s - waiting.since_s >= PATIENCE_S:
                self._tell(waiting.fault.code, f"{words} waits: {waiting.fault.detail}")

    def _want_now(self, state: DeviceState) -> metadata_pull.Want | None:
        """Return what is wanting that newer metadata may cure."""
        waiting = [each.fault.code for each in (self._held, self._install) if each is not None]
        if not (codes := [*waiting, self._failed] if self._failed else waiting):
            return None
        models = set(self._models)
        if (assignment := state.fetched()) is not None:
            models.add(assignment.name)
        snapshot = self._view.snapshot if self._view is not None else 0
        return metadata_pull.Want(codes[0], snapshot, frozenset(models))

    def authorise(self, assignment: Assignment) -> Verdict:
        """Return whether a release may be installed now; safe from the fetcher's thread."""
        view, marks = self._view, self._marks
        return core.authorise(
            view,
            model=assignment.name,
            version=assignment.ref.version,
            manifest=assignment.ref.manifest,
            now_unix_ms=_now_unix_ms(view, marks),
        )

    def _judge(self, sealed: SignedText, state: DeviceState) -> tuple[Fault, Desired | None]:
        """Return the desired state, or why it waits.

        Raises:
            PeerError: It is refused.
        """
        keyid = sealed.signature.keyid
        if self._view is None:
            return Fault(Code.TRUST_UNAVAILABLE, "no signed metadata has arrived yet"), None
        if (public := self._view.directors.get(keyid)) is None:
            words = f"signed by key {keyid[:12]}, which the metadata here does not name"
            return Fault(Code.TRUST_SIGNATURE, words), None
        _verify(public, sealed)
        desired = codec.decode(Desired, sealed.body)
        names = [model.name for model in desired.models]
        if len(set(names)) != len(names):
            raise PeerError("the desired state names a model twice", code="desired_invalid")
        verdict = core.judge_desired(
            self._view,
            desired,
            device=self._device,
            generation=state.generation,
            now_unix_ms=_now_unix_ms(self._view, self._marks),
        )
        if isinstance(verdict, Refused):
            raise core.refused(verdict.fault)
        self._refuse_dead_fallback(desired, state)
        self._learn_time(desired, keyid)
        wanted = set(names if desired.shadow is None else [*names, desired.shadow.model])
        if isinstance(verdict, Waits):
            self._want(wanted | self._models)  # the present one still counts
            return verdict.fault, None
        self._want(wanted)
        return Fault("", ""), desired

    def _refuse_dead_fallback(self, desired: Desired, state: DeviceState) -> None:
        """See that nobody orders a return to a release that may be installed no more; it needs no fetch.

        Raises:
            PeerError: `below_floor`, or `not_signed` for one that was retired.
        """
        if not isinstance(state.update, OnProbation):
            return
        name = state.update.assignment.name
        fallback, facts = state.record(name).fallback, self._view and self._view.models.get(name)
        for model in desired.models:
            if model.name == name and fallback and facts and model.manifest == fallback.manifest:
                release = facts.releases.get(model.version)
                if release is None:
                    raise PeerError(f"{name}:{model.version} was retired", code=Code.NOT_SIGNED)
                if release.number < facts.floor:
                    raise PeerError(
                        f"{name}:{model.version} is below the floor", code=Code.BELOW_FLOOR
                    )

    def _learn_time(self, desired: Desired, keyid: str) -> None:
        if self._view is None:
            return
        try:
            known = self._mark_store.load_marks()
            self._marks = core.after_desired(known, self._view, desired, keyid)
            if self._marks is not known:
                self._mark_store.save_marks(self._marks)
        except StorageError as exc:
            log.warning("%s", exc)  # it is learnt again with the next desired state

    def _want(self, names: Collection[str]) -> None:
        """Follow the documents of exactly these models."""
        wanted = frozenset(names)
        if gone := self._models - wanted:
            self._link.unsubscribe([topics.ModelTrust(name).text for name in sorted(gone)])
        if fresh := wanted - self._models:
            self._subscribe(fresh)
            # What is known of them may be on disk already, and be all that comes.
            self._due_s = min(self._due_s, time.monotonic() + SETTLE_S)
        self._models = wanted

    def _subscribe(self, models: Collection[str]) -> None:
        if models:
            self._link.subscribe([topics.ModelTrust(name).text for name in sorted(models)], qos=1)

    def _refresh(self) -> bool:
        """Bring the view up to date; return whether that worked."""
        # What the broker brought while the controller was asked waits no minute.
        is_more_here = self._pulled is not None and self._delivered.has_unasked()
        self._due_s = time.monotonic() + (SETTLE_S if is_more_here else AGAIN_S)
        self._unsettled_s = None
        if self._view is None:
            self._load()  # what has expired is known on, should there be nothing newer
        self.is_director_gone = False
        clock_unix_ms = max(time.time_ns() // 1_000_000, BUILD_UNIX_MS)
        source, self._pulled = self._pulled or self._delivered, None
        try:
            # Not by the floor clock: after a theft, new roots must be able to undo a time of the thief's.
            view = self._store.refresh(source, self._models, now_unix_ms=clock_unix_ms)
            self._marks = self._mark_store.load_marks()
        except ModelfleetError as exc:
            self._failed = "" if isinstance(exc, StorageError) else exc.code
            if isinstance(exc, StorageError):
                self._due_s = time.monotonic() + REST_S
            if exc.code == Code.TRUST_UNAVAILABLE:
                log.info("metadata is not whole yet: %s", exc)
            else:
                self._tell(exc.code, str(exc))
            return False
        self._delivered.forget(view.versions)
        self._failed = ""
        for model, fault in view.faults.items():
            if fault.code not in (Code.TRUST_UNAVAILABLE, Code.NOT_SIGNED):
                self._tell(fault.code, f"{model}: {fault.detail}")
        if self._view is None or view.roles != self._view.roles:
            log.info("trusts root %d, snapshot %d", view.roles["root"].version, view.snapshot)
        self._view = view
        self.is_director_gone = core.is_director_gone(view, self._marks)
        return True

    def _release(self, state: DeviceState) -> Desired | None:
        """Return the desired state that has waited, if it may be acted on now."""
        if self._held is None or not isinstance(self._held.subject, bytes):
            return None
        try:
            return self.open(self._held.subject, state)
        except PeerError as exc:
            self._held = None
            self.refuse(exc)
            return None

    def _waiting_install(self, state: DeviceState, now_s: float) -> _Waiting | None:
        if (assignment := state.fetched()) is None:
            return None
        verdict = self.authorise(assignment)
        if not isinstance(verdict, Waits):
            return None
        subject = f"{assignment.name}:{assignment.ref.version}"
        if self._install is not None and self._install.subject == subject:
            now_s = self._install.since_s
        return _Waiting(subject, verdict.fault, now_s)

    def _tell(self, code: str, detail: str, *, is_lasting: bool = True) -> None:
        """Raise an alarm, unless there were too many; a cause that lasts is told once a day."""
        now_s = time.monotonic()
        told = self._alarmed.setdefault(code, deque(maxlen=BURST))
        is_known = any(t == detail and now_s - at_s < SAME_ALARM_S for at_s, t in told)
        is_flood = len(told) == BURST and now_s - told[0][0] < BURST_S
        if is_flood or (is_lasting and is_known):
            log.debug("%s (%s)", detail, code)
            return
        told.append((now_s, detail))
        log.warning("%s (%s)", detail, code)
        self._alarm(code, detail)


def _verify(public: str, sealed: SignedText) -> None:
    """Check an Ed25519 signature.

    Raises:
        PeerError: `trust_signature`.
    """
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public))
    try:
        key.verify(bytes.fromhex(sealed.signature.sig), sealed.signed_bytes)
    except InvalidSignature as exc:
        raise PeerError("the signature is not good", code=Code.TRUST_SIGNATURE) from exc


def _now_unix_ms(view: TrustView | None, marks: Marks) -> int:
    return core.floor_clock(time.time_ns() // 1_000_000, BUILD_UNIX_MS, view, marks)
