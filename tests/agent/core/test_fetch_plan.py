from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core import fetch_plan
from agent.core.fetch_plan import (
    AWAY_S,
    BOTH,
    BROKER_ALONE,
    REST_CAP_S,
    REST_FIRST_S,
    SILENCE_S,
    WINDOW,
    Source,
)

BROKER, CONTROLLER = Source
MANY = [str(n) for n in range(20)]


def begun(sources=BOTH, *, is_up=True, missing=MANY):
    return fetch_plan.ask(fetch_plan.begin(missing, 0.0, sources), is_up=is_up)


def turned(now_s=SILENCE_S):
    """Return a plan after a silence of the broker."""
    return fetch_plan.overdue(begun()[0], now_s, is_up=True)[0]


def test_asks_for_a_window_and_moves_on():
    plan, fresh = begun()
    assert fresh == tuple(str(n) for n in range(WINDOW))
    assert fetch_plan.ask(plan, is_up=True)[1] == ()
    plan = fetch_plan.received(plan, "3", 1.0)
    assert fetch_plan.ask(plan, is_up=True)[1] == (str(WINDOW),)


@pytest.mark.parametrize("sources", [BROKER_ALONE, BOTH])
def test_silence_names_what_was_asked_and_asks_again(sources):
    plan, fresh = begun(sources, missing=["a", "b"])
    assert fetch_plan.overdue(plan, SILENCE_S - 0.1, is_up=True)[1] == frozenset()
    plan, late = fetch_plan.overdue(plan, SILENCE_S, is_up=True)
    assert late == {"a", "b"}
    assert plan.sources.current is (BROKER if sources is BROKER_ALONE else CONTROLLER)
    assert fetch_plan.ask(plan, is_up=True)[1] == fresh


def test_nothing_is_overdue_while_nothing_could_be_asked():
    plan, fresh = begun(BROKER_ALONE, is_up=False)
    assert fresh == ()
    assert fetch_plan.overdue(plan, 1000.0, is_up=False) == (plan, frozenset())


def test_without_a_link_the_controller_is_asked_until_there_is_one():
    plan, _ = begun(is_up=False)
    assert fetch_plan.overdue(plan, AWAY_S - 0.1, is_up=False)[0] == plan
    plan, late = fetch_plan.overdue(plan, AWAY_S, is_up=False)
    assert (plan.sources.current, late) == (CONTROLLER, frozenset())
    plan, fresh = fetch_plan.ask(plan, is_up=False)
    assert len(fresh) == WINDOW
    back, late = fetch_plan.overdue(plan, AWAY_S, is_up=True)
    assert (back.sources.current, late) == (BROKER, frozenset())
    assert back.asked == fresh, "what is under way still comes"


def test_after_one_silence_the_controller_is_asked_without_waiting():
    plan, late = turned(), 0
    for number in range(len(MANY)):
        plan, _ = fetch_plan.ask(plan, is_up=number % 2 == 0)
        plan = fetch_plan.received(plan, str(number), SILENCE_S, CONTROLLER)
        plan, overdue = fetch_plan.overdue(plan, SILENCE_S, is_up=number % 3 != 0)
        late += len(overdue)
    assert plan.is_done
    assert late == 0
    next_file = fetch_plan.begin(["x"], SILENCE_S, plan.sources)
    assert next_file.sources.current is CONTROLLER
    assert plan.sources.for_another_bundle().current is BROKER


def test_a_failure_goes_back_to_the_broker_and_rests_ever_longer():
    rests, now_s, plan = [], SILENCE_S, turned()
    for _ in range(10):
        plan, fresh = fetch_plan.ask(plan, is_up=True)
        plan = fetch_plan.pull_failed(plan, now_s, 1.0)
        assert plan.sources.current is BROKER
        assert fetch_plan.ask(plan, is_up=True)[1] == fresh, "they are asked of the broker now"
        rests.append(plan.sources.rests_until_s - now_s)
        plan, _ = fetch_plan.ask(plan, is_up=True)
        now_s += SILENCE_S
        if now_s < plan.sources.rests_until_s:
            plan, late = fetch_plan.overdue(plan, now_s, is_up=True)
            assert late == frozenset(fresh), "the broker is asked again, as if there were no other"
            assert plan.sources.current is BROKER
        plan, _ = fetch_plan.ask(plan, is_up=True)
        now_s = max(now_s + SILENCE_S, plan.sources.rests_until_s)
        plan, _ = fetch_plan.overdue(plan, now_s, is_up=True)
        assert plan.sources.current is CONTROLLER
    assert rests[:4] == pytest.approx([REST_FIRST_S * 2**n for n in range(4)])
    assert rests[-1] == pytest.approx(REST_CAP_S)
    assert fetch_plan.pull_failed(turned(), 0.0, 0.0).sources.rests_until_s == REST_FIRST_S / 2


def test_a_chunk_from_the_controller_ends_its_rests():
    plan = replace(turned(), sources=replace(BOTH, failures=5, rests_until_s=1e6, current=BROKER))
    plan, _ = fetch_plan.ask(plan, is_up=True)
    assert not plan.sources.may_pull(10.0)
    plan = fetch_plan.received(plan, "0", 10.0, CONTROLLER)
    assert plan.sources.may_pull(10.0)
    assert plan.sources.failures == 0


@given(st.lists(st.integers(0, 30), max_size=60), st.randoms(use_true_random=False))
def test_everything_arrives_once_in_any_order_and_with_cuts(numbers, chance):
    plan = fetch_plan.begin([str(n) for n in numbers], 0.0)
    asked: set[str] = set()
    got: set[str] = set()
    while not plan.is_done:
        plan, fresh = fetch_plan.ask(plan, is_up=True)
        asked |= set(fresh)
        assert len(plan.asked) <= WINDOW
        assert plan.asked, "there is always something to wait for"
        if chance.random() < 0.2:
            plan = fetch_plan.link_changed(plan, 0.0)
            continue
        digest = chance.choice(sorted(plan.asked))
        assert digest not in got
        got.add(digest)
        plan = fetch_plan.received(plan, digest, 0.0)
    assert got == {str(n) for n in numbers}


class World:
    """A broker and a controller, each of which has some chunks, and may be away."""

    def __init__(self, plan, chance, held):
        self.plan = plan
        self.chance = chance
        self.held = held
        self.now_s = 0.0
        self.got = []
        self.subscribed: set[str] = set()
        self.pulling: list[str] = []
        self.failures = 0

    def step(self, *, is_up, is_controller_up):
        """Ask, let at most one thing happen, and look at the clock; as the fetcher does."""
        source = self.plan.sources.current
        self.plan, fresh = fetch_plan.ask(self.plan, is_up=is_up)
        assert len(self.plan.asked) <= WINDOW
        if source is BROKER:
            self.subscribed |= set(fresh)
        else:
            self.pulling += fresh
        if not is_up and self.subscribed:
            self.subscribed.clear()
            self.plan = fetch_plan.link_changed(self.plan, self.now_s)
        self._happen(is_up=is_up, is_controller_up=is_controller_up)
        self.plan, late = fetch_plan.overdue(self.plan, self.now_s, is_up=is_up)
        self.subscribed -= late

    def _happen(self, *, is_up, is_controller_up):
        come = sorted(d for d in self.subscribed if is_up and d in self.held[BROKER])
        if come and (not self.pulling or self.chance.random() < 0.5):
            self._take(self.chance.choice(come), BROKER)
            self.now_s += 0.01
        elif self.pulling:
            digest = self.pulling.pop(self.chance.randrange(len(self.pulling)))
            self.now_s += 0.01
            if digest not in self.plan.asked:
                return
            if is_controller_up and digest in self.held[CONTROLLER]:
                self._take(digest, CONTROLLER)
            else:
                self.failures += 1
                self.pulling.clear()
                self.plan = fetch_plan.pull_failed(self.plan, self.now_s, self.chance.random())
        else:
            self.now_s += 1.0

    def _take(self, digest, by):
        self.subscribed.discard(digest)
        if digest in self.plan.asked:
            self.got.append(digest)
            self.plan = fetch_plan.received(self.plan, digest, self.now_s, by)


@given(st.data(), st.randoms(use_true_random=False))
def test_whatever_either_source_has_is_obtained_once(data, chance):
    """Each chunk is with one of both at least; each source is away now and then, not for ever."""
    wanted = [str(n) for n in range(data.draw(st.integers(1, 40)))]
    keeps = [data.draw(st.sampled_from(["broker", "controller", "both"])) for _ in wanted]
    held = {
        BROKER: {d for d, who in zip(wanted, keeps, strict=True) if who != "controller"},
        CONTROLLER: {d for d, who in zip(wanted, keeps, strict=True) if who != "broker"},
    }
    world = World(fetch_plan.begin(wanted, 0.0, BOTH), chance, held)
    away = data.draw(st.sampled_from([0.0, 0.3, 0.6]))
    while not world.plan.is_done:
        world.step(is_up=chance.random() >= away, is_controller_up=chance.random() >= away)
        assert world.now_s < 10 * REST_CAP_S * len(wanted), "it comes to no end"
    assert sorted(world.got) == sorted(wanted)


class Steady:
    """Chance that is none."""

    def random(self):
        return 0.5

    def choice(self, of):
        return of[0]

    def randrange(self, _count):
        return 0


@pytest.mark.parametrize(
    ("has", "is_up"), [(BROKER, True), (CONTROLLER, True), (CONTROLLER, False)]
)
def test_with_one_source_gone_the_other_is_enough_at_its_own_pace(has, is_up):
    wanted = [str(n) for n in range(1000)]
    world = World(
        fetch_plan.begin(wanted, 0.0, BOTH),
        Steady(),
        {BROKER: set(), CONTROLLER: set()} | {has: set(wanted)},
    )
    while not world.plan.is_done:
        world.step(is_up=is_up, is_controller_up=has is CONTROLLER)
    assert sorted(world.got) == sorted(wanted)
    assert world.now_s < 1000 * 0.01 + SILENCE_S + 2  # one silence, and 10 ms for each


@pytest.mark.parametrize("is_up", [True, False])
def test_with_both_gone_it_asks_now_and_then(is_up):
    world = World(fetch_plan.begin(MANY, 0.0, BOTH), Steady(), {BROKER: set(), CONTROLLER: set()})
    while world.now_s < 3600:
        world.step(is_up=is_up, is_controller_up=False)
    assert 10 <= world.failures <= 30
    assert world.got == []
