"""What a client that asks without pause sees while the model is replaced."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from fleets import DIGITS_INFER, Fleet
from models import Models
from peers import NAME, MlServer, open_peer, peer_versions
from programs import BENCHMARKS, Program
from result import Line, Outcome

MODES = {"overlap": "cam-01", "replace": "cam-02"}
VERSIONS = ("1.0.0", "2.0.0")
WARM_UP_S = 0.5
PEER_SPAN_S = 1.5
"""A reload of the peer ends sooner; it is watched this long."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What one client saw.

    Attributes:
        gaps_ms: For each swap, the longest time without an answer, less the median latency.
        quiet_ms: The same for a span of equal length just after, without a swap.
        request_count, failed_count: Of the whole time.
    """

    gaps_ms: list[float]
    quiet_ms: list[float]
    request_count: int
    failed_count: int


def measure(directory: Path, models: Models, *, is_quick: bool) -> Outcome:
    """Swap to and fro under a client, in both modes, with kept and with new connections."""
    runs = 2 if is_quick else 5
    seen: dict[tuple[str, bool], Seen] = {}
    peer = open_peer(directory.parent / "swap-peer", models)
    with Fleet(directory) as fleet:
        for version in VERSIONS:
            fleet.push(models.digits(version))
        body = fleet.directory / "body.json"
        body.write_bytes(models.digits_body())
        for mode, device in MODES.items():
            fleet.add_devices([device], serve=f'swap = "{mode}"')
            fleet.serve_digits(models, device, VERSIONS[0]).close()
            for is_new in (False, True):
                with _client(fleet.ports[device], body, is_new=is_new) as client:
                    swaps = [_swap_of(fleet, device, n) for n in range(runs)]
                    spans = [_spans(swap) for swap in swaps]
                seen[mode, is_new] = _judge(client, spans)
            fleet.stop_agent(device)
        if peer is not None:
            seen[NAME, False] = _peer_seen(peer, body, runs)
    return _outcome(seen)


def _outcome(seen: dict[tuple[str, bool], Seen]) -> Outcome:
    quiet = "the same client, no swap"
    lines, notes = [], []
    for (mode, is_new), one in seen.items():
        if not is_new:
            lines.append(Line(f"gap, {mode}", "ms", one.gaps_ms, quiet, one.quiet_ms))
    if (peer := seen.get((NAME, False))) is not None:
        lines += [
            Line(f"gap, {mode}", "ms", seen[mode, False].gaps_ms, NAME, peer.gaps_ms)
            for mode in MODES
        ]
    for (mode, is_new), one in seen.items():
        kind = "a new connection each time" if is_new else "one kept connection"
        notes.append(
            f"{mode}, {kind}: {one.failed_count} of {one.request_count:,} requests failed."
        )
    return Outcome(
        title="The gap of a swap",
        how=(
            "One client asks in a tight loop, without retry, while rollouts replace the model and "
            "bring it back. The gap is the longest time between two answers in the span of one "
            "swap, less the median latency. It is shown beside that of an equally long span just "
            "after, which is the machine's own noise: client, server and the starting candidate "
            f"share its cores. {NAME} reloads its model, through its own interface, within the "
            "process that serves: quicker, but nothing tries the new model first, and a model "
            "that crashes takes the server with it."
        ),
        lines=lines,
        notes=notes,
        why=(
            "`replace` answers nothing while the candidate starts, by design; no request is lost, since the "
            "supervisor holds the connections. In `overlap` the longest stall mostly comes while the "
            "candidate starts, on cores that the client and the server use too (8 of 10 swaps that were "
            "traced), and in the others within 50 ms after the new model was activated, when the "
            "connection is handed over."
        ),
        versions=peer_versions(),
    )


@contextmanager
def _client(port: int, body: Path, *, is_new: bool) -> Iterator[Path]:
    """Run a client beside the block; yield the file that it has written at the end."""
    output = body.parent / f"answers-{port}-{is_new:d}"
    argv = [sys.executable, BENCHMARKS / "load.py", "watch", str(port), DIGITS_INFER, body]
    argv += ["--output", output, *(["--new-connections"] if is_new else [])]
    with Program("client", argv, cwd=body.parent):
        time.sleep(WARM_UP_S)
        yield output


def _swap_of(fleet: Fleet, device: str, number: int) -> Callable[[], None]:
    version = VERSIONS[(number + 1) % 2]

    def swap() -> None:
        fleet.start_rollout(f"digits:{version}", match=f"name={device}")
        fleet.wait_until_confirmed([device], version)

    return swap


def _peer_seen(peer: MlServer, body: Path, runs: int) -> Seen:
    with peer.start() as program:
        peer.wait_until_ready(program)
        with _client(peer.port, body, is_new=False) as client:
            spans = [_spans(lambda: _reload(peer)) for _ in range(runs)]
        return _judge(client, spans)


def _reload(peer: MlServer) -> None:
    began_s = time.monotonic()
    peer.reload()
    time.sleep(max(0.0, began_s + PEER_SPAN_S - time.monotonic()))


def _spans(swap: Callable[[], None]) -> tuple[float, float, float]:
    """Swap once, then wait as long again; return begin, end of the swap, end of the quiet span."""
    began_s = time.monotonic()
    swap()
    ended_s = time.monotonic()
    time.sleep(ended_s - began_s)
    return began_s, ended_s, time.monotonic()


def _judge(output: Path, spans: list[tuple[float, float, float]]) -> Seen:
    rows = np.fromfile(output, dtype=np.float64).reshape(-1, 3)
    answered = rows[rows[:, 2] == 200]
    usual_s = float(np.median(answered[:, 1]))
    ends = answered[:, 0]

    def longest_ms(from_s: float, to_s: float) -> float:
        inside = ends[(ends >= from_s) & (ends <= to_s)]
        gap_s = float(np.diff(inside).max()) if len(inside) > 1 else to_s - from_s
        return max(0.0, gap_s - usual_s) * 1000

    return Seen(
        [longest_ms(began_s, ended_s) for began_s, ended_s, _ in spans],
        [longest_ms(ended_s, quiet_s) for _, ended_s, quiet_s in spans],
        len(rows),
        int((rows[:, 2] != 200).sum()),
    )
