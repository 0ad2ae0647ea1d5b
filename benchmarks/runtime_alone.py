"""The agent's runtime child without its supervisor's other parts: started as the supervisor does."""

from __future__ import annotations

import os
import queue
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from load import Asker, request_bytes
from procfs import activity, family
from programs import HOST, BenchError, free_ports

from agent.adapters.child import ProcessRuntimeHost
from agent.adapters.content_files import ContentStore
from agent.ports import CandidateReady, RuntimeSettings, ServedModel


@dataclass(frozen=True, slots=True)
class Start:
    """How long a runtime took to get ready, to answer, and the processor time of the former."""

    ready_s: float
    answer_s: float
    cpu_s: float


def start_runtime(state: Path, manifest: str, body: bytes) -> Start:
    """Start a runtime with one model from an agent's disk, ask it once, and end it."""
    parsed, files = ContentStore(state).load(manifest)
    model = ServedModel(parsed.name, parsed.version, manifest, files, None)
    port = free_ports(1)[0]
    events: queue.Queue[Any] = queue.Queue()
    host = ProcessRuntimeHost(RuntimeSettings(listen=(HOST, port), drain_s=1.0), events.put)
    host.open()
    asker = Asker(port, request_bytes(f"/v2/models/{parsed.name}/infer", body))
    try:
        children = set(family(os.getpid()))
        began_s = time.monotonic()
        host.start_candidate((model,), auto_promote=False)
        while not isinstance(event := events.get(timeout=30), CandidateReady):
            if "Failed" in type(event).__name__:
                raise BenchError(f"the runtime did not start: {event}")
        ready_s = time.monotonic() - began_s
        cpu_s = activity(set(family(os.getpid())) - children).cpu_s
        host.promote()
        if asker.ask() != 200:
            raise BenchError("the runtime does not answer")
        return Start(ready_s, time.monotonic() - began_s, cpu_s)
    finally:
        asker.close()
        host.stop()
