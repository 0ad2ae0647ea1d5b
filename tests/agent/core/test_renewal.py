import pytest

from agent.core.renewal import SILENCE_S, is_due

DAY_MS = 86_400_000
LIFE_MS = 30 * DAY_MS
START = 1_800_000_000_000


@pytest.mark.parametrize(
    ("day", "offline_s", "due"),
    [
        (0, 0, False),
        (19, 0, False),
        (23, 0, True),
        (29, 0, True),
        (29, 5000, True),
        # It has expired, and the broker takes it: the clock is ahead.
        (31, 0, False),
        (3650, 0, False),
        # It has expired, and nothing takes it.
        (31, 1, True),
        (3650, 1, True),
        # The clock was never set.
        (-3650, 0, False),
        (-3650, 1, False),
        (-3650, SILENCE_S, True),
    ],
)
@pytest.mark.parametrize("chance", [0, 0.999])
def test_a_certificate_is_renewed_at_two_thirds_of_its_life_whatever_the_clock(
    day, offline_s, due, chance
):
    assert due is is_due(
        START + day * DAY_MS,
        not_before_unix_ms=START,
        not_after_unix_ms=START + LIFE_MS,
        chance=chance,
        offline_s=offline_s,
    )


@pytest.mark.parametrize(("renewed_s", "due"), [(0, False), (86_400, False), (3 * 86_400, True)])
def test_a_clock_that_is_ahead_by_weeks_does_not_renew_without_end(renewed_s, due):
    assert due is is_due(
        START + 25 * DAY_MS,
        not_before_unix_ms=START,
        not_after_unix_ms=START + LIFE_MS,
        chance=0.5,
        offline_s=0,
        renewed_s=renewed_s,
    )
