import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.records import CLASS_OF_EVENT, CLASS_OF_TELEMETRY, RecordClass, class_of
from agent.core.sending import (
    BACKLOG_BURST,
    BACKLOG_PER_S,
    PLACES,
    RESEND_CAP_S,
    RESEND_FIRST_S,
    WINDOW,
    Allowance,
    Lane,
    resend_wait_s,
    room,
)
from wire.topics import EVENT_KINDS, TELEMETRY_KINDS, Event, Telemetry


def test_every_kind_has_its_class_by_choice():
    assert set(EVENT_KINDS) <= CLASS_OF_EVENT.keys()
    assert set(TELEMETRY_KINDS) <= CLASS_OF_TELEMETRY.keys()
    assert {class_of(Event("cam", kind).text) for kind in EVENT_KINDS} == {RecordClass.EVENT}
    assert class_of(Telemetry("cam", "inference").text) is RecordClass.WINDOW
    assert class_of(Telemetry("cam", "vitals").text) is RecordClass.VITALS
    assert RecordClass.VITALS < RecordClass.WINDOW < RecordClass.EVENT


@given(st.text())
def test_whatever_else_is_written_is_worth_the_least(topic):
    assert class_of(topic) is RecordClass.VITALS
    assert class_of(f"fleet/v1/device/cam/{topic}") in RecordClass


under_way = st.fixed_dictionaries({lane: st.integers(0, PLACES[lane]) for lane in Lane})


@given(under_way, st.floats(0, 1e9))
def test_all_lanes_together_keep_to_the_window_and_each_to_its_places(counts, allowance):
    for lane in Lane:
        sent = room(lane, counts, allowance)
        assert sent >= 0
        if lane is Lane.BACKLOG:
            assert sent <= allowance
        counts = {**counts, lane: counts[lane] + sent}
        assert counts[lane] <= PLACES[lane]
        assert sum(counts.values()) <= max(WINDOW, sum(counts.values()) - sent)


@given(st.sampled_from([Lane.URGENT, Lane.LIVE]))
def test_what_is_new_is_not_shut_out_by_what_nobody_acknowledges_in_other_lanes(lane):
    counts = {other: 0 if other is lane else PLACES[other] for other in Lane}
    assert room(lane, counts, BACKLOG_BURST) >= 8


@given(st.lists(st.tuples(st.floats(0, 100), st.integers(0, 16)), min_size=1, max_size=50))
def test_the_backlog_keeps_to_its_rate_over_any_span(steps):
    allowance, now_s, sent_count = Allowance(BACKLOG_BURST, 0.0), 0.0, 0
    for wait_s, wish in steps:
        now_s += wait_s
        allowance = allowance.at(now_s)
        count = min(wish, room(Lane.BACKLOG, dict.fromkeys(Lane, 0), allowance.count))
        allowance = allowance.less(count)
        sent_count += count
        assert sent_count <= BACKLOG_BURST + now_s * BACKLOG_PER_S + 1e-6


def test_a_time_that_goes_back_gives_nothing_and_takes_nothing():
    assert Allowance(3.0, 100.0).at(50.0) == Allowance(3.0, 50.0)


def test_resends_are_ever_more_seldom_up_to_a_cap():
    waits = [resend_wait_s(count) for count in range(100)]
    assert waits[0] == RESEND_FIRST_S
    assert waits[-1] == RESEND_CAP_S
    assert all(a <= b <= 2 * a for a, b in itertools.pairwise(waits))
    assert resend_wait_s(10**9) == pytest.approx(RESEND_CAP_S)
