import pytest

from agent.adapters.database import open_database
from agent.adapters.outbox import Gap, Outbox
from wire.errors import StorageError
from wire.messages import StoredRange

BOOT, OLD = "b" * 16, "a" * 16


def fill(outbox, count, size=10):
    return [outbox.append("t", lambda seq: b"%0*d" % (size, seq)) for _ in range(count)]


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


def test_exactly_the_acknowledged_ones_go(tmp_path):
    outbox = Outbox(tmp_path / "outbox.db", BOOT)
    fill(outbox, 10)
    ranges = [StoredRange(boot=BOOT, first=2, last=4), StoredRange(boot=BOOT, first=9, last=9)]
    assert outbox.delete(ranges) == 4
    assert outbox.delete(ranges) == 0
    assert [w.seq for _, w in outbox.waiting(20)] == [1, 5, 6, 7, 8, 10]
    assert outbox.delete([StoredRange(boot=OLD, first=0, last=100)]) == 0


def test_the_cap_drops_the_oldest_and_names_the_gap(tmp_path):
    outbox = Outbox(tmp_path / "outbox.db", BOOT, max_bytes=1000)
    results = fill(outbox, 300, size=9)
    gaps = [gap for _, found in results for gap in found]
    kept = [w.seq for _, w in outbox.waiting(1000)]
    assert gaps[0].first == 1
    assert kept == list(range(kept[0], 301))
    dropped = sorted(n for gap in gaps for n in range(gap.first, gap.last + 1))
    assert dropped == list(range(1, kept[0])), "every loss is in a gap, none twice"
    assert sum(gap.count for gap in gaps) == len(dropped)
    assert len(kept) * 10 <= 1000


def test_a_gap_over_two_boots_is_told_apart(tmp_path):
    path = tmp_path / "outbox.db"
    first = Outbox(path, OLD, max_bytes=1000)
    fill(first, 5)
    first.close()
    second = Outbox(path, BOOT, max_bytes=1000)
    gaps = [gap for _, found in fill(second, 1, size=990) for gap in found]
    assert gaps == [Gap(OLD, 1, 5, 5)]


def test_a_lock_costs_neither_a_record_nor_a_number(tmp_path):
    path = tmp_path / "outbox.db"
    outbox = Outbox(path, BOOT, max_bytes=1000)
    fill(outbox, 50)
    outbox._database._connection.execute("PRAGMA busy_timeout=0")
    other = open_database(path)
    other.execute("BEGIN IMMEDIATE")
    for _ in range(60):  # enough that older ones would have to make room
        with pytest.raises(StorageError, match="locked"):
            fill(outbox, 1)
    with pytest.raises(StorageError, match="locked"):
        outbox.delete([StoredRange(boot=BOOT, first=1, last=9)])
    assert [w.seq for _, w in outbox.waiting(100)] == list(range(1, 51))
    other.rollback()
    fill(outbox, 1)
    assert [w.seq for _, w in outbox.waiting(100)] == list(range(1, 52))


def test_room_is_not_made_for_a_record_that_cannot_be_kept(tmp_path):
    outbox = Outbox(tmp_path / "outbox.db", BOOT, max_bytes=1000)
    fill(outbox, 90)
    outbox._database._connection.execute(
        "CREATE TRIGGER full BEFORE INSERT ON record BEGIN SELECT raise(FAIL, 'x'); END"
    )
    with pytest.raises(StorageError):
        fill(outbox, 1, size=200)
    assert len(outbox) == 90
    outbox._database._connection.execute("DROP TRIGGER full")
    ((_, gaps),) = fill(outbox, 1, size=200)
    assert gaps[0].first == 1
    assert gaps[0].count == 91 - len(outbox)


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


def test_the_records_of_an_agent_that_wrote_no_digests_are_believed(tmp_path):
    path = tmp_path / "outbox.db"
    outbox = Outbox(path, OLD)
    fill(outbox, 3)
    outbox.close()
    open_database(path).execute("ALTER TABLE record DROP COLUMN sha256")
    outbox = Outbox(path, BOOT)
    assert [waiting.seq for _, waiting in outbox.waiting(9)] == [1, 2, 3]
    fill(outbox, 1)
    assert len(outbox) == 4
