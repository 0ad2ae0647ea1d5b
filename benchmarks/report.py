"""Write docs/performance.md from build/bench.json: the newest result of each benchmark."""

from __future__ import annotations

import json
from typing import Any

from programs import ROOT
from result import Outcome, cells, header, outcome_of

PAGE = ROOT / "docs" / "performance.md"

INTRODUCTION = """\
# Performance

Measured, not promised. `make bench` runs everything on loopback in about a quarter of an hour and
writes this page; `make bench BENCH_ARGS="--only swap"` runs one benchmark and only prints it.

Every number stands beside a peer or a floor that was measured in the same minutes, in turns.
The *ratio* is ours over the other's, the median over the pairs where runs were paired, and is what
to compare between machines. Cells say *median (minimum to maximum)*.
"""


def write(kept: dict[str, Any]) -> None:
    """Write the page."""
    newest = {run["name"]: run for run in kept["runs"] if not run["is_quick"]}
    parts = [INTRODUCTION, _machine(list(newest.values()))]
    parts += [_section(run) for run in newest.values()]
    PAGE.write_text("\n".join(parts))


def _machine(runs: list[dict[str, Any]]) -> str:
    first, facts = runs[0], dict(runs[0]["machine"])
    loads = [run["load_before"] for run in runs]
    facts["date"] = first["at"][:10]
    facts["load when each began"] = f"{min(loads)} to {max(loads)}"
    for run in runs:
        facts.update(run["outcome"]["versions"])
    others = [run["name"] for run in runs if run["machine"] != first["machine"]]
    if others:
        facts["measured elsewhere"] = ", ".join(others)
    rows = [f"| {name} | {value} |" for name, value in facts.items()]
    return "\n".join(["| | |", "|---|---|", *rows, ""])


def _section(run: dict[str, Any]) -> str:
    outcome: Outcome = outcome_of(run["outcome"])
    titles = header()
    rows = [titles, ["---"] * len(titles), *(cells(line) for line in outcome.lines)]
    table = [f"| {' | '.join(row)} |" for row in rows]
    parts = [f"## {outcome.title}", "", outcome.how, "", *table, ""]
    parts += [*(f"- {note}" for note in outcome.notes), ""] if outcome.notes else []
    parts += [outcome.why, ""] if outcome.why else []
    return "\n".join(parts)


if __name__ == "__main__":
    write(json.loads((ROOT / "build" / "bench.json").read_text()))
