"""Write docs/performance.md from build/bench.json: the newest result of each benchmark."""

from __future__ import annotations

import json
import textwrap
from typing import Any

from programs import ROOT
from result import Outcome, cells, header, outcome_of

PAGE = ROOT / "docs" / "performance.md"
CASES = (
    "delta",
    "fetch",
    "memory",
    "start",
    "swap",
    "rollout",
    "ingest",
    "idle",
    "trust",
    "inference",
    "window",
    "shadow",
    "labels",
    "capture",
    "drift",
)
"""The benchmarks, one module each, in the order of the page."""
WIDTH = 100

INTRODUCTION = """\
# Performance

Measured, not promised. `make bench` runs everything on loopback in about half an hour and writes
this page; `make bench BENCH_ARGS="--only swap"` runs one benchmark and only prints it. What is
compared with what, and how, stands above each table; `benchmarks/` has the programs.

Every number stands beside a peer or a floor that was measured in the same minutes, in turns.
The *ratio* is ours over the other's, the median over the pairs where runs were paired, and is what
to compare between machines. Cells say *median (minimum to maximum)*.
"""


def write(kept: dict[str, Any]) -> None:
    """Write the page."""
    newest = {run["name"]: run for run in kept["runs"] if not run["is_quick"]}
    parts = [INTRODUCTION, _machine(list(newest.values()))]
    parts += [_section(newest[name]) for name in CASES if name in newest]
    PAGE.write_text("\n".join(parts))


def _machine(runs: list[dict[str, Any]]) -> str:
    first, facts = runs[0], dict(runs[0]["machine"])
    loads = sorted({run["load_before"] for run in runs})  # one for each start of run.py
    facts["date"] = first["at"][:10]
    facts["load of the machine before"] = ", ".join(str(load) for load in loads)
    for run in runs:
        facts.update(run["outcome"]["versions"])
    for run in runs:
        for name, value in run["machine"].items():
            if value != first["machine"].get(name):
                facts[f"{name} for {run['name']}"] = value
    rows = [f"| {name} | {value} |" for name, value in facts.items()]
    return "\n".join(["| | |", "|---|---|", *rows, ""])


def _section(run: dict[str, Any]) -> str:
    outcome: Outcome = outcome_of(run["outcome"])
    titles = header()
    rows = [titles, ["---"] * len(titles), *(cells(line) for line in outcome.lines)]
    table = [f"| {' | '.join(row)} |" for row in rows]
    parts = [f"## {outcome.title}", "", _wrapped(outcome.how), "", *table, ""]
    parts += [*(_wrapped(note, "- ") for note in outcome.notes), ""] if outcome.notes else []
    parts += [_wrapped(outcome.why), ""] if outcome.why else []
    return "\n".join(parts)


def _wrapped(text: str, bullet: str = "") -> str:
    return textwrap.fill(
        text,
        WIDTH,
        initial_indent=bullet,
        subsequent_indent=" " * len(bullet),
        break_long_words=False,
        break_on_hyphens=False,
    )


if __name__ == "__main__":
    write(json.loads((ROOT / "build" / "bench.json").read_text()))
