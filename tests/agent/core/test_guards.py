"""The statistics behind the guards, at their stated bounds."""

import math
from bisect import bisect_right

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core import guards as g
from agent.core.states import NO_MEMORY
from wire.latency import LATENCY_BINS, LATENCY_EDGES_MS

MIB = 1 << 20


def latency(*groups):
    """Return counts of (how many, ms) pairs."""
    counts = [0] * LATENCY_BINS
    for number, ms in groups:
        counts[bisect_right(LATENCY_EDGES_MS, ms)] += number
    return tuple(counts)


# scipy.stats.binom.sf(count - 1, total, 0.01) is the tail in the last column.
@pytest.mark.parametrize(
    ("count", "total", "is_above"),
    [
        (0, 0, False),
        (1, 1, False),  # 1e-2
        (2, 2, False),  # 1e-4
        (3, 3, True),  # 1e-6
        (4, 20, False),  # 4.3e-5
        (5, 20, True),  # 1.4e-6
        (26, 1000, False),  # 1.2e-5
        (27, 1000, True),  # 4.3e-6
        (10_000, 1_000_000, False),
        (10_500, 1_000_000, True),
        (10**17 // 100, 10**17, False),  # and it takes no time
        (10**17, 10**17, True),
    ],
)
def test_a_share_of_slow_requests_is_believed_when_chance_does_not_explain_it(
    count, total, is_above
):
    assert g.is_share_above(count, total, 0.01) is is_above


@given(st.integers(1, 3000), st.floats(0, 1))
def test_the_tail_is_the_exact_one(total, share):
    count = round(total * share)
    tail = sum(
        math.comb(total, n) * 0.01**n * 0.99 ** (total - n)
        for n in range(count, min(total, count + 60) + 1)
        if math.comb(total, n) < 1e250
    )
    if abs(tail - g.FALSE_ALARM) > 1e-9:
        assert g.is_share_above(count, total, 0.01) is (
            count > 0.01 * total and tail < g.FALSE_ALARM
        )


def test_a_p99_over_the_limit_and_a_median_over_it_are_told_apart():
    some = latency((970, 1.0), (30, 80.0))
    assert (g.is_p99_above(some, 50), g.is_median_above(some, 50)) == (True, False)
    most = latency((400, 1.0), (600, 80.0))
    assert (g.is_p99_above(most, 50), g.is_median_above(most, 50)) == (True, True)
    assert not g.is_p99_above(some, 90)


@pytest.mark.parametrize(
    ("reference_ms", "limit_ms"), [(0.05, 25.05), (1, 26), (12.5, 37.5), (100, 300)]
)
def test_the_release_before_sets_a_limit_that_small_differences_never_pass(reference_ms, limit_ms):
    assert g.ratio_limit_ms(reference_ms, 3) == pytest.approx(limit_ms)


def test_few_requests_are_no_reference():
    assert g.reference_p99_ms(latency((199, 1.0))) is None
    assert g.reference_p99_ms(latency((200, 1.0))) == pytest.approx(1.0, rel=0.13)


def trace(samples_mib):
    memory = NO_MEMORY
    for sample in samples_mib:
        memory = g.observe_memory(memory, int(sample * MIB))
    return memory


STEADY = [85.4] * 60
"""As recorded: 48 s under load with batches of 1 to 200 rows moved it by 12 kB."""
LEAK = [85 + 3 * second for second in range(60)]


@pytest.mark.parametrize(
    ("samples", "grown_mib"),
    [
        (STEADY, 0),
        (LEAK[:15], 0),  # too short to judge
        (LEAK[:16], 24),
        (LEAK, 90),
        ([85] * 15 + [300] * 45, 0),  # a step in the warm-up
        *[([85] * step + [300] * (60 - step), 0) for step in range(60)],  # or at any other time
        *[([85] * step + [200] * 9 + [300] * (51 - step), 0) for step in range(12)],
        ([85 + 200 * (1 - 0.8**second) for second in range(60)], 0),  # it warms up
        ([85 + (200 if second % 7 == 0 else 0) for second in range(60)], 0),  # large requests
        ([85 + 3 * second + (150 if second % 5 == 0 else 0) for second in range(60)], 90),
        ([300 - 3 * second for second in range(60)], 0),
    ],
)
def test_only_steady_growth_after_the_warm_up_counts(samples, grown_mib):
    assert g.growth_bytes(trace(samples)) / MIB == pytest.approx(grown_mib, abs=4)


def test_a_trace_of_days_is_bounded_and_still_tells():
    memory = trace(85 + second / 1000 for second in range(100_000))
    assert len(memory.lows) <= g.MAX_LOWS
    assert len(memory.pending) < memory.stride
    assert g.growth_bytes(memory) / MIB == pytest.approx(50, rel=0.1)


@given(st.lists(st.integers(0, 2**40), max_size=300) | st.permutations(range(200)))
def test_a_trace_keeps_the_lowest_of_all_and_grows_by_no_more_than_there_was(samples):
    memory = NO_MEMORY
    for sample in samples:
        memory = g.observe_memory(memory, sample)
    assert min((*memory.lows, *memory.pending), default=None) == min(samples, default=None)
    assert 0 <= g.growth_bytes(memory) <= max(samples, default=0)


@pytest.mark.parametrize(
    ("size_mib", "budget_mb", "limit_mib"), [(85, None, 32), (2000, None, 200), (2000, 64, 64)]
)
def test_the_growth_allowed_is_absolute_relative_and_within_the_budget(
    size_mib, budget_mb, limit_mib
):
    memory = trace([size_mib] * 20)
    assert g.growth_limit_bytes(memory, 32, budget_mb) / MIB == pytest.approx(limit_mib)
