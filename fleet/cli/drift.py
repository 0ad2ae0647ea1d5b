"""`fleet drift …`: what devices are asked and answer, held against what a model was made with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from fleet.api.drift_schemas import DriftColumn, DriftFinding, DriftReport
from wire.errors import ConfigError

from .client import Client
from .console import (
    Controller,
    Json,
    Match,
    ago,
    counted,
    given_name,
    given_release_or_alias,
    parse_seconds,
    parse_tags,
    printable,
    say,
    show,
    show_json,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BARS: Final = " ▁▂▃▄▅▆▇█"
MAX_ROWS: Final = 20
MAX_PLOTTED: Final = 12
PLOT_COLUMNS: Final = 3


def register(app: typer.Typer) -> None:
    """Add these commands."""
    drift = typer.Typer(help="Inputs and answers against the baseline.", no_args_is_help=True)
    drift.command("list")(list_findings)
    drift.command("show")(show_drift)
    app.add_typer(drift, name="drift")


def list_findings(
    model: Annotated[str | None, typer.Argument(help="Of this model only.")] = None,
    since: Annotated[
        str | None, typer.Option(help="Those that ended so long ago as well, such as 7d.")
    ] = None,
    json: Json = False,
    controller: Controller = None,
) -> None:
    """List what has drifted: the whole fleet, a group, or single devices."""
    query: dict[str, Any] = {}
    if model is not None:
        query["model"] = given_name(model, what="model name")
    if since is not None:
        query["closed_s"] = parse_seconds(since, option="--since")
    with Client(controller) as client:
        findings = client.list("/v1/drift", DriftFinding, **query)
    if json:
        show_json([finding.model_dump(mode="json") for finding in findings])
        return
    show(
        [
            {
                "RELEASE": f"{finding.model}:{finding.version or '?'}",
                "WHAT": finding.text,
                "FOUND": ago(finding.opened_unix_ms),
                "OVER": ago(finding.closed_unix_ms) if finding.closed_unix_ms else "",
            }
            for finding in findings
        ],
        empty="nothing has drifted; `fleet drift show MODEL` shows how each feature lies",
    )


def show_drift(
    release: Annotated[
        str, typer.Argument(help="NAME, or NAME:VERSION, or NAME@ALIAS; else the newest served.")
    ],
    since: Annotated[str, typer.Option(help="How far to look back, such as 24h or 7d.")] = "24h",
    device: Annotated[str | None, typer.Option(help="On this device only.")] = None,
    match: Match = None,
    feature: Annotated[
        list[str] | None, typer.Option(help="This feature or output only; repeatable.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw it into this file, a PNG, SVG or PDF.")
    ] = None,
    json: Json = False,
    controller: Controller = None,
) -> None:
    """Show each feature and output beside its baseline: the verdict, and two small histograms."""
    name, version = given_release_or_alias(release) if "@" in release else _parted(release)
    query: dict[str, Any] = {"since_s": parse_seconds(since, option="--since")}
    if version:
        query["version"] = version
    if device is not None:
        query["device"] = given_name(device, what="device id")
    tags = parse_tags(match, option="--match")
    with Client(controller) as client:
        path = f"/v1/models/{given_name(name, what='model name')}/drift"
        report = client.get(path, DriftReport, match=tags, **query)
    report.columns = _chosen(report.columns, feature)
    if plot is not None:
        draw(report, plot)
    if json:
        show_json(report.model_dump(mode="json"))
        return
    _print(report)
    if plot is not None:
        say(f"wrote {plot}")


def _parted(release: str) -> tuple[str, str]:
    name, _, version = release.partition(":")
    return name, version


def _chosen(columns: list[DriftColumn], wanted: Sequence[str] | None) -> list[DriftColumn]:
    if wanted:
        known = {column.name for column in columns}
        if unknown := [name for name in wanted if name not in known]:
            raise typer.BadParameter(
                f"there is no {unknown[0]!r}; without it all are shown", param_hint="--feature"
            )
        columns = [column for column in columns if column.name in wanted]
    return sorted(columns, key=lambda column: (column.is_output, column.p_value, -column.psi))


def _print(report: DriftReport) -> None:
    say(
        f"{report.model}:{report.version}, {counted(report.row_count, 'row')} of"
        f" {counted(report.device_count, 'device')}"
    )
    for finding in report.findings:
        typer.echo(f"drifted: {printable(finding.text)}")
    shown = report.columns[:MAX_ROWS]
    show(
        [
            {
                "FEATURE": f"{column.name} (output)" if column.is_output else column.name,
                "BASELINE": sparkline([b.reference_ratio for b in column.bins]),
                "NOW": sparkline([b.observed_ratio for b in column.bins]),
                "VERDICT": column.verdict.replace("_", " "),
                "PSI": f"{column.psi:.3f}",
                "MISSING": _percent(column.missing_ratio),
                "OUTSIDE": _percent(column.below_ratio + column.above_ratio),
            }
            for column in shown
        ],
        empty="the baseline has no columns",
    )
    if len(report.columns) > len(shown):
        say(f"{len(report.columns) - len(shown)} more; --json has all, --feature NAME one")
    if not report.row_count:
        say("no window has come in this time: agents send them every [telemetry] window_s")


def sparkline(ratios: Sequence[float]) -> str:
    """Return a histogram as one character for each bin; a bin with anything in it shows."""
    top = max(ratios, default=0.0)
    if top <= 0:
        return BARS[0] * len(ratios)
    steps = len(BARS) - 1
    return "".join(BARS[max(1, round(r / top * steps)) if r > 0 else 0] for r in ratios)


def _percent(ratio: float) -> str:
    return f"{100 * ratio:.1f} %" if ratio else ""


def draw(report: DriftReport, path: Path) -> None:
    """Draw the columns that lie furthest from the baseline into a file.

    Raises:
        ConfigError: `plot_missing` or `plot_unwritable`.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as exc:
        raise ConfigError(
            "matplotlib is not installed",
            code="plot_missing",
            hint="`pip install 'modelfleet[plot]'`, or leave --plot out",
        ) from exc
    columns = report.columns[:MAX_PLOTTED]
    n_rows = max(1, -(-len(columns) // PLOT_COLUMNS))
    figure = Figure(figsize=(5 * PLOT_COLUMNS, 3.2 * n_rows), layout="constrained")
    figure.suptitle(
        f"{report.model}:{report.version}, {report.row_count:,} rows of"
        f" {counted(report.device_count, 'device')}"
    )
    for number, column in enumerate(columns, 1):
        _draw(figure.add_subplot(n_rows, PLOT_COLUMNS, number), column)
    try:
        figure.savefig(path)
    except (OSError, ValueError) as exc:
        raise ConfigError(
            f"cannot write {path}: {exc}",
            code="plot_unwritable",
            hint="give a path that can be written, ending in .png, .svg or .pdf",
        ) from exc


def _draw(axes: Axes, column: DriftColumn) -> None:
    places = list(range(len(column.bins)))
    for offset, label, ratios in (
        (-0.2, "baseline", [b.reference_ratio for b in column.bins]),
        (0.2, "now", [b.observed_ratio for b in column.bins]),
    ):
        axes.bar([place + offset for place in places], ratios, width=0.4, label=label)
    axes.set_title(f"{column.name}: {column.verdict.replace('_', ' ')}, PSI {column.psi:.2f}")
    axes.set_xticks(places, [b.label for b in column.bins], rotation=60, ha="right", fontsize=7)
    axes.set_ylabel("share of rows")
    axes.legend(fontsize=7)
