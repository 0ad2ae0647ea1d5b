"""The two ends of the way of a record, each of which may be killed at any statement of its database.

The agent's own outbox and uplink, the controller's own ingest and store, on real files. A kill is a copy
of an end's files at that instant, journal included: what a killed process leaves behind, since what it
had written is the kernel's. The next life goes on with the copy, and whatever the killed one does after
that instant is heard by nobody.
"""

import hashlib
import shutil
from pathlib import Path

from sqlalchemy import event

from agent.adapters.outbox import Outbox
from agent.adapters.outbox_rows import Pages
from agent.uplink import Uplink
from fleet.ingest import Ingest, ack_messages
from fleet.store.store import Store
from wire import codec
from wire import messages as m
from wire.topics import Ack, Event, Telemetry

DEVICES = tuple(f"cam-{number}" for number in range(8))
SHA = "a" * 64


class Fuse:
    """Counts the statements of a database, and copies its files before the one that a kill was set for."""

    def __init__(self, folder: Path, names):
        self.folder = folder
        self.is_dead = False
        self._names = names
        self._left = None

    def set(self, count):
        """Kill before this statement from now on."""
        self._left = count

    def on_statement(self, _statement):
        if self._left is None or self.is_dead:
            return
        self._left -= 1
        if self._left <= 0:
            self.blow()

    def blow(self):
        """Kill now."""
        self.is_dead = True
        target = self.heir
        target.mkdir()
        for name in self._names:
            for path in self.folder.glob(f"{name}*"):
                if not path.name.endswith("-shm"):
                    shutil.copy(path, target)

    @property
    def heir(self):
        """Where the next life goes on."""
        number = int(self.folder.name.rpartition("-")[2])
        return self.folder.with_name(f"{self.folder.name.rpartition('-')[0]}-{number + 1}")


class WitnessedOutbox(Outbox):
    """The outbox, with a word to the ledger about each record once it was taken."""

    def __init__(self, fuse, ledger, boot, cap_bytes):
        self._fuse = fuse
        self._ledger = ledger
        super().__init__(fuse.folder / "outbox.db", boot, max_bytes=cap_bytes)

    def _prepare(self, db):
        super()._prepare(db)
        db.set_trace_callback(self._fuse.on_statement)

    def append(self, topic, make):
        taken = super().append(topic, make)
        self._tell(taken)
        return taken

    def tell_lost(self, topic, make):
        taken = super().tell_lost(topic, make)
        if taken is not None:
            self._tell(taken)
        return taken

    def _tell(self, taken):
        record = taken.record
        self._ledger.tried[record.boot, record.seq] = hashlib.sha256(record.payload).digest()
        if not self._fuse.is_dead:
            self._ledger.written.add((record.boot, record.seq))

    @property
    def file_bytes(self):
        """What the database takes of the disk, or will when its journal is copied into it."""
        pages = Pages.of(self._database._connection)
        return max(pages.count * pages.size_bytes, self._path.stat().st_size)


class Device:
    """One life of the agent's end."""

    def __init__(self, folder, name, boot, link, ledger, *, clock, cap_bytes):
        self._name, self._ledger = name, ledger
        self.fuse = Fuse(folder, ["outbox.db"])
        self.outbox = WitnessedOutbox(self.fuse, ledger, boot, cap_bytes)
        link.device = self
        self.uplink = Uplink(
            link, self.outbox, device=name, boot=boot, agent="harness", clock=clock
        )

    def produce(self, kind, number):
        """Record something new; the number makes it unlike any other."""
        match kind:
            case "update":
                topic = Event(self._name, kind)
                self.uplink.record(topic, lambda boot, seq: _update(boot, seq, number))
            case "inference":
                topic = Telemetry(self._name, kind)
                self.uplink.record(topic, lambda boot, seq: _window(boot, seq, number))
            case _:
                topic = Telemetry(self._name, "vitals")
                self.uplink.record(topic, lambda boot, seq: _vitals(boot, seq, number))

    def bury(self):
        """Forget a life that was killed; return the folder of the next one."""
        self.close()
        shutil.rmtree(self.fuse.folder)
        return self.fuse.heir

    def close(self):
        """Note what the file has taken: it never becomes smaller."""
        self._ledger.worst_bytes = max(self._ledger.worst_bytes, self.outbox.file_bytes)
        self.outbox.close()


class Controller:
    """One life of the controller's end."""

    def __init__(self, folder):
        self.fuse = Fuse(folder, ["fleet.db"])
        self.store = Store(folder / "fleet.db", folder)
        self._ingest = Ingest()
        with self.store.write() as tx:
            if not tx.devices.known(DEVICES):
                tx.devices.add([(name, {}) for name in DEVICES], 1)

        def on_begin(connection):
            connection.connection.driver_connection.set_trace_callback(self.fuse.on_statement)

        event.listen(self.store._database.writer, "begin", on_begin)

    def store_batch(self, deliveries, now_unix_ms):
        """Store what came and return the acknowledgements, as the controller's loop does it."""
        with self.store.write() as tx:
            outcome = self._ingest.apply(tx, deliveries, now_unix_ms)
        return [] if self.fuse.is_dead else ack_messages(outcome.stored)

    def bury(self):
        """Forget a life that was killed; return the folder of the next one."""
        self.store.close()
        shutil.rmtree(self.fuse.folder)
        return self.fuse.heir


class Link:
    """A `wire.link.Link` that hands what the living publish to a network."""

    def __init__(self, network):
        self.device = None
        self.is_up = False
        self._network = network
        self._token = 0

    def publish(self, topic, payload, *, qos, retain):
        if not self.is_up:
            return None
        self._token += 1
        if not self.device.fuse.is_dead:
            self._network.to_controller(topic, payload)
        return self._token

    def subscribe(self, filters, *, qos):
        pass


def ack_payload(device, message):
    """Return topic and payload of an acknowledgement."""
    return Ack(device).text, codec.encode(message)


def new_boot(chance):
    """Return the id of a start, drawn."""
    return chance.bytes(8).hex()


def _update(boot, seq, number):
    return m.UpdateEvent(
        boot=boot,
        seq=seq,
        at_unix_ms=1_767_225_600_000,
        generation=number,
        model="digits",
        manifest=SHA,
        from_="fetching",
        to="staged",
        code="fetched",
    )


def _window(boot, seq, number):
    return m.InferenceTelemetry(
        boot=boot,
        seq=seq,
        start_unix_ms=1_767_225_600_000,
        duration_s=60,
        model="digits",
        version="1.0.0",
        manifest=SHA,
        request_count=number,
        row_count=number,
        latency_ms=m.LatencyMs(p50=1.25, p99=7.5),
    )


def _vitals(boot, seq, number):
    return m.VitalsTelemetry(
        boot=boot,
        seq=seq,
        at_unix_ms=1_767_225_600_000,
        uptime_s=number,
        cpu_ratio=0.25,
        memory_available_bytes=3_221_225_472,
        disk_free_bytes=21_474_836_480,
        supervisor_rss_bytes=48_234_496,
        runtime_rss_bytes=142_606_336,
        temperature_c=51.5,
    )
