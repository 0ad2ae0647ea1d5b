"""What Prometheus scrapes from a runtime, in its text format (version 0.0.4). Pure.

Counts begin anew with each runtime, as with each start of any program: `rate()` takes that into account.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from agent.control import Tally
from wire.latency import buckets_s

from .counters import CAUSES

CONTENT_TYPE: Final = b"text/plain; version=0.0.4; charset=utf-8"


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
    """Yield a histogram."""
    metric = "modelfleet_inference_latency_seconds"
    buckets, total_s = buckets_s(counts)
    for edge, count in buckets:
        yield f"{metric}_bucket{_labels(model=name, version=version, le=edge)} {count}"
    yield f"{metric}_sum{_labels(model=name, version=version)} {total_s:.6g}"
    yield f"{metric}_count{_labels(model=name, version=version)} {buckets[-1][1]}"


def _family(name: str, kind: str, text: str) -> tuple[str, str]:
    return f"# HELP modelfleet_{name} {text}", f"# TYPE modelfleet_{name} {kind}"


def _labels(**values: str) -> str:
    inside = ",".join(f'{key}="{_escaped(value)}"' for key, value in values.items())
    return f"{{{inside}}}"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
