"""Part of `make soak`: a million records over a bad way between ends that are killed, and one table.

A soak that was interrupted goes on where its journal ends: each line is a stretch of 10,000 records.
"""

import argparse
import json
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from tests.outbox.stretch import live

STRETCH = 10_000
SUMS = (
    "written",
    "stored",
    "dropped",
    "lost",
    "double",
    "changed",
    "untrue",
    "miscounted",
    "gaps",
    "late",
    "sent",
    "device_kills",
    "controller_kills",
)
FAULTS = ("lost", "double", "changed", "untrue", "miscounted")
MAX_OVER_RATIO = 0.01


def table(rows):
    """Return the sums of all rows, one a line, and the worst of the cap."""
    sums = {name: sum(row[name] for row in rows) for name in SUMS}
    lines = [f"{name:<18}{count:>12,}" for name, count in sums.items()]
    worst_ratio = max(row["over_ratio"] for row in rows)
    return "\n".join([*lines, f"{'cap exceeded by':<18}{worst_ratio:>12.2%}"])


def bad(rows):
    """Return the rows in which something is wrong."""
    return [
        row
        for row in rows
        if any(row[name] for name in FAULTS) or row["over_ratio"] > MAX_OVER_RATIO
    ]


def read(journal):
    """Return the rows of a journal; the last line may be half of one."""
    if not journal.exists():
        return []
    lines = journal.read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--journal", type=Path, default=Path("build/soak/outbox.jsonl"))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    args.journal.parent.mkdir(parents=True, exist_ok=True)
    rows = read(args.journal)
    args.journal.write_text("".join(json.dumps(row) + "\n" for row in rows))
    print(f"journal {args.journal}: {len(rows)} stretches are done; seed {args.seed}")  # noqa: T201
    seeds = range(args.seed, args.seed + args.records // STRETCH)
    left = sorted(set(seeds) - {row["seed"] for row in rows})
    context = multiprocessing.get_context("forkserver")
    with ProcessPoolExecutor(args.workers, context) as pool:
        for row in pool.map(live, left, [STRETCH] * len(left)):
            rows.append(row)
            with args.journal.open("a") as file:
                file.write(json.dumps(row) + "\n")
    print(table(rows))  # noqa: T201
    for row in bad(rows):
        print(json.dumps(row))  # noqa: T201
    return 1 if bad(rows) else 0


if __name__ == "__main__":
    sys.exit(main())
