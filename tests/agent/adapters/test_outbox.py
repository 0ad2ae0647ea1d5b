import sqlite3

import numpy as np
import pytest

from agent.adapters.database import open_database
from agent.adapters.losses import Gap
from agent.adapters.outbox import Outbox
from agent.adapters.outbox_rows import Pages
from agent.core.records import LEAST_BYTES, RecordClass
from wire.errors import StorageError
from wire.messages import MAX_GAP_RANGES, StoredRange
from wire.topics import Event, Telemetry

BOOT, OLD = "b" * 16, "a" * 16
EVENT = Event("cam-01", "update").text
WINDOW = Telemetry("cam-01", "inference").text
VITALS = Telemetry("cam-01", "vitals").text
CAP = 128 * 1024


def fill(outbox, count, size=10, topic=VITALS):
    return [outbox.append(topic, lambda seq: b"%0*d" % (size, seq)) for _ in range(count)]


def seqs(outbox, **which):
    return [w.seq for _, w in outbox.waiting(100_000, **which)]


def lost(outbox):
    """Return the numbers told of as lost, by boot; no number twice."""
    found = {}
    for gap in outbox.untold():
        for first, last in gap.ranges:
            found.setdefault(gap.boot, []).extend(range(first, last + 1))
    for numbers in found.values():
        assert len(set(numbers)) == len(numbers)
    return {boot: sorted(numbers) for boot, numbers in found.items()}


def test_records_survive_and_keep_their_order_over_boots(tmp_path):
    path = tmp_path / "outbox.db"
    first = Outbox(path, OLD)
    fill(first, 3)
    first.close()
    second = Outbox(path, BOOT)
    fill(second, 2)
    keys = [(w.boot, w.seq) for _, w in second.waiting(10)]
    assert keys == [(OLD, 1), (OLD, 2), (OLD, 3), (BOOT, 1), (BOOT, 2)]
    assert [w.seq for _, w in second.waiting(2, after=2)] == [3, 1]


def test_classes_wait_in_the_order_they_came_together_and_apart(tmp_path):
    outbox = Outbox(tmp_path / "outbox.db", BOOT)
    for topic in (EVENT, VITALS, WINDOW, EVENT, WINDOW, VITALS):
        fill(outbox, 1, topic=topic)
    assert seqs(outbox) == [1, 2, 3, 4, 5, 6]
    assert seqs(outbox, classes=[RecordClass.EVENT]) == [1, 4]
    assert seqs(outbox, classes=[RecordClass.WINDOW, RecordClass.VITALS], after=2) == [3, 5, 6]
    assert seqs(outbox, until=4, after=1) == [2, 3, 4]
    assert [outbox.before_newest(count) for count in (0, 1, 3, 4, 9)] == [6, 5, 2, 0, 0]


def test_exactly_the_acknowledged_ones_go(tmp_path):
    outbox = Outbox(tmp_path / "outbox.db", BOOT)
    fill(outbox, 10)
    ranges = [StoredRange(boot=BOOT, first=2, last=4), StoredRange(boot=BOOT, first=9, last=9)]
    assert outbox.delete(ranges) == 4
    assert outbox.delete(ranges) == 0
    assert seqs(outbox) == [1, 5, 6, 7, 8, 10]
    assert outbox.delete([StoredRange(boot=OLD, first=0, last=100)]) == 0


def test_the_cap_drops_the_oldest_and_every_loss_is_known_once(tmp_path):
    outbox = Outbox(tmp_path / "outbox.db", BOOT, max_bytes=CAP)
    dropped_count = sum(taken.dropped_count for taken in fill(outbox, 1000, size=300))
    kept = seqs(outbox)
    assert kept == list(range(kept[0], 1001))
    assert outbox.untold() == [Gap(BOOT, ((1, kept[0] - 1),), "records_dropped")]
    assert dropped_count == kept[0] - 1 > 500


@pytest.mark.parametrize("size", [(250, 350), (350, 450), (20, 3000)])
def test_the_file_stays_below_its_cap_whatever_comes_and_goes(tmp_path, size):
    """The cap is on the file itself: acknowledgements leave holes in pages, and classes alternate."""
    path, chance, cap_bytes = tmp_path / "outbox.db", np.random.default_rng(size), 400 * 1024
    outbox, worst_bytes = Outbox(path, BOOT, max_bytes=cap_bytes), 0
    for number in range(1, 2001):
        topic = (VITALS, WINDOW, EVENT)[chance.choice(3, p=[0.5, 0.4, 0.1])]
        fill(outbox, 1, int(chance.integers(*size)), topic)
        if chance.random() < 0.2:
            first = int(chance.integers(max(1, number - 500), number + 1))
            last = first + int(chance.integers(3))
            outbox.delete([StoredRange(boot=BOOT, first=first, last=last)])
        pages = Pages.of(outbox._database._connection)
        worst_bytes = max(worst_bytes, pages.count * pages.size_bytes, path.stat().st_size)
    assert lost(outbox)
    assert 0.95 * cap_bytes < worst_bytes <= 1.01 * cap_bytes


def test_the_lowest_class_goes_first_and_events_only_when_nothing_else_is_left(tmp_path):
    outbox = Outbox(tmp_path / "outbox.db", BOOT, max_bytes=CAP)
    fill(outbox, 20, 400, EVENT)
    fill(outbox, 100, 400, VITALS)
    fill(outbox, 100, 400, WINDOW)

    def counts():
        return [len(seqs(outbox, classes=[kind])) for kind in RecordClass]

    while counts()[0]:
        events, windows = counts()[2], counts()[1]
        fill(outbox, 1, 400, WINDOW)
        assert counts()[2] == events
        assert counts()[1] == windows + 1 or counts()[0] == 0
    fill(outbox, 50, 400, WINDOW)  # now the oldest windows go for newer ones
    windows = seqs(outbox, classes=[RecordClass.WINDOW])
    assert windows == list(range(windows[0], 1 + max(windows)))
    assert seqs(outbox, classes=[RecordClass.EVENT]) == list(range(1, 21))
    fill(outbox, 1, 400, VITALS)
    assert counts()[0] == 1, "what came last has a place that was free"
    while counts()[1]:
        fill(outbox, 1, 400, EVENT)
        assert seqs(outbox, classes=[RecordClass.EVENT])[0] == 1 or counts()[1] == 0
    fill(outbox, 50, 400, EVENT)
    assert 1 not in seqs(outbox), "nothing lower was left"
    last = max(seqs(outbox))
    (taken,) = fill(outbox, 1, 4000, VITALS)
    assert (taken.is_kept, taken.dropped_count) == (False, 1), "it has nothing to make way for it"
    assert sorted(seqs(outbox) + lost(outbox)[BOOT]) == list(range(1, last + 2))


def test_losses_of_alternating_classes_are_told_exactly(tmp_path):
    outbox = Outbox(tmp_path / "outbox.db", BOOT, max_bytes=CAP)
    for _ in range(400):
        fill(outbox, 1, 200, WINDOW)
        fill(outbox, 1, 200, VITALS)
    told, written_count = [], 800
    while outbox.has_losses:
        taken = outbox.tell_lost(EVENT, lambda _seq, gap: told.append(gap) or b"told")
        written_count += 1
        assert taken.record.seq == written_count
    numbers = [seq for gap in told for first, last in gap.ranges for seq in range(first, last + 1)]
    assert sorted(numbers + seqs(outbox)) == list(range(1, written_count + 1))
    assert len(told) > 1
    assert max(len(gap.ranges) for gap in told) == MAX_GAP_RANGES
    assert outbox.tell_lost(EVENT, lambda *_: b"") is None


def test_a_loss_whose_acknowledgement_comes_late_is_none(tmp_path):
    outbox = Outbox(tmp_path / "outbox.db", BOOT, max_bytes=CAP)
    fill(outbox, 1000, 300)
    (gap,) = outbox.untold()
    last = gap.ranges[0][1]
    outbox.delete(
        [StoredRange(boot=BOOT, first=5, last=9), StoredRange(boot=BOOT, first=1, last=2)]
    )
    assert outbox.untold()[0].ranges == ((3, 4), (10, last))
    outbox.delete([StoredRange(boot=BOOT, first=0, last=last)])
    assert not outbox.has_losses
    assert outbox.untold() == []


def test_losses_survive_a_restart_and_boots_are_told_apart(tmp_path):
    path = tmp_path / "outbox.db"
    first = Outbox(path, OLD, max_bytes=CAP)
    fill(first, 400, 300)
    before = lost(first)[OLD]
    first.close()
    second = Outbox(path, BOOT, max_bytes=CAP)
    assert second.has_losses
    assert lost(second) == {OLD: before}
    fill(second, 400, 300)
    assert lost(second)[OLD] == list(range(1, 401))
    assert lost(second)[BOOT][0] == 1
    gap = []
    second.tell_lost(EVENT, lambda _seq, found: gap.append(found) or b"")
    assert gap == [Gap(OLD, ((1, 400),), "records_dropped")]


def test_a_disk_with_little_room_lets_the_file_grow_no_more(tmp_path):
    path = tmp_path / "outbox.db"
    outbox = Outbox(path, BOOT)
    fill(outbox, 1000, 300)
    outbox.close()
    size_bytes = path.stat().st_size
    outbox = Outbox(path, BOOT[::-1], min_free_bytes=2**60)
    fill(outbox, 500, 300)
    fill(outbox, 1, 300, EVENT)
    outbox.close()
    assert path.stat().st_size <= 1.01 * size_bytes
    outbox = Outbox(path, OLD)
    assert {gap.reason for gap in outbox.untold()} == {"disk_full"}
    assert len(seqs(outbox, classes=[RecordClass.EVENT])) == 1


def test_an_empty_outbox_has_a_little_room_on_the_fullest_disk(tmp_path):
    path = tmp_path / "outbox.db"
    outbox = Outbox(path, BOOT, min_free_bytes=2**60)
    fill(outbox, 500, 300)
    assert 100 < len(outbox) < 500
    outbox.close()
    assert path.stat().st_size <= 1.01 * LEAST_BYTES


def test_a_lock_costs_neither_a_record_nor_a_number(tmp_path):
    path = tmp_path / "outbox.db"
    outbox = Outbox(path, BOOT, max_bytes=CAP)
    fill(outbox, 50)
    outbox._database._connection.execute("PRAGMA busy_timeout=0")
    other = open_database(path)
    other.execute("BEGIN IMMEDIATE")
    for _ in range(60):
        with pytest.raises(StorageError, match="locked"):
            fill(outbox, 1)
    with pytest.raises(StorageError, match="locked"):
        outbox.delete([StoredRange(boot=BOOT, first=1, last=9)])
    assert seqs(outbox) == list(range(1, 51))
    other.rollback()
    fill(outbox, 1)
    assert seqs(outbox) == list(range(1, 52))


def test_room_is_not_made_for_a_record_that_cannot_be_kept(tmp_path):
    outbox = Outbox(tmp_path / "outbox.db", BOOT, max_bytes=CAP)
    fill(outbox, 1000, 300)
    before = seqs(outbox), outbox.untold()
    outbox._database._connection.execute(
        "CREATE TRIGGER full BEFORE INSERT ON record BEGIN SELECT raise(FAIL, 'x'); END"
    )
    with pytest.raises(StorageError):
        fill(outbox, 1, size=20_000)
    assert (seqs(outbox), outbox.untold()) == before
    outbox._database._connection.execute("DROP TRIGGER full")
    ((taken),) = fill(outbox, 1, size=20_000)
    assert taken.dropped_count >= 40
    assert sorted(seqs(outbox) + lost(outbox)[BOOT]) == list(range(1, 1002))


def test_what_cannot_be_opened_takes_records_when_it_can(tmp_path):
    path = tmp_path / "outbox.db"
    outbox = Outbox(path, OLD)
    fill(outbox, 2)
    outbox.close()
    (index := tmp_path / "outbox.db-shm").mkdir()
    outbox = Outbox(path, BOOT, can_wait=True)
    assert outbox.fault.code == "state_unwritable"
    with pytest.raises(StorageError, match="cannot write"):
        fill(outbox, 1)
    index.rmdir()
    fill(outbox, 1)
    keys = [(w.boot, w.seq) for _, w in outbox.waiting(10)]
    assert (keys, outbox.fault) == ([(OLD, 1), (OLD, 2), (BOOT, 1)], None)


def older_file(path, columns=", sha256 BLOB"):
    """Return a connection to an outbox as the agent made it that knew no classes."""
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA journal_mode=WAL")
    db.execute(
        "CREATE TABLE record (position INTEGER PRIMARY KEY AUTOINCREMENT, boot TEXT, seq INTEGER,"
        f" topic TEXT, payload BLOB{columns}, UNIQUE (boot, seq))"
    )
    return db


def older_rows(db, topics, first=1, boot=OLD):
    """Write records as that agent did, with numbers from `first` on."""
    for seq, topic in enumerate(topics, first):
        db.execute(
            "INSERT INTO record (boot, seq, topic, payload) VALUES (?, ?, ?, ?)",
            (boot, seq, topic, b"%d" % seq),
        )


MIXED = [VITALS, EVENT, WINDOW, VITALS, WINDOW, EVENT]


@pytest.mark.parametrize("columns", ["", ", sha256 BLOB"], ids=["no-digests", "digests"])
def test_the_file_of_an_older_agent_is_taken_over_in_its_order(tmp_path, columns):
    path = tmp_path / "outbox.db"
    db = older_file(path, columns)
    older_rows(db, MIXED)
    db.close()
    outbox = Outbox(path, BOOT)
    assert seqs(outbox) == [1, 2, 3, 4, 5, 6]
    assert seqs(outbox, classes=[RecordClass.EVENT]) == [2, 6]
    assert seqs(outbox, classes=[RecordClass.VITALS]) == [1, 4]
    fill(outbox, 1, topic=EVENT)
    assert [(w.boot, w.seq) for _, w in outbox.waiting(9, after=5)] == [(OLD, 6), (BOOT, 1)]
    outbox.close()
    assert seqs(Outbox(path, "c" * 16)) == [1, 2, 3, 4, 5, 6, 1]


def test_an_older_agent_may_come_back_for_a_while(tmp_path):
    path = tmp_path / "outbox.db"
    outbox = Outbox(path, OLD)
    for topic in MIXED:
        fill(outbox, 1, topic=topic)
    outbox.close()
    db = sqlite3.connect(path, isolation_level=None)
    older_rows(db, MIXED, boot="d" * 16)
    db.close()
    outbox = Outbox(path, BOOT)
    keys = [(w.boot[0], w.seq) for _, w in outbox.waiting(99)]
    assert sorted(keys) == [(boot, seq) for boot in "ad" for seq in range(1, 7)]
    classes = [RecordClass.EVENT]
    assert [w.seq for _, w in outbox.waiting(99, classes=classes)] == [2, 6, 2, 6]
    assert [w.seq for _, w in outbox.waiting(99, classes=[RecordClass.VITALS])] == [1, 4, 1, 4]


def test_of_a_damaged_outbox_losses_are_saved_too(tmp_path):
    damaged, path = tmp_path / "damaged.db", tmp_path / "outbox.db"
    outbox = Outbox(damaged, OLD, max_bytes=CAP)
    for _ in range(300):
        fill(outbox, 1, 200, WINDOW)
        fill(outbox, 1, 200, VITALS)
    before = outbox.untold()
    keys = [(w.boot, w.seq) for _, w in outbox.waiting(10_000)]
    outbox.close()
    outbox = Outbox(path, BOOT)
    assert outbox.adopt(damaged) == len(keys)
    assert outbox.untold() == before
    assert [(w.boot, w.seq) for _, w in outbox.waiting(10_000)] == keys
