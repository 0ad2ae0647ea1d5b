"""`fleet push`, `releases`, `models`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TransferSpeedColumn

from fleet.api.schemas import Model, PushResult, Release
from wire.errors import BundleError, PeerError

from .client import READ_BYTES, Client
from .console import Controller, Json, ago, given_name, in_bytes, show, show_json


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command("push")(push)
    app.command("releases")(list_releases)
    app.command("models")(list_models)


def push(
    bundle: Annotated[Path, typer.Argument(help="A .bundle file, made by `fleet convert`.")],
    json: Json = False,
    controller: Controller = None,
) -> None:
    """Register a bundle as a release and publish what is new of its content."""
    try:
        size = bundle.stat().st_size
        if not bundle.is_file():
            raise IsADirectoryError(21, "is no file")
    except OSError as exc:
        raise BundleError(
            f"cannot read {bundle}: {exc.strerror}",
            code="bundle_unreadable",
            hint="`fleet convert` makes bundles",
        ) from exc
    with Client(controller) as client:
        try:
            result = client.upload("/v1/bundles", _read(bundle, size), size, PushResult)
        except PeerError as exc:
            # The controller knows the upload, not what the user calls it.
            raise PeerError(f"{bundle}: {exc}", code=exc.code, hint=exc.hint) from exc
    if json:
        show_json(result.model_dump(mode="json"))
        return
    release = result.release
    name = f"{release.model}:{release.version}"
    if not result.is_new:
        typer.echo(f"{name} was pushed before, with the same content")
        return
    typer.echo(
        f"pushed {name} ({in_bytes(release.bytes)}): {result.new_chunk_count} of "
        f"{release.chunk_count} chunks are new, {in_bytes(result.new_bytes)} to send"
    )
    typer.echo(f"next: fleet rollout start {name}")


def list_releases(
    model: Annotated[str, typer.Argument(help="The model's name.")],
    json: Json = False,
    controller: Controller = None,
) -> None:
    """List the releases of a model, newest first."""
    with Client(controller) as client:
        path = f"/v1/models/{given_name(model, what='model name')}/releases"
        releases = client.list(path, Release)
    if json:
        show_json([release.model_dump(mode="json") for release in releases])
        return
    show(
        [
            {
                "RELEASE": f"{release.model}:{release.version}",
                "PUSHED": ago(release.created_unix_ms),
                "SIZE": in_bytes(release.bytes),
                "CHUNKS": release.chunk_count,
                "ACTIVE ON": release.device_count,
                "MANIFEST": release.manifest[:12],
            }
            for release in releases
        ],
        empty="no release of this model",
    )


def list_models(json: Json = False, controller: Controller = None) -> None:
    """List the models."""
    with Client(controller) as client:
        models = client.list("/v1/models", Model)
    if json:
        show_json([model.model_dump(mode="json") for model in models])
        return
    show(
        [
            {"MODEL": m.name, "RELEASES": m.release_count, "NEWEST": m.newest_version}
            for m in models
        ],
        empty="no model yet; `fleet push FILE.bundle` brings one",
    )


def _read(path: Path, size: int) -> Iterator[bytes]:
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn())
    is_shown = sys.stderr.isatty()
    # Gone at the end: what became of it is said in words.
    bar = Progress(*columns, disable=not is_shown, transient=True)
    with path.open("rb") as file, bar as progress:
        task = progress.add_task(path.name, total=size)
        while block := file.read(READ_BYTES):
            yield block
            progress.advance(task, len(block))
