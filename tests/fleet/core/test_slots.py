"""To which slot of time a window belongs."""

import pytest

from fleet.core.windows import MAX_AHEAD_MS, MAX_BEHIND_MS, slot_start
from fleet.monitoring.windows import KEEP_DAYS_MS

SLOT_MS = 900_000
DAY_MS = 86_400_000
NOW = 1_783_000_123_456  # in 2026


@pytest.mark.parametrize("age_days", [0, 1, 29, 31, 400, 730])
def test_a_window_that_waited_keeps_its_own_time(age_days):
    ended = NOW - age_days * DAY_MS
    assert slot_start(ended, NOW, SLOT_MS) == ended // SLOT_MS * SLOT_MS


@pytest.mark.parametrize(
    ("ended", "received"),
    [
        (NOW - 731 * DAY_MS, NOW),
        (NOW + MAX_AHEAD_MS + 1, NOW),
        (0, NOW),
        (1_703_000_000_000, 1_760_000_000_000),  # a clock from before 2024, in 2025
    ],
)
def test_one_of_an_impossible_time_belongs_to_its_arrival(ended, received):
    assert slot_start(ended, received, SLOT_MS) == received // SLOT_MS * SLOT_MS


def test_own_times_reach_back_as_far_as_windows_are_kept():
    assert MAX_BEHIND_MS == KEEP_DAYS_MS
