"""Presence, reported state and records, over an in-memory broker with a controller that acks."""

import json

import pytest

from agent.adapters.database import open_database
from agent.adapters.outbox import Outbox
from agent.core.sending import (
    BACKLOG_BURST,
    BACKLOG_PER_S,
    LIVE_FROM_BEFORE,
    PLACES,
    RESEND_CAP_S,
    RESEND_FIRST_S,
    RESENDS_SOON,
    Lane,
)
from agent.uplink import MAX_UNKEPT, REST_S, Uplink
from wire import codec, topics
from wire.errors import PeerError
from wire.link import Connected, Delivered
from wire.link_memory import MemoryBroker
from wire.messages import (
    Ack,
    AlarmEvent,
    GapEvent,
    Presence,
    Reported,
    StoredRange,
    VitalsTelemetry,
)

BOOT = "b" * 16
ALARM = topics.Event("cam-01", "alarm")
GAP = topics.Event("cam-01", "gap")
VITALS = topics.Telemetry("cam-01", "vitals")
URGENT = PLACES[Lane.URGENT]


class Controller:
    """Listens to everything a device says; acknowledges on demand."""

    def __init__(self, broker):
        self.heard = []
        self.link = broker.link("controller")
        self.link.start(self._sink, lambda: None)
        self.link.subscribe(topics.CONTROLLER_FILTERS, qos=1)

    def _sink(self, event):
        if isinstance(event, Delivered):
            self.heard.append((event.topic, event.payload))

    def on(self, topic):
        return [json.loads(payload) for name, payload in self.heard if name == topic.text]

    def seqs(self, topic=ALARM):
        return [body["seq"] for body in self.on(topic)]


@pytest.fixture
def broker():
    return MemoryBroker()


@pytest.fixture
def controller(broker):
    return Controller(broker)


class Clock:
    """Monotonic seconds, as the test moves them."""

    now_s = 0.0

    def __call__(self):
        return self.now_s


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def make_uplink(broker, tmp_path, clock):
    def make(boot=BOOT, **options):
        link = broker.link("cam-01")
        outbox = Outbox(tmp_path / "o.db", boot, **options)
        uplink = Uplink(link, outbox, device="cam-01", boot=boot, agent="modelfleet 1", clock=clock)

        def sink(event):
            match event:
                case Connected():
                    uplink.connected()
                case Delivered(payload=payload):
                    uplink.acknowledged(payload)

        uplink.test_connect = lambda: link.start(sink, uplink.will)
        return uplink

    return make


@pytest.fixture
def uplink(make_uplink):
    return make_uplink()


def vitals(uplink, count=1):
    for _ in range(count):
        uplink.record(
            VITALS,
            lambda boot, seq: VitalsTelemetry(
                boot=boot,
                seq=seq,
                at_unix_ms=0,
                uptime_s=1,
                cpu_ratio=0,
                memory_available_bytes=0,
                disk_free_bytes=0,
                supervisor_rss_bytes=0,
                runtime_rss_bytes=0,
            ),
        )


def ack(controller, *spans, boot=BOOT):
    message = Ack(stored=tuple(StoredRange(boot=boot, first=a, last=b) for a, b in spans))
    controller.link.publish(topics.Ack("cam-01").text, codec.encode(message), qos=1, retain=False)


def test_records_made_offline_follow_in_order_and_go_when_acknowledged(uplink, controller):
    for _ in range(3):
        uplink.alarm("disk_full", "text")
    assert controller.seqs() == []
    uplink.test_connect()
    assert controller.seqs() == [1, 2, 3]
    ack(controller, (1, 2))
    uplink.controller_seen()
    assert controller.seqs() == [1, 2, 3, 3], "only what is not stored is sent again"


def test_a_record_is_sent_at_once_when_connected(uplink, controller):
    uplink.test_connect()
    uplink.alarm("disk_full", "text")
    assert controller.seqs() == [1]


def test_many_events_go_out_by_the_places_that_they_have(uplink, controller):
    count = 3 * URGENT
    for _ in range(count):
        uplink.alarm("x", "")
    uplink.test_connect()
    assert controller.seqs() == list(range(1, URGENT + 1))
    ack(controller, (1, URGENT))
    assert controller.seqs() == list(range(1, 2 * URGENT + 1))
    ack(controller, (URGENT + 1, 2 * URGENT))
    ack(controller, (2 * URGENT + 1, count))
    assert controller.seqs() == list(range(1, count + 1))


def test_after_an_outage_events_and_the_newest_telemetry_come_first_and_the_rest_slowly(
    uplink, controller, clock
):
    vitals(uplink, 200)
    uplink.alarm("x", "")
    vitals(uplink, 100)
    uplink.alarm("x", "")
    burst = int(BACKLOG_BURST)
    newest = [seq for seq in range(1, 302) if seq != 201][-LIVE_FROM_BEFORE:]
    uplink.test_connect()
    assert controller.seqs() == [201, 302]
    assert controller.seqs(VITALS) == newest + list(range(1, burst + 1))
    known = len(controller.heard)
    ack(controller, (1, burst), (201, 302))
    assert len(controller.heard) == known, "the backlog has used up its allowance"
    vitals(uplink)
    assert controller.seqs(VITALS)[-1] == 303, "what is new waits for nothing"
    known = len(controller.heard)
    clock.now_s += 1.0
    uplink.tick(clock.now_s)
    assert len(controller.heard) == known + BACKLOG_PER_S
    sent = controller.seqs(VITALS)[len(newest) :]
    sent.remove(303)
    assert sent == list(range(1, burst + int(BACKLOG_PER_S) + 1)), "by number, oldest first"


def test_a_backlog_comes_to_its_end_however_the_time_passes(uplink, controller, clock):
    vitals(uplink, 150)
    uplink.test_connect()
    acked = set()
    for round_number in range(200):
        clock.now_s += (0.5, 0.0, 7200.0)[round_number % 3]
        uplink.tick(clock.now_s)
        news = sorted({*controller.seqs(VITALS)} - acked)[:64]
        acked.update(news)
        ack(controller, *[(seq, seq) for seq in news])
    assert sorted({*controller.seqs(VITALS)}) == list(range(1, 151))
    assert len(uplink._outbox) == 0


def test_what_had_to_go_is_told_when_somebody_listens_and_told_again_until_stored(
    make_uplink, controller, clock
):
    uplink = make_uplink(max_bytes=128 * 1024)
    vitals(uplink, 1000)
    kept = [w.seq for _, w in uplink._outbox.waiting(10_000)]
    assert uplink.dropped_count == 1000 - len(kept) > 0
    uplink.test_connect()
    assert controller.on(GAP) == [], "nobody has answered yet"
    ack(controller, (1000, 1000))
    (gap,) = controller.on(GAP)
    parsed = codec.decode(GapEvent, json.dumps(gap).encode())
    assert (parsed.lost_boot, parsed.first, parsed.last) == (BOOT, 1, kept[0] - 1)
    assert parsed.count == kept[0] - 1
    assert [(r.first, r.last) for r in parsed.ranges] == [(1, kept[0] - 1)]
    assert parsed.reason == "records_dropped"
    clock.now_s += RESEND_FIRST_S
    uplink.tick(clock.now_s)
    assert controller.on(GAP) == [gap, gap]
    ack(controller, (parsed.seq, parsed.seq))
    clock.now_s += 10 * RESEND_FIRST_S
    uplink.tick(clock.now_s)
    assert controller.on(GAP) == [gap, gap]


def test_a_gap_of_a_boot_that_ended_untold_is_told_by_the_next(make_uplink, controller):
    first = make_uplink(max_bytes=128 * 1024)
    vitals(first, 1000)
    first._outbox.close()
    second = make_uplink(boot="c" * 16, max_bytes=128 * 1024)
    second.test_connect()
    second.alarm("x", "")
    ack(controller, (1, 1), boot="c" * 16)
    (gap,) = controller.on(GAP)
    assert (gap["boot"], gap["lost_boot"], gap["first"]) == ("c" * 16, BOOT, 1)


def test_silence_of_the_controller_sends_again_ever_more_seldom(uplink, controller, clock):
    uplink.test_connect()
    uplink.alarm("x", "")

    def after(s):
        clock.now_s = s
        uplink.tick(s)
        return controller.seqs()

    assert after(RESEND_FIRST_S - 1) == [1]
    for count in range(1, RESENDS_SOON + 1):
        assert after(count * RESEND_FIRST_S) == [1] * (1 + count)
    sent_s = RESENDS_SOON * RESEND_FIRST_S
    assert after(sent_s + 2 * RESEND_FIRST_S - 1) == [1] * (1 + RESENDS_SOON)
    assert after(sent_s + 2 * RESEND_FIRST_S) == [1] * (2 + RESENDS_SOON)


def test_a_record_that_was_lost_is_sent_again_though_later_ones_are_acknowledged(
    uplink, controller, clock
):
    uplink.test_connect()
    for _ in range(3):
        uplink.alarm("x", "")
    for seq in (2, 3):
        ack(controller, (seq, seq))
    clock.now_s = RESEND_FIRST_S
    uplink.tick(clock.now_s)
    assert controller.seqs() == [1, 2, 3, 1]
    # It has a time of its own: one that is never stored is sent ever more seldom, whatever others do.
    uplink.alarm("x", "")
    ack(controller, (4, 4))
    clock.now_s = 2 * RESEND_FIRST_S
    uplink.tick(clock.now_s)
    assert controller.seqs() == [1, 2, 3, 1, 4, 1]
    for _ in range(1000):
        clock.now_s += 10.0
        uplink.tick(clock.now_s)
    count = len(controller.seqs())
    clock.now_s += RESEND_CAP_S
    uplink.tick(clock.now_s)
    uplink.tick(clock.now_s + RESEND_CAP_S - 1)
    assert len(controller.seqs()) == count + 1
    assert count < 30


def test_a_new_birth_with_each_connection_and_a_will_that_matches(uplink, controller, broker):
    uplink.test_connect()
    broker.cut("cam-01")
    says = controller.on(topics.Presence("cam-01"))
    assert [(m["state"], m["birth"]) for m in says] == [("online", 1), ("offline", 1)]
    assert codec.decode(Presence, json.dumps(says[0]).encode()).agent == "modelfleet 1"


def test_reported_state_is_told_again_at_each_connection_and_to_a_controller_that_comes(
    uplink, controller, broker
):
    uplink.report(lambda boot, seq: Reported(boot=boot, seq=seq, generation=4))
    uplink.test_connect()
    uplink.report(lambda boot, seq: Reported(boot=boot, seq=seq, generation=5))
    uplink.controller_seen()
    assert [m["generation"] for m in controller.on(topics.Reported("cam-01"))] == [4, 5, 5]


def test_what_is_no_acknowledgement_is_refused(uplink):
    with pytest.raises(PeerError):
        uplink.acknowledged(b'{"v":1,"stored":[{"boot":"x"}]}')


def test_long_details_are_cut_to_the_limit(uplink, controller):
    uplink.test_connect()
    uplink.alarm("x", "long " * 1000)
    (body,) = controller.on(ALARM)
    assert codec.decode(AlarmEvent, json.dumps(body).encode()).detail == ("long " * 60)


def test_records_wait_in_memory_while_the_outbox_is_locked(uplink, controller, tmp_path, clock):
    """When there are too many the lowest class goes, and how many is said."""
    uplink.test_connect()
    uplink._outbox._database._connection.execute("PRAGMA busy_timeout=0")
    other = open_database(tmp_path / "o.db")
    other.execute("BEGIN IMMEDIATE")
    vitals(uplink, 4)
    for number in range(MAX_UNKEPT):
        uplink.alarm("x", str(number))
    assert (controller.seqs(), uplink.dropped_count) == ([], 4)
    ack(controller, (1, 5))  # nothing can be deleted, nothing is raised
    other.rollback()
    uplink.tick(clock.now_s)
    assert controller.seqs() == [], "it is left alone for a while"
    clock.now_s += REST_S
    uplink.tick(clock.now_s)
    stored = 0
    while len(uplink._outbox):
        known = sorted({*controller.seqs(), *controller.seqs(VITALS)})
        ack(controller, (stored + 1, known[-1]))
        stored = known[-1]
    details = [body["detail"] for body in controller.on(ALARM)]
    # The first one, of whatever class, is what was being tried.
    assert details[:-1] == [str(n) for n in (*range(MAX_UNKEPT - 1), MAX_UNKEPT - 1) if n != 0]
    assert details[-1].startswith("4 records were lost in memory")
    assert (len(uplink._unkept), uplink.dropped_count) == (0, 4)
