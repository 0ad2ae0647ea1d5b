"""Presence, reported state and records, over an in-memory broker with a controller that acks."""

import json
import time

import pytest

from agent.adapters.database import open_database
from agent.adapters.outbox import Outbox
from agent.uplink import MAX_UNKEPT, RESEND_FIRST_S, WINDOW, Uplink
from wire import codec, topics
from wire.errors import PeerError
from wire.link import Connected, Delivered
from wire.link_memory import MemoryBroker
from wire.messages import Ack, AlarmEvent, Presence, Reported, StoredRange

BOOT = "b" * 16
ALARM = topics.Event("cam-01", "alarm")


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

    def seqs(self):
        return [body["seq"] for body in self.on(ALARM)]


@pytest.fixture
def broker():
    return MemoryBroker()


@pytest.fixture
def controller(broker):
    return Controller(broker)


@pytest.fixture
def uplink(broker, tmp_path):
    link = broker.link("cam-01")
    uplink = Uplink(
        link, Outbox(tmp_path / "o.db", BOOT), device="cam-01", boot=BOOT, agent="modelfleet 1"
    )

    def sink(event):
        match event:
            case Connected():
                uplink.connected()
            case Delivered(payload=payload):
                uplink.acknowledged(payload)

    uplink.test_connect = lambda: link.start(sink, uplink.will)
    return uplink


def ack(controller, *spans):
    message = Ack(stored=tuple(StoredRange(boot=BOOT, first=a, last=b) for a, b in spans))
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


def test_a_long_backlog_goes_out_window_by_window(uplink, controller):
    count = 3 * WINDOW
    for _ in range(count):
        uplink.alarm("x", "")
    uplink.test_connect()
    assert controller.seqs() == list(range(1, WINDOW + 1))
    ack(controller, (1, WINDOW))
    assert controller.seqs() == list(range(1, 2 * WINDOW + 1))
    ack(controller, (WINDOW + 1, 2 * WINDOW))
    ack(controller, (2 * WINDOW + 1, count))
    assert controller.seqs() == list(range(1, count + 1))


def test_silence_of_the_controller_sends_again_ever_more_seldom(uplink, controller):
    uplink.test_connect()
    uplink.alarm("x", "")
    sent_s = time.monotonic()
    uplink.tick(sent_s + RESEND_FIRST_S - 1)
    assert controller.seqs() == [1]
    uplink.tick(sent_s + RESEND_FIRST_S)
    assert controller.seqs() == [1, 1]
    uplink.tick(sent_s + 2 * RESEND_FIRST_S - 1)
    assert controller.seqs() == [1, 1]
    uplink.tick(sent_s + 2 * RESEND_FIRST_S + 1)
    assert controller.seqs() == [1, 1, 1]


def test_a_record_that_was_lost_is_sent_again_though_later_ones_are_acknowledged(
    uplink, controller
):
    uplink.test_connect()
    for _ in range(3):
        uplink.alarm("x", "")
    sent_s = time.monotonic()
    for seq in (2, 3):
        ack(controller, (seq, seq))
    uplink.tick(sent_s + RESEND_FIRST_S)
    assert controller.seqs() == [1, 2, 3, 1]
    # One that is never stored must not be sent every few seconds for as long as others are.
    uplink.alarm("x", "")
    ack(controller, (4, 4))
    uplink.tick(sent_s + 2 * RESEND_FIRST_S - 1)
    assert controller.seqs() == [1, 2, 3, 1, 4]
    ack(controller, (1, 1))
    assert uplink._resend_s == RESEND_FIRST_S


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


def test_records_wait_in_memory_while_the_outbox_is_locked(uplink, controller, tmp_path):
    uplink.test_connect()
    uplink._outbox._database._connection.execute("PRAGMA busy_timeout=0")
    other = open_database(tmp_path / "o.db")
    other.execute("BEGIN IMMEDIATE")
    for number in range(MAX_UNKEPT + 3):
        uplink.alarm("x", str(number))
    assert (controller.seqs(), uplink.dropped_count) == ([], 3)
    ack(controller, (1, 5))  # nothing can be deleted, nothing is raised
    other.rollback()
    uplink.tick(time.monotonic())
    assert controller.seqs() == [], "it is left alone for a while"
    uplink._rest_until_s = 0.0
    uplink.tick(time.monotonic())
    ack(controller, (1, WINDOW))
    assert controller.seqs()[: 2 * WINDOW] == list(range(1, 2 * WINDOW + 1))
    assert [body["detail"] for body in controller.on(ALARM)][:3] == ["0", "1", "2"]
    assert (len(uplink._unkept), uplink.dropped_count) == (0, 3)
