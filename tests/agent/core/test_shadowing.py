"""A shadow in the agent's state: when it is fetched, runs, gives way, fails, and survives a power cut."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from agent.core import events as ev
from agent.core.endings import MAX_TRIES
from agent.core.report import reported
from agent.core.states import (
    Assignment,
    BundleFacts,
    DeviceState,
    Fetching,
    Idle,
    OnProbation,
    Quarantine,
    ShadowWish,
)
from tests.agent.core.journeys import V1, V2, V3, ref, run, serving, want
from wire.lifecycle import Code, Outcome
from wire.messages import Inventory

WISH = ShadowWish(Assignment("digits", ref(2)), "r-1", 0.1, 0.01, 0.0)
OTHER = want(7, "other")
STAGED = ev.BundleStaged(WISH.manifest, BundleFacts(model="a" * 64))
ADAPTER = TypeAdapter(DeviceState)


def asked(state=None, *assignments, generation=2, wish=WISH):
    return run(
        state or serving(V1), ev.DesiredReceived(generation, assignments or (V1,), shadow=wish)
    )


def running():
    state, _ = asked()
    state, effects = run(state, STAGED)
    assert ev.StartShadow(WISH, V1.ref) in effects
    assert (state.shadow.stage, state.shadow.start_count) == ("running", 1), (
        "on disk before it runs"
    )
    return state


def again(state):
    """The state as the next start finds it."""
    return ADAPTER.validate_json(ADAPTER.dump_json(state))


def test_it_is_fetched_when_nothing_else_is_to_be_done_and_then_runs():
    state, effects = asked()
    assert effects[-1] == ev.Fetch(WISH.assignment)
    assert state.fetched() == WISH.assignment
    state = running()
    assert state.record("digits").active == V1.ref
    assert isinstance(state.update, Idle)
    assert WISH.manifest in state.needed_manifests(), "or a collection would take its files away"


def test_the_active_release_is_confirmed_at_the_new_generation_all_the_same():
    state, _ = asked()
    record = state.record("digits")
    assert (record.outcome, record.generation) == (Outcome.CONFIRMED, 2)


@pytest.mark.parametrize("wish", [None, ShadowWish(Assignment("digits", ref(3)), "r-2", 1, 0, 0)])
def test_a_newer_generation_ends_or_replaces_it(wish):
    state, effects = asked(running(), generation=3, wish=wish)
    assert effects[0] == ev.StopShadow()
    assert [e.code for e in effects if isinstance(e, ev.Announce)] == [Code.SHADOW_ENDED]
    assert (state.shadow and state.shadow.wish) == wish
    assert (ev.Fetch(wish.assignment) in effects) if wish else state.shadow is None


def test_a_newer_generation_with_the_same_wish_lets_it_run():
    state, effects = asked(running(), generation=3)
    assert state.shadow == running().shadow
    assert not any(isinstance(e, ev.StopShadow | ev.Fetch) for e in effects)


def test_an_activation_ends_it_first():
    state, effects = asked(running(), V2, generation=3, wish=None)
    assert effects[0] == ev.StopShadow()
    assert ev.Fetch(V2) in effects
    assert (state.shadow, state.update) == (None, Fetching(V2))


def test_it_gives_way_to_an_update_and_begins_again_after_it():
    base = serving(V1)
    state, _ = asked(base)
    state, _ = run(state, STAGED)
    state, effects = asked(state, V1, OTHER, generation=3)
    assert effects[0] == ev.StopShadow()
    assert (state.shadow.stage, state.shadow.start_count) == ("waiting", 0)
    assert ev.Fetch(OTHER) in effects
    state, effects = run(
        state,
        ev.BundleStaged(OTHER.ref.manifest),
        ev.CandidatePassed(),
        ev.RuntimeAccepts(),
    )
    assert isinstance(state.update, OnProbation)
    assert state.shadow.stage == "waiting"
    state, effects = run(state, ev.Evidence(61, 10, 0))
    assert effects[-1] == ev.Fetch(WISH.assignment)
    state, effects = run(state, STAGED)
    assert ev.StartShadow(WISH, V1.ref) in effects


def test_its_end_is_a_failed_trial_and_nothing_else():
    state, effects = run(running(), ev.ShadowEnded(WISH.manifest, Code.SHADOW_DIED, "SIGKILL"))
    assert (state.shadow.stage, state.shadow.code) == ("failed", Code.SHADOW_DIED)
    assert state.record("digits").active == V1.ref
    assert state.quarantined == ()
    report = reported(state, Inventory(), boot="0" * 16, seq=1)
    assert (report.shadow.state, report.shadow.code) == ("failed", Code.SHADOW_DIED)
    assert report.models[0].state == "idle", "an older controller sees a confirmed release"
    state, effects = run(again(state), ev.Started(), ev.RuntimeAccepts())
    assert state.shadow.stage == "failed"
    state, effects = asked(state, generation=3)
    assert state.shadow.stage == "failed", "it is not tried again for the same rollout"
    other = ShadowWish(WISH.assignment, "r-9", 0.1, 0.01, 0.0)
    state, effects = asked(state, generation=4, wish=other)
    assert ev.Fetch(WISH.assignment) in effects


def test_a_fetch_that_fails_fails_it():
    state, _ = asked()
    failed = ev.FetchFailed(WISH.manifest, Outcome.FAILED, Code.DISK_FULL, "full")
    state, _ = run(state, failed)
    assert (state.shadow.stage, state.shadow.code) == ("failed", Code.DISK_FULL)


FETCH_FAILED = ev.FetchFailed(WISH.manifest, Outcome.FAILED, Code.DISK_FULL, "full")


@pytest.mark.parametrize("end", [STAGED, FETCH_FAILED])
def test_nothing_is_collected_under_its_fetch_but_after_it(end):
    state, effects = asked()
    assert effects.index(ev.Collect()) < effects.index(ev.Fetch(WISH.assignment)), "it makes room"
    state, effects = asked(state, generation=3)
    assert ev.Collect() not in effects
    died = ev.RuntimeEnded(Code.RUNTIME_DIED, "signal 9")
    state, effects = run(state, died, ev.RuntimeAccepts())
    assert state.shadow.stage == "fetching"
    assert ev.Collect() not in effects
    state, effects = run(state, end)
    assert effects[-1] == ev.Collect()


def test_what_is_quarantined_here_is_no_shadow():
    state, _ = asked()
    known = Quarantine("9" * 64, Code.ERROR_RATIO, "a" * 64)
    state, effects = run(
        ADAPTER.validate_python({**state_dict(state), "quarantined": [known]}), STAGED
    )
    assert (state.shadow.stage, state.shadow.code) == ("failed", Code.QUARANTINED)
    assert not any(isinstance(e, ev.StartShadow) for e in effects)


def state_dict(state):
    return ADAPTER.dump_python(state)


def test_a_power_cut_comes_back_into_it_and_the_third_one_ends_it():
    state, _ = asked()
    for count in range(1, MAX_TRIES + 1):
        state, effects = run(state, STAGED)
        assert ev.StartShadow(WISH, V1.ref) in effects
        assert state.shadow.start_count == count
        state, effects = run(again(state), ev.Started())
        assert not any(isinstance(e, ev.StartShadow) for e in effects), "serving comes first"
        state, effects = run(state, ev.RuntimeAccepts())
        assert ev.Fetch(WISH.assignment) in effects
    state, effects = run(state, STAGED)
    assert (state.shadow.stage, state.shadow.code) == ("failed", Code.CRASH_LOOP)


def test_an_orderly_stop_gives_the_try_back():
    state = running()
    for _ in range(10):
        state, effects = run(state, ev.Stopping())
        assert effects == []
        state, _ = run(again(state), ev.Started(), ev.RuntimeAccepts(), STAGED)
        assert (state.shadow.stage, state.shadow.start_count) == ("running", 1)


def test_a_runtime_that_dies_beside_it_does_not_end_it():
    state, effects = run(running(), ev.RuntimeEnded(Code.RUNTIME_DIED, "signal 9"))
    assert state.shadow.stage == "running"
    assert not any(isinstance(e, ev.StopShadow) for e in effects)
    state, _ = run(state, ev.RuntimeAccepts())
    assert state.shadow == running().shadow


def test_without_a_release_to_compare_with_it_waits():
    state, effects = run(DeviceState(is_serving=True), ev.DesiredReceived(1, (), shadow=WISH))
    assert state.shadow.stage == "waiting"
    assert not any(isinstance(e, ev.Fetch) for e in effects)
    state, _ = asked(serving(V2), V2)
    assert state.shadow.stage == "waiting", "nor is a release compared with itself"


EVENTS = st.one_of(
    st.just(ev.Started()),
    st.just(ev.Stopping()),
    st.just(ev.RuntimeAccepts()),
    st.just(ev.CandidatePassed()),
    st.just(ev.TryDue()),
    st.just(ev.RuntimeEnded(Code.RUNTIME_DIED, "x")),
    st.just(ev.Evidence(30, 20, 0)),
    st.just(ev.ShadowEnded(WISH.manifest, Code.SHADOW_DIED, "x")),
    st.sampled_from([1, 2, 3, 7]).map(lambda n: ev.BundleStaged(f"{n:064x}")),
    st.sampled_from([1, 2, 3, 7]).map(
        lambda n: ev.FetchFailed(f"{n:064x}", Outcome.FAILED, Code.DISK_FULL, "x")
    ),
    st.sampled_from([None, "digits"]).map(
        lambda name: ev.CandidateRefused(name, Code.LOAD_FAILED, "x")
    ),
    st.builds(
        ev.DesiredReceived,
        st.integers(2, 40),
        st.sampled_from([(V1,), (V2,), (V3, OTHER), (V1, OTHER), ()]),
        st.just(()),
        st.sampled_from([None, WISH]),
    ),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(EVENTS, max_size=25))
def test_no_walk_has_a_shadow_beside_an_update_nor_two_of_them(events):
    state, runs = serving(V1), False
    for event in events:
        is_told = isinstance(event, ev.Started | ev.BundleStaged | ev.FetchFailed)
        fetches = state.fetched() is not None and not is_told
        state, effects = run(state, event)
        if isinstance(event, ev.Started):
            runs = False
        for effect in effects:
            match effect:
                case ev.Fetch() | ev.CancelFetch():
                    fetches = isinstance(effect, ev.Fetch)
                case ev.Collect():
                    assert not fetches, "it would delete what is being fetched"
                case ev.StartShadow(wish=wish, active=active):
                    assert not runs, "the one before was not ended"
                    assert active.manifest != wish.manifest
                    runs = True
                case ev.StopShadow():
                    runs = False
                case ev.StartCandidate():
                    assert not runs, "a candidate has the device to itself"
        if isinstance(event, ev.ShadowEnded | ev.Stopping):
            runs = runs and state.shadow is not None and state.shadow.stage == "running"
        shadow = state.shadow
        if shadow is not None and shadow.stage in ("fetching", "running"):
            assert isinstance(state.update, Idle)
            assert state.record("digits").is_confirmed
        assert runs == (shadow is not None and shadow.stage == "running")
        assert again(state) == state
