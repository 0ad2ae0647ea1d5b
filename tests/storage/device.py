"""A device in one small process: the agent's own loop, effects, fetcher, uplink and stores.

In memory are only what is not the storage's: the broker, a controller that acknowledges, and runtimes
that are ready at once, after they have read every byte of what they shall serve.
"""

import contextlib
import hashlib
import json
import logging
import logging.handlers
import secrets
import signal
import sys
import time

from agent.adapters import trust_view  # noqa: F401 - imports python-tuf once, before lives fork
from agent.adapters.content_files import ContentStore, find_damage
from agent.adapters.fetcher import Fetcher
from agent.adapters.host import Host
from agent.adapters.metadata_pull import MetadataPulls
from agent.adapters.sdnotify import Notifier
from agent.adapters.starts import StartCounter
from agent.adapters.trust import TRUST, TrustStore
from agent.core.records import MAX_BYTES
from agent.effects import Effects
from agent.loop import Inbox, Loop, StopRequested
from agent.ports import (
    CandidateFailed,
    CandidateReady,
    Counters,
    Heartbeat,
    Promoted,
    WindowClosed,
    WindowStats,
)
from agent.runtimes import Runtimes
from agent.service import _open_outbox, _open_state
from agent.telemetry import TelemetryReporter
from agent.trust import Trust
from agent.uplink import Uplink
from tests.storage import tracer
from tests.storage.scenario import BAD, DEVICE, STAGES
from wire import codec, topics
from wire.errors import StorageError
from wire.lifecycle import Code
from wire.link import Connected, Delivered, Disconnected
from wire.link_memory import MemoryBroker
from wire.messages import Ack, Reported, StoredRange

REFUSED = 71
"""Exit code of a device that did not start, for a reason with a type."""
DIED = 72
"""Exit code of a device whose loop gave up."""
NO_TELEMETRY_S = 3600.0
_STATE_DUMP = {"separators": (",", ":"), "sort_keys": True}


def live(root, scenario, witness, *, generation=1, stage=0, is_endless=False):
    """Live on the state in `root` until the last stage is settled; return the exit code.

    Args:
        root: The state directory.
        scenario: What the controller will want.
        witness: Is told of everything.
        generation: Of the desired state that the broker has retained.
        stage: The stage of that.
        is_endless: Whether the last stage is followed by the first, for ever.
    """
    with _remembered() as logged:
        return _live(
            root, scenario, witness, logged,
            generation=generation, stage=stage, is_endless=is_endless,
        )  # fmt: skip


@contextlib.contextmanager
def _remembered():
    """Keep what is logged, for one that is stuck; give the handler, whose `flush` prints it."""
    stderr = logging.StreamHandler()
    stderr.setFormatter(logging.Formatter("%(asctime)s %(threadName)s %(name)s %(message)s"))
    logged = logging.handlers.MemoryHandler(10_000, logging.CRITICAL, stderr)
    root = logging.getLogger()
    level = root.level
    root.addHandler(logged)
    root.setLevel(logging.INFO)
    try:
        yield logged
    finally:
        root.removeHandler(logged)
        root.setLevel(level)
        logged.setTarget(None)


def _live(root, scenario, witness, logged, *, generation, stage, is_endless):
    begun_s = time.monotonic()
    counter = StartCounter(root)
    counter.begin()
    boot = secrets.token_hex(8)
    try:
        content = WitnessedContent(root, witness)
        state, lost = _open_state(root / "state.db")
        outbox, lost_records = _open_outbox(root / "outbox.db", boot, MAX_BYTES)
        found = state.load()
    except StorageError as exc:
        witness.tell("refused", exc.code, str(exc))
        return REFUSED
    kept = [ref for record in found.models for ref in (record.active, record.fallback) if ref]
    sealed = sorted(path.stem for path in (root / "bundles").glob("*.json"))
    witness.tell(
        "found",
        dump(found),
        [text for text in (lost, lost_records) if text],
        [[w.boot, w.seq, w.sha256.hex()] for _, w in outbox.waiting(1_000_000)],
        {m: find_damage(root, m) for m in {*sealed, *(ref.manifest for ref in kept)}},
    )
    inbox = Inbox()
    broker = MemoryBroker()
    link = broker.link(DEVICE)
    controller = Controller(
        broker, scenario, witness, lambda: inbox.put(StopRequested()), is_endless=is_endless
    )
    uplink = Uplink(
        link, WitnessedOutbox(outbox, witness), device=DEVICE, boot=boot, agent="harness"
    )
    store = TrustStore(root / TRUST, lambda: scenario.trust.bootstrap, state, device=DEVICE)
    pulls = MetadataPulls(None, print)
    trust = Trust(store, state, link, device=DEVICE, alarm=uplink.alarm, pull=pulls.ask)
    fetcher = Fetcher(
        content,
        link,
        tell=inbox.put,
        ask_again=uplink.ask_chunks,
        check=_check_nothing,
        authorise=trust.authorise,
    )
    host = Runtime(inbox.put, witness, begun_s, controller.served)
    runtimes = Runtimes(host, content, is_replacing=scenario.is_replacing)
    loop = Loop(
        device=DEVICE,
        inbox=inbox,
        store=WitnessedState(state, witness),
        effects=Effects(
            device=DEVICE, content=content, fetcher=fetcher, runtimes=runtimes, uplink=uplink
        ),
        runtimes=runtimes,
        fetcher=fetcher,
        uplink=uplink,
        trust=trust,
        telemetry=TelemetryReporter(
            device=DEVICE,
            interval_s=NO_TELEMETRY_S,
            window_s=NO_TELEMETRY_S,
            host=Host(root),
            runtimes=runtimes,
            uplink=uplink,
            starts=counter,
        ),
        notifier=Notifier({}),
        is_link_alive=link.is_alive,
    )

    def on_link(event):
        match event:
            case Delivered(topic=topic, payload=payload):
                if isinstance(chunk := topics.parse(topic), topics.Chunk):
                    fetcher.on_chunk(chunk.digest, payload)
                else:
                    inbox.put(event)
            case Connected() | Disconnected():
                inbox.put(event)

    def tell(_number, _frame):
        logged.flush()
        known = vars(trust) | {"_delivered": trust._delivered._documents.keys(), "_store": None}
        told = f"state {loop._state}\ntrust {known}\nretained {scenario.trust.messages().keys()}\n"
        sys.stderr.write(told)

    signal.signal(tracer.TELL, tell)
    controller.begin(generation, stage)
    fetcher.start()
    link.start(on_link, uplink.will)
    try:
        error = loop.run()
    except StorageError as exc:
        witness.tell("refused", exc.code, str(exc))
        return REFUSED
    finally:
        fetcher.stop()
        link.stop()
        outbox.close()
        state.close()
    witness.tell("ended", error)
    return DIED if error else 0


def _check_nothing(manifest):
    """There is no onnxruntime here that a bundle could ask too much of."""


def dump(state):
    """Return a state as one comparable text."""
    from agent.adapters.state_sqlite import _STATE

    return _STATE.dump_json(state).decode()


class WitnessedState:
    """The state store, with a word before and after each write."""

    def __init__(self, store, witness):
        self._store = store
        self._witness = witness

    @property
    def fault(self):
        return self._store.fault

    def load(self):
        return self._store.load()

    def save(self, state):
        text = dump(state)
        self._witness.tell("saving", text)
        self._store.save(state)
        self._witness.tell("saved", text)

    def save_inventory(self, inventory):
        self._store.save_inventory(inventory)


class WitnessedOutbox:
    """The outbox, with a word after each record and before each deletion."""

    def __init__(self, outbox, witness):
        self._outbox = outbox
        self._witness = witness

    def append(self, topic, make):
        taken = self._outbox.append(topic, make)
        self._tell(taken)
        return taken

    def tell_lost(self, topic, make):
        taken = self._outbox.tell_lost(topic, make)
        if taken is not None:
            self._tell(taken)
        return taken

    def _tell(self, taken):
        assert taken.is_kept
        assert not taken.dropped_count, "the ledger does not know of losses"
        record = taken.record
        self._witness.tell("kept", record.boot, record.seq, record.sha256.hex())

    def delete(self, stored):
        for span in stored:
            self._witness.tell("deleting", span.boot, span.first, span.last)
        return self._outbox.delete(stored)

    def __getattr__(self, name):
        return getattr(self._outbox, name)  # what changes nothing


class WitnessedContent(ContentStore):
    """The content store, with a word after each bundle that is whole."""

    def __init__(self, root, witness):
        self._witness = witness
        super().__init__(root)

    def seal(self, manifest, index):
        super().seal(manifest, index)
        self._witness.tell("sealed", manifest)


class Controller:
    """Wants one stage after the other, and acknowledges a share of the records."""

    def __init__(self, broker, scenario, witness, end, *, is_endless):
        self._link = broker.link("controller")
        self._scenario = scenario
        self._witness = witness
        self._end = end
        self._is_endless = is_endless
        self._generation = 0
        self._stage = 0
        self._owed = 0.0
        self._served = {}
        self._reported = None

    def begin(self, generation, stage):
        """Come to the broker and publish what is retained there."""
        self._link.start(self._on_link, lambda: None)
        for topic, payload in self._scenario.trust.messages().items():
            self._link.publish(topic, payload, qos=1, retain=True)
        for digest, payload in self._scenario.payloads.items():
            self._link.publish(topics.Chunk(digest).text, payload, qos=1, retain=True)
        self._want(generation, stage)
        self._link.subscribe([f"fleet/v1/device/{DEVICE}/#"], qos=1)

    def _want(self, generation, stage):
        self._generation, self._stage = generation, stage
        self._witness.tell("desired", generation, stage)
        desired = self._scenario.desired(stage, generation)
        self._link.publish(topics.Desired(DEVICE).text, desired, qos=1, retain=True)

    def _on_link(self, event):
        if not isinstance(event, Delivered):
            return
        match topics.parse(event.topic):
            case topics.Reported():
                self._look(codec.decode(Reported, event.payload))
            case topics.Event(kind=kind) if kind != "chunks_missing":
                self._acknowledge(json.loads(event.payload))
            case topics.Telemetry():
                self._acknowledge(json.loads(event.payload))

    def _acknowledge(self, record):
        self._owed += self._scenario.ack_share
        if self._owed >= 1:
            self._owed -= 1
            seq = record["seq"]
            span = StoredRange(boot=record["boot"], first=seq, last=seq)
            self._link.publish(
                topics.Ack(DEVICE).text, codec.encode(Ack(stored=(span,))), qos=1, retain=False
            )

    def served(self, versions):
        """Learn what the device serves now."""
        self._served = versions
        if self._reported is not None:
            self._look(self._reported)

    def _look(self, reported):
        self._reported = reported
        wanted = dict(STAGES[self._stage])
        by_name = {model.name: model for model in reported.models}
        if reported.generation != self._generation or by_name.keys() != wanted.keys():
            return
        if any(m.state != "idle" or m.outcome is None for m in by_name.values()):
            return
        if any(by_name[name].target.version != version for name, version in wanted.items()):
            return
        if self._served != {name: m.active.version for name, m in by_name.items() if m.active}:
            return
        if any(m.outcome == "failed" for m in by_name.values()):
            self._want(self._generation + 1, self._stage)  # as an operator would, after the cause
        elif self._stage + 1 < len(STAGES) or self._is_endless:
            self._want(self._generation + 1, (self._stage + 1) % len(STAGES))
        else:
            self._witness.tell("settled", self._served)
            self._end()


class Runtime:
    """A host of runtimes that load at once; one with a bad release fails every request."""

    def __init__(self, sink, witness, begun_s, served):
        self._sink = sink
        self._witness = witness
        self._begun_s = begun_s
        self._served = served
        self._number = 0
        self._candidate = ()
        self._serving = ()
        self._request_count = 0

    def open(self):
        pass

    def start_candidate(self, models, *, auto_promote):
        self._number += 1
        for model in models:
            try:
                self._load(model)
            except OSError as exc:
                failed = CandidateFailed(self._number, model.name, Code.STORAGE_ERROR, str(exc))
                self._sink(failed)
                return self._number
        self._candidate = models
        self._sink(CandidateReady(self._number, "none", 0, ()))
        if auto_promote:
            self.promote()
        return self._number

    def _load(self, model):
        manifest = json.loads(model.files["manifest.json"].read_bytes())
        for entry in manifest["files"]:
            data = model.files[entry["path"]].read_bytes()
            if hashlib.sha256(data).hexdigest() != entry["sha256"]:
                self._witness.tell("wrong", model.name, model.version, entry["path"])

    def promote(self):
        self._serving = self._candidate
        versions = {model.name: model.version for model in self._serving}
        self._witness.tell("serving", versions, time.monotonic() - self._begun_s)
        self._sink(Promoted(self._number))
        self._request_count = 0
        self.tick()
        self._served(versions)

    def discard_candidate(self):
        self._candidate = ()

    def close_window(self):
        pass

    def close_columns(self):
        pass

    def check_golden(self, model):
        pass

    def tick(self):
        """Tell of ten requests more; what was told while the disk failed was of no use."""
        self._request_count += 10
        counted = {
            m.name: Counters(
                request_count=self._request_count,
                runtime=self._request_count if BAD in m.version else 0,
            )
            for m in self._serving
        }
        self._sink(Heartbeat(self._number, counted, 0.0, 0))

    def is_alive(self):
        return True

    def stop(self):
        windows = tuple(
            WindowStats(m.name, m.version, m.manifest, 1, 1.0, Counters(request_count=1))
            for m in self._serving
        )
        self._sink(WindowClosed(self._number, windows))
