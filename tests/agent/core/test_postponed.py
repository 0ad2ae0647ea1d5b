"""What waits for a disk that works: bounded, in its order, and with the same end as if nothing had been left out."""

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.core import events as ev
from agent.core.postponed import MAX_POSTPONED, with_postponed
from agent.core.states import Fetching, Idle
from tests.agent.core.journeys import V1, V2, V3, run, serving
from wire.lifecycle import Code, Outcome

FAILED = ev.FetchFailed(V2.ref.manifest, Outcome.FAILED, Code.DISK_FULL, "full")
GONE = ev.DirectorGone()


def desired(generation, *assignments):
    return ev.DesiredReceived(generation, assignments or (V2,))


def waiting(*events):
    kept = ()
    for event in events:
        kept = with_postponed(kept, event)
    return kept


def test_what_comes_once_finds_room_among_what_comes_again_and_again():
    again = [e for n in range(500) for e in (desired(3), desired(n), GONE, ev.TryDue())]
    golden = [ev.GoldenRowsChecked(is_passed=True, detail="")] * 500
    assert FAILED in waiting(*again, *golden, FAILED)


def test_a_newer_desired_state_comes_after_what_happened_before_it():
    assert waiting(desired(3), FAILED, desired(4), desired(3)) == (FAILED, desired(4))
    assert waiting(desired(4), FAILED, desired(4)) == (desired(4), FAILED), "the same is no news"


def test_generations_begin_anew_with_a_new_director():
    assert waiting(desired(9), GONE, desired(2)) == (desired(9), GONE, desired(2))
    assert waiting(desired(9), GONE, desired(2), desired(3)) == (desired(9), GONE, desired(3))


EVENTS = st.one_of(
    st.integers(2, 6).flatmap(
        lambda n: st.sampled_from([(V1,), (V2,), (V3,)]).map(lambda a: desired(n, *a))
    ),
    st.just(GONE),
    st.just(ev.TryDue()),
    st.just(FAILED),
    st.just(ev.BundleStaged(V2.ref.manifest)),
    st.just(ev.CandidatePassed()),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(EVENTS, max_size=MAX_POSTPONED))
def test_nothing_but_what_repeats_is_left_out(events):
    kept = waiting(*events)
    once = [
        e for e in events if not isinstance(e, ev.DesiredReceived | ev.DirectorGone | ev.TryDue)
    ]
    left = [e for e in kept if not isinstance(e, ev.DesiredReceived | ev.DirectorGone | ev.TryDue)]
    assert left == once
    for kind in (ev.DirectorGone, ev.TryDue):
        assert any(isinstance(e, kind) for e in kept) == any(isinstance(e, kind) for e in events)
    after = list(events)
    if GONE in events:
        after = events[events.index(GONE) :]
    generations = [e.generation for e in after if isinstance(e, ev.DesiredReceived)]
    newest = max(generations, default=None)
    assert newest is None or newest in [
        e.generation for e in kept if isinstance(e, ev.DesiredReceived)
    ]


def test_a_device_goes_on_with_the_newest_when_the_disk_works_again():
    state, _ = run(serving(V1), desired(2))
    assert state.update == Fetching(V2)
    repeated = [desired(n, V2) for n in range(3, 203)]
    state, _ = run(state, *waiting(*repeated, FAILED))
    assert state.generation == 202
    assert isinstance(state.update, Idle)
    assert state.record("digits").outcome is Outcome.FAILED, "and the controller may try again"
