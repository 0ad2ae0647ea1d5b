"""Windows of counts add up, whatever a device says."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fleet.core.counts import MAX_COUNTED, MAX_SUM
from fleet.core.streams import Slot, history_of, together_of
from fleet.core.windows import ColumnSums, WindowSums, merged, of_record
from wire.messages import MAX_INTEGER
from wire.windows import MAX_BETWEEN, WindowTelemetry

CELLS = (3, 2)
claimed = st.sampled_from([0, 1, MAX_COUNTED, MAX_INTEGER]) | st.integers(0, MAX_INTEGER)
stored = st.integers(0, 2**70)
sums = st.builds(
    WindowSums,
    stored,
    st.dictionaries(
        st.integers(0, 1), st.builds(ColumnSums, st.lists(stored, max_size=5).map(tuple))
    ),
    st.lists(stored, max_size=4).map(tuple),
)


def record(**fields):
    head = {"boot": "b" * 16, "seq": 1, "start_unix_ms": 0, "duration_s": 900.0}
    release = {"model": "m", "version": "1", "manifest": "0" * 64}
    return WindowTelemetry.model_validate(head | release | fields)


@given(
    claimed,
    st.lists(st.lists(claimed, max_size=6), max_size=3),
    st.lists(st.floats(0, MAX_BETWEEN), max_size=3),
    st.lists(claimed, max_size=4),
    st.integers(0, 2),
)
def test_no_record_counts_more_rows_than_it_has(rows, columns, between, scores, first):
    found = of_record(
        record(row_count=rows, columns=columns, between=between, scores=scores, first=first), CELLS
    )
    assert found.row_count == (min(rows, MAX_COUNTED) if first == 0 else 0)
    assert sum(found.scores) <= found.row_count
    for position, column in found.columns.items():
        assert sum(column.counts[: CELLS[position]]) <= min(rows, MAX_COUNTED)
        assert max(column.counts, default=0) <= min(rows, MAX_COUNTED)


def test_a_column_with_more_rows_than_the_record_is_left_out_and_others_count():
    found = of_record(record(row_count=9, columns=[[4, 4, 2], [9], [9]]), CELLS)
    assert {place: column.counts for place, column in found.columns.items()} == {1: (9,)}
    beside = of_record(record(row_count=9, columns=[[9, 0, 0, 9, 9], [1, 1, 0, 10]]), CELLS)
    assert {place: column.counts for place, column in beside.columns.items()} == {
        0: (9, 0, 0, 9, 9)
    }


@given(sums, sums, sums)
def test_sums_know_no_order_and_stay_within_what_a_store_holds(one, two, three):
    both = merged(one, two)
    assert both == merged(two, one)
    assert merged(both, three) == merged(one, merged(two, three))
    parts = [both.row_count, *both.scores, *(n for c in both.columns.values() for n in c.counts)]
    assert max(parts) <= MAX_SUM < 2**63
    assert int(float(MAX_SUM)) == MAX_SUM


@given(st.lists(sums, max_size=12))
def test_what_is_judged_never_overflows(windows):
    slots = [Slot(number * 900_000, sums) for number, sums in enumerate(windows)]
    history = history_of(slots, 0, 3)
    together = together_of([history] * 100)
    assert (together.counts >= 0).all()
    exact = [100 * sum(map(int, row)) for row in history.counts]
    assert together.counts.sum(axis=1).tolist() == exact
    assert not np.isnan(together.blocks).any()
