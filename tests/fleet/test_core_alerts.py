"""When an alert fires, when it is over, and when somebody is told: tables and properties."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.core import alerts as core
from fleet.core.alerts import Alert, Rule, Silence

RULE = Rule("disk_low", for_ms=10, clear_for_ms=5, repeat_ms=100)
FIRING = Alert("disk_low", "cam", "firing", True, 0, 0, fired_unix_ms=10, told_unix_ms=12)


def run(*evidence: tuple[int, bool | None], rule: Rule = RULE) -> list[str]:
    """Return the states after each piece of evidence; `-` is no alert."""
    alert: Alert | None = None
    states = []
    for now, is_breached in evidence:
        alert = core.step(alert, is_breached, now, rule, subject="cam")
        states.append(alert.state if alert is not None else "-")
    return states


@pytest.mark.parametrize(
    ("evidence", "states"),
    [
        ([(0, False)], ["-"]),
        ([(0, None)], ["-"]),
        ([(0, True), (9, True), (10, True)], ["pending", "pending", "firing"]),
        ([(0, True), (9, False)], ["pending", "-"]),
        ([(0, True), (9, None), (99, None), (99, True)], [*["pending"] * 3, "firing"]),
        (
            [(0, True), (10, True), (11, False), (15, False), (16, False)],
            ["pending", "firing", "firing", "firing", "resolved"],
        ),
        # it comes back before it was over
        (
            [(0, True), (10, True), (11, False), (15, True), (16, False), (20, False), (21, False)],
            ["pending", *["firing"] * 5, "resolved"],
        ),
        # after its end it is a new one
        (
            [(0, True), (10, True), (11, False), (16, False), (17, True), (27, True)],
            ["pending", "firing", "firing", "resolved", "pending", "firing"],
        ),
        # the clock is set back: it waits anew
        ([(100, True), (50, True), (59, True), (60, True)], [*["pending"] * 3, "firing"]),
        (
            [(0, True), (10, True), (100, False), (50, False), (54, False), (55, False)],
            ["pending", *["firing"] * 4, "resolved"],
        ),
    ],
)
def test_the_life_of_an_alert(evidence: list[tuple[int, bool | None]], states: list[str]) -> None:
    assert run(*evidence) == states


def test_a_rule_without_a_wait_fires_and_resolves_at_once() -> None:
    assert run((0, True), (0, False), rule=Rule("drift")) == ["firing", "resolved"]


def test_it_is_told_when_it_fires_and_again_while_nobody_knows() -> None:
    alert = core.step(None, True, 0, RULE, subject="cam")
    assert alert is not None
    assert alert.news == ""
    alert = core.step(alert, True, 10, RULE)
    assert alert is not None
    assert (alert.news, alert.news_unix_ms) == ("firing", 10)
    told = replace(alert, news="", told_unix_ms=12)
    for now, news in ((111, ""), (112, "firing")):
        later = core.step(told, True, now, RULE)
        assert later is not None
        assert later.news == news
    known = core.acknowledged(told, "ann", 20, RULE)
    assert known.acknowledged_by == "ann"
    assert core.acknowledged(known, "bob", 30, RULE) == known
    assert core.step(known, True, 10_000, RULE) == known


def test_the_end_is_told_to_those_who_heard_of_the_beginning() -> None:
    cleared = replace(FIRING, is_breached=False, since_unix_ms=100)
    over = core.judged(cleared, 105, RULE)
    assert over is not None
    assert (over.state, over.news, over.resolved_unix_ms) == ("resolved", "resolved", 105)
    unheard = core.judged(replace(cleared, told_unix_ms=None, news="firing"), 105, RULE)
    assert unheard is not None
    assert (unheard.state, unheard.news) == ("resolved", "")


def test_what_only_wants_to_be_known_is_over_when_it_is() -> None:
    rule = replace(RULE, clear_for_ms=0, is_over_when_acknowledged=True)
    known = core.acknowledged(FIRING, "ann", 50, rule)
    assert core.due_unix_ms(known, rule) == 50
    over = core.judged(known, 50, rule)
    assert over is not None
    assert (over.state, over.news) == ("resolved", "resolved")


@pytest.mark.parametrize("state", ["pending", "resolved"])
def test_only_what_fires_can_be_acknowledged(state: core.State) -> None:
    alert = replace(FIRING, state=state)
    assert core.acknowledged(alert, "ann", 50, RULE) == alert


@pytest.mark.parametrize(
    ("value", "is_over", "is_under"),
    [
        (0.06, True, False),
        (0.05, True, False),
        (0.03, None, None),
        (0.02, False, True),
        (0.01, False, True),
        (math.nan, None, None),
        (math.inf, True, False),
    ],
)
def test_a_limit_to_raise_and_another_to_clear(
    value: float,
    is_over: bool | None,  # noqa: FBT001 - a table's columns
    is_under: bool | None,  # noqa: FBT001 - a table's columns
) -> None:
    assert core.above(value, raise_at=0.05, clear_at=0.02) is is_over
    assert core.below(value, raise_at=0.02, clear_at=0.05) is is_under


@pytest.mark.parametrize(
    ("silence", "is_covered"),
    [
        (Silence(None, None), True),
        (Silence("disk_low", None), True),
        (Silence("expiry", None), False),
        (Silence(None, "cam-*"), True),
        (Silence(None, "cam-?"), False),
        (Silence(None, "CAM-*"), False),
        (Silence(None, None, {"site": "lab"}), True),
        (Silence(None, None, {"site": "lab", "kind": "cam"}), False),
        (Silence("disk_low", "cam-01", {"site": "lab"}), True),
    ],
)
def test_what_a_silence_covers(silence: Silence, is_covered: bool) -> None:  # noqa: FBT001 - a table's column
    assert silence.covers("disk_low", "cam-01", {"site": "lab"}) is is_covered


def test_a_fingerprint_is_that_of_prometheus() -> None:
    """The values of prometheus/common, model/signature_test.go."""
    assert int(core.fingerprint({}), 16) == 14695981039346656037
    labels = {"name": "garland, briggs", "fear": "love is not enough"}
    assert int(core.fingerprint(labels), 16) == 5799056148416392346


wait = st.integers(0, 50)
rules = st.builds(Rule, st.just("r"), for_ms=wait, clear_for_ms=wait, repeat_ms=st.integers(1, 50))
evidence = st.lists(
    st.tuples(st.integers(-30, 60), st.sampled_from([True, False, None])), max_size=40
)


@given(rules, evidence)
def test_it_fires_and_resolves_only_after_evidence_that_held(
    rule: Rule, steps: list[tuple[int, bool | None]]
) -> None:
    """Whatever the clock does: time that went back proves nothing."""
    now, alert = 1000, None
    held_ms: dict[bool, int] = {True: 0, False: 0}
    last: bool | None = None
    for delta, is_breached in steps:
        now += delta
        was = alert
        alert = core.step(was, is_breached, now, rule, subject="x")
        if is_breached is None:
            assert alert == was
            held_ms = {key: max(0, held + delta) for key, held in held_ms.items()}
            continue
        same = held_ms[is_breached] + delta if last == is_breached else 0
        held_ms = {is_breached: max(0, same), not is_breached: 0}
        last = is_breached
        before = was.state if was is not None else None
        after = alert.state if alert is not None else None
        if after == "firing" and before != "firing":
            assert is_breached
            assert held_ms[True] >= rule.for_ms
        if after == "resolved" and before != "resolved":
            assert not is_breached
            assert before == "firing"
            assert held_ms[False] >= rule.clear_for_ms
        if delta < 0 and was is not None and was.is_open and was.is_breached == is_breached:
            assert after == before or now >= was.since_unix_ms


@given(rules, evidence)
def test_nothing_happens_before_it_is_due(rule: Rule, steps: list[tuple[int, bool | None]]) -> None:
    """The tick may leave alone what is not due: without new evidence it stays as it is."""
    now, alert = 1000, None
    for delta, is_breached in steps:
        now += abs(delta)
        alert = core.step(alert, is_breached, now, rule, subject="x")
        if alert is None:
            continue
        due = core.due_unix_ms(alert, rule)
        if due is None:
            assert core.judged(alert, now + 10_000, rule) == alert
        else:
            for early in {now, (now + due) // 2, due - 1}:
                if now <= early < due:
                    assert core.judged(alert, early, rule) == alert
            if due >= now:
                assert core.judged(alert, due, rule) != alert


@given(rules, evidence)
def test_each_beginning_is_told_once_and_each_end_that_was_heard_of(
    rule: Rule, steps: list[tuple[int, bool | None]]
) -> None:
    now, alert = 1000, None
    told: list[str] = []
    for delta, is_breached in steps:
        now += abs(delta)
        alert = core.step(alert, is_breached, now, rule, subject="x")
        if alert is not None and alert.news:
            told.append(alert.news)
            at = now if alert.news == "firing" else alert.told_unix_ms
            alert = replace(alert, news="", news_unix_ms=None, told_unix_ms=at)
    runs = [a for a, b in zip(told, ["resolved", *told], strict=False) if a != b]
    assert runs == [("firing", "resolved")[i % 2] for i in range(len(runs))]
    assert told.count("resolved") == runs.count("resolved")
