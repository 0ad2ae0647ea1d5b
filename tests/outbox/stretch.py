"""A stretch of the lives of eight devices and a controller: records made, lost on the way, doubled, late; outages and kills at both ends.

All chance is drawn from a seed, and time is a number that the stretch moves: a seed is the same stretch
again, on any machine.
"""

import collections
import hashlib
import json
import shutil
import sqlite3
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tests.outbox.ends import DEVICES, Controller, Device, Link, ack_payload, new_boot
from wire.link import Delivered
from wire.topics import Ack

SHM = Path("/dev/shm")  # noqa: S108 - each place in it has a name of its own
"""Files in memory, which for a kill are as good as on a disk: syncs of the disk would take the most time."""
STEP_S = 1.0
LOSS_RATIO = 0.3
DOUBLE_RATIO = 0.05
LATE_STEPS = 3
"""A message comes up to so many steps later than it was sent, so others overtake it."""
CAP_BYTES = 128 * 1024
BATCH_STEPS = 4
"""The controller takes up what has come every four seconds, as one with very many devices."""
PER_STEP = 0.8
"""Records made by a device, on average: four in five seconds, nearly what comes through such a network."""
KINDS = ("update", "inference", "vitals")
SHARES = (0.1, 0.45, 0.45)
OUTAGE_RATIO = 1 / 1000
OUTAGE_S = 240.0
"""On average: of the network, and of the controller. Records of four minutes fit the cap."""
KILL_RATIO = 1 / 200
"""Of each end, a step."""
MAX_STEPS_PER_RECORD = 10
START_UNIX_MS = 1_767_225_600_000


@dataclass
class Ledger:
    """What the device was told that it has: by boot and number.

    Attributes:
        tried: Digest of each payload that was handed to the outbox, a killed one's included.
        written: Those that the outbox had taken before a kill.
        worst_bytes: The most that the outbox's file took.
    """

    tried: dict = field(default_factory=dict)
    written: set = field(default_factory=set)
    worst_bytes: int = 0


class Network:
    """Loses, doubles and delays what it is given, in both directions."""

    def __init__(self, chance):
        self.sent_count = 0
        self._chance = chance
        self.step = 0
        self._queues = {"up": collections.defaultdict(list), "down": collections.defaultdict(list)}

    def to_controller(self, topic, payload):
        self._send("up", topic, payload)

    def to_device(self, topic, payload):
        self._send("down", topic, payload)

    def _send(self, way, topic, payload):
        self.sent_count += 1
        draws = self._chance.random(3)
        if draws[0] < LOSS_RATIO:
            return
        for draw in draws[1 : 3 if draws[0] < LOSS_RATIO + DOUBLE_RATIO else 2]:
            due = self.step + int(draw * (LATE_STEPS + 1))
            self._queues[way][due].append(Delivered(topic, payload, retained=False))

    def arrived(self, way):
        """Return what comes in this step."""
        return self._queues[way].pop(self.step, [])

    def pass_time(self):
        self.step += 1


class Party:
    """A device over all its lives, and whether it is connected."""

    def __init__(self, stretch, folder, name):
        self._stretch = stretch
        self._name = name
        self.link = Link(stretch.network)
        self.up_at_s = 0.0
        self.made_count = 0
        folder.mkdir()
        self.device = self._born(folder)

    def _born(self, folder):
        stretch = self._stretch
        return Device(
            folder,
            self._name,
            new_boot(stretch.chance),
            self.link,
            stretch.ledger,
            clock=lambda: stretch.now_s,
            cap_bytes=CAP_BYTES,
        )

    def step(self, left_count, arrived):
        """Take what came, make up to so many records, and be killed if the time has come."""
        self._connect()
        for delivery in arrived:
            if self.link.is_up:
                self.device.uplink.acknowledged(delivery.payload)
        for _ in range(min(left_count, int(self._stretch.chance.poisson(PER_STEP)))):
            self.make()
        self.device.uplink.tick(self._stretch.now_s)
        if self.device.fuse.is_dead:
            self._stretch.kill_counts["device"] += 1
            self.link.is_up = False
            self.device = self._born(self.device.bury())

    def _connect(self):
        was_up, self.link.is_up = self.link.is_up, self._stretch.now_s >= self.up_at_s
        if self.link.is_up and not was_up:
            self.device.uplink.will()
            self.device.uplink.connected()
        elif was_up and not self.link.is_up:
            self.device.uplink.disconnected()

    def make(self):
        """Record something, unlike all before."""
        if not self.device.fuse.is_dead:
            self.made_count += 1
            kind = str(self._stretch.chance.choice(KINDS, p=SHARES))
            self.device.produce(kind, self.made_count)

    def is_done(self):
        """Whether nothing waits, and nothing is to be told."""
        outbox = self.device.outbox
        if self.device.fuse.is_dead or len(outbox):
            return False
        if outbox.has_losses:
            self.make()  # as the next vitals would: losses are told when something is stored
            return False
        return True


class Stretch:
    """See the module."""

    def __init__(self, root, seed, count):
        self.chance = np.random.default_rng(seed)
        self.network = Network(self.chance)
        self.ledger = Ledger()
        self.now_s = 0.0
        self.kill_counts = {"device": 0, "controller": 0}
        self._count = count // len(DEVICES)
        self._inbox = []
        self._there_at_s = 0.0
        (root / "controller-0").mkdir()
        self.parties = {}
        for name in DEVICES:
            (root / name).mkdir()
            self.parties[name] = Party(self, root / name / "life-0", name)
        self.controller = Controller(root / "controller-0")

    def run(self):
        """Live until all that was made is stored, or told as lost and that is stored."""
        for _ in range(self._count * MAX_STEPS_PER_RECORD):
            self._draw_faults()
            arrived = self.network.arrived("down")
            for name, party in self.parties.items():
                mine = [delivery for delivery in arrived if delivery.topic == Ack(name).text]
                party.step(self._count - party.made_count, mine)
            self._step_controller()
            self.network.pass_time()
            self.now_s += STEP_S
            if self._is_over():
                return
        raise AssertionError(f"not over after {self.now_s} s")

    def _is_over(self):
        if any(party.made_count < self._count for party in self.parties.values()):
            return False
        is_done = [party.is_done() for party in self.parties.values()]  # each has its turn
        return all(is_done) and not self.controller.fuse.is_dead

    def _draw_faults(self):
        draws = self.chance.random(2 * (len(self.parties) + 1))
        if draws[0] < OUTAGE_RATIO:
            self._there_at_s = self.now_s + self.chance.exponential(OUTAGE_S)
        if draws[1] < 4 * KILL_RATIO:  # there is one, and it has as much to lose as all the devices
            self.controller.fuse.set(int(self.chance.integers(1, 40)))
        for party, outage, kill in zip(
            self.parties.values(), draws[2::2], draws[3::2], strict=True
        ):
            if outage < OUTAGE_RATIO:
                party.up_at_s = self.now_s + self.chance.exponential(OUTAGE_S)
            if kill < KILL_RATIO:
                party.device.fuse.set(int(self.chance.integers(1, 60)))

    def _step_controller(self):
        arrived = self.network.arrived("up")
        self._inbox += arrived if self.now_s >= self._there_at_s else []
        if self.network.step % BATCH_STEPS:
            return
        deliveries, self._inbox = self._inbox, []
        if deliveries:
            now_unix_ms = START_UNIX_MS + int(self.now_s * 1000)
            for device, message in self.controller.store_batch(deliveries, now_unix_ms):
                self.network.to_device(*ack_payload(device, message))
        if self.controller.fuse.is_dead:
            self.kill_counts["controller"] += 1
            self.controller, self._inbox = Controller(self.controller.bury()), []
            for party in self.parties.values():
                if party.link.is_up and self.chance.random() >= LOSS_RATIO:
                    party.device.uplink.controller_seen()

    def close(self):
        for party in self.parties.values():
            party.device.close()
        self.controller.store.close()

    def judge(self):
        """Hold what is stored against what was written; return the row of the table."""
        path = self.controller.fuse.folder / "fleet.db"
        with sqlite3.connect(path) as store:
            rows = store.execute("SELECT boot, seq, channel, body FROM records").fetchall()
            (event_count,) = store.execute(
                "SELECT count(*) FROM events WHERE kind IN ('update', 'alarm')"
            ).fetchone()
        store.close()
        stored = {(boot, seq) for boot, seq, _, _ in rows}
        gaps = [json.loads(body) for _, _, channel, body in rows if channel == "event/gap"]
        told = [
            (gap["lost_boot"], seq)
            for gap in gaps
            for span in gap["ranges"]
            for seq in range(span["first"], span["last"] + 1)
        ]
        tried, written = self.ledger.tried, self.ledger.written
        digests = {(b, s): hashlib.sha256(body.encode()).digest() for b, s, _, body in rows}
        stored_event_count = sum(channel.startswith("event/") for _, _, channel, _ in rows)
        return {
            "written": len(written),
            "stored": len(stored & written),
            "dropped": len(set(told) - stored),
            "lost": len(written - stored - set(told)),
            "double": len(rows) - len(stored) + event_count - stored_event_count,
            "changed": sum(digests[key] != tried[key] for key in stored & tried.keys()),
            "untrue": len(told) - len(set(told)) + len((stored | set(told)) - tried.keys()),
            "late": len(set(told) & stored),
            "gaps": len(gaps),
            "miscounted": sum(
                gap["count"] != sum(s["last"] - s["first"] + 1 for s in gap["ranges"])
                or gap["first"] != gap["ranges"][0]["first"]
                or gap["last"] != gap["ranges"][-1]["last"]
                for gap in gaps
            ),
            "over_ratio": max(0.0, self.ledger.worst_bytes / CAP_BYTES - 1),
            "sent": self.network.sent_count,
            "device_kills": self.kill_counts["device"],
            "controller_kills": self.kill_counts["controller"],
            "hours": self.now_s / 3600,
        }


def live(seed, count):
    """Live a stretch of so many records; return its row."""
    root = Path(tempfile.mkdtemp(dir=SHM if SHM.is_dir() else None, prefix="modelfleet-"))
    stretch = Stretch(root, seed, count)
    try:
        try:
            stretch.run()
        finally:
            stretch.close()
        return {"seed": seed, **stretch.judge()}
    finally:
        shutil.rmtree(root, ignore_errors=True)
