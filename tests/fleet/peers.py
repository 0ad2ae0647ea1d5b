"""A whole controller on an in-memory broker, and devices that speak the protocol to it."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tuf.api.metadata import Signed

from fleet import tokens
from fleet.alerts.watch import Watch
from fleet.api.schemas import DeviceIn, RolloutIn
from fleet.controller import Controller
from fleet.core.rights import Caller, Role
from fleet.core.states import Rollout
from fleet.pki.access import Access, found_pki
from fleet.pki.enrolment import Enrolment
from fleet.pki.folder import PkiFolder
from fleet.store.devices import Selection
from fleet.store.releases import ReleaseRow
from fleet.store.store import Store
from fleet.trust.authority import Authority
from fleet.trust.ceremony import found, online_dir
from fleet.trust.documents import Document, parse_document
from fleet.trust.keys import KeyFolder
from fleet.trust.ledger import Ledger
from fleet.trust.session import Session
from wire import codec, topics
from wire import messages as m
from wire.lifecycle import Outcome, UpdateState
from wire.link import Connected, Delivered, LinkEvent, Will
from wire.link_memory import MemoryBroker
from wire.trust import model_role, open_sealed

SECRET = "of the offline keys"  # noqa: S105 - opens keys that each test makes anew
Verdict = Callable[[m.DesiredModel], Outcome | None]


def confirms(_model: m.DesiredModel) -> Outcome | None:
    return Outcome.CONFIRMED


def dawdles(_model: m.DesiredModel) -> Outcome | None:
    """Never comes to an end."""
    return None


def refuses(*versions: str) -> Verdict:
    def verdict(model: m.DesiredModel) -> Outcome | None:
        return Outcome.ROLLED_BACK if model.version in versions else Outcome.CONFIRMED

    return verdict


@dataclass
class Spoken:
    """Where one model stands on a device."""

    active: m.DesiredModel | None = None
    target: m.DesiredModel | None = None
    outcome: Outcome | None = None
    code: str | None = None


class Device:
    """Acts on desired state as an agent does, at once; keeps its state over restarts."""

    def __init__(self, broker: MemoryBroker, name: str, verdict: Verdict = confirms) -> None:
        self.name = name
        self.verdict = verdict
        self.generation = 0
        self.models: dict[str, Spoken] = {}
        self.quarantined: dict[str, int] = {}
        self.knows_shadows = True
        self.shadow: m.ReportedShadow | None = None
        self.desired: list[m.Desired] = []
        self.acks: list[m.Ack] = []
        self.chunks: dict[str, int] = {}
        self.seq = 0
        self.birth = 0
        self.boot = secrets.token_hex(8)
        self.link = broker.link(name)
        self._broker = broker
        self.link.start(self._sink, self._will)

    def cut(self) -> None:
        self._broker.cut(self.name)

    def back(self) -> None:
        self.link.connect()

    def reboot(self) -> None:
        self.cut()
        self.boot, self.seq, self.birth = secrets.token_hex(8), 0, 0
        self.back()

    def active(self, model: str = "digits") -> str | None:
        spoken = self.models.get(model)
        return spoken.active.version if spoken and spoken.active else None

    def send(self, topic: topics.Topic, payload: bytes, *, retain: bool = False) -> None:
        self.link.publish(topic.text, payload, qos=1, retain=retain)

    def send_record(self, seq: int, *, boot: str | None = None) -> None:
        record = m.VitalsTelemetry(
            boot=boot or self.boot,
            seq=seq,
            at_unix_ms=1,
            uptime_s=1,
            cpu_ratio=0.5,
            memory_available_bytes=1,
            disk_free_bytes=1,
            supervisor_rss_bytes=1,
            runtime_rss_bytes=1,
        )
        self.send(topics.Telemetry(self.name, "vitals"), codec.encode(record))

    def send_presence(
        self, state: str, *, boot: str | None = None, birth: int | None = None
    ) -> None:
        self.send(topics.Presence(self.name), self._presence(state, boot, birth), retain=True)

    def miss(self, *digests: str) -> None:
        message = m.ChunksMissing(boot=self.boot, chunks=digests)
        self.send(topics.Event(self.name, "chunks_missing"), codec.encode(message))

    def want(self, *digests: str) -> None:
        self.link.subscribe([topics.Chunk(digest).text for digest in digests], qos=0)

    def settle(self) -> None:
        """Bring what is under way to the end that the verdict gives it."""
        for spoken in self.models.values():
            if spoken.target is not None and spoken.outcome is None:
                self._judge(spoken, spoken.target)
        self.report()

    def report(self) -> None:
        self.seq += 1
        report = m.Reported(
            boot=self.boot,
            seq=self.seq,
            generation=self.generation,
            models=tuple(_reported(name, spoken) for name, spoken in self.models.items()),
            quarantined=tuple(
                m.QuarantinedBundle(manifest=digest, code="error_ratio")
                for digest in sorted(self.quarantined)
            ),
            shadow=self.shadow,
        )
        self.send(topics.Reported(self.name), codec.encode(report), retain=True)

    def _presence(self, state: str, boot: str | None = None, birth: int | None = None) -> bytes:
        message: dict[str, Any] = {
            "state": state,
            "boot": boot or self.boot,
            "birth": self.birth if birth is None else birth,
            "agent": "test",
        }
        return codec.encode(m.Presence.model_validate(message))

    def _will(self) -> Will:
        self.birth += 1
        return Will(topics.Presence(self.name).text, self._presence("offline"))

    def _sink(self, event: LinkEvent) -> None:
        match event:
            case Connected():
                self.link.subscribe(topics.device_filters(self.name), qos=1)
                self.send_presence("online")
                self.report()
            case Delivered(topic=text, payload=payload):
                self._receive(topics.parse(text), payload)
            case _:
                pass

    def _receive(self, topic: topics.Topic, payload: bytes) -> None:
        match topic:
            case topics.Desired() if payload:
                self._obey(codec.decode(m.Desired, open_sealed(payload).body))
            case topics.Ack():
                self.acks.append(codec.decode(m.Ack, payload))
            case topics.Chunk(digest=digest):
                self.chunks[digest] = self.chunks.get(digest, 0) + 1
            case _:
                pass

    def _obey(self, desired: m.Desired) -> None:
        self.desired.append(desired)
        if desired.generation <= self.generation:
            return
        self.generation = desired.generation
        self.quarantined = {
            manifest: generation
            for manifest, generation in self.quarantined.items()
            if not any(
                word.manifest in (None, manifest) and generation < word.generation
                for word in desired.lifted
            )
        }
        self.shadow = None
        if desired.shadow is not None and self.knows_shadows:
            self.shadow = m.ReportedShadow(manifest=desired.shadow.manifest, state="running")
        wanted = {model.name: model for model in desired.models}
        for name in set(self.models) - set(wanted):
            del self.models[name]
        for name, model in wanted.items():
            spoken = self.models.setdefault(name, Spoken())
            spoken.target, spoken.outcome, spoken.code = model, None, None
            self.report()
            self._judge(spoken, model)
        self.report()

    def _judge(self, spoken: Spoken, model: m.DesiredModel) -> None:
        if model.manifest in self.quarantined:
            spoken.outcome, spoken.code = Outcome.REJECTED, "quarantined"
        elif spoken.active is not None and spoken.active.manifest == model.manifest:
            spoken.outcome, spoken.code = Outcome.CONFIRMED, "already_active"
        else:
            spoken.outcome = self.verdict(model)
            if spoken.outcome is Outcome.CONFIRMED:
                spoken.active, spoken.code = model, "confirmed"
            elif spoken.outcome is not None:
                spoken.code = "error_ratio"
                self.quarantined[model.manifest] = self.generation


def _reported(name: str, spoken: Spoken) -> m.ReportedModel:
    def release(model: m.DesiredModel | None) -> m.Release | None:
        return m.Release(version=model.version, manifest=model.manifest) if model else None

    return m.ReportedModel(
        name=name,
        state=UpdateState.FETCHING if spoken.outcome is None else UpdateState.IDLE,
        active=release(spoken.active),
        target=release(spoken.target),
        outcome=spoken.outcome,
        code=spoken.code,
    )


@dataclass
class Fleet:
    """A controller with its store in a folder; time stands still unless it is told to go on."""

    folder: Path
    broker: MemoryBroker = field(default_factory=MemoryBroker)
    now_unix_ms: int = 1_700_000_000_000
    approval_limit: float | None = None
    where: Path | str | None = None
    """Of the database; by default a file in the folder."""
    watch: Callable[[], Watch] = Watch

    def __post_init__(self) -> None:
        self.devices: dict[str, Device] = {}
        keys_dir = self.folder / "offline"
        if not (self.folder / "root.json").exists():
            found(
                self.folder,
                self.folder,
                self.now_unix_ms,
                database=self.database,
                keys_dir=keys_dir,
                passphrase=SECRET,
            )
        self.keys = KeyFolder(keys_dir, lambda _: SECRET, lambda _: "")
        self.authority = Authority(online_dir(self.folder))
        self._open()

    @property
    def database(self) -> Path | str:
        """Where the database is."""
        return self.where or self.folder / "fleet.db"

    def _open(self) -> None:
        self.store = Store(self.database, self.folder, is_sole=True)
        self.link = self.broker.link("controller")
        self.controller = Controller(
            self.store,
            self.link,
            lambda: self.now_unix_ms,
            self.authority,
            approval_limit=self.approval_limit,
            alerts=self.watch(),
        )
        self.controller.admit_by(self._enrolment())
        self.controller.start()

    def token(
        self,
        name: str,
        role: Role = Role.ADMIN,
        *,
        expires_s: float | None = None,
        **scope: str,
    ) -> str:
        """Return a new token of the API."""
        expires = None if expires_s is None else self.now_unix_ms + int(expires_s * 1000)
        with self.store.write() as tx:
            return tokens.create(
                tx,
                name=name,
                role=role,
                scope=scope,
                expires_unix_ms=expires,
                by=Caller("local", Role.ADMIN),
                now_unix_ms=self.now_unix_ms,
            ).token

    def bearer(self, name: str = "admin", role: Role = Role.ADMIN, **more: Any) -> dict[str, str]:
        """Return the header of a request with a new token."""
        return {"authorization": f"Bearer {self.token(name, role, **more)}"}

    def _enrolment(self) -> Enrolment:
        """Return what lets devices in, with no broker to tell."""

        def now() -> int:
            return self.now_unix_ms

        authority = found_pki(PkiFolder(self.folder / "pki"), (), now())
        nowhere = "mqtts://127.0.0.1:1"
        access = Access(authority, self.store, now, broker_url=nowhere, reload=lambda: None)
        return Enrolment(
            authority,
            self.store,
            access,
            now,
            broker_url=nowhere,
            door_url="https://127.0.0.1:1",
            root=lambda: "",
        )

    def kill(self) -> None:
        """Drop the controller as SIGKILL does: nothing is said or stored any more."""
        self.broker.cut("controller")
        self.store.close()

    def restart(self) -> None:
        self.kill()
        self._open()
        self.settle()

    def settle(self) -> None:
        """Work until there is nothing to do at this instant."""
        for _ in range(1000):
            if not self.controller.run_once():
                return
        raise AssertionError("the controller does not come to rest")

    def wait(self, seconds: float, *, step_s: float = 1.0) -> None:
        """Let time go by in steps, as the tick sees it."""
        end = self.now_unix_ms + int(seconds * 1000)
        while self.now_unix_ms < end:
            self.now_unix_ms = min(end, self.now_unix_ms + int(step_s * 1000))
            self.settle()

    def add(self, *names: str, verdict: Verdict = confirms, is_online: bool = True) -> None:
        self.controller.add_devices([DeviceIn(id=name, tags={"site": "lab"}) for name in names])
        for name in names:
            self.devices[name] = Device(self.broker, name, verdict)
            if not is_online:
                self.devices[name].cut()
        self.settle()

    def release(self, version: str, model: str = "digits") -> ReleaseRow:
        plain = f"{model} {version}".encode()
        manifest = plain + b" manifest"
        digest = hashlib.sha256(plain).hexdigest()
        row = ReleaseRow(
            model=model,
            version=version,
            manifest=hashlib.sha256(manifest).hexdigest(),
            index_digest=digest,
            bytes=len(plain),
            chunk_count=1,
            manifest_body="{}",
            created_unix_ms=self.now_unix_ms,
        )
        lengths = self.store.chunks.add({digest: plain})
        with self.store.write() as tx:
            tx.releases.add(row, {digest: (len(plain), lengths[digest])})
        self.sign(model, version, manifest)
        return row

    def sign(self, model: str, version: str, manifest: bytes) -> None:
        """Sign a release, as `fleet push` does."""
        session = self.session()
        draft = session.draft()
        if model not in session.base.models:
            draft.add_model(model, [self.keys.make(model_role(model)).key])
        draft.add_release(model, version, manifest)
        assert session.complete(draft).is_complete

    def session(self, keys: KeyFolder | None = None) -> Session:
        """Return what a person who signs works with."""
        return Session(self, Ledger(self.folder), keys or self.keys, self.now_unix_ms)

    # -- the way to the controller of those who sign: `fleet.trust.session.Carrier`

    def fetch(self) -> list[Document[Signed]]:
        with self.store.read() as tx:
            rows = [*tx.trust.roots(), *(r for r in tx.trust.all_newest() if r.role != "root")]
        return [
            parse_document(row.role, row.body.encode())
            for row in rows
            if row.role not in ("snapshot", "timestamp")
        ]

    def hand_in(self, documents: Sequence[Document[Signed]], *, may_skip: bool) -> None:
        files = {document.file_name: document.body.decode() for document in documents}
        self.controller.accept_trust(files, may_skip=may_skip)

    def roll_out(self, version: str, *phases: str, model: str = "digits", **more: Any) -> str:
        request = RolloutIn(
            model=model, version=version, phases=list(phases or ("100%",)), **{"soak_s": 0} | more
        )
        rollout = self.controller.start_rollout(request)
        self.settle()
        return rollout.id

    def rollout(self, rollout: str) -> Rollout:
        with self.store.read() as tx:
            found = tx.rollouts.get(rollout)
        assert found is not None
        return found

    def states(self, rollout: str) -> dict[str, str]:
        return {member.device: member.state for member in self.rollout(rollout).members}

    def events(self, kind: str | None = None) -> list[str]:
        with self.store.read() as tx:
            rows = tx.journal.events(0, 10_000)
        return [row.text for row in rows if kind in (None, row.kind)]

    def presence(self, device: str) -> str | None:
        with self.store.read() as tx:
            row = tx.devices.presence(Selection(device=device)).get(device)
        return row.state if row else None
