import itertools

from hypothesis import given
from hypothesis import strategies as st

from agent.core.metadata_pull import PATIENCE_S, REST_CAP_S, REST_S, Schedule, Want, look

WANT = Want("trust_unavailable", 3, frozenset({"digits"}))
OTHER = Want("trust_expired", 3, frozenset({"digits"}))


def pulls(wants, *, chance=0.0):
    """Return when there is a pull, of what is wanting at each instant."""
    schedule, at = Schedule(), []
    for now_s, want in wants:
        schedule, is_due = look(schedule, want, now_s, chance)
        if is_due:
            at.append(now_s)
    return at


def test_nothing_is_pulled_while_nothing_is_wanting_or_only_for_a_moment():
    assert pulls((s, None) for s in range(10_000)) == []
    assert pulls((s, WANT if s % 5 else None) for s in range(10_000)) == []


def test_the_same_want_is_pulled_for_ever_more_seldom():
    at = pulls((float(s), WANT) for s in range(20_000))
    assert at[0] == PATIENCE_S
    gaps = [b - a for a, b in itertools.pairwise(at)]
    assert gaps[:4] == [REST_S, 2 * REST_S, 4 * REST_S, 8 * REST_S]
    assert max(gaps) == REST_CAP_S


def test_another_want_is_pulled_for_soon():
    at = pulls((float(s), WANT if s < 10 else OTHER) for s in range(60))
    assert at == [PATIENCE_S, 10 + PATIENCE_S]


def test_devices_do_not_keep_step():
    first, second = (pulls(((float(s), WANT) for s in range(600)), chance=c) for c in (0.0, 0.9))
    assert first[1:] != second[1:]


@given(st.lists(st.sampled_from([None, WANT, OTHER]), max_size=300), st.floats(0, 0.99))
def test_whatever_changes_pulls_are_never_close(wants, chance):
    at = pulls(zip(map(float, range(len(wants))), wants, strict=True), chance=chance)
    assert all(b - a >= PATIENCE_S for a, b in itertools.pairwise(at))


@given(st.integers(1, 100_000), st.floats(0, 0.99))
def test_what_stays_wanting_is_pulled_for_again(late_s, chance):
    schedule, _ = look(Schedule(), WANT, 0.0, chance)
    schedule, is_due = look(schedule, WANT, float(late_s), chance)
    assert is_due == (late_s >= PATIENCE_S)
    assert look(schedule, WANT, late_s + 2 * REST_CAP_S, chance)[1]
