"""Memory of a serving device, steady and while its model is replaced, beside the peer's."""

from __future__ import annotations

import time
from pathlib import Path

from fleets import Fleet
from load import Asker
from models import Models
from peers import NAME, MlServer, open_peer, peer_versions
from procfs import Peak, family, family_pss_bytes, pss_bytes
from result import Line, Outcome

DEVICES = {"overlap": "cam-01", "replace": "cam-02"}
FIRST, SECOND = "1.0.0", "2.0.0"
REQUESTS = 300
SETTLE_S = 2.0
MIB = 2**20


def measure(directory: Path, models: Models, *, is_quick: bool) -> Outcome:
    """Measure fresh processes each time, agents and peer in turns."""
    samples: dict[str, list[float]] = {}
    peer = open_peer(directory.parent / "memory-peer", models)
    with Fleet(directory) as fleet:
        for version in (FIRST, SECOND):
            fleet.push(models.digits(version))
        for mode, device in DEVICES.items():
            fleet.add_devices([device], serve=f'swap = "{mode}"')
        for _ in range(1 if is_quick else 3):
            for mode, device in DEVICES.items():
                _add(samples, mode, _agent_sizes(fleet, models, device))
            if peer is not None:
                _add(samples, "peer", _peer_sizes(peer))
    peak, steady = samples.get("peer peak", []), samples.get("peer whole", [])
    return Outcome(
        title="Memory",
        how=(
            "Proportional set size (pages shared with other processes count by their share) of all "
            f"processes of a device that serves the digits, {SETTLE_S:g} s after {REQUESTS} "
            "requests; and the highest sum, read every 5 ms, while the model is replaced by "
            f"another version. {NAME} serves the same ONNX file with the same onnxruntime in one "
            "process without workers, its leanest form; its peak is that of its own reload. Broker "
            "and controller run beside both and share the interpreter's pages with both."
        ),
        lines=[
            Line("whole agent, steady", "MiB", samples["overlap whole"], NAME, steady),
            Line("supervisor alone", "MiB", samples["overlap supervisor"]),
            Line("runtime alone", "MiB", samples["overlap runtime"], NAME, steady),
            Line("peak of a swap, overlap", "MiB", samples["overlap peak"], NAME, peak),
            Line("peak of a swap, replace", "MiB", samples["replace peak"], NAME, peak),
        ],
        why=(
            "Runtimes that serve on the same machine from the same environment share most of "
            "onnxruntime's pages: beside others of them the whole agent comes to less."
        ),
        versions=peer_versions(),
    )


def _add(samples: dict[str, list[float]], who: str, sizes: dict[str, float]) -> None:
    for what, size in sizes.items():
        samples.setdefault(f"{who} {what}", []).append(size / MIB)


def _agent_sizes(fleet: Fleet, models: Models, device: str) -> dict[str, float]:
    asker = fleet.serve_digits(models, device, FIRST)
    supervisor = fleet.agents[device].pid
    _use(asker)
    runtime = family(supervisor)[1]
    sizes = {"supervisor": pss_bytes(supervisor), "runtime": pss_bytes(runtime)}
    sizes["whole"] = sum(sizes.values())
    with Peak(lambda: family_pss_bytes(supervisor)) as peak:
        fleet.start_rollout(f"digits:{SECOND}", match=f"name={device}")
        fleet.wait_until_confirmed([device], SECOND, keep_busy=asker.ask)
    asker.close()
    fleet.stop_agent(device)
    return {**sizes, "peak": peak.highest}


def _peer_sizes(peer: MlServer) -> dict[str, float]:
    with peer.start() as program:
        peer.wait_until_ready(program)
        asker = peer.asker()
        _use(asker)
        whole = family_pss_bytes(program.pid)
        with Peak(lambda: family_pss_bytes(program.pid)) as highest:
            peer.reload()
            asker.ask()
            time.sleep(0.2)
        asker.close()
    return {"whole": whole, "peak": highest.highest}


def _use(asker: Asker) -> None:
    failed = sum(asker.ask() != 200 for _ in range(REQUESTS))
    if failed:
        raise RuntimeError(f"{failed} of {REQUESTS} requests failed")
    time.sleep(SETTLE_S)
