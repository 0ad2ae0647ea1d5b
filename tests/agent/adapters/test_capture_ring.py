"""The ring of captured rows: its caps, its order, what is uploaded of it, and damage."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.adapters import capture_ring
from agent.adapters.capture_ring import Bounds, CaptureRing, peek
from agent.core.captured import CaptureRules
from fleet.capture.packs import read_pack
from tests.agent.captured import row
from wire.capture import CaptureRequest

RULES = CaptureRules(0.01, 0.6)
CAP = 512 * 1024
FOREVER = 2**53 - 1
WIDE = Bounds(max_bytes=16 * 2**20, max_rows=100_000, max_age_ms=FOREVER)


def request(number=1, *, limit=1000, first="oldest", until=FOREVER, model="digits"):
    return CaptureRequest(
        id=f"c-{number}", model=model, limit=limit, first=first,
        until_unix_ms=until,
    )  # fmt: skip


def times(body):
    return [int(t) for rows in read_pack(body).groups for t in rows.at_unix_ms]


def drain(ring, now=0):
    """Return the instants of the rows in each pack until nothing is asked for."""
    packs = []
    while (body := ring.next_pack(now)) is not None:
        packs.append(times(body))
        ring.confirm(now, is_wanted=not read_pack(body).head.is_last)
    return packs


def size_of(path):
    return path.stat().st_size if path.exists() else 0


@settings(max_examples=15, deadline=None)
@given(
    batches=st.lists(
        st.lists(st.integers(1, 9000), min_size=1, max_size=12), min_size=1, max_size=12
    ),
    max_rows=st.integers(1, 40),
)
def test_neither_cap_is_ever_exceeded_and_what_is_kept_is_the_newest(
    tmp_path_factory, batches, max_rows
):
    path = tmp_path_factory.mktemp("ring") / "capture.db"
    ring = CaptureRing(path, Bounds(CAP, max_rows, FOREVER))
    number = 0
    for sizes in batches:
        rows = [row(number + n, size=size) for n, size in enumerate(sizes)]
        number += len(rows)
        ring.add(rows, 0)
        count, since, _ = peek(path)
        assert 1 <= count <= max_rows
        assert since == number - count, "the oldest go first, and no others"
        ring.close()  # writes the journal into the file
        assert size_of(path) <= CAP
        ring = CaptureRing(path, Bounds(CAP, max_rows, FOREVER))
    ring.ask(request(limit=1_000_000))
    kept = [t for pack in drain(ring) for t in pack]
    assert sorted(kept) == list(range(number - count, number))


def test_a_pack_that_waits_does_not_take_the_file_over_its_cap(tmp_path):
    path = tmp_path / "capture.db"
    ring = CaptureRing(path, Bounds(CAP, 1000, FOREVER))
    chance = np.random.default_rng(1)
    ring.add([row(int(n), size=3000) for n in chance.permutation(60)], 0)
    ring.ask(request())
    assert ring.next_pack(0) is not None
    ring.close()
    assert size_of(path) <= CAP


def test_rows_that_are_too_old_go(tmp_path):
    ring = CaptureRing(tmp_path / "capture.db", Bounds(CAP, 100, 50))
    ring.add([row(n) for n in range(0, 100, 10)], 100)
    assert peek(tmp_path / "capture.db")[:2] == (5, 50)
    ring.ask(request())
    assert drain(ring, 130) == [[80, 90]]


def test_what_was_given_is_deleted_and_counted_and_never_given_again(tmp_path):
    path = tmp_path / "capture.db"
    ring = CaptureRing(path, WIDE)
    ring.add([row(n) for n in range(10)], 0)
    assert ring.ask(request(1, limit=6)) is True
    ring.add([row(n) for n in range(10, 13)], 0)  # came after the request
    assert drain(ring) == [[0, 1, 2, 3, 4, 5]]
    assert ring.ask(request(1, limit=6)) is False, "a desired state may come again"
    assert ring.next_pack(0) is None
    assert peek(path) == (7, 6, 6)
    ring.ask(request(2))
    assert drain(ring) == [[6, 7, 8, 9, 10, 11, 12]]
    assert peek(path) == (0, None, 13)


def test_a_pack_is_the_same_until_it_is_confirmed_over_a_restart_and_new_rows(tmp_path):
    path = tmp_path / "capture.db"
    ring = CaptureRing(path, WIDE)
    ring.add([row(n) for n in range(10)], 0)
    ring.ask(request())
    body = ring.next_pack(0)
    ring.add([row(99)], 0)
    ring.close()
    again = CaptureRing(path, WIDE)
    assert again.next_pack(0) == body
    assert again.confirm(5, is_wanted=False) == 10
    assert again.confirm(5, is_wanted=False) == 0, "an answer that comes twice"
    assert peek(path) == (1, 99, 10)


def test_many_rows_come_in_packs_of_which_the_last_says_so(tmp_path):
    ring = CaptureRing(tmp_path / "capture.db", WIDE)
    ring.add([row(n, size=200) for n in range(2000)], 0)
    ring.ask(request(limit=1500))
    packs = drain(ring)
    assert len(packs) > 3
    assert [t for pack in packs for t in pack] == list(range(1500))


def test_the_least_certain_come_first_where_that_is_asked(tmp_path):
    ring = CaptureRing(tmp_path / "capture.db", WIDE)
    scores = [0.9, None, 0.2, 0.5]
    ring.add([row(n, score=score) for n, score in enumerate(scores)], 0)
    ring.ask(request(limit=3, first="uncertain"))
    assert drain(ring) == [[2, 3, 0]]


def test_only_rows_of_the_model_are_given_and_none_is_an_empty_last_pack(tmp_path):
    ring = CaptureRing(tmp_path / "capture.db", WIDE)
    ring.add([row(1, model="faces"), row(2)], 0)
    ring.ask(request(model="faces"))
    assert drain(ring) == [[1]]
    ring.ask(request(2, model="none"))
    body = ring.next_pack(0)
    assert read_pack(body).head.is_last
    assert read_pack(body).row_count == 0


def test_a_request_is_over_when_its_time_is_and_a_newer_one_takes_its_place(tmp_path):
    ring = CaptureRing(tmp_path / "capture.db", WIDE)
    ring.add([row(n) for n in range(3)], 0)
    ring.ask(request(1, until=50))
    assert ring.next_pack(10) is not None
    assert ring.next_pack(50) is None
    assert ring.job().state == "over"
    ring.ask(request(2))
    first = ring.next_pack(60)
    ring.ask(request(3))
    assert read_pack(ring.next_pack(60)).head.request == "c-3" != read_pack(first).head.request
    ring.end("capture_full")
    assert (ring.next_pack(60), ring.job().state) == (None, "capture_full")
    assert ring.facts(RULES).row_count == 3, "what was refused stays"


def test_a_row_that_changed_on_disk_is_not_given(tmp_path):
    path = tmp_path / "capture.db"
    ring = CaptureRing(path, WIDE)
    ring.add([row(n) for n in range(3)], 0)
    with ring._database.use() as db:
        db.execute("UPDATE row SET data = zeroblob(length(data)) WHERE number = 2")
    ring.ask(request())
    assert drain(ring) == [[0, 2]]
    assert peek(path)[0] == 0


@pytest.mark.parametrize("damage", [b"no database at all", b"SQLite format 3\0" + b"\x07" * 4000])
def test_a_ring_that_cannot_be_read_begins_anew(tmp_path, damage):
    path = tmp_path / "capture.db"
    path.write_bytes(damage)
    ring = CaptureRing(path, WIDE)
    assert ring.was_damaged
    ring.add([row(1)], 0)
    assert peek(path) == (1, 1, 0)


def test_deleting_leaves_nothing_and_may_be_repeated(tmp_path):
    path = tmp_path / "capture.db"
    CaptureRing(path, WIDE).add([row(1)], 0)
    capture_ring.delete(path)
    capture_ring.delete(path)
    assert list(tmp_path.iterdir()) == []
    assert peek(path) == (0, None, 0)
