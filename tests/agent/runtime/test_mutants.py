"""Mutated forests, support vectors, Loops and Ifs through the sieve and through a confined loader.

`make soak` tries 100,000 and goes on where its journal ends; MUTANT_SEEDS=7-8 tries one again. A seed is a mutant: the
same one every time. What hangs or crashes does so in a process of its own, is ended by the deadline,
and is printed with its seed.
"""

import collections
import os
import selectors
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.agent.runtime import mutant
from wire.errors import BundleError
from wire.graph import scan_model

SEEDS = os.environ.get("MUTANT_SEEDS", "0-2000")
JOURNAL = os.environ.get("MUTANT_JOURNAL")
SIEVED = 4000
DEADLINE_S = float(os.environ.get("MUTANT_DEADLINE_S", "5"))
"""For one mutant: the same that a candidate gets, in small."""
BATCH = 1000
FAULTS = {signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE}


def test_the_sieve_gives_an_answer_to_every_mutant():
    """Thousands in this very process: whatever they are, they end in facts or in a refusal."""
    counted = collections.Counter()
    slowest_s = 0.0
    for seed in range(SIEVED):
        data = mutant.mutant(seed)
        began_s = time.process_time()
        counted[sieved(data)] += 1
        slowest_s = max(slowest_s, time.process_time() - began_s)
    print(f"seeds 0-{SIEVED}: {dict(counted)}, slowest {slowest_s * 1000:.1f} ms")  # noqa: T201
    assert counted.keys() == {"passed", "model_refused"}


def sieved(data):
    try:
        scan_model(data)
    except BundleError as exc:
        return exc.code
    return "passed"


class Lines:
    """What a process prints, line by line, each waited for only so long."""

    def __init__(self, process):
        self._descriptor = process.stdout.fileno()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._descriptor, selectors.EVENT_READ)
        self._kept = b""

    def next(self, timeout_s):
        """Return a line; None when none comes in time, or ever."""
        while b"\n" not in self._kept:
            if not self._selector.select(timeout_s):
                return None
            if not (read := os.read(self._descriptor, 65_536)):
                return None
            self._kept += read
        line, _, self._kept = self._kept.partition(b"\n")
        return line.decode()


def try_some(first, last, folder):
    """Yield each seed with what came of its mutant; ends behind the first that is too much."""
    argv = [sys.executable, mutant.__file__, str(first), str(last - first), str(folder)]
    process = subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    lines, timeout_s = Lines(process), 60.0  # the first one waits for the imports
    try:
        while (seed := lines.next(timeout_s)) is not None:
            timeout_s = DEADLINE_S
            outcome = lines.next(timeout_s)
            if outcome is None:
                outcome = "hung" if not has_ended(process) else f"ended with {process.returncode}"
            yield int(seed), outcome
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def has_ended(process):
    """Whether a process whose output has ended is over a moment later."""
    try:
        process.wait(0.5)
    except subprocess.TimeoutExpired:
        return False
    return True


def done_before():
    """Return how far the journal goes."""
    if JOURNAL is None or not Path(JOURNAL).exists():
        return {}
    rows = [line.split(" ", 1) for line in Path(JOURNAL).read_text().splitlines()]
    return {int(seed): outcome for seed, outcome in rows}


@pytest.mark.parametrize("source", mutant.SOURCES)
def test_what_is_mutated_is_fine_by_itself(source):
    from agent.runtime import session

    assert mutant.try_one(session, mutant.hostile.as_bytes(source())) == "ran"


@pytest.mark.slow
@pytest.mark.timeout(0 if JOURNAL else 300)
def test_no_mutant_is_more_than_its_own_process(tmp_path):
    first, last = (int(part) for part in SEEDS.split("-"))
    outcomes = done_before()
    seed = max(outcomes, default=first - 1) + 1
    while seed < last:
        before = seed
        for tried, outcome in try_some(seed, min(last, seed + BATCH), tmp_path):
            outcomes[tried] = outcome
            seed = tried + 1
            if JOURNAL:
                with Path(JOURNAL).open("a") as file:
                    file.write(f"{tried} {outcome}\n")
        assert seed > before, "the loader does not even start"
    counted = collections.Counter(outcomes.values())
    strange = {s: what for s, what in outcomes.items() if what not in ("refused", "failed", "ran")}
    print(f"seeds {SEEDS}: {dict(counted)}; {strange}")  # noqa: T201 - to try them again
    assert counted["failed"] > 0
    assert counted["ran"] > 0
    known = {f"ended with {-fault}" for fault in FAULTS} | {"hung"}
    assert set(strange.values()) <= known, "ended neither by the deadline nor by a fault of its own"
