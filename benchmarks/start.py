"""From exec to the first answer: the whole agent, its runtime alone, and the peer."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

from fleets import Fleet
from load import Asker
from models import Models
from peers import NAME, MlServer, open_peer, peer_versions
from programs import BenchError, Program, run
from result import Line, Outcome
from runtime_alone import start_runtime

DEVICE = "cam-01"
VERSION = "1.0.0"
RETRY_S = 0.001
TIMEOUT_S = 60.0
BARE = """\
import time, onnxruntime, numpy, uvicorn, uvloop, httptools, msgspec, pydantic, sys
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
session.run(None, {"X": numpy.zeros((1, 64), numpy.float32)})
"""


def measure(directory: Path, models: Models, *, is_quick: bool) -> Outcome:
    """Start each in turn, with warm file caches: the first round of all does not count."""
    peer = open_peer(directory.parent / "start-peer", models)
    model, body = models.digits_onnx(), models.digits_body()
    rounds: list[tuple[float, float, float, float]] = []
    with Fleet(directory) as fleet:
        fleet.push(models.digits(VERSION))
        fleet.add_devices([DEVICE])
        asker = fleet.serve_digits(models, DEVICE, VERSION)
        fleet.stop_agent(DEVICE)
        manifest = fleet.api("/v1/models/digits/releases")[0]["manifest"]
        state = fleet.directory / "agents" / "devices" / DEVICE / "state"
        for _ in range(1 + (2 if is_quick else 7)):
            agent_s = _first_answer_s(lambda: fleet.start_agent(DEVICE), asker)
            fleet.stop_agent(DEVICE)
            alone_s = start_runtime(state, manifest, body).answer_s
            peer_s = _peer_s(peer) if peer is not None else 0.0
            began_s = time.monotonic()
            run([sys.executable, "-c", BARE, model], cwd=directory)
            rounds.append((agent_s, alone_s, peer_s, time.monotonic() - began_s))
    agent, alone, other, bare = (
        [value * 1000 for value in column] for column in zip(*rounds[1:], strict=True)
    )
    other = other if peer is not None else []
    floor = "a bare script with the same libraries"
    return Outcome(
        title="From exec to the first answer",
        how=(
            "The agent has a confirmed release on its disk and is started by exec; a client "
            "connects again and again until its inference request is answered. The runtime alone "
            "is started as the supervisor starts a candidate, golden rows included. The bare "
            "script imports the runtime's libraries, loads the model with onnxruntime, runs it "
            "once and ends. File caches are warm; a broker and a controller idle beside it."
        ),
        lines=[
            Line("whole agent", "ms", agent, NAME, other),
            Line("runtime alone", "ms", alone, NAME, other),
            Line("whole agent", "ms", agent, floor, bare),
            Line("runtime alone", "ms", alone, floor, bare),
        ],
        why=(
            "Before it starts the runtime the supervisor imports its own parts, which takes about as long "
            "as the runtime then takes; from there on the time is that of the bare script."
        ),
        versions=peer_versions(),
    )


def _peer_s(peer: MlServer) -> float:
    programs: list[Program] = []

    def start() -> Program:
        programs.append(peer.start())
        return programs[0]

    try:
        return _first_answer_s(start, peer.asker())
    finally:
        for program in programs:
            program.stop()


def _first_answer_s(start: Callable[[], Program], asker: Asker) -> float:
    """Return the seconds from the start of a program to its first good answer."""
    asker.close()
    began_s = time.monotonic()
    program = start()
    while asker.ask() != 200:
        asker.close()
        if time.monotonic() - began_s > TIMEOUT_S:
            raise BenchError(f"no answer from {program.name}:\n{program.tail()}")
        time.sleep(RETRY_S)
    took_s = time.monotonic() - began_s
    asker.close()
    return took_s
