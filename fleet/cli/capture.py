"""`fleet capture …`: rows that devices keep, asked for, listed, handed out and deleted."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from fleet.api.capture_schemas import (
    CaptureAsked,
    CaptureDeletionIn,
    CaptureDeletionResult,
    CaptureExportIn,
    CaptureHeld,
    CaptureRequestIn,
    CaptureRequestResult,
)
from wire.capture import MAX_CAPTURE_LIMIT

from .captured import Wanted, export_table
from .client import Client
from .console import (
    Controller,
    Json,
    Match,
    ago,
    confirm,
    counted,
    given_name,
    in_bytes,
    parse_seconds,
    parse_tags,
    say,
    show,
    show_json,
)

Model = Annotated[str, typer.Argument(help="The model's name.")]
OneDevice = Annotated[str | None, typer.Option("--device", help="Of this device only.")]


def register(app: typer.Typer) -> None:
    """Add these commands."""
    capture = typer.Typer(
        help="Rows that devices keep, by their own configuration.", no_args_is_help=True
    )
    capture.command("request")(request)
    capture.command("list")(list_captures)
    capture.command("export")(export)
    capture.command("delete")(delete)
    app.add_typer(capture, name="capture")


def request(
    model: Model,
    device: OneDevice = None,
    match: Match = None,
    limit: Annotated[
        int, typer.Option(min=1, max=MAX_CAPTURE_LIMIT, help="Rows of each device at most.")
    ] = 1000,
    uncertain_first: Annotated[
        bool, typer.Option("--uncertain-first", help="Those with the lowest score before others.")
    ] = False,
    for_: Annotated[
        str, typer.Option("--for", help="How long devices may take that are away.")
    ] = "7d",
    json: Json = False,
    controller: Controller = None,
) -> None:
    """Ask devices for rows that they have captured: inputs and answers leave these devices."""
    body = CaptureRequestIn(
        model=given_name(model, what="model name"),
        limit=limit,
        uncertain_first=uncertain_first,
        for_s=parse_seconds(for_, option="--for"),
        **_of_devices(device, match),
    )
    with Client(controller) as client:
        result = client.post("/v1/capture-requests", body, CaptureRequestResult)
    if json:
        show_json(result.model_dump(mode="json"))
        return
    show(
        [
            {
                "DEVICE": row.device,
                "ASKED": f"yes, as {result.id}" if row.is_asked else "no",
                "REASON": row.reason,
            }
            for row in result.devices
        ],
        empty="no device has these tags",
    )


def list_captures(
    model: Annotated[str | None, typer.Argument(help="Of this model only.")] = None,
    match: Match = None,
    json: Json = False,
    controller: Controller = None,
) -> None:
    """List the rows that came, and what devices were asked for."""
    tags = parse_tags(match, option="--match")
    name = given_name(model, what="model name") if model is not None else None
    with Client(controller) as client:
        held = client.list("/v1/captures", CaptureHeld, match=tags, model=name)
        asked = client.list("/v1/capture-requests", CaptureAsked, match=tags)
    asked = [one for one in asked if name in (None, one.model)]
    if json:
        show_json(
            {
                "held": [one.model_dump(mode="json") for one in held],
                "asked": [one.model_dump(mode="json") for one in asked],
            }
        )
        return
    show(
        [
            {
                "MODEL": one.model,
                "DEVICE": one.device,
                "ROWS": one.row_count,
                "SIZE": in_bytes(one.size_bytes),
                "ANSWERED": f"{ago(one.first_unix_ms)} to {ago(one.last_unix_ms)}",
                "CAME": ago(one.received_unix_ms),
            }
            for one in held
        ],
        empty="no captured row is here; `fleet capture request MODEL` asks devices for some",
    )
    if asked:
        typer.echo()
        show([_asked(one) for one in asked], empty="")


def export(
    model: Model,
    output: Annotated[
        Path, typer.Option(help="The file to write: .parquet to train with, or .npz of all arrays.")
    ],
    labels: Annotated[
        Path | None,
        typer.Option(help="Right answers by row_id or request_id: a .csv or .parquet."),
    ] = None,
    label: Annotated[
        str, typer.Option(help="Name of the label's column in the file, as in [data] label.")
    ] = "label",
    unlabelled: Annotated[
        bool, typer.Option("--unlabelled", help="Write the rows that have no label yet, to label.")
    ] = False,
    slices: Annotated[
        list[str] | None,
        typer.Option(
            "--slice", help="Tag of the devices to write as a column of this name; repeatable."
        ),
    ] = None,
    version: Annotated[
        str | None, typer.Option(help="Only rows that this version answered; with .parquet.")
    ] = None,
    since: Annotated[
        str | None, typer.Option(help="Only what came so long ago at most, such as 7d.")
    ] = None,
    device: OneDevice = None,
    match: Match = None,
    controller: Controller = None,
) -> None:
    """Write captured rows into a file.

    A .parquet has the features by their names, the label, and in columns `captured.…` what each row is:
    its id, the request's id, device, tags, time, version, answer and score. --labels is a file with a
    column label, and row_id or request_id, perhaps device; without a label a row is not written.

    A .npz has X, the answers, and where and when each row was answered.
    """
    body = CaptureExportIn(
        model=given_name(model, what="model name"),
        since_s=parse_seconds(since, option="--since") if since is not None else None,
        **_of_devices(device, match),
    )
    if output.suffix == ".parquet":
        if labels is None and not unlabelled:
            raise typer.BadParameter("give it, or --unlabelled", param_hint="--labels")
        wanted = Wanted(output, labels, label, tuple(slices or ()), version, is_rest=unlabelled)
        with Client(controller) as client:
            export_table(client, body, wanted)
        return
    if output.suffix != ".npz":
        raise typer.BadParameter("name a file.parquet or a file.npz", param_hint="--output")
    if labels is not None or unlabelled or slices or version is not None:
        raise typer.BadParameter("a .npz has no label; write a .parquet", param_hint="--output")
    with Client(controller) as client:
        _export_arrays(client, body, output)


def _export_arrays(client: Client, body: CaptureExportIn, output: Path) -> None:
    from fleet.capture.export import Export

    rows = Export.read(client.fetch("/v1/capture-exports", body))
    rows.write(output)
    say(
        f"wrote {counted(rows.row_count, 'row')} of {counted(rows.device_count, 'device')} to {output}"
    )
    if rows.left_out:
        say(f"blank, since devices keep them to themselves: {', '.join(rows.left_out)}")


def delete(
    model: Model,
    older_than: Annotated[
        str | None, typer.Option(help="Only what came longer ago, such as 30d.")
    ] = None,
    device: OneDevice = None,
    match: Match = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    controller: Controller = None,
) -> None:
    """Delete captured rows from the controller, for good."""
    body = CaptureDeletionIn(
        model=given_name(model, what="model name"),
        older_than_s=parse_seconds(older_than, option="--older-than")
        if older_than is not None
        else None,
        **_of_devices(device, match),
    )
    confirm(f"Delete the captured rows of {model}?", is_sure=yes)
    with Client(controller) as client:
        result = client.post("/v1/capture-deletions", body, CaptureDeletionResult)
    typer.echo(f"deleted {counted(result.row_count, 'row')}")


def capture_words(inventory: Mapping[str, Any]) -> str:
    """Return what a device says that it captures, for a person."""
    facts = inventory.get("capture")
    if not isinstance(facts, dict):
        return "off"
    since = f" since {ago(facts['since_unix_ms'])}" if facts.get("since_unix_ms") else ""
    return (
        f"ON: {facts['sample_ppm'] / 1e6:g} of all rows and those with a score below"
        f" {facts['uncertain_below_ppm'] / 1e6:g};"
        f" {counted(facts['row_count'], 'row')} kept{since}, {facts['uploaded_count']} given"
    )


def _of_devices(device: str | None, match: list[str] | None) -> dict[str, Any]:
    if device is not None and match:
        raise typer.BadParameter("goes without --device", param_hint="--match")
    name = given_name(device, what="device id") if device is not None else None
    return {"device": name, "match": parse_tags(match, option="--match")}


def _asked(one: CaptureAsked) -> dict[str, object]:
    is_over = one.is_open and time.time() * 1000 >= one.until_unix_ms
    state = "over" if is_over else "waits for it" if one.is_open else "done"
    return {
        "REQUEST": one.id,
        "DEVICE": one.device,
        "MODEL": one.model,
        "GIVEN": f"{one.row_count} of {one.limit} at most",
        "STATE": state,
        "ASKED": f"{ago(one.created_unix_ms)} by {one.created_by}",
    }
