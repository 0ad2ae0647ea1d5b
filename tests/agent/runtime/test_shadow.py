"""A shadow beside the runtime that serves: compared, never waited for, ended without harm."""

import os
import signal
from pathlib import Path

import pytest

from agent.ports import Heartbeat, Promoted, ShadowClosed, ShadowGone, ShadowOrder
from wire.latency import LATENCY_BINS
from wire.lifecycle import Code

ALL = ShadowOrder(sample_ratio=1.0, rtol=0.01, atol=0.0)


def is_running(pid):
    try:
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())
    except OSError:
        return False


def oom_score(pid):
    return int(Path(f"/proc/{pid}/oom_score_adj").read_text())


def shadow_of(bench):
    return bench.host._shadow.child


def until_tapped(bench):
    """Ask until the runtime that serves says that it gives a sample away."""
    while True:
        assert bench.infer()[0] == 200
        beat = bench.wait(Heartbeat)
        if beat.tap is not None and beat.tap.sampled_count:
            return beat


def until_compared(bench, rows):
    """Return the sums of the shadow's windows once it has compared so many rows."""
    windows = []
    while sum(w.row_count for w in windows) < rows:
        bench.wait(Heartbeat)
        bench.host.close_shadow()
        windows.append(bench.wait(ShadowClosed).stats)
    return windows


def total(windows, name):
    return sum(getattr(window, name) for window in windows)


def start(bench, active, shadow, order=ALL):
    assert isinstance(bench.serve(active), Promoted)
    number = bench.host.start_shadow(shadow, order)
    before = until_tapped(bench).tap.sampled_count
    until_compared(bench, before)
    return number


def test_equal_answers_agree_and_others_do_not(bench, make_model):
    start(bench, make_model("1"), make_model("1"))
    for _ in range(20):
        bench.infer(rows=[(1, 2, 3, 4), (5, 6, 7, 8)])
    windows = until_compared(bench, 40)
    assert total(windows, "agree_count") == total(windows, "row_count") == 40
    assert all(sum(w.active_latency) == sum(w.shadow_latency) for w in windows)
    assert all(len(w.active_latency) == LATENCY_BINS for w in windows)
    assert min(windows[-1].active_pss_bytes, windows[-1].shadow_pss_bytes) > 10_000_000

    number = bench.host.start_shadow(make_model("2"), ALL)
    before = until_tapped(bench).tap.sampled_count
    until_compared(bench, before)
    for _ in range(10):
        assert bench.infer()[1]["outputs"][0]["data"] == [1.0], "the active one answers, always"
    windows = until_compared(bench, 10)
    assert (total(windows, "row_count"), total(windows, "agree_count")) == (10, 0)
    assert number == shadow_of(bench).number


@pytest.mark.parametrize(("atol", "agreed"), [(0.5, 0), (1.0, 5)])
def test_numbers_agree_within_the_declared_tolerance(bench, make_model, atol, agreed):
    start(bench, make_model("1"), make_model("2"), ShadowOrder(1.0, 0.0, atol))
    for _ in range(5):
        bench.infer()
    assert total(until_compared(bench, 5), "agree_count") == agreed


def test_what_the_shadow_refuses_or_fails_to_answer_does_not_agree(bench, make_model, graphs):
    start(bench, make_model("1"), make_model("2", graphs["lookup"]()), ShadowOrder(1.0, 0.0, 1e9))
    for _ in range(3):
        bench.infer(rows=[(9, 9, 9, 9)])
    windows = until_compared(bench, 3)
    assert (total(windows, "failed_count"), total(windows, "agree_count")) == (3, 0)


def test_a_label_of_the_shadow_that_rests_on_nan_is_none(bench, make_model, graphs):
    start(bench, make_model("1", graphs["odds"]()), make_model("2", graphs["odds"](1e37)))
    for _ in range(3):
        assert bench.infer(rows=[(9, 9, 9, 9)])[0] == 200
    windows = until_compared(bench, 3)
    assert (total(windows, "failed_count"), total(windows, "row_count")) == (3, 3)


def test_a_shadow_that_is_killed_is_told_of_and_nothing_else_ends(bench, make_model):
    start(bench, make_model("1"), make_model("2"))
    os.kill(shadow_of(bench).pid, signal.SIGKILL)
    gone = bench.wait(ShadowGone)
    assert (gone.code, gone.detail) == (Code.SHADOW_DIED, "ended by SIGKILL")
    for _ in range(20):
        assert bench.infer()[0] == 200


def test_a_shadow_that_hangs_loses_its_rows_and_nobody_elses(start_bench, make_model, graphs):
    bench = start_bench(shadow_timeout_s=5)
    start(bench, make_model("1"), make_model("2", graphs["slow"](2**40)), ShadowOrder(1.0, 0, 1e9))
    for _ in range(2000):  # the first one hangs it, the next ones fill its queue
        assert bench.infer(rows=[(101, 0, 0, 0)])[0] == 200
    while not (ends := [event for event in bench.log if isinstance(event, ShadowGone)]):
        bench.wait(Heartbeat)
    (gone,) = ends
    taps = [event.tap for event in bench.log if isinstance(event, Heartbeat) and event.tap]
    assert max(tap.dropped_count for tap in taps) > 100, "what had no room was dropped, and counted"
    assert gone.code == Code.SHADOW_STUCK
    assert bench.infer()[0] == 200


def test_a_shadow_that_is_stopped_ends_without_an_event(bench, make_model):
    start(bench, make_model("1"), make_model("2"))
    pid = shadow_of(bench).pid
    bench.host.stop_shadow()
    bench.wait(Heartbeat)
    bench.wait(Heartbeat)
    assert not any(isinstance(event, ShadowGone) for event in bench.log)
    assert not is_running(pid)


def test_a_shadow_outlives_the_runtime_beside_it(bench, make_model):
    start(bench, make_model("1"), make_model("1"))
    os.kill(bench.host._serving.pid, signal.SIGKILL)
    assert isinstance(bench.serve(make_model("1")), Promoted)
    until_tapped(bench)
    assert total(until_compared(bench, 1), "agree_count") >= 1


def test_a_shadow_that_does_not_load_says_so(bench, make_model):
    bench.serve(make_model("1"))
    bench.host.start_shadow(make_model("2", golden_error=5.0), ALL)
    gone = bench.wait(ShadowGone)
    assert gone.code == Code.SELF_TEST_FAILED
    assert bench.infer()[0] == 200


def test_a_shadow_runs_only_while_nothing_else_wants_the_cpu_and_goes_first(bench, make_model):
    start(bench, make_model("1"), make_model("1"))
    pid = shadow_of(bench).pid
    assert os.sched_getscheduler(pid) == os.SCHED_IDLE
    assert oom_score(pid) > oom_score(bench.host._serving.pid)
