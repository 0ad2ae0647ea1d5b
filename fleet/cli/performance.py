"""`fleet performance`: how right a model's answers are, by labels, else by its scores."""

from __future__ import annotations

from typing import Annotated, Any, Final

import typer

from fleet.api.performance_schemas import Estimated, PerformanceReport, ReleasePerformance

from .client import Client
from .console import (
    Controller,
    Json,
    Match,
    counted,
    given_name,
    parse_seconds,
    parse_tags,
    say,
    show,
    show_json,
)

WORDS: Final = {
    "no_scores": "no scores",
    "not_calibrated": "not calibrated",
    "too_few_rows": "too few rows",
    "replaced": "",
}


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command("performance")(show_performance)


def show_performance(
    model: Annotated[str, typer.Argument(help="Name of the model.")],
    version: Annotated[str | None, typer.Option(help="Of this release only.")] = None,
    since: Annotated[str, typer.Option(help="How far to look back, such as 24h or 7d.")] = "24h",
    device: Annotated[str | None, typer.Option(help="On this device only.")] = None,
    match: Match = None,
    group: Annotated[
        str | None, typer.Option(help="Key of a tag: a line for each of its values as well.")
    ] = None,
    json: Json = False,
    controller: Controller = None,
) -> None:
    """Show how right each release is: measured by labels that came, else estimated by its scores."""
    query: dict[str, Any] = {"since_s": parse_seconds(since, option="--since")}
    if version is not None:
        query["version"] = version
    if device is not None:
        query["device"] = given_name(device, what="device id")
    if group is not None:
        query["group"] = group
    tags = parse_tags(match, option="--match")
    with Client(controller) as client:
        path = f"/v1/models/{given_name(model, what='model name')}/performance"
        report = client.get(path, PerformanceReport, match=tags, **query)
    if json:
        show_json(report.model_dump(mode="json"))
        return
    show(
        [_line(report.model, row) for row in report.releases],
        empty="nothing was answered in this time: agents tell of it every [telemetry] window_s",
    )
    if any(row.basis == "estimate" for row in report.releases):
        say(f"ESTIMATE is no accuracy: {report.caveat}")
    refused = sum(
        sum(row.refused.model_dump().values()) for row in report.releases if not row.group
    )
    if refused:
        say(f"{counted(refused, 'label')} refused by devices; --json has the causes")


def _line(model: str, row: ReleasePerformance) -> dict[str, str]:
    shown = row.accuracy or row.estimate
    measured = "" if row.accuracy is None else _percent(row.accuracy.value)
    interval = f"{_percent(shown.low)} to {_percent(shown.high)}" if shown is not None else ""
    if row.errors is not None:
        measured = f"error {row.errors.mean_absolute.value:.4g}"
        interval = _span(row.errors.mean_absolute)
    return {
        "RELEASE": f"{model}:{row.version}",
        "GROUP": row.group or "all",
        "ESTIMATE": _percent(row.estimate.value)
        if row.estimate is not None
        else WORDS[row.estimate_verdict],
        "MEASURED": measured,
        "95 %": interval,
        "ROWS": f"{row.row_count:,}",
        "LABELLED": f"{row.labelled_count:,}",
        "CALIBRATION ERROR": ""
        if row.calibration_error is None
        else f"{row.calibration_error:.3f}",
    }


def _span(interval: Estimated) -> str:
    return f"{interval.low:.4g} to {interval.high:.4g}"


def _percent(ratio: float) -> str:
    return f"{100 * ratio:.1f} %"
