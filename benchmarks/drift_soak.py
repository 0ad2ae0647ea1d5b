"""Judge many windows without drift, whole, and count: `drift_soak.py --windows 2000000`.

For each lag-one correlation of the rows: how often one test of a stretch was below a claimed level,
with the tolerance and without one (which shows what the estimated design effect does to the tail),
and the alarms at the level of the budget. What was cut goes on from the journal.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from drift_streams import Stream, lengthened, no_history

from fleet.core import drift
from fleet.core.drift import Kind, Level
from fleet.core.shift_test import TOLERANCE

LAGS = (0.0, 0.5, 0.9, 0.99)
CLAIMS = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
PER_STREAM = 1000
LEVEL = drift.chance_per_test(Level.DEVICE, 1000, 20)


def main() -> None:
    """Judge, and print the table so far after each stream of every kind."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--windows", type=int, default=2_000_000, help="over all correlations")
    parser.add_argument("--journal", type=Path, default=Path("build/soak/drift.jsonl"))
    options = parser.parse_args()
    options.journal.parent.mkdir(parents=True, exist_ok=True)
    lines = options.journal.read_text().splitlines() if options.journal.exists() else []
    kept = [json.loads(line) for line in lines]
    for seed in range(len(kept), options.windows // PER_STREAM):
        kept.append(_stream(seed, LAGS[seed % len(LAGS)]))
        with options.journal.open("a") as journal:
            journal.write(json.dumps(kept[-1]) + "\n")
    for lag_one in LAGS:
        _print(lag_one, [entry for entry in kept if entry["lag_one"] == lag_one])


def _stream(seed: int, lag_one: float) -> dict[str, Any]:
    stream = Stream(np.random.default_rng(seed), lag_one=lag_one, reference_rows=10_000)
    history = no_history(11)
    below = {
        tolerance: np.zeros((len(drift.SCALES), len(CLAIMS)), int) for tolerance in (0.0, TOLERANCE)
    }
    drifted = raised = 0
    alarm = None
    for window in stream.windows(PER_STREAM, 500):
        history = lengthened(history, window)
        strict = drift.judge(stream.reference, history, LEVEL, tolerance=0.0)
        verdict = drift.judge(stream.reference, history, LEVEL)
        for tolerance, seen in ((0.0, strict), (TOLERANCE, verdict)):
            below[tolerance] += np.array(seen.p_values)[:, None] <= np.array(CLAIMS)
        drifted += verdict.kind is Kind.DRIFTED
        before, alarm = alarm, drift.follow(alarm, verdict)
        raised += before is None and alarm is not None
    counted = {str(tolerance): counts.tolist() for tolerance, counts in below.items()}
    return {
        "seed": seed,
        "lag_one": lag_one,
        "below": counted,
        "drifted": drifted,
        "raised": raised,
    }


def _print(lag_one: float, entries: list[dict[str, Any]]) -> None:
    windows = PER_STREAM * len(entries)
    alarms = sum(entry["raised"] for entry in entries)
    print(
        f"rows of lag-one correlation {lag_one}: {windows:,} windows without drift, {alarms} alarms"
    )
    for tolerance in ("0.0", str(TOLERANCE)):
        if entries:
            below = np.sum([entry["below"][tolerance] for entry in entries], axis=0)
            shares = zip(drift.SCALES, below / windows, strict=True)
            print(f"  tolerance {tolerance}; claimed {CLAIMS}, seen by the stretch:")
            for scale, row in shares:
                print(f"    {scale:3} windows:", " ".join(f"{share:.2g}" for share in row))


if __name__ == "__main__":
    main()
