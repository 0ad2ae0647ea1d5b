"""Method A: a device is killed at one of its system calls, and started again on what is there."""

import contextlib
import functools
import shutil
import signal
import tempfile
from pathlib import Path

from tests.storage import tracer
from tests.storage.device import live
from tests.storage.ledger import Ledger
from tests.storage.scenario import Scenario
from tests.storage.witness import Memory, Witness

SHM = Path("/dev/shm")  # noqa: S108 - each place in it has a name of its own
"""Where a killed process leaves its files: in memory, which for a kill is as good as a disk."""

scenario_of = functools.cache(Scenario.drawn)


def kill_at(seed, *points):
    """Kill the device of a scenario at these calls, one in each life; return what came of it.

    The first call of a life has the number 1; a life that ends before its point ends the scenario.
    """
    with place(scenario_of(seed)) as (root, memory, ledger):
        calls = []
        for point in points:
            ended = tracer.run(life(root, memory, ledger), tracer.WRITING, root, killing(point))
            ledger.read(memory.lines())
            if ended.code == -signal.SIGKILL:
                calls.append(ended.calls[-1][0])
        code = tracer.run(life(root, memory, ledger), (), root, let_pass).code
        ledger.read(memory.lines())
        ledger.check_end(code)
        return row("kill", ledger, seed=seed, points=points, calls=calls)


def count_points(seed, calls=tracer.WRITING):
    """Return how many calls a life has that nobody disturbs."""
    return len(undisturbed(seed, calls))


def undisturbed(seed, calls):
    """Return the names of the calls that a life has that nobody disturbs, in order."""
    with place(scenario_of(seed)) as (root, memory, ledger):
        ended = tracer.run(life(root, memory, ledger), calls, root, let_pass)
        assert ended.code == 0, f"seed {seed}: an undisturbed life ended with {ended.code}"
        return [name for name, *_ in ended.calls]


@contextlib.contextmanager
def place(scenario):
    """Give a state directory, and a ledger with a memory of what is told about it."""
    root = Path(tempfile.mkdtemp(dir=SHM if SHM.is_dir() else None, prefix="modelfleet-"))
    memory = Memory()
    try:
        yield root, memory, Ledger(scenario)
    finally:
        shutil.rmtree(root, ignore_errors=True)
        memory.close()


def life(root, memory, ledger, **options):
    """Return a life on `root` that goes on where the ledger's has come to; called in a child."""
    generation, stage = ledger.desired
    witness = Witness(memory.descriptor)
    return lambda: live(
        root, ledger.scenario, witness, generation=generation, stage=stage, **options
    )


def row(method, ledger, **drawn):
    """Return the result of one point: what was drawn, and what was found."""
    found = {"torn": ledger.torn, "lost": ledger.lost, "restore_s": ledger.restore_s}
    return {"method": method, **drawn, **found}


def killing(point):
    """Return the decision to kill at a call's number."""

    def decide(number, name, path):
        return signal.SIGKILL if number == point else None

    return decide


def let_pass(number, name, path):
    """Let the call be made: what a tracer decides that only counts."""
