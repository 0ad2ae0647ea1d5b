"""The keeper of captured rows: what it keeps, gives and gives up; and that capture is off unless the file says so."""

import threading

import pytest

from agent.adapters import capture_ring
from agent.adapters.capture_ring import Bounds, CaptureRing, peek
from agent.capture import MAX_WAITING, Capture, LeftOut
from agent.config import AgentConfig
from agent.core.captured import CaptureRules
from agent.loop import CaptureNews, Inbox
from agent.ports import RowsCaptured, ServedModel
from agent.service import _open_capture, _sink
from agent.status import capture_words
from fleet.capture.packs import read_pack
from tests.agent.captured import row
from wire.capture import CaptureRequest
from wire.errors import PeerError, TransferError
from wire.lifecycle import Code
from wire.manifest import TensorSpec, digest_of
from wire.messages import MAX_DETAIL_BYTES
from wire.packs import PackTaken

WAIT_S = 60
BOUNDS = Bounds(2**24, 1000, 2**50)
REQUEST = CaptureRequest(id="c-1", model="digits", limit=100, until_unix_ms=2**50)
COLUMNS = TensorSpec(name="X", datatype="FP32", shape=(-1, 2), feature_names=("age", "weight"))
BARE = TensorSpec(name="X", datatype="FP32", shape=(-1, 64))
ANSWERED = 2**41
"""In the year 2039, so that no row is too old."""


class Controller:
    """Takes packs, after it has given these answers."""

    def __init__(self, *answers):
        self.times = []
        self.ended = threading.Event()
        self._answers = list(answers)

    def send(self, body):
        if self._answers:
            answer = self._answers.pop(0)
            self.ended.set()
            raise answer
        found = read_pack(body)
        self.times += [int(t) for rows in found.groups for t in rows.at_unix_ms]
        if found.head.is_last:
            self.ended.set()
        return PackTaken(digest=digest_of(body), is_wanted=not found.head.is_last)


def rows(*numbers):
    return RowsCaptured(1, tuple(row(n, at_unix_ms=ANSWERED + n) for n in numbers), 0)


@pytest.fixture
def keep(tmp_path):
    """Start a keeper of a ring with some rows; it is stopped at the end."""
    made = []

    def start(send, *numbers):
        ring = CaptureRing(tmp_path / capture_ring.NAME, BOUNDS)
        ring.add(rows(*numbers).rows, 0)
        told = []
        capture = Capture(ring, CaptureRules(0.5, 0.6), send, told.append)
        made.append(capture)
        return capture, told

    yield start
    for capture in made:
        if capture._thread.ident is not None:
            capture.stop()


def test_what_is_asked_for_is_given_and_the_inventory_is_told(keep, tmp_path):
    controller = Controller()
    capture, told = keep(controller.send, 1, 2, 3)
    capture.ask(REQUEST)
    capture.start()
    assert controller.ended.wait(WAIT_S)
    capture.stop()
    assert controller.times == [ANSWERED + n for n in (1, 2, 3)]
    assert peek(tmp_path / capture_ring.NAME) == (0, None, 3)
    assert told[0].row_count == 3
    assert (told[0].sample_ppm, told[0].uncertain_below_ppm) == (500_000, 600_000)


@pytest.mark.parametrize(
    ("refusal", "is_given"),
    [
        (TransferError("away", code="controller_unreachable"), True),
        (PeerError("later", code="too_many_requests"), True),
        (PeerError("no", code="capture_full"), False),
    ],
    ids=["away", "later", "full"],
)
def test_a_refusal_is_tried_again_unless_it_is_final(keep, refusal, is_given):
    controller = Controller(refusal)
    capture, _ = keep(controller.send, 1)
    capture.ask(REQUEST)
    assert capture._upload() >= 1.0  # one pack a second at most
    assert controller.times == []
    capture._upload()
    assert controller.times == ([ANSWERED + 1] if is_given else [])
    assert capture._ring.job().state == ("done" if is_given else "capture_full")
    assert capture._ring.facts(CaptureRules(0, 0)).row_count == (0 if is_given else 1)


def test_a_flood_is_dropped_and_counted_and_what_waits_is_kept_at_the_end(keep, tmp_path):
    capture, _ = keep(None)
    for number in range(MAX_WAITING + 5):
        capture.put(rows(number))
    capture.put(RowsCaptured(1, (), 7))
    assert capture.dropped_count == 5 + 7
    capture.start()
    capture.stop()
    assert peek(tmp_path / capture_ring.NAME)[0] == MAX_WAITING


def config(tmp_path, **capture):
    raw = {
        "device": {"id": "cam-01"},
        "broker": {"url": "mqtt://127.0.0.1:1"},
        "state": {"dir": tmp_path},
    }
    return AgentConfig.model_validate(raw | capture)


def test_capture_is_off_by_default_and_then_nothing_is_left_of_it(tmp_path):
    on = config(tmp_path, capture={"leave_out": ("age",)})
    inbox = Inbox()
    capture = _open_capture(on, inbox)
    capture.put(rows(1, 2))
    capture.stop()
    words = capture_words(on, {"digits": (COLUMNS,)})
    assert words.startswith("ON: inputs and answers of 0.01 of all rows")
    assert "(digits without age); 2 rows kept here since 2039" in words
    assert "no way to give any" in words
    off = config(tmp_path)
    assert _open_capture(off, inbox) is None
    assert list(tmp_path.iterdir()) == []
    assert capture_words(off, {}) == "off: no row is kept, and none leaves this device"


def test_the_status_says_what_is_left_out_of_each_model(tmp_path):
    on = config(tmp_path, capture={"leave_out": ("age",)})
    capture = _open_capture(on, Inbox())
    capture.stop()
    words = capture_words(on, {"digits": (BARE,), "line": (COLUMNS,), "gone": None})
    assert (
        "(digits NOTHING is kept: age in leave_out is no column of it; it has X[0], X[1], X[2], … "
        "X[63]; line without age; gone cannot be read)"
    ) in words
    assert "(age left out; no model is served)" in capture_words(on, {})


def test_a_release_without_the_column_is_told_of_once():
    told = []
    left_out = LeftOut(CaptureRules(0.5, 0.6, ("age", "w" * 128)), lambda *said: told.append(said))
    bare = ServedModel("digits", "2.0.0", "b" * 64, {})
    for _ in range(2):  # a runtime that is started again loads it again
        left_out.look(bare, (BARE,))
    ((code, words),) = told
    assert code == Code.LEAVE_OUT_UNKNOWN
    assert words.startswith("digits 2.0.0: NOTHING is kept: age, ")
    assert words.endswith("or take the names out of it")
    assert len(words) <= MAX_DETAIL_BYTES
    left_out.look(ServedModel("digits", "3.0.0", "c" * 64, {}), (BARE,))
    assert len(told) == 2, "another release is another matter"


def test_a_release_with_all_columns_is_not_told_of():
    left_out = LeftOut(CaptureRules(0.5, 0.6, ("age", "X")), pytest.fail)
    left_out.look(ServedModel("digits", "1.0.0", "a" * 64, {}), (COLUMNS,))


def test_captured_rows_go_past_the_loop_and_all_else_into_it(keep):
    capture, _ = keep(None)
    inbox = Inbox()
    for keeper in (capture, None):
        sink = _sink(inbox, keeper)
        sink(rows(1))
        assert inbox.get(0) is None
        news = CaptureNews(capture.facts)
        sink(news)
        assert inbox.get(0) is news
