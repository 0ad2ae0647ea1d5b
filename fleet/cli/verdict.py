"""`fleet pipeline verdict`: what a run came to, as an exit code and in words for a page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Final

import typer

from fleet.pipeline.record import RunRecord, find_record

from .console import ERROR, HALTED, INCONCLUSIVE, Json, printable, show_json

OUTCOMES: Final[Mapping[str, tuple[str, int]]] = {
    "bless": ("blessed", 0),
    "refuse": ("refused", HALTED),
    "inconclusive": ("open: the rows do not tell", INCONCLUSIVE),
}
"""Each outcome in words, and its exit code."""
MAX_LINE_BYTES: Final = 1000


def verdict(
    run: Annotated[
        str | None, typer.Argument(help="Id of a run, or its beginning; else the newest.")
    ] = None,
    project: Annotated[
        Path, typer.Option("--project", "-C", help="Folder of the project; else this one.")
    ] = Path(),
    markdown: Annotated[
        bool, typer.Option("--markdown", help="As a section of Markdown, with the figures.")
    ] = False,
    json: Json = False,
) -> None:
    """Tell a run's verdict: exit code 0 blessed, 3 refused, 4 open, 1 none, as it failed before."""
    from fleet.pipeline.project import load_project

    record = find_record(load_project(project).runs, run)
    words, code = _came_to(record)
    if json:
        found = record.verdict
        show_json(
            {
                "run": record.id,
                "outcome": found.outcome if found is not None else None,
                "reasons": _reasons(record),
            }
        )
    elif markdown:
        typer.echo("\n".join(as_markdown(record)))
    else:
        typer.echo(f"{record.model}, run {record.id}: {words}")
        for reason in _reasons(record):
            typer.echo(f"  {printable(reason)}")
    raise typer.Exit(code)


def as_markdown(record: RunRecord) -> Iterator[str]:
    """Yield the lines of a section on a run; what others wrote is shown as it is, and is no markup."""
    from fleet.pipeline.card import plain

    words, _ = _came_to(record)
    yield f"## {plain(record.model)}: {words}"
    yield ""
    for reason in _reasons(record):
        yield f"- {plain(reason, MAX_LINE_BYTES)}"
    if record.metrics:
        yield from ("", "| figure | |", "|---|---|")
        for name, value in record.metrics.items():
            yield f"| {plain(name)} | {value:.4f} |"
    yield ""
    rows = f" of {record.data.row_count} rows" if record.data is not None else ""
    code = record.code.commit or record.code.sha256
    yield f"Run `{record.id}`{rows}, code {plain(code[:12])}."
    if (release := record.release) is not None:
        state = "signed" if release.is_signed else "waits for signatures, and is not rolled out"
        rollout = f", rollout {plain(release.rollout)}" if release.rollout is not None else ""
        yield f"Release {plain(record.model)}:{plain(release.version)}: {state}{rollout}."


def _came_to(record: RunRecord) -> tuple[str, int]:
    if record.verdict is not None:
        return OUTCOMES[record.verdict.outcome]
    if record.failure is not None:
        return f"failed at {record.failure.step}", ERROR
    return f"no verdict: nothing was evaluated, the run is {record.state}", ERROR


def _reasons(record: RunRecord) -> list[str]:
    failure = record.failure
    told = [text for text in (failure.message, failure.hint) if text] if failure is not None else []
    return [*(record.verdict.reasons if record.verdict is not None else ()), *told]
