"""The supervisor against a runtime that a hostile model has taken over; one row per evil thing.

The attacker is a real process in the runtime's place (`attacker.py`). All rows are borne by one
host, one after the other, while a client asks the honest runtime all the time.
"""

import contextlib
import dataclasses
import sys
import time
from pathlib import Path

import pytest

from agent.ports import (
    CandidateFailed,
    CandidateReady,
    ColumnsClosed,
    Heartbeat,
    LabelsClosed,
    Promoted,
    RuntimeDied,
    WindowClosed,
)
from agent.telemetry import performance_record
from fleet.core.performance import of_record
from tests.agent.runtime import attacker
from tests.spine.client import Client
from tests.spine.models import NAME
from tests.spine.processes import until
from wire import codec
from wire.lifecycle import Code
from wire.performance import PerformanceTelemetry

pytestmark = pytest.mark.slow

TRICKS = [
    "a socket with a sign of life",
    "a socket with nonsense",
    "a socket with nothing",
    "a hand-over without an order",
    "a hand-over of nothing",
    "a count that falls",
    "a count that vanishes",
    "a flood of signs of life",
    "an end by a signal without a name",
    "an end by SIGSEGV",
    "silence without an end",
]
WORDS = {
    "a flood of signs of life": "it floods its control channel",
    "an end by a signal without a name": "ended by signal 40",
    "an end by SIGSEGV": "ended by SIGSEGV",
    "accepting without an order": "its report `accepting` was out of turn",
    "a socket with a sign of life": "its report `beat` came with a socket",
    "a count that falls": "its counts do not add up",
    "silence without an end": "closed its control channel and did not end",
    "a thousand protections": "`$.protections`",
    "more columns than there are": "it counts more columns than there are",
    "columns without end": "its report `columns` was out of turn",
    "a negative count": "`int` >= 0",
    "nested 60,000 deep": "maximum recursion depth",
}


def descriptors():
    """Return how many descriptors there are of the kinds that an attacker can send here."""
    links = []
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # the one that lists them
            links.append(str(path.readlink()))
    return sum(link.startswith(("socket:", "/dev/null")) for link in links)


class Siege:
    """A host with an honest runtime that a client asks, and attackers beside it."""

    def __init__(self, bench, make_model):
        self.bench = bench
        self.make_model = make_model
        self.honest = bench.settings
        self.serve_honestly()
        self.client = Client("siege", bench.port)
        self.client.start()
        self.descriptor_count = 0

    def serve_honestly(self):
        self.bench.host._settings = self.honest
        assert isinstance(self.bench.serve(self.make_model("1", name=NAME)), Promoted)

    def attack(self, name, *, auto_promote=False, **settings):
        program = (sys.executable, str(Path(attacker.__file__)), name)
        host = self.bench.host
        host._settings = dataclasses.replace(self.honest, program=program, **settings)
        self.bench.log.clear()
        # Anew each time: tests of other files may run between two of these, in this process.
        self.until_answered()
        self.descriptor_count = descriptors()
        self.since_s = time.monotonic()
        host.start_candidate((self.make_model("2", name=NAME),), auto_promote=auto_promote)

    def until_answered(self):
        """Return when the client has sent a request and got its answer, from now on."""
        asked = len(self.client.answers)
        until("the client is answered", lambda: len(self.client.answers) >= asked + 2)

    def check_unharmed(self):
        """The client was answered by the honest model all the time, and nothing is left over."""
        assert self.bench.host.is_alive()
        assert self.client.failures(self.since_s) == []
        self.until_answered()
        assert self.client.answers[-1].version == "1"
        self.check_nothing_left()

    def check_nothing_left(self):
        """No descriptor of the attacker's is left here."""
        until("its descriptors are closed", lambda: descriptors() <= self.descriptor_count)


@pytest.fixture
def siege(request, shared_bench, make_model):
    if not hasattr(shared_bench, "siege"):
        shared_bench.siege = Siege(shared_bench, make_model)
        request.session.addfinalizer(shared_bench.siege.client.stop)
    shared_bench.siege.make_model = make_model
    return shared_bench.siege


@pytest.mark.parametrize("name", [*attacker.FIRST, *attacker.LOADING, *attacker.WAITING, *TRICKS])
def test_a_candidate_that_misbehaves_is_ended_and_blamed(siege, name):
    siege.attack(name)
    failed = siege.bench.wait(CandidateFailed)
    assert failed.code == Code.RUNTIME_DIED
    assert failed.detail.isprintable()
    assert len(failed.detail) <= 300
    assert WORDS.get(name, "") in failed.detail
    if name in attacker.FIRST or name in attacker.LOADING:
        assert not [e for e in siege.bench.log if isinstance(e, CandidateReady)]
    assert not [e for e in siege.bench.log if isinstance(e, Promoted)]
    siege.check_unharmed()


def test_what_a_candidate_says_of_its_failure_is_cleaned(siege):
    siege.attack("says why it fails")
    failed = siege.bench.wait(CandidateFailed)
    assert (failed.model, failed.code) == (None, Code.LOAD_FAILED), "it blames a stranger"
    assert failed.detail == "one Agent: all is well [2J"
    siege.check_unharmed()


def test_a_candidate_that_never_gets_ready_is_ended(siege):
    siege.attack("never ready", start_timeout_s=0.5)
    failed = siege.bench.wait(CandidateFailed)
    assert (failed.code, failed.detail) == (Code.START_TIMEOUT, "not ready within 0.5 s")
    siege.check_unharmed()


def test_a_candidate_that_does_not_accept_when_told_to_is_ended(siege):
    siege.attack("never accepts")
    siege.bench.wait(CandidateReady)
    siege.bench.host.promote()
    failed = siege.bench.wait(CandidateFailed)
    assert failed.code == Code.START_TIMEOUT
    assert "accepts no connection" in failed.detail
    # The honest one had stopped accepting; it serves the connections that it has until another comes.
    siege.serve_honestly()
    siege.check_unharmed()


def test_a_program_that_cannot_be_started_is_the_devices_fault(siege):
    siege.bench.host._settings = dataclasses.replace(siege.honest, program=("/nowhere",))
    siege.bench.host.start_candidate((siege.make_model("2", name=NAME),), auto_promote=False)
    failed = siege.bench.wait(CandidateFailed)
    assert (failed.model, failed.code) == (None, Code.START_FAILED)
    assert "No such file" in failed.detail
    siege.check_unharmed()


def test_a_serving_runtime_counts_for_its_own_models_only(siege):
    siege.attack("counts beyond all models", auto_promote=True)
    attacker = siege.bench.wait(Promoted).incarnation
    beat = siege.bench.wait(Heartbeat)
    assert set(beat.models) == {NAME}
    assert beat.models[NAME].request_count == 7
    siege.bench.host.close_window()
    while (closed := siege.bench.wait(WindowClosed)).incarnation != attacker:
        pass  # the runtime before it tells its last window as it goes
    (window,) = closed.windows
    assert (window.model, window.version) == (NAME, "2"), "the supervisor knows what it started"
    died = siege.bench.wait(RuntimeDied)
    assert died.code == Code.RUNTIME_DIED
    siege.serve_honestly()
    assert siege.bench.infer(name=NAME)[0] == 200
    siege.check_nothing_left()


@pytest.mark.parametrize("name", attacker.COUNTING)
def test_a_serving_runtime_that_counts_beyond_all_bounds_is_ended(siege, name):
    siege.attack(name, auto_promote=True)
    siege.bench.wait(Promoted)
    siege.bench.host.close_columns()
    died = siege.bench.wait(RuntimeDied)
    assert died.code == Code.RUNTIME_DIED
    assert WORDS.get(name, "broke the protocol") in died.detail
    siege.serve_honestly()
    assert siege.bench.infer(name=NAME)[0] == 200
    siege.check_nothing_left()


def test_columns_are_taken_of_its_own_models_only(siege):
    siege.attack("columns of a stranger", auto_promote=True)
    siege.bench.wait(Promoted)
    siege.bench.host.close_columns()
    stats = siege.bench.wait(ColumnsClosed).stats
    assert (stats.model, stats.version, stats.columns) == (NAME, "2", ((1,),))
    assert stats.between == (), "as many as there are columns, or none"
    siege.serve_honestly()
    siege.check_nothing_left()


def test_labels_that_do_not_add_up_harm_no_supervisor_and_can_be_sent(siege):
    siege.attack("labels that do not add up", auto_promote=True)
    siege.bench.wait(Promoted)
    siege.bench.host.close_columns()
    stats = siege.bench.wait(LabelsClosed).stats
    assert (stats.model, stats.version, stats.labelled_count) == (NAME, "2", 3)
    record = performance_record(stats, "0" * 16, 1)
    assert of_record(codec.decode(PerformanceTelemetry, codec.encode(record))).correct_count == 3
    siege.serve_honestly()
    siege.check_nothing_left()


@pytest.mark.parametrize("name", ["accepts twice", "windows twice", "a negative latency"])
def test_a_serving_runtime_that_misbehaves_is_ended(siege, name):
    siege.attack(name, auto_promote=True)
    siege.bench.wait(Promoted)
    siege.bench.host.close_window()
    died = siege.bench.wait(RuntimeDied)
    assert died.code == Code.RUNTIME_DIED
    assert "broke the protocol" in died.detail
    siege.serve_honestly()
    assert siege.bench.infer(name=NAME)[0] == 200
    siege.check_nothing_left()


@pytest.mark.parametrize(
    "name",
    [
        "a flood of connections when it drains",
        "files in place of connections",
        "listening sockets in place of connections",
    ],
)
def test_what_a_draining_runtime_hands_over_is_looked_at(siege, name):
    siege.attack(name, auto_promote=True)
    siege.bench.wait(Promoted)
    siege.serve_honestly()
    until("the attacker is gone", lambda: not siege.bench.host._leaving)
    # Its connections are passed on to the honest runtime as fast as that takes them.
    until("nothing is held", lambda: siege.bench.host.tick() or not siege.bench.host._held)
    assert siege.bench.infer(name=NAME)[0] == 200
    assert siege.bench.host.is_alive()
    siege.check_nothing_left()
