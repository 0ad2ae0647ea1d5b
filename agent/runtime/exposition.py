"""What Prometheus scrapes from a runtime, in its text format (version 0.0.4). Pure.

Counts begin anew with each runtime, as with each start of any program: `rate()` takes that into account.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from agent.control import Tally
from wire.latency import LATENCY_EDGES_MS

from .counters import CAUSES

CONTENT_TYPE: Final = b"text/plain; version=0.0.4; charset=utf-8"
BUCKET_STEP: Final = 10
"""Every half decade of the latency bins is told: 0.01 ms, 0.0316 ms, 0.1 ms … 100 s."""


@dataclass(frozen=True, slots=True)
class Served:
    """One model of a runtime: its version, and what it has answered."""

    version: str
    tally: Tally


def render(served: Mapping[str, Served], *, runtime: str, rss_bytes: int) -> bytes:
    """Return all metrics of a runtime.

    Args:
        served: By model.
        runtime: The inference library and its version.
        rss_bytes: Resident memory.
    """
    lines = [
        *_family("runtime_info", "gauge", "The inference library."),
        f"modelfleet_runtime_info{_labels(runtime=runtime)} 1",
        *_family("runtime_resident_memory_bytes", "gauge", "Resident memory."),
        f"modelfleet_runtime_resident_memory_bytes {rss_bytes}",
    ]
    models = [(name, one.version, one.tally) for name, one in sorted(served.items())]
    lines += _family("inference_requests_total", "counter", "Requests, failed ones included.")
    for name, version, tally in models:
        labels = _labels(model=name, version=version)
        lines.append(f"modelfleet_inference_requests_total{labels} {tally.request_count}")
    lines += _family("inference_rows_total", "counter", "Rows that were answered.")
    for name, version, tally in models:
        labels = _labels(model=name, version=version)
        lines.append(f"modelfleet_inference_rows_total{labels} {tally.row_count}")
    lines += _family("inference_errors_total", "counter", "Requests that failed, by cause.")
    for name, version, tally in models:
        for cause in CAUSES:
            labels = _labels(model=name, version=version, cause=cause)
            lines.append(f"modelfleet_inference_errors_total{labels} {getattr(tally, cause)}")
    lines += _family(
        "inference_latency_seconds", "histogram", "From whole request to whole answer."
    )
    for name, version, tally in models:
        lines += _histogram(name, version, tally.latency)
    return ("\n".join(lines) + "\n").encode()


def _histogram(name: str, version: str, counts: Sequence[int]) -> Iterator[str]:
    """Yield a histogram; its sum is of the bins' upper edges, so 12 % too large at most."""
    reached = [*accumulate(counts)] or [0] * (len(LATENCY_EDGES_MS) + 1)
    metric = "modelfleet_inference_latency_seconds"
    for place in range(0, len(LATENCY_EDGES_MS), BUCKET_STEP):
        labels = _labels(model=name, version=version, le=f"{LATENCY_EDGES_MS[place] / 1000:.6g}")
        yield f"{metric}_bucket{labels} {reached[place]}"
    yield f"{metric}_bucket{_labels(model=name, version=version, le='+Inf')} {reached[-1]}"
    uppers = (*LATENCY_EDGES_MS, LATENCY_EDGES_MS[-1])
    total_s = sum(count * upper for count, upper in zip(counts, uppers, strict=False)) / 1000
    yield f"{metric}_sum{_labels(model=name, version=version)} {total_s:.6g}"
    yield f"{metric}_count{_labels(model=name, version=version)} {reached[-1]}"


def _family(name: str, kind: str, text: str) -> tuple[str, str]:
    return f"# HELP modelfleet_{name} {text}", f"# TYPE modelfleet_{name} {kind}"


def _labels(**values: str) -> str:
    inside = ",".join(f'{key}="{_escaped(value)}"' for key, value in values.items())
    return f"{{{inside}}}"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
