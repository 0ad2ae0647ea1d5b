from hypothesis import given
from hypothesis import strategies as st

from agent.core import fetch_plan
from agent.core.fetch_plan import SILENCE_S, WINDOW


def test_asks_for_a_window_and_moves_on():
    plan = fetch_plan.begin([str(n) for n in range(20)], 0.0)
    plan, fresh = fetch_plan.ask(plan)
    assert fresh == tuple(str(n) for n in range(WINDOW))
    assert fetch_plan.ask(plan)[1] == ()
    plan = fetch_plan.received(plan, "3", 1.0)
    assert fetch_plan.ask(plan)[1] == (str(WINDOW),)


def test_silence_names_what_was_asked_and_asks_again():
    plan, fresh = fetch_plan.ask(fetch_plan.begin(["a", "b"], 0.0))
    assert fetch_plan.overdue(plan, SILENCE_S - 0.1)[1] == frozenset()
    plan, late = fetch_plan.overdue(plan, SILENCE_S)
    assert late == {"a", "b"}
    assert fetch_plan.ask(plan)[1] == fresh


def test_nothing_is_overdue_while_nothing_could_be_asked():
    plan = fetch_plan.begin(["a"], 0.0)
    assert fetch_plan.overdue(plan, 1000.0)[1] == frozenset()


@given(st.lists(st.integers(0, 30), max_size=60), st.randoms(use_true_random=False))
def test_everything_arrives_once_in_any_order_and_with_cuts(numbers, chance):
    plan = fetch_plan.begin([str(n) for n in numbers], 0.0)
    asked: set[str] = set()
    got: set[str] = set()
    while not plan.is_done:
        plan, fresh = fetch_plan.ask(plan)
        asked |= set(fresh)
        assert len(plan.asked) <= WINDOW
        assert plan.asked, "there is always something to wait for"
        if chance.random() < 0.2:
            plan = fetch_plan.link_lost(plan, 0.0)
            continue
        digest = chance.choice(sorted(plan.asked))
        assert digest not in got
        got.add(digest)
        plan = fetch_plan.received(plan, digest, 0.0)
    assert got == {str(n) for n in numbers}
