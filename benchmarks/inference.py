"""Latency and throughput of inference on the device, beside the peer and a bare server."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from fleets import DIGITS_INFER, Fleet
from models import Models
from peers import NAME, open_peer, peer_versions, start_echo
from procfs import cores, family, pin
from programs import BENCHMARKS, BenchError, run
from result import Line, Outcome

DEVICE = "cam-01"
VERSION = "1.0.0"
MANY = 8
OURS, ECHO = "ours", "bare uvicorn echo"
QUANTITIES = {
    "p50, same core": "µs",
    "p99, same core": "µs",
    "p50, across cores": "µs",
    "p99, across cores": "µs",
    f"rate, {MANY} connections": "1/s",
}


def measure(directory: Path, models: Models, *, is_quick: bool) -> Outcome:
    """Ask each server in turn, each on the same core, with the same bytes."""
    rounds, seconds = (2, 0.5) if is_quick else (5, 1.0)
    samples: dict[tuple[str, str], list[float]] = {}
    shares: list[float] = []
    peer = open_peer(directory.parent / "inference-peer", models)
    with Fleet(directory) as fleet:
        fleet.push(models.digits(VERSION))
        fleet.add_devices([DEVICE])
        asker = fleet.serve_digits(models, DEVICE, VERSION)
        body = directory / "body.json"
        body.write_bytes(models.digits_body())
        answer = asker.answer.partition(b"\r\n\r\n")[2]
        asker.close()
        echo, echo_port = start_echo(directory / "echo", answer)
        servers = {
            OURS: (fleet.ports[DEVICE], fleet.agents[DEVICE].pid),
            ECHO: (echo_port, echo.pid),
        }
        with echo, ExitStack() as stack:
            if peer is not None:
                program = stack.enter_context(peer.start())
                peer.wait_until_ready(program)
                servers[NAME] = (peer.port, program.pid)
            home = cores()[0]
            for _, pid in servers.values():
                pin(family(pid), home)
            for _ in range(rounds):
                for who, (port, _) in servers.items():
                    found, share = _ask(port, body, home, seconds)
                    for what, value in found.items():
                        samples.setdefault((who, what), []).append(value)
                    shares += [share] if who == ECHO else []
    return _outcome(samples, shares)


def _outcome(samples: Mapping[tuple[str, str], list[float]], shares: list[float]) -> Outcome:
    lines = [
        Line(
            what,
            unit,
            samples[OURS, what],
            other,
            samples.get((other, what), []),
            "higher" if what.startswith("rate") else "lower",
        )
        for other in (NAME, ECHO)
        for what, unit in QUANTITIES.items()
    ]
    notes = [f"The client used at most {max(shares):.0%} of its core at the echo's rate."]
    if len(cores()) == 1:
        notes.append("There is one core here: client and server share it throughout.")
    return Outcome(
        title="Inference on the device",
        how=(
            "One row of 64 pixels as JSON to the digits, the same bytes to all three over kept "
            "connections; answers are read to their last byte. All threads of a server are kept on "
            "one core, the client on the same one or on another: where they are changes the echo's "
            "latency by more than a half, so a ratio without placement says little. "
            f"{NAME} runs the same ONNX file in one process, without workers. The echo is uvicorn "
            "with the same event loop and parser, answering our answer's bytes from memory: the "
            "floor of any server built on it."
        ),
        lines=lines,
        notes=notes,
        why=(
            "Of the distance to the echo, timed inside a server on the same core, parsing and checking the "
            "request is a quarter, onnxruntime a fifth and encoding the answer a tenth; dispatch, counting "
            "and the rest were not taken apart. The same calls take two to four times what they take in a "
            "hot loop, probably since caches are cold after each switch to the client; that was not "
            "proven. Confinement is not it: the same application without it is as slow. uvicorn writes "
            "head and body of an answer with two calls; joining them gives a tenth, and is not done."
        ),
        versions=peer_versions(),
    )


def _ask(port: int, body: Path, home: int, seconds: float) -> tuple[dict[str, float], float]:
    """Return the quantities of one server in one round, and the client's share of its core."""
    away = cores()[-1]
    found: dict[str, float] = {}
    for where, core in (("same core", home), ("across cores", away)):
        one = _client(port, body, core=core, connections=1, seconds=seconds)
        found[f"p50, {where}"], found[f"p99, {where}"] = one["p50_us"], one["p99_us"]
    many = _client(port, body, core=away, connections=MANY, seconds=seconds)
    found[f"rate, {MANY} connections"] = many["rate"]
    return found, float(many["client_ratio"])


def _client(
    port: int, body: Path, *, core: int, connections: int, seconds: float
) -> dict[str, Any]:
    argv = [sys.executable, BENCHMARKS / "load.py", "rate", str(port), DIGITS_INFER, body]
    argv += ["--core", str(core), "--connections", str(connections), "--seconds", str(seconds)]
    found: dict[str, Any] = json.loads(run(argv, cwd=body.parent))
    if found["failed"]:
        raise BenchError(f"{found['failed']} requests failed: {found}")
    return found
