"""The child process that asks a converted model.

    python -P -m converter.answer_child REQUEST.json OUTPUT_DIR

The parent reads numbers and JSON only.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from wire.errors import BundleError

from .child import die_with
from .handover import Cost, leave_cost, leave_error, leave_outputs
from .parity import OnnxModel, load_library

Array = npt.NDArray[Any]

WARM_UP_COUNT: Final = 20
"""Requests that are not timed: the first ones allocate."""
REQUEST_COUNT: Final = 1000
"""So that ten of them are slower than the 99th percentile."""
MAX_MEASURE_S: Final = 10.0
"""For each size of a request; a slow model is asked less often, but three times at least."""
BATCH_ROWS: Final = 256


def main() -> int:
    """Do what REQUEST.json says; return 0, or 1 with the error left for the parent."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    request = json.loads(Path(sys.argv[1]).read_text())
    die_with(request["parent"])
    out = Path(sys.argv[2])
    rows = np.load(request["rows"], allow_pickle=False)
    if rows.dtype.kind == "U":
        rows = rows.astype(object)
    try:
        if request["what"] == "answer":
            leave_outputs(out, OnnxModel(Path(request["model"])).run({request["input"]: rows}))
        else:
            leave_cost(out, _measure(Path(request["model"]), request["input"], rows))
    except BundleError as exc:
        leave_error(out, exc)
        return 1
    return 0


def _measure(path: Path, name: str, rows: Array) -> Cost:
    load_library()
    before = _peak_bytes(anew=True)
    model = OnnxModel(path)
    single = _times_ms(lambda i: model.run({name: rows[i % len(rows)][None]}))
    batch = rows[:BATCH_ROWS]
    batches = _times_ms(lambda _: model.run({name: batch}))
    return Cost(
        bytes=path.stat().st_size,
        p50_ms=float(np.quantile(single, 0.5)),
        p99_ms=float(np.quantile(single, 0.99)),
        batch_p99_ms=float(np.quantile(batches, 0.99)),
        batch_row_count=len(batch),
        memory_mb=max(0, _peak_bytes() - before) / 2**20,
    )


def _times_ms(ask: Callable[[int], object]) -> list[float]:
    begin = time.perf_counter()
    times: list[float] = []
    for i in range(WARM_UP_COUNT + REQUEST_COUNT):
        start = time.perf_counter()
        ask(i)
        end = time.perf_counter()
        times.append((end - start) * 1000)
        if end - begin > MAX_MEASURE_S and len(times) > 3:
            break
    return times[min(WARM_UP_COUNT, len(times) - 3) :]


def _peak_bytes(*, anew: bool = False) -> int:
    """Return the most memory that was resident, since the last call with `anew` where the kernel
    can forget (Linux, proc(5), clear_refs), else since the start.
    """
    try:
        if anew:
            Path("/proc/self/clear_refs").write_text("5")
        status = Path("/proc/self/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    except (OSError, StopIteration):
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


if __name__ == "__main__":
    sys.exit(main())
