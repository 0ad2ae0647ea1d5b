"""A stretch of two ends' lives: records made, lost on the way, doubled, late; outages and kills at both.

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

from tests.outbox.ends import Controller, Device, Link, ack_payload, new_boot
from wire.link import Delivered

SHM = Path("/dev/shm")  # noqa: S108 - each place in it has a name of its own
"""Files in memory, which for a kill are as good as on a disk: syncs of the disk would take the most time."""
STEP_S = 0.5
LOSS_RATIO = 0.3
DOUBLE_RATIO = 0.05
LATE_STEPS = 5
"""A message comes up to so many steps later than it was sent, so others overtake it."""
CAP_BYTES = 256 * 1024
BATCH_STEPS = 8
"""The controller takes up what has come every four seconds, as one with very many devices."""
PER_STEP = 0.4
"""Records made, on average: four in five seconds, nearly what comes through such a network."""
KINDS = ("update", "inference", "vitals")
SHARES = (0.1, 0.45, 0.45)
OUTAGE_RATIO = 1 / 2000
OUTAGE_S = 240.0
"""On average: of the network, and of the controller. Records of ten minutes fit the cap."""
KILL_RATIO = 1 / 500
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


class Stretch:
    """See the module."""

    def __init__(self, root, seed, count):
        self.chance = np.random.default_rng(seed)
        self.network = Network(self.chance)
        self.link = Link(self.network)
        self.ledger = Ledger()
        self.now_s = 0.0
        self.kill_counts = {"device": 0, "controller": 0}
        self._count = count
        self._made = 0
        self._inbox = []
        self._up_at_s = self._there_at_s = 0.0
        (root / "device-0").mkdir()
        (root / "controller-0").mkdir()
        self.device = self._born(root / "device-0")
        self.controller = Controller(root / "controller-0")

    def _born(self, folder):
        boot = new_boot(self.chance)
        return Device(
            folder, boot, self.link, self.ledger, clock=lambda: self.now_s, cap_bytes=CAP_BYTES
        )

    def run(self):
        """Live until all that was made is stored, or told as lost and that is stored."""
        for _ in range(self._count * MAX_STEPS_PER_RECORD):
            self._draw_faults()
            self._step_device()
            self._step_controller()
            self.network.pass_time()
            self.now_s += STEP_S
            if self._is_over():
                return
        raise AssertionError(f"not over after {self.now_s} s: {len(self.device.outbox)} wait")

    def _is_over(self):
        if self._made < self._count or self.device.fuse.is_dead or self.controller.fuse.is_dead:
            return False
        outbox = self.device.outbox
        if not len(outbox) and outbox.has_losses:
            self._make()  # as the next vitals would: losses are told when something is stored
        return not len(outbox) and not outbox.has_losses

    def _draw_faults(self):
        draws = self.chance.random(4)
        lasts_s = self.chance.exponential(OUTAGE_S, 2)
        if draws[0] < OUTAGE_RATIO:
            self._up_at_s = self.now_s + lasts_s[0]
        if draws[1] < OUTAGE_RATIO:
            self._there_at_s = self.now_s + lasts_s[1]
        if draws[2] < KILL_RATIO:
            self.device.fuse.set(int(self.chance.integers(1, 60)))
        if draws[3] < KILL_RATIO:
            self.controller.fuse.set(int(self.chance.integers(1, 40)))

    def _step_device(self):
        self._connect()
        for delivery in self.network.arrived("down"):
            if self.link.is_up:
                self.device.uplink.acknowledged(delivery.payload)
        left = self._count - self._made
        for _ in range(min(left, int(self.chance.poisson(PER_STEP)))):
            self._make()
        self.device.uplink.tick(self.now_s)
        worst_bytes = self.device.outbox.file_bytes
        self.ledger.worst_bytes = max(self.ledger.worst_bytes, worst_bytes)
        if self.device.fuse.is_dead:
            self.kill_counts["device"] += 1
            self.link.is_up = False
            self.device = self._born(self.device.bury())

    def _connect(self):
        was_up, self.link.is_up = self.link.is_up, self.now_s >= self._up_at_s
        if self.link.is_up and not was_up:
            self.device.uplink.will()
            self.device.uplink.connected()
        elif was_up and not self.link.is_up:
            self.device.uplink.disconnected()

    def _make(self):
        if not self.device.fuse.is_dead:
            self._made += 1
            self.device.produce(str(self.chance.choice(KINDS, p=SHARES)), self._made)

    def _step_controller(self):
        is_there = self.now_s >= self._there_at_s
        arrived = self.network.arrived("up")
        self._inbox += arrived if is_there else []
        if self.network.step % BATCH_STEPS:
            return
        deliveries, self._inbox = self._inbox, []
        if deliveries:
            now_unix_ms = START_UNIX_MS + int(self.now_s * 1000)
            for _, message in self.controller.store_batch(deliveries, now_unix_ms):
                self.network.to_device(*ack_payload(message))
        if self.controller.fuse.is_dead:
            self.kill_counts["controller"] += 1
            self.controller, self._inbox = Controller(self.controller.bury()), []
            if self.link.is_up and self.chance.random() >= LOSS_RATIO:
                self.device.uplink.controller_seen()

    def close(self):
        self.device.outbox.close()
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
        stretch.run()
        return {"seed": seed, **stretch.judge()}
    finally:
        stretch.close()
        shutil.rmtree(root, ignore_errors=True)
