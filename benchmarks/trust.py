"""What signed metadata costs a device: time of a refresh, and memory of the client that does it."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from models import Models
from result import Line, Outcome

from tests.conformance.device import DEVICE, MODEL, Device
from tests.conformance.repository import Repository
from wire.trust import model_role

ROLE = model_role(MODEL)
RELEASES = 50
RUNS, QUICK_RUNS = 200, 20
SIGNATURES_STEADY = 7
"""That ngclient checks when nothing is new: the root twice, then timestamp (on disk and delivered),
snapshot, targets and the model's document."""
MEASURE_MEMORY = """
import os
def rss():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
import agent.service
before = rss()
import agent.adapters.trust_view
print(rss() - before)
"""


def measure(directory: Path, models: Models, *, is_quick: bool) -> Outcome:
    """Refresh by the device's own store, beside the signatures alone."""
    repository = Repository()
    repository.add_director()
    repository.add_model(MODEL)
    for number in range(1, RELEASES + 1):
        repository.release(MODEL, f"{number}.0.0", number)
    repository.publish_all(ROLE, "targets")
    directory.mkdir(parents=True)
    device = Device(directory, repository.bootstrap)
    marks, store = device.open()
    now_unix_ms = time.time_ns() // 1_000_000

    def refresh() -> float:
        began_s = time.perf_counter()
        store.refresh(repository.fetch, (MODEL,), now_unix_ms=now_unix_ms)
        return 1000 * (time.perf_counter() - began_s)

    refresh()
    steady, fresh, floor = [], [], []
    for _ in range(QUICK_RUNS if is_quick else RUNS):
        steady.append(refresh())
        floor.append(_signatures_alone(repository))
        repository.publish_all(ROLE, "targets")
        fresh.append(refresh())
    marks.close()
    memory = [_memory_mb() for _ in range(3 if is_quick else 10)]
    return Outcome(
        title="Signed metadata on the device",
        how=(
            f"A store with one model of {RELEASES} releases, for device {DEVICE}, on this disk. Steady: the "
            "same documents are delivered again. New: timestamp, snapshot, targets and the model's "
            "document are new, and each is on disk durably before the refresh ends. The floor is the "
            f"{SIGNATURES_STEADY} Ed25519 signatures of a steady refresh alone, over the same bytes. Memory is resident, "
            "beyond that of a process that has imported the agent, `cryptography` with it."
        ),
        why=(
            "Parsing and serialising JSON canonically is most of it: the client verifies what is on disk "
            "anew each time. New documents add a sync of each file and of its directory, and a commit of the marks."
        ),
        lines=[
            Line("steady refresh", "ms", steady, "the signatures alone", floor),
            Line("refresh with everything new", "ms", fresh, "the signatures alone", floor),
            Line("memory of the client", "MB", memory),
        ],
        notes=[
            f"The fastest steady refresh took {min(steady):.1f} ms, the fastest with everything new {min(fresh):.1f} ms."
        ],
    )


def _signatures_alone(repository: Repository) -> float:
    key = repository.signers[ROLE][0]
    public = Ed25519PublicKey.from_public_bytes(bytes.fromhex(key.public_key.keyval["public"]))
    body = repository.sign(ROLE)
    signature = bytes.fromhex(key.sign(body).signature)
    began_s = time.perf_counter()
    for _ in range(SIGNATURES_STEADY):
        public.verify(signature, body)
    return 1000 * (time.perf_counter() - began_s)


def _memory_mb() -> float:
    """Return what python-tuf's client adds to a process that has imported the agent."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE_MEMORY], capture_output=True, text=True, check=True
    )
    return int(done.stdout) / 1e6
