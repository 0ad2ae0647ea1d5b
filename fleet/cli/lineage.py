"""`fleet model history` and `fleet lineage`: what was live where, and where it comes from."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Annotated, Any

import typer

from fleet.api.lineage_schemas import Lineage, LiveSpan
from fleet.api.run_schemas import StoredRun

from .client import Client
from .console import (
    Controller,
    Json,
    Match,
    at_time,
    counted,
    given_name,
    given_release_or_alias,
    parse_tags,
    printable,
    show,
    show_json,
)
from .instants import parse_instant

PAGE = 500
MAX_LINES = 20
Device = Annotated[str | None, typer.Option(help="On this device only.")]
At = Annotated[
    str | None,
    typer.Option(help="At this time: 2026-11-24T14:10, 14:10, 'tue 14:10', or 2h for so long ago."),
]
Branch = tuple[str, list["Branch"]]
"""A line of a tree, and the lines below it."""


def register(app: typer.Typer) -> None:
    """Add these commands."""
    model = typer.Typer(help="One model.", no_args_is_help=True)
    model.command("history")(show_history)
    app.add_typer(model, name="model")
    app.command("lineage")(show_lineage)


def show_history(
    model: Annotated[str, typer.Argument(help="The model's name.")],
    device: Device = None,
    match: Match = None,
    at: At = None,
    json: Json = False,
    controller: Controller = None,
) -> None:
    """Show which release was live where, from when to when, and how that ended; newest first."""
    query: dict[str, Any] = {}
    if device is not None:
        query["device"] = given_name(device, what="device id")
    if at is not None:
        query["at_unix_ms"] = parse_instant(at, _now_unix_ms(), option="--at")
    path = f"/v1/models/{given_name(model, what='model name')}/history"
    tags = parse_tags(match, option="--match")
    spans: list[LiveSpan] = []
    page: list[LiveSpan] | None = None
    with Client(controller) as client:
        while page is None or len(page) == PAGE:
            before = spans[-1].id if spans else None
            page = client.list(path, LiveSpan, match=tags, before=before, limit=PAGE, **query)
            spans += page
    if json:
        show_json([span.model_dump(mode="json") for span in spans])
        return
    show([_row(span) for span in spans], empty=f"{model} was live nowhere, as far as is known")


def _row(span: LiveSpan) -> dict[str, object]:
    sure = {} if span.certainty is None else {"SURE": _sure(span)}
    return {
        "DEVICE": span.device,
        "RELEASE": f"{span.model}:{span.version}",
        "MANIFEST": span.manifest[:12],
        "SINCE": _between(span.earliest_unix_ms, span.since_unix_ms),
        "UNTIL": "" if span.until_unix_ms is None else _until(span),
        "ENDED": " ".join(filter(None, (span.ending.replace("_", " "), _code(span)))),
        **sure,
    }


def _sure(span: LiveSpan) -> str:
    return "yes" if span.certainty == "certain" else "not heard then"


def _code(span: LiveSpan) -> str:
    return f"({span.code})" if span.ending in ("rolled_back", "rollback_failed", "stopped") else ""


def _until(span: LiveSpan) -> str:
    until = span.until_unix_ms or 0
    return _between(until if span.last_known_unix_ms is None else span.last_known_unix_ms, until)


def _between(first_unix_ms: int, last_unix_ms: int) -> str:
    """Return an instant that is known to lie between two; a second apart is one."""
    last = at_time(last_unix_ms)
    if last_unix_ms - first_unix_ms < 1000:
        return last
    return f"{at_time(first_unix_ms)} .. {last}"


def show_lineage(
    release: Annotated[
        str | None, typer.Argument(help="NAME:VERSION, or NAME@ALIAS; or --device.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="From what this device serves; with a release, there only.")
    ] = None,
    at: At = None,
    match: Match = None,
    json: Json = False,
    controller: Controller = None,
) -> None:
    """Show where a release comes from and where it went: data, run, bundle, rollouts, devices, drift.

    `--json` prints OpenLineage events.
    """
    if release is None and device is None:
        raise typer.BadParameter("or --device, says of what", param_hint="RELEASE")
    if release is not None and at is not None:
        raise typer.BadParameter("is for --device alone", param_hint="--at")
    if release is None and match:
        raise typer.BadParameter("is for a release", param_hint="--match")
    name = given_name(device, what="device id") if device is not None else None
    with Client(controller) as client:
        if release is not None:
            model, version = given_release_or_alias(release)
            path = f"/v1/releases/{model}/{version}/lineage"
            tags = parse_tags(match, option="--match")
            found = [client.get(path, Lineage, match=tags, device=name)]
        else:
            then = parse_instant(at, _now_unix_ms(), option="--at") if at is not None else None
            path = f"/v1/devices/{name}/lineage"
            found = client.list(path, Lineage, at_unix_ms=then)
    if json:
        from fleet.interop.openlineage import merged

        show_json(merged(found))
        return
    if not found:
        typer.echo(f"{name} served no release of this fleet then, as far as is known")
    for lineage in found:
        for line in drawn(tree(lineage)):
            typer.echo(printable(line))


def tree(lineage: Lineage) -> Branch:
    """Return a lineage as a tree, from the release to what it is made of and where it went."""
    release = lineage.release
    called = "".join(f" @{alias}" for alias in release.aliases)
    head = f"{release.model}:{release.version}{called}  {release.manifest[:12]}"
    return (
        f"{head}, pushed {at_time(release.created_unix_ms)}",
        [
            _made(lineage.run),
            _bundle(lineage),
            ("rollouts", _or_none([_rollout(lineage, n) for n in range(len(lineage.rollouts))])),
            _live(lineage),
            ("drift", _or_none([_leaf(found.text) for found in lineage.findings])),
        ],
    )


def drawn(branch: Branch) -> Iterator[str]:
    """Yield the lines of a tree."""
    text, below = branch
    yield text
    for number, part in enumerate(below, 1):
        is_last = number == len(below)
        for place, line in enumerate(drawn(part)):
            if place == 0:
                yield f"{'└─' if is_last else '├─'} {line}"
            else:
                yield f"{'  ' if is_last else '│ '} {line}"


def _made(stored: StoredRun | None) -> Branch:
    if stored is None:
        return _leaf("made by a run that nobody has told of")
    run = stored.run
    code = run.code.commit or "no commit"
    lines = [
        f"data {run.data.sha256[:12]}, {counted(run.data.row_count, 'row')}"
        + _listed(source.path for source in run.data.sources),
        f"code {code}{', with changes that it does not have' if run.code.is_dirty else ''}",
    ]
    if run.parameters:
        lines.append("parameters" + _listed(f"{k}={v}" for k, v in run.parameters.items()))
    if run.metrics:
        lines.append("metrics" + _listed(f"{k}={v:.6g}" for k, v in run.metrics.items()))
    if run.libraries:
        lines.append("libraries" + _listed(f"{k} {v}" for k, v in run.libraries.items()))
    if run.verdict is not None:
        lines.append(f"verdict {run.verdict.outcome}" + _listed(run.verdict.reasons, sep=" "))
    why = f", {run.trigger.why}" if run.trigger.why else ""
    head = f"made by run {run.run} of {run.pipeline}, started by {run.trigger.kind}{why}"
    return head, [_leaf(line) for line in lines]


def _bundle(lineage: Lineage) -> Branch:
    lines = [f"{file.path}  {file.sha256[:12]}, {file.bytes} bytes" for file in lineage.files]
    origin = lineage.origin
    if origin is not None and origin.data_sha256 is not None:
        lines.append(f"says it is of data {origin.data_sha256[:12]}")
    if origin is not None and origin.code_commit is not None:
        lines.append(f"says it is of code {origin.code_commit}")
    if origin is not None and origin.source_signer is not None:
        lines.append(f"was converted from a file signed by {origin.source_signer}")
    return "bundle", [_leaf(line) for line in lines]


def _rollout(lineage: Lineage, number: int) -> Branch:
    rollout = lineage.rollouts[number]
    match = " ".join(f"{k}={v}" for k, v in sorted(rollout.match.items())) or "all devices"
    counts = ", ".join(f"{n} {state.replace('_', ' ')}" for state, n in rollout.counts.items())
    when = at_time(rollout.ended_unix_ms or rollout.created_unix_ms)
    reason = f": {rollout.reason}" if rollout.reason else ""
    return _leaf(f"{rollout.id} to {match}, {rollout.state} {when}{reason} ({counts})")


def _live(lineage: Lineage) -> Branch:
    asked = {windows.device: windows for windows in lineage.windows}
    lines = []
    for span in lineage.spans[:MAX_LINES]:
        since = f"since {_between(span.earliest_unix_ms, span.since_unix_ms)}"
        end = f", {span.ending.replace('_', ' ')} {_until(span)}" if span.until_unix_ms else ""
        unsure = ", not heard at that time" if span.certainty == "possible" else ""
        windows = asked.get(span.device)
        rows = f"; {counted(windows.row_count, 'row')} watched" if windows else ""
        lines.append(f"{span.device} {since}{end}{unsure}{rows}")
    if len(lineage.spans) > MAX_LINES:
        lines.append(f"and more: `fleet model history {lineage.release.model}`")
    head = f"live on {counted(lineage.device_count, 'device')}"
    return head, _or_none([_leaf(line) for line in lines])


def _listed(words: Iterable[str], *, sep: str = ", ") -> str:
    shown = list(words)
    more = f" and {len(shown) - MAX_LINES} more" if len(shown) > MAX_LINES else ""
    return f": {sep.join(shown[:MAX_LINES])}{more}" if shown else ""


def _or_none(branches: list[Branch]) -> list[Branch]:
    return branches or [_leaf("none")]


def _leaf(text: str) -> Branch:
    return text, []


def _now_unix_ms() -> int:
    return time.time_ns() // 1_000_000
