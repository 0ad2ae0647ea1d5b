"""The drift decision on simulated streams."""

import numpy as np
import pytest

from agent.runtime.thresholds import Thresholds
from benchmarks import drift_streams
from converter.baseline import make_baseline
from fleet.core import drift
from fleet.core.drift import Kind, Level
from wire.histogram import CategoryColumn, Column
from wire.manifest import TensorSpec

LEVEL = drift.chance_per_test(Level.DEVICE, 1000, 20)
SPEC = TensorSpec(name="x", datatype="FP64", shape=(-1, 1))
COLUMN = Column(name="temp_c", edges=(1.0, 2.0), counts=(4000, 3000, 3000), missing=0)


def history_of(windows, cells=11):
    history = drift_streams.no_history(cells)
    for window in windows:
        history = drift_streams.lengthened(history, window)
    return history


def first_drifted(seed, *, share, lag_one=0.0, rows=500, windows=16):
    """Windows until the drift is found, after a day without one; `windows + 1` when it is not."""
    generator = np.random.default_rng(seed)
    stream = drift_streams.Stream(generator, lag_one=lag_one, reference_rows=10_000)
    history = history_of(stream.windows(drift.HISTORY, rows))
    move = drift_streams.move_of(share)
    for number, window in enumerate(stream.windows(windows, rows, move), 1):
        history = drift_streams.lengthened(history, window)
        if drift.judge(stream.reference, history, LEVEL).kind is Kind.DRIFTED:
            return number
    return windows + 1


def test_a_large_shift_is_found_within_two_windows():
    assert np.median([first_drifted(seed, share=0.25) for seed in range(7)]) <= 2


def test_a_small_shift_is_found_within_six_windows():
    assert np.median([first_drifted(seed, share=0.1) for seed in range(41)]) <= 6


def test_a_shift_within_the_tolerance_is_none():
    assert [first_drifted(seed, share=0.018) for seed in range(3)] == [17] * 3


@pytest.mark.parametrize("lag_one", [0.0, 0.5, 0.9, 0.99])
def test_no_drift_is_found_where_there_is_none(lag_one):
    generator = np.random.default_rng(5)
    for _ in range(3):
        stream = drift_streams.Stream(generator, lag_one=lag_one, reference_rows=10_000)
        history = drift_streams.no_history(11)
        for window in stream.windows(40, 500):
            history = drift_streams.lengthened(history, window)
            verdict = drift.judge(stream.reference, history, LEVEL)
            # A test at 0.001 would not see these either: far from the level that raises an alarm.
            assert verdict.p_value > 1e-4


@pytest.mark.parametrize(
    ("lag_one", "effect"), [(0.0, 1.0), (0.5, 3.0), (0.9, 19.0), (0.99, 199.0)]
)
def test_dependent_rows_count_as_as_many_as_they_are_worth(lag_one, effect):
    generator = np.random.default_rng(6)
    found = []
    for _ in range(6):
        stream = drift_streams.Stream(generator, lag_one=lag_one, reference_rows=10_000)
        verdict = drift.judge(stream.reference, history_of(stream.windows(96, 500)), LEVEL)
        found.append(verdict.rows / verdict.effective_rows)
    assert effect / 1.6 < np.median(found) < effect * 1.6


def test_without_a_number_from_the_device_the_scatter_tells():
    generator = np.random.default_rng(7)
    stream = drift_streams.Stream(generator, lag_one=0.9, reference_rows=10_000)
    windows = [drift_streams.window_of(0, w.counts) for w in stream.windows(96, 500)]
    verdict = drift.judge(stream.reference, history_of(windows), LEVEL)
    assert 10 < verdict.rows / verdict.effective_rows < 40


def test_without_any_knowledge_rows_count_as_a_twentieth():
    verdict = drift.judge(
        drift.reference_of(COLUMN),
        history_of([drift_streams.window_of(0, (400, 300, 300, 0))], 4),
        LEVEL,
    )
    assert verdict.effective_rows == pytest.approx(50)


def test_a_constant_column_that_takes_another_value_has_drifted():
    reference = drift.reference_of(Column(name="x", edges=(1.0,), counts=(0, 10_000)))
    before = [drift_streams.window_of(0, (0, 500, 0), 0.0)] * 10
    assert drift.judge(reference, history_of(before, 3), LEVEL).kind is not Kind.DRIFTED
    after = [*before, drift_streams.window_of(900_000, (500, 0, 0), 0.0)]
    verdict = drift.judge(reference, history_of(after, 3), LEVEL)
    assert (verdict.kind, verdict.since_unix_ms) == (Kind.DRIFTED, 900_000)


def counted_on_a_device(column, values):
    """Return the counts of a device's tensor of one column, what is missing last."""
    size = len(column.counts) + 1
    counts = np.zeros(size + 3, np.int64)
    Thresholds({0: (column, 0)}, 1, values.dtype, rest=size + 2).count(values[:, None], counts)
    return tuple(counts[:size].tolist())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("missing", [0, 1000])
@pytest.mark.parametrize(
    ("usual", "now"),
    [
        ([5] * 100, 500),
        ([-5] * 100, -4.999),
        ([0] * 100, 1e-6),
        ([0] * 92 + [1] * 8, 1),
        ([0] * 93 + list(range(7, 14)), 1e6),
        ([0] * 50 + [1] * 50, 2),
    ],
)
def test_a_heavy_value_that_moves_up_has_drifted(usual, now, missing, dtype):
    rows = np.array(usual * 100 + [np.nan] * missing, dtype)
    (column,) = make_baseline([(SPEC, rows[:, None])], [], "0" * 64).inputs
    reference = drift.reference_of(column)
    share = len(usual) * 100 / len(rows)
    sample = rows[:: len(rows) // 500 + 1]
    before = [drift_streams.window_of(0, counted_on_a_device(column, sample), 0.0)] * 10
    stable = drift.judge(reference, history_of(before, len(reference.counts)), LEVEL)
    assert stable.kind is not Kind.DRIFTED
    after = np.where(np.arange(500) < 500 * share, dtype(now), dtype(np.nan))
    window = drift_streams.window_of(900_000, counted_on_a_device(column, after), 0.0)
    verdict = drift.judge(reference, history_of([*before, window], len(reference.counts)), LEVEL)
    assert (verdict.kind, verdict.since_unix_ms) == (Kind.DRIFTED, 900_000)


def test_what_cannot_be_judged_says_why():
    reference = drift.reference_of(COLUMN)
    small = drift.Reference((4, 3, 3, 0), is_ordered=True)
    one = history_of([drift_streams.window_of(0, (4, 3, 3, 0), 9.0)], 4)
    many = history_of([drift_streams.window_of(0, (400, 300, 300, 0), 9.0)] * 40, 4)
    assert drift.judge(None, one, LEVEL).kind is Kind.NO_BASELINE
    assert (
        drift.judge(drift.Reference((0, 0), is_ordered=True), one, LEVEL).kind is Kind.NO_BASELINE
    )
    assert drift.judge(reference, drift_streams.no_history(4), LEVEL).kind is Kind.TOO_FEW_ROWS
    assert drift.judge(reference, one, LEVEL).kind is Kind.TOO_FEW_ROWS
    assert drift.judge(small, many, LEVEL).kind is Kind.REFERENCE_TOO_SMALL
    assert drift.judge(reference, many, LEVEL).kind is Kind.STABLE


def test_a_verdict_describes_the_stretch_that_it_is_about():
    reference = drift.Reference((500, 500, 0), is_ordered=True)
    verdict = drift.judge(
        reference, history_of([drift_streams.window_of(7, (100, 300, 0))], 3), LEVEL
    )
    # 0.25 ln 1.5 + 0.25 ln 2, and by hand from the definition in bits.
    assert verdict.psi == pytest.approx(0.25 * np.log(1.5) + 0.25 * np.log(2))
    assert verdict.js_bits == pytest.approx(0.0487949406953985)
    assert verdict.wasserstein_bins == pytest.approx(0.25)
    assert (verdict.rows, verdict.windows, verdict.since_unix_ms) == (400, 1, 7)


def test_categories_have_no_distance_over_bins():
    column = CategoryColumn(name="site", categories=("a", "b"), counts=(6, 4), other=1)
    assert drift.reference_of(column) == drift.Reference((6, 4, 1), is_ordered=False)


def test_the_budget_is_divided_among_all_tests():
    assert drift.chance_per_test(Level.DEVICE, 1000, 20) == pytest.approx(
        0.5 / (1000 * 20 * 30 * 96 * 7)
    )
    whole = sum(
        drift.chance_per_test(level, streams, 20) * streams * 20 * 2880 * len(drift.SCALES)
        for level, streams in ((Level.FLEET, 1), (Level.GROUP, 12), (Level.DEVICE, 1000))
    )
    assert whole == pytest.approx(1.0)


def test_one_lasting_drift_is_one_alarm_that_ends_with_it():
    generator = np.random.default_rng(8)
    stream = drift_streams.Stream(generator, lag_one=0.0, reference_rows=10_000)
    history = history_of(stream.windows(40, 500))
    alarm, raised, seen = None, 0, []
    moves = [drift_streams.move_of(0.1)] * 60 + [0.0] * 80
    for move in moves:
        history = drift_streams.lengthened(history, next(stream.windows(1, 500, move)))
        before, alarm = alarm, drift.follow(alarm, drift.judge(stream.reference, history, LEVEL))
        raised += before is None and alarm is not None
        seen.append(alarm is not None)
    assert raised == 1
    assert all(seen[8:60])
    assert not seen[-1]


def test_windows_that_say_nothing_yet_do_not_end_an_alarm():
    reference = drift.reference_of(COLUMN)
    alarm = drift.Alarm(0, 1)
    for number in range(1, 12):  # after a pause, still drifted
        history = history_of([drift_streams.window_of(0, (0, 0, 500, 0), 0.0)] * number, 4)
        verdict = drift.judge(reference, history, LEVEL, is_merged=True)
        assert verdict.kind is Kind.TOO_FEW_ROWS
        assert drift.follow(alarm, verdict) == alarm
    alike = history_of([drift_streams.window_of(0, (200, 150, 150, 0), 0.0)] * 4, 4)
    quiet = drift.judge(reference, alike, LEVEL, is_merged=True)
    assert drift.follow(alarm, quiet) == drift.Alarm(0, 1, quiet=1)


def test_a_merged_stream_waits_for_its_scatter():
    generator = np.random.default_rng(9)
    streams = [
        drift_streams.Stream(generator, lag_one=0.5, reference_rows=10_000) for _ in range(5)
    ]
    reference, move = streams[0].reference, drift_streams.move_of(2.0)
    history, kinds = drift_streams.no_history(11), []
    for _ in range(40):
        window = drift_streams.merged(next(s.windows(1, 500, move)) for s in streams)
        history = drift_streams.lengthened(history, window)
        kinds.append(drift.judge(reference, history, 1e-7, is_merged=True).kind)
    assert set(kinds[:20]) == {Kind.TOO_FEW_ROWS}
    assert kinds[-1] is Kind.DRIFTED
