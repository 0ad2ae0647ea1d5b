"""Spans of what is live, for any order of reports."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.core import live
from fleet.core.live import Said, Span
from fleet.core.states import ReleaseKey
from wire.lifecycle import Outcome, UpdateState

A, B = ReleaseKey("1", "a" * 64), ReleaseKey("2", "b" * 64)
LASTING = Span("cam", "digits", A, 100, 200)


def report(said, *, lasting=LASTING, heard=None, now=1000):
    (ended, begun) = live.changes(
        "cam",
        {"digits": lasting} if lasting else {},
        {"digits": said} if said else {},
        heard_unix_ms=heard,
        now_unix_ms=now,
    )
    return ended, begun


def test_the_same_release_again_changes_nothing():
    assert report(Said(A)) == ([], [])
    assert report(Said(ReleaseKey("other name", A.manifest))) == ([], [])
    assert report(None, lasting=None) == ([], [])
    assert report(Said(None), lasting=None) == ([], [])


@pytest.mark.parametrize(
    ("said", "ending"),
    [
        (Said(B), "replaced"),
        (Said(B, target=B.manifest, outcome=Outcome.CONFIRMED), "replaced"),
        (Said(B, target=A.manifest, outcome=Outcome.ROLLED_BACK), "rolled_back"),
        (Said(B, UpdateState.ROLLING_BACK, target=A.manifest), "rolled_back"),
        (Said(None, target=A.manifest, outcome=Outcome.ROLLED_BACK), "rolled_back"),
        (Said(None, target=A.manifest, outcome=Outcome.ROLLBACK_FAILED), "rollback_failed"),
        (Said(None), "stopped"),
        (None, "removed"),
    ],
)
def test_how_a_span_ends(said, ending):
    (ended,), begun = report(said)
    assert (ended.ending, ended.until_unix_ms, ended.last_known_unix_ms) == (ending, 1000, 1000)
    assert [span.release for span in begun] == ([B] if said and said.active else [])


def test_after_a_silence_the_change_lies_within_it():
    (ended,), (begun,) = report(Said(B), heard=400)
    assert (ended.last_known_unix_ms, ended.until_unix_ms) == (400, 1000)
    assert (begun.earliest_unix_ms, begun.since_unix_ms) == (400, 1000)
    assert [live.certainty(ended, at, None) for at in (99, 100, 200, 400, 401, 999, 1000)] == [
        *(None, "possible", "certain", "certain", "possible", "possible", None)
    ]
    assert [live.certainty(begun, at, 2000) for at in (399, 400, 1000, 2000, 2001)] == [
        *(None, "possible", "certain", "certain", "possible")
    ]


def test_a_clock_that_was_set_back_makes_a_span_of_no_length():
    (ended,), (begun,) = report(Said(B), now=50)
    assert ended.since_unix_ms == ended.until_unix_ms == begun.since_unix_ms == 200


REPORTS = st.lists(
    st.tuples(
        st.sampled_from([A, B, None]),
        st.booleans(),  # whether the model is in the report at all
        st.integers(-50, 100),  # time that went by
        st.none() | st.integers(0, 200),  # silence before it
        st.sampled_from([None, *Outcome]),
    ),
    max_size=30,
)


@given(REPORTS)
def test_spans_never_overlap_and_the_last_one_is_what_was_said_last(reports):
    now, newest, spans = 1000, {}, []
    active = None
    for release, is_there, passed, silence, outcome in reports:
        now += passed
        said = {"m": Said(release, target=A.manifest, outcome=outcome)} if is_there else {}
        heard = None if silence is None else now - silence
        silence_ends = {"heard_unix_ms": heard, "now_unix_ms": now}
        ended, begun = live.changes("d", newest, said, **silence_ends)
        newest |= {span.model: span for span in (*ended, *begun)}
        assert live.changes("d", newest, said, **silence_ends) == ([], [])
        if ended:
            spans[-1:] = ended
        spans += begun
        active = release if is_there else None
    assert [span.release for span in spans[-1:] if not span.ending] == ([active] if active else [])
    for span in spans:
        end = span.until_unix_ms
        assert span.earliest_unix_ms <= span.since_unix_ms
        assert (end is None) == (span.ending == "")
        if end is not None:
            assert span.since_unix_ms <= (span.last_known_unix_ms or 0) <= end
    for before, after in pairwise(spans):
        assert before.until_unix_ms is not None
        assert before.until_unix_ms <= after.since_unix_ms
        for at in range(before.since_unix_ms, after.since_unix_ms + 2):
            sure = [s for s in (before, after) if live.certainty(s, at, None) == "certain"]
            assert len(sure) <= 1


def test_a_span_keeps_what_it_is_when_it_ends():
    ended = live.end(LASTING, "device_removed", heard_unix_ms=900, now_unix_ms=1000)
    assert ended == replace(
        LASTING, last_known_unix_ms=900, until_unix_ms=1000, ending="device_removed"
    )
