"""Run the benchmarks: `run.py [--only NAME]…`; see `--help`.

Each prints its table and is added to build/bench.json. A whole run also writes
docs/performance.md, from the newest result of each.
"""

from __future__ import annotations

import argparse
import importlib
import json
import shutil
import signal
import sys
import time
import traceback
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import report
from machine import description, load_average
from models import Models
from programs import BUILD, ROOT, fresh_directory
from result import Outcome, cells, header

RESULTS = ROOT / "build" / "bench.json"
KEPT_RUNS = 200


def main() -> int:
    """Run what was asked for; return 1 when something could not be measured."""
    parser = argparse.ArgumentParser(description="Measure modelfleet beside peers and floors.")
    parser.add_argument(
        "--only",
        action="append",
        choices=report.CASES,
        metavar="NAME",
        help=f"one of {', '.join(report.CASES)}; repeatable",
    )
    parser.add_argument("--quick", action="store_true", help="fewer runs, for development")
    options = parser.parse_args()
    # Without this a SIGTERM would leave the programs behind, which live in sessions of their own.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda received, _: sys.exit(128 + received))
    fresh_directory(BUILD)
    models = Models()
    wanted, load = options.only or report.CASES, load_average()
    failed = [name for name in wanted if not _measure(name, models, load, is_quick=options.quick)]
    if failed:
        print(f"could not be measured: {', '.join(failed)}")
    elif options.only is None and not options.quick:
        report.write(json.loads(RESULTS.read_text()))
        print(f"wrote {report.PAGE.relative_to(ROOT)}")
    if not failed:
        shutil.rmtree(BUILD)  # else its logs may tell why
    return 1 if failed else 0


def _measure(name: str, models: Models, load: float, *, is_quick: bool) -> bool:
    print(f"\n===== {name}", flush=True)
    began_s = time.monotonic()
    try:
        case = importlib.import_module(name)
        outcome: Outcome = case.measure(BUILD / name, models, is_quick=is_quick)
    except Exception:  # noqa: BLE001 - one that fails must not keep the others from being measured
        traceback.print_exc()
        return False
    took_s = time.monotonic() - began_s
    print(f"{outcome.title}\n")
    print(_table([header(), *(cells(line) for line in outcome.lines)]))
    for note in outcome.notes:
        print(f"- {note}")
    print(f"({took_s:.0f} s)", flush=True)
    _keep(
        {
            "name": name,
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "took_s": round(took_s, 1),
            "load_before": load,
            "is_quick": is_quick,
            "machine": description(),
            "outcome": outcome.as_json(),
        }
    )
    return True


def _keep(entry: dict[str, Any]) -> None:
    RESULTS.parent.mkdir(exist_ok=True)
    runs = json.loads(RESULTS.read_text())["runs"] if RESULTS.exists() else []
    temporary = Path(f"{RESULTS}.tmp")
    temporary.write_text(json.dumps({"runs": [*runs, entry][-KEPT_RUNS:]}, indent=1))
    temporary.replace(RESULTS)


def _table(rows: list[list[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    ]
    return "\n".join(line.rstrip() for line in lines)


if __name__ == "__main__":
    sys.exit(main())
