"""A kill at every system call that writes, of a ring that is filled and given away: no row is torn or given twice."""

import itertools
import shutil
import signal
import tempfile
from pathlib import Path

import pytest

from agent.adapters.capture_ring import Bounds, CaptureRing
from agent.core.captured import CaptureRules
from fleet.capture.packs import read_pack
from tests.agent.captured import row
from tests.storage import tracer
from tests.storage.kills import SHM, killing
from tests.storage.witness import Memory, Witness
from wire.capture import CaptureRequest

pytestmark = [pytest.mark.usefixtures("can_trace"), pytest.mark.system, pytest.mark.slow]

BOUNDS = Bounds(max_bytes=256 * 1024, max_rows=8, max_age_ms=2**50)
REQUEST = CaptureRequest(id="c-1", model="digits", limit=5, until_unix_ms=2**50)
BATCH = 3
BATCHES = 4


@pytest.fixture
def place():
    root = Path(tempfile.mkdtemp(dir=SHM if SHM.is_dir() else None, prefix="modelfleet-"))
    yield root
    shutil.rmtree(root)


def live(root, witness):
    """Fill a ring over its cap, and give some of it away; return the exit code."""
    ring = CaptureRing(root / "capture.db", BOUNDS)
    for batch in range(BATCHES):
        ring.add([row(batch * BATCH + n) for n in range(BATCH)], 0)
        witness.tell("added", batch)
    ring.ask(REQUEST)
    witness.tell("asked")
    while (body := ring.next_pack(0)) is not None:
        witness.tell("sent", times(body))
        ring.confirm(0, is_wanted=not read_pack(body).head.is_last)
        witness.tell("confirmed")
    ring.close()
    return 0


def times(body):
    return [int(t) for rows in read_pack(body).groups for t in rows.at_unix_ms]


def kill_at(point, root):
    """Kill a life at its call of this number and look at what is left; return that call, or None."""
    memory = Memory()
    try:
        witness = Witness(memory.descriptor)
        ended = tracer.run(lambda: live(root, witness), tracer.WRITING, root, killing(point))
        assert ended.code in (0, -signal.SIGKILL)
        check(root, memory.lines())
    finally:
        memory.close()
    return ended.calls[-1][0] if ended.code else None


def check(root, told):
    """Hold what a new start finds against what was told before the kill."""
    ring = CaptureRing(root / "capture.db", BOUNDS)
    added = max((line[1] for line in told if line[0] == "added"), default=-1)
    sent = [line[1] for line in told if line[0] == "sent"]
    confirmed = sum(line[0] == "confirmed" for line in told)
    assert not ring.was_damaged
    facts = ring.facts(CaptureRules(0, 0))
    given = facts.uploaded_count
    assert given in (sum(map(len, sent[:confirmed])), sum(map(len, sent[: confirmed + 1])))
    job = ring.job()
    assert job is not None or ["asked"] not in told
    if sent and given < len(sent[0]):
        assert times(ring.next_pack(0)) == sent[0], "what was sent is sent again as it was"
    # Whole batches, the newest of them, less what was given.
    whole = [(batch + 1) * BATCH for batch in (added, added + 1)]
    kept = rows_of(ring)
    assert kept == list(range(kept[0], kept[-1] + 1)) if kept else True
    assert (kept[-1] + 1 if kept else 0) in whole
    assert len(kept) == min(BOUNDS.max_rows, kept[-1] + 1) - given if kept else added < 0
    ring.close()


def rows_of(ring):
    """Return the instants of all rows, oldest first."""
    with ring._database.use() as db:
        found = db.execute("SELECT at_unix_ms FROM row ORDER BY number").fetchall()
    return [at for (at,) in found]


def test_a_kill_at_any_call_leaves_whole_rows_and_gives_none_twice(place):
    hit = []
    for point in itertools.count(1):
        folder = place / str(point)
        folder.mkdir()
        if (call := kill_at(point, folder)) is None:
            break
        hit.append(call)
        shutil.rmtree(folder)
    print(f"{len(hit)} kill points")  # noqa: T201
    assert {"fdatasync", "pwrite64"} <= set(hit) or {"fsync", "pwrite64"} <= set(hit), set(hit)
    assert len(hit) >= 40
