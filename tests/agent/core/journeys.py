"""States that the tests of the update machine begin with, and how to go on from them."""

from agent.core import events as ev
from agent.core.states import Assignment, DeviceState, ModelRecord, OnProbation, Ref
from agent.core.update import step
from wire.lifecycle import Code, Outcome
from wire.messages import Guards, Probation

RULE = Probation(min_s=10, max_s=60, min_inferences=5)
GUARDS = Guards(error_ratio=0.05, min_requests=20)


def ref(number: int) -> Ref:
    return Ref(f"{number}.0.0", f"{number:064x}", f"{number + 1000:064x}")


def want(number: int, name: str = "digits") -> Assignment:
    return Assignment(name, ref(number), RULE, GUARDS)


V1, V2, V3 = want(1), want(2), want(3)


def run(state: DeviceState, *events: ev.Event) -> tuple[DeviceState, list[ev.Effect]]:
    """Step through events on a disk that works: a try that is due begins at once."""
    effects: list[ev.Effect] = []
    for event in events:
        state, new = step(state, event)
        effects += new
        if ev.TryStaged() in new:
            state, new = step(state, ev.TryDue())
            effects += new
    return state, effects


def serving(*assignments: Assignment, generation: int = 1) -> DeviceState:
    """A device that has confirmed these, and whose runtime accepts."""
    return DeviceState(
        generation=generation,
        desired=assignments,
        models=tuple(
            ModelRecord(
                a.name,
                active=a.ref,
                is_confirmed=True,
                target=a.ref,
                outcome=Outcome.CONFIRMED,
                code=Code.CONFIRMED,
                generation=generation,
            )
            for a in assignments
        ),
        is_serving=True,
    )


def on_probation(target: Assignment = V2, base: DeviceState | None = None) -> DeviceState:
    state, _ = run(
        base or serving(V1),
        ev.DesiredReceived(2, (target,)),
        ev.BundleStaged(target.ref.manifest),
        ev.CandidatePassed(),
        ev.RuntimeAccepts(),
    )
    assert isinstance(state.update, OnProbation)
    return state
