"""Method C: a disk that fails for a while, with each error, at calls all over a device's life."""

import contextlib
import errno
import json
import os
import tempfile
from pathlib import Path

import pytest

from agent.adapters.outbox import Outbox
from tests.storage import tracer
from tests.storage.campaign import Campaign
from tests.storage.faults import CALLS, PARALLEL, fail_at
from tests.storage.kills import SHM, undisturbed
from tests.storage.soak import fault
from wire.errors import StorageError
from wire.topics import Event

pytestmark = [
    pytest.mark.usefixtures("can_trace"),
    pytest.mark.system,
    pytest.mark.slow,
    pytest.mark.timeout(3600),
]

SEED = int(os.environ.get("FAULT_SEED", "1"))
COUNT = int(os.environ.get("FAULTS", "150"))
LAST_READS = 32
"""Of two models that were confirmed: as the runtime starts anew, because another was removed, and as
what nothing needs any more is deleted."""


def test_a_device_lives_through_a_disk_that_fails_for_a_while():
    calls = undisturbed(SEED, CALLS)
    print(f"seed {SEED}: {COUNT} faults within {len(calls)} calls")  # noqa: T201 - to draw them again
    campaign = Campaign()
    campaign.run(fail_at, [fault(SEED, number, calls) for number in range(COUNT)], PARALLEL)
    print(campaign.table())  # noqa: T201
    assert not campaign.bad(), campaign.words()
    hit = [row for row in campaign.rows if row["calls"]]
    assert len(hit) > COUNT / 3, f"only {len(hit)} faults were met"
    codes = {code for row in hit for code, _ in row["refusals"]}
    assert codes <= {"state_unwritable", "state_unreadable", "storage_error", "disk_full"}, codes


def test_a_model_that_cannot_be_read_once_lasts():
    calls = undisturbed(SEED, CALLS)
    reads = [number for number, name in enumerate(calls, 1) if name == "read"][-LAST_READS:]
    campaign = Campaign()
    campaign.run(fail_at, [(SEED, "EIO", number, 1) for number in reads], PARALLEL)
    assert not campaign.bad(), campaign.words()
    assert sum(row["calls"] == ["read"] for row in campaign.rows) > LAST_READS / 2


BOOT = "b" * 16
WORDS = (b"one", b"two", b"three", b"four", b"five")
ROOM_BYTES = 16 * 4096
"""For two of these words: the tables take eight pages, and a word three beside those it may need for a split."""
WORD_BYTES = 3 * 4000
GAP = Event("cam-01", "gap").text
TRIES = 4
SYNCS = ("fsync", "fdatasync")


def keep_words(root, *, is_given_up):
    """Keep each word as the uplink does: tried again, at once here; or given up for the next one.

    Then look at what is there: each number from 1 on is a record or told as lost, once.
    """
    outbox = Outbox(root / "outbox.db", BOOT, max_bytes=ROOM_BYTES)
    (root / "opened").mkdir()
    given_up_count = 0
    for word in WORDS:
        payload = word * (WORD_BYTES // len(word))
        for _ in range(TRIES):
            try:
                outbox.append("t", lambda _seq, payload=payload: payload)
                break
            except StorageError:
                if is_given_up and word != WORDS[-1]:
                    given_up_count += 1
                    break
        else:
            raise AssertionError(f"{word}: the outbox takes nothing any more")
    for _ in range(TRIES):
        with contextlib.suppress(StorageError):
            outbox.tell_lost(GAP, lambda _seq, gap: json.dumps(gap.ranges).encode())
    rows = [waiting for _, waiting in outbox.waiting(len(WORDS))]
    told = [json.loads(row.payload) for row in rows if row.topic == GAP]
    told += [gap.ranges for gap in outbox.untold()]
    gone = [seq for ranges in told for first, last in ranges for seq in range(first, last + 1)]
    seqs = sorted([*gone, *(row.seq for row in rows)])
    assert seqs == list(range(1, len(seqs) + 1)), (gone, rows)
    word_count = len(seqs) - sum(row.topic == GAP for row in rows)
    assert len(WORDS) - given_up_count <= word_count <= len(WORDS), (gone, rows)
    assert any(row.payload.startswith(WORDS[-1]) for row in rows), rows
    outbox.close()
    return 0


def keep_words_while_syncs_fail(first, count, *, is_given_up):
    """Let `count` syncs in a row fail, the `first` one after the opening; return end and number of syncs."""
    met = []

    def decide(_number, name, _path):
        met.append(name)
        number = len(met) - met.index("mkdir") if "mkdir" in met else 0
        return -errno.EIO if name in SYNCS and first < number <= first + count else None

    with tempfile.TemporaryDirectory(dir=SHM if SHM.is_dir() else None) as folder:
        root = Path(folder)
        ended = tracer.run(
            lambda: keep_words(root, is_given_up=is_given_up), (*SYNCS, "mkdir"), root, decide
        )
    return ended.code, len(met) - met.index("mkdir") - 1


@pytest.mark.parametrize("is_given_up", [False, True], ids=["tried-again", "given-up"])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_an_outbox_whose_syncs_fail_keeps_each_record_once_and_goes_on(count, is_given_up):
    """Of two in a row the second may be that of the closing: a reopening finds the record then."""
    _, sync_count = keep_words_while_syncs_fail(1, 0, is_given_up=is_given_up)
    assert sync_count >= len(WORDS)
    for first in range(1, sync_count + 1):
        code, _ = keep_words_while_syncs_fail(first, count, is_given_up=is_given_up)
        assert code == 0, f"from sync {first} on"
