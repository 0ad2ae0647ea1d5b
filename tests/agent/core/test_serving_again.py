"""What a device does until something serves again: a disk that fails, a runtime that dies early."""

import pytest

from agent.core import events as ev
from agent.core.serving import MAX_READ_TRIES, MAX_ROLLBACK_STARTS, SHORT_LIFE_S
from agent.core.states import Fetching, Idle, RollingBack
from tests.agent.core.journeys import V1, V2, V3, on_probation, run, serving, want
from wire.lifecycle import Code, Outcome

UNREAD = ev.CandidateRefused("digits", Code.STORAGE_ERROR, "Input/output error")
LOST = ev.CandidateRefused("digits", Code.CONTENT_CORRUPT, "changed on disk")
NO_ROOM = ev.FetchFailed(V1.ref.manifest, Outcome.FAILED, Code.DISK_FULL, "no room")
CRASH = ev.CandidateRefused(None, Code.RUNTIME_DIED, "signal 11")
DIED = ev.RuntimeEnded(Code.RUNTIME_DIED, "signal 11")


def told(effects):
    return [e.code for e in effects if isinstance(e, ev.Announce)]


# -- files that cannot be read, and may be sound


def test_one_failed_read_of_the_only_release_changes_nothing():
    before, _ = run(serving(V1), ev.Started())
    state, effects = run(before, UNREAD)
    assert effects == [ev.Serve((("digits", V1.ref),), 1)]
    assert state.models == before.models


def test_the_only_release_is_tried_for_ever_and_that_is_told_once():
    state, _ = run(serving(V1), ev.Started())
    codes = []
    for count in range(1, 20):
        state, effects = run(state, UNREAD)
        assert effects[-1] == ev.Serve((("digits", V1.ref),), count)
        codes += told(effects)
    assert codes == [Code.STORAGE_ERROR]
    assert V1.ref.manifest in state.needed_manifests()


def test_a_quarantined_release_never_costs_a_device_the_one_it_went_back_to():
    """The controller still wants what was quarantined; one read of the release before it fails."""
    state, _ = run(on_probation(), ev.RuntimeEnded(Code.RUNTIME_DIED, "signal 11"))
    state, _ = run(state, ev.RuntimeAccepts(), ev.Started(), UNREAD, ev.RuntimeAccepts())
    assert state.record("digits").active == V1.ref
    assert V1.ref.manifest in state.needed_manifests()


def test_a_release_that_is_left_out_so_that_others_serve_is_kept_and_tried_at_the_next_start():
    other = want(7, "other")
    state, _ = run(serving(V1, other), ev.DesiredReceived(2, (other, want(9, "digits"))))
    state, _ = run(state, ev.Started(), *[UNREAD] * MAX_READ_TRIES)
    assert state.served_set() == (("other", other.ref),)
    assert V1.ref.manifest in state.needed_manifests(), "its bytes may be sound"
    state, effects = run(state, ev.Started())
    assert dict(effects[0].models)["digits"] == V1.ref


def test_a_fallback_that_cannot_be_read_is_tried_until_it_serves():
    state, _ = run(on_probation(), DIED)
    for _ in range(3 * MAX_READ_TRIES):
        state, effects = run(state, UNREAD)
        assert ("digits", V1.ref) in effects[-1].models
    assert isinstance(state.update, RollingBack)
    state, _ = run(state, ev.RuntimeAccepts())
    assert state.record("digits").outcome is Outcome.ROLLED_BACK


def test_a_release_on_probation_is_not_taken_back_for_one_failed_read():
    state, _ = run(on_probation(), ev.Started(), UNREAD, ev.RuntimeAccepts())
    assert state.record("digits").active == V2.ref
    state, _ = run(on_probation(), ev.Started(), *[UNREAD] * MAX_READ_TRIES)
    assert state.record("digits").active == V1.ref
    assert state.quarantined == (), "a disk's fault is not the bundle's"


# -- content that is lost, and cannot be had yet


def test_what_was_lost_is_fetched_until_it_is_here():
    state, _ = run(serving(V1), ev.Started(), LOST, ev.RuntimeAccepts())
    assert state.update == Fetching(V1, is_repair=True)
    for count in range(1, 5):
        state, effects = run(state, NO_ROOM)
        assert effects == [ev.Fetch(V1, count)]
    assert state.record("digits").outcome is None
    state, effects = run(state, ev.Started())
    assert ev.Fetch(V1) in effects, "a start begins at once"


def test_a_first_fetch_that_finds_no_room_ends_and_says_so():
    state, _ = run(serving(V2), ev.DesiredReceived(2, (V1,)), NO_ROOM)
    assert state.record("digits").outcome is Outcome.FAILED
    assert isinstance(state.update, Idle)


def test_a_repair_whose_release_is_refused_ends():
    state, _ = run(serving(V1), ev.Started(), LOST, ev.RuntimeAccepts())
    refused = ev.FetchFailed(V1.ref.manifest, Outcome.REJECTED, Code.BELOW_FLOOR, "too old")
    state, _ = run(state, refused)
    assert state.record("digits").outcome is Outcome.REJECTED


# -- a runtime that cannot even begin, and does not say why


def confirmed_twice():
    """A device with V2 confirmed and V1 to return to."""
    state, _ = run(on_probation(), ev.GoldenRowsChecked(True, ""))
    state, _ = run(
        state, ev.Evidence(elapsed_s=1e6, request_count=10**6, failure_count=0, rss_bytes=0)
    )
    record = state.record("digits")
    assert (record.active, record.fallback, record.is_confirmed) == (V2.ref, V1.ref, True)
    return state


def test_a_confirmed_release_that_kills_its_loader_makes_way_for_its_fallback():
    state, _ = run(confirmed_twice(), ev.Started(), *[CRASH] * (MAX_ROLLBACK_STARTS - 1))
    assert state.record("digits").active == V2.ref
    state, effects = run(state, CRASH)
    assert effects[-1].models == (("digits", V1.ref),)
    assert told(effects) == [Code.RUNTIME_DIED]


def test_models_with_nothing_to_return_to_are_tried_for_ever():
    state, _ = run(serving(V1), ev.Started(), *[CRASH] * 10)
    assert state.record("digits").active == V1.ref


def test_the_end_of_the_runtime_before_is_not_held_against_the_release_on_probation():
    state, _ = run(serving(V1), ev.DesiredReceived(2, (V2,)), ev.BundleStaged(V2.ref.manifest))
    state, _ = run(state, ev.CandidatePassed())
    state, effects = run(state, DIED)
    assert [type(e) for e in effects] == [ev.Ignored]
    state, _ = run(state, ev.RuntimeAccepts())
    assert state.record("digits").active == V2.ref
    assert state.quarantined == ()


# -- a release that serves, and whose runtime ends again and again


def soon(served_s=2.0):
    return ev.RuntimeEnded(Code.RUNTIME_DIED, "signal 11", served_s)


def delays(state, *ends):
    """Return by what count each new start is put off, when a runtime serves between two ends."""
    counts = []
    for end in ends:
        state, effects = run(state, end)
        counts += [e.failure_count for e in effects if isinstance(e, ev.Serve)]
        state, _ = run(state, ev.RuntimeAccepts())
    return state, counts


def test_a_request_that_kills_each_runtime_soon_puts_the_next_one_off_ever_longer():
    state, counts = delays(serving(V1), *[soon()] * 6)
    assert counts == [1, 2, 3, 4, 5, 6]
    assert state.record("digits").active == V1.ref
    assert state.is_serving


def test_one_that_has_served_for_a_minute_begins_a_new_row():
    _, counts = delays(serving(V1), soon(), soon(), soon(SHORT_LIFE_S), soon(), soon(59.9))
    assert counts == [1, 2, 1, 1, 2]
    state, _ = delays(serving(V1), *[soon()] * 6)
    state, _ = run(state, ev.Started(), ev.RuntimeAccepts())
    assert delays(state, soon())[1] == [1], "and so does a start of the agent"


def test_that_puts_off_no_fallback_and_no_self_test_for_ever():
    state, _ = delays(serving(V1), *[soon()] * 6)
    state, _ = run(state, ev.DesiredReceived(2, (V2,)), ev.BundleStaged(V2.ref.manifest))
    again, counts = delays(state, *[soon()] * 3)
    assert counts == [6, 7, 8]
    state, _ = run(again, ev.CandidatePassed(), ev.RuntimeAccepts())
    state, effects = run(state, soon())
    assert effects[-1] == ev.Serve((("digits", V1.ref),), 0)
    assert isinstance(state.update, RollingBack)


# -- a release that was superseded on probation


@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.REJECTED])
def test_a_superseded_release_makes_way_when_its_successor_fails(outcome):
    state, _ = run(on_probation(), ev.DesiredReceived(3, (V3,)))
    assert state.record("digits").active == V2.ref, "meanwhile it serves on"
    state, effects = run(
        state, ev.FetchFailed(V3.ref.manifest, outcome, Code.NOT_SIGNED, "not signed")
    )
    assert effects[-1].models == (("digits", V1.ref),)
    state, _ = run(state, ev.RuntimeAccepts())
    record = state.record("digits")
    assert (record.active, record.is_confirmed) == (V1.ref, True)
    assert (record.target, record.outcome, record.code) == (V3.ref, outcome, Code.NOT_SIGNED)
    assert isinstance(state.update, Idle)


def test_a_superseded_release_whose_runtime_ends_makes_way_at_once():
    state, _ = run(on_probation(), ev.DesiredReceived(3, (V3,)))
    state, effects = run(state, DIED)
    assert effects[-1].models == (("digits", V1.ref),)
    assert state.update == Fetching(V3)
