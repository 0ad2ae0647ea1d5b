from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.core.cohort import phase_of, phase_sizes, stable_order


@pytest.mark.parametrize(
    ("shares", "count", "sizes"),
    [
        (["1", "50%", "100%"], 3, [1, 2, 3]),
        (["1", "50%", "100%"], 10, [1, 5, 10]),
        (["1", "50%", "100%"], 1, [1]),  # nothing new in the later phases
        (["1%", "100%"], 3, [1, 3]),  # a share is never less than one device
        (["7%"], 100, [7]),  # floats would make it 8
        (["50%", "10%", "100%"], 10, [5, 10]),  # shares that do not grow are left out
        (["5"], 3, [3]),
        (["1", "2"], 10, [1, 2]),  # a canary only
        (["100%"], 0, []),
    ],
)
def test_shares_are_cumulative_and_rounded_up(
    shares: list[str], count: int, sizes: list[int]
) -> None:
    assert [cut.size for cut in phase_sizes(shares, count)] == sizes


SHARES = st.lists(
    st.integers(1, 100).map(lambda n: f"{n}%") | st.integers(1, 50).map(str), min_size=1, max_size=6
)


@given(SHARES, st.integers(1, 200))
def test_phases_grow_strictly_and_never_beyond_the_fleet(shares: list[str], count: int) -> None:
    sizes = [cut.size for cut in phase_sizes(shares, count)]
    assert sizes
    assert sizes[0] >= 1
    assert all(a < b for a, b in itertools.pairwise(sizes))
    assert sizes[-1] <= count


def test_every_device_up_to_the_last_size_has_the_phase_that_counts_it() -> None:
    cuts = phase_sizes(["1", "50%"], 4)
    assert [phase_of(n, cuts) for n in range(4)] == [0, 1, None, None]


def test_the_order_is_stable_and_differs_between_rollouts() -> None:
    devices = [f"cam-{n:02}" for n in range(20)]
    order = stable_order("r-1", devices)
    assert order == stable_order("r-1", reversed(devices))
    assert sorted(order) == devices
    canaries = {stable_order(f"r-{n}", devices)[0] for n in range(40)}
    assert len(canaries) > 8  # the canary is not always the same device
