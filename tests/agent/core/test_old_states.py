"""States that earlier agents left on disk load for ever: never change a file, add one."""

from pathlib import Path

import pytest
from pydantic import TypeAdapter

from agent.core import events as ev
from agent.core.states import DeviceState
from tests.agent.core.journeys import V1, V2, V3, run
from wire.lifecycle import Code, Outcome

GOLDEN = Path(__file__).parents[2] / "golden" / "state"
ADAPTER = TypeAdapter(DeviceState)


def load(name):
    return ADAPTER.validate_json((GOLDEN / f"{name}.json").read_bytes())


@pytest.mark.parametrize("path", sorted(GOLDEN.iterdir()), ids=lambda path: path.stem)
def test_an_old_state_loads_and_serves(path):
    state = load(path.stem)
    after, effects = run(state, ev.Started())
    assert ev.Serve(after.served_set(), 0) in effects
    assert ADAPTER.validate_json(ADAPTER.dump_json(after)) == after


def test_an_old_rollback_is_finished():
    state, _ = run(load("v1-rolling_back"), ev.Started(), ev.RuntimeAccepts())
    record = state.record("digits")
    assert (record.outcome, record.active) == (Outcome.ROLLED_BACK, V1.ref)
    assert state.quarantine_code(V2.ref.manifest) == Code.ERROR_RATIO


def test_an_old_self_test_is_tried_again():
    state, effects = run(load("v1-self_testing"), ev.Started(), ev.RuntimeAccepts())
    assert ev.Fetch(V3) in effects
    state, effects = run(state, ev.BundleStaged(V3.ref.manifest))
    assert any(isinstance(e, ev.StartCandidate) for e in effects)


def test_the_evidence_of_an_old_probation_counts():
    state, _ = run(load("v1-on_probation"), ev.Started(), ev.RuntimeAccepts())
    trial = state.update
    assert (trial.served_s, trial.request_count, trial.failure_count) == (5, 40, 1)
    state, _ = run(state, ev.Evidence(6, 0, 0))
    assert state.record("digits").outcome is Outcome.CONFIRMED
