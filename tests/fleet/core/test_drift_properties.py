"""What holds of the drift decision for any counts."""

import math
from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import drift_streams
from fleet.core import drift
from fleet.core.drift import Kind, Level

CELLS = 4
counts = st.lists(st.integers(0, 10**9), min_size=CELLS, max_size=CELLS)
few = st.lists(st.integers(0, 400), min_size=CELLS, max_size=CELLS)
betweens = st.none() | st.floats(0, 1e12)
windows = st.builds(drift_streams.window_of, st.integers(0, 10**13), counts, betweens)
references = st.builds(
    drift.Reference, counts.map(tuple), is_ordered=st.booleans(), effect=st.floats(1, 100)
)


def history_of(some):
    history = drift_streams.no_history(CELLS)
    for window in some:
        history = drift_streams.lengthened(history, window)
    return history


@given(references, st.lists(windows, max_size=12), st.floats(1e-12, 1), st.booleans())
@settings(max_examples=60, deadline=None)
def test_any_counts_have_a_verdict(reference, some, level, is_merged):
    verdict = drift.judge(reference, history_of(some), level, is_merged=is_merged)
    assert 0 <= verdict.p_value <= 1
    assert all(map(math.isfinite, (verdict.psi, verdict.js_bits, verdict.effective_rows)))
    assert 0 <= verdict.js_bits <= 1
    assert verdict.effective_rows <= verdict.rows
    drift.follow(drift.follow(None, verdict), verdict)


@given(references, few, few, st.integers(1, 40))
@settings(deadline=None)
def test_equal_windows_may_change_places(reference, one, other, number):
    equal = [drift_streams.window_of(0, one, 5.0)] * number
    last = drift_streams.window_of(0, other, 5.0)
    straight = drift.judge(reference, history_of([*equal, last]), 1e-6)
    swapped = drift.judge(reference, history_of([*reversed(equal), last]), 1e-6)
    assert straight == swapped


@given(st.lists(st.integers(1, 400), min_size=CELLS, max_size=CELLS), few)
@settings(deadline=None)
def test_the_same_shares_in_more_windows_are_never_less_certain(cells, observed):
    reference = drift.Reference(tuple(100 * cell for cell in cells), is_ordered=True)
    window = drift_streams.window_of(0, observed, None)
    verdict = drift.judge(reference, history_of([window] * 8), 1e-6)
    tested = [p for p in verdict.p_values[:4] if p < 1]
    assert all(b <= a * 1.0001 for a, b in pairwise(tested))


@given(references, few)
@settings(deadline=None)
def test_an_empty_window_is_no_evidence(reference, observed):
    before = history_of([drift_streams.window_of(0, observed, 1.0)])
    after = drift_streams.lengthened(before, drift_streams.window_of(1, [0] * CELLS, 0.0))
    verdict = drift.judge(reference, after, 0.5)
    assert verdict.p_values[0] == 1.0
    only = drift.judge(
        reference, history_of([drift_streams.window_of(0, [0] * CELLS, 0.0)] * 3), 0.5
    )
    assert only.kind in {Kind.TOO_FEW_ROWS, Kind.NO_BASELINE}


@given(st.sampled_from(Level), st.integers(0, 10**6), st.integers(0, 512), st.floats(0, 100))
def test_a_larger_fleet_has_a_stricter_test(level, streams, columns, budget):
    one = drift.chance_per_test(level, streams, columns, alarms_per_30_days=budget)
    more = drift.chance_per_test(level, streams + 1, columns + 1, alarms_per_30_days=budget)
    assert 0 <= more <= one <= 1


def test_a_window_of_another_shape_is_no_evidence():
    reference = drift.Reference((5, 5), is_ordered=True)
    assert drift.judge(reference, history_of([]), 0.5).kind is Kind.TOO_FEW_ROWS
    assert np.isfinite(drift.judge(reference, history_of([]), 0.5).p_value)
