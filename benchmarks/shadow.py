"""What a shadow does to the latency of the release that serves: while it compares, hangs, is larger, is dead."""

from __future__ import annotations

import os
import queue
import signal
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median, quantiles
from typing import Any, Final

from load import Asker, request_bytes
from models import Models
from programs import HOST, BenchError, free_ports
from result import Line, Outcome

from agent.adapters.child import ProcessRuntimeHost
from agent.ports import Heartbeat, Promoted, RuntimeSettings, ServedModel, ShadowGone, ShadowOrder
from wire.bundle import read_bundle
from wire.manifest import MANIFEST, parse_manifest

ALL: Final = ShadowOrder(sample_ratio=1.0, rtol=0.01, atol=0.0)
"""Ten times the default share of the requests: every one."""
NAME: Final = "digits"
PATIENCE_S: Final = 60.0


def measure(directory: Path, models: Models, *, is_quick: bool) -> Outcome:
    """Ask one connection after another, in turns without a shadow and with one in each condition."""
    rounds, requests = (3, 500) if is_quick else (15, 4000)
    active = _unpacked(models.digits(), directory / "active")
    slow = _unpacked(
        models.network("1.0.0", width=512, layers=4, body=1, head=1), directory / "slow"
    )
    same = _unpacked(models.digits(), directory / "same")
    bench = _Bench(active, models.digits_body(), requests)
    try:
        lines = []
        for what, model, prepare in (
            ("comparing every request", same, None),
            ("hanging (SIGSTOP)", same, _hang),
            ("a larger model", slow, None),
            ("killed in each round", same, _kill),
        ):
            lines += bench.compare(what, model, prepare, rounds)
        return Outcome(
            title="Shadow",
            how=(
                f"Latency of one connection that asks the digits model {requests:,} times, with a "
                "shadow that is given every request (`--shadow-sample 100%`), against the same "
                "without one, in turns. To be run at normal priority: a shadow yields to nothing of its own class. The larger one is a network of 4 layers of 512 units."
            ),
            lines=lines,
            notes=[f"{what}: {told}" for what, told in bench.told.items()],
        )
    finally:
        bench.close()


class _Bench:
    """One serving runtime, and a shadow that comes and goes."""

    def __init__(self, active: ServedModel, body: bytes, requests: int) -> None:
        self.told: dict[str, str] = {}
        self._requests = requests
        self._events: queue.Queue[Any] = queue.Queue()
        port = free_ports(1)[0]
        self._host = ProcessRuntimeHost(
            RuntimeSettings(listen=(HOST, port), drain_s=1.0), self._events.put
        )
        self._host.open()
        self._asker = Asker(port, request_bytes(f"/v2/models/{NAME}/infer", body))
        self._host.start_candidate((active,), auto_promote=True)
        self._until(lambda event: isinstance(event, Promoted))
        self._block()

    def compare(
        self, what: str, model: ServedModel, prepare: Callable[[int], None] | None, rounds: int
    ) -> list[Line]:
        """Return the median and the 99th percentile, with the shadow against without."""
        ours: tuple[list[float], list[float]] = ([], [])
        others: tuple[list[float], list[float]] = ([], [])
        dropped = sampled = 0
        for _ in range(rounds):
            _put(others, self._block())
            self._host.start_shadow(model, ALL)
            self._until(lambda event: isinstance(event, Heartbeat) and event.tap is not None)
            shadow = self._host._shadow  # noqa: SLF001 - its process is what is disturbed
            if prepare is not None and shadow is not None and shadow.child.pid is not None:
                prepare(shadow.child.pid)
            _put(ours, self._block())
            beat = self._until(lambda event: isinstance(event, Heartbeat | ShadowGone))
            if isinstance(beat, Heartbeat) and beat.tap is not None:
                sampled += beat.tap.sampled_count
                dropped += beat.tap.dropped_count
            self._host.stop_shadow()
        self.told[what] = f"{dropped:,} of {sampled:,} sampled requests dropped"
        return [
            Line(f"p50, {what}", "ms", ours[0], "without a shadow", others[0]),
            Line(f"p99, {what}", "ms", ours[1], "without a shadow", others[1]),
        ]

    def close(self) -> None:
        self._asker.close()
        self._host.stop()

    def _block(self) -> tuple[float, float]:
        took = []
        for _ in range(self._requests):
            began_s = time.perf_counter()
            if self._asker.ask() != 200:
                raise BenchError("a request was lost")
            took.append((time.perf_counter() - began_s) * 1000)
        return median(took), quantiles(took, n=100)[98]

    def _until(self, is_wanted: Callable[[Any], bool]) -> Any:
        while not self._events.empty():
            self._events.get_nowait()  # what was said before says nothing of now
        deadline_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline_s:
            event = self._events.get(timeout=PATIENCE_S)
            if is_wanted(event):
                return event
        raise BenchError("waited in vain for a runtime")


def _put(into: tuple[list[float], list[float]], figures: tuple[float, float]) -> None:
    for samples, figure in zip(into, figures, strict=True):
        samples.append(figure)


def _hang(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)


def _kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def _unpacked(bundle: Path, folder: Path) -> ServedModel:
    """Return a bundle as the runtime gets it, under the name of the model that serves."""
    files = read_bundle(bundle).files
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    manifest = parse_manifest(files[MANIFEST])
    paths = {name: folder / name for name in files}
    return ServedModel(NAME, manifest.version, "0" * 64, paths)
