"""`fleet export …`: bundles in the form that other programs serve."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from fleet.durable import folder_durably, write_durably
from fleet.interop.triton import (
    CONFIG,
    DEFAULT_BATCH_SIZE,
    MAX_BATCH_SIZE,
    MAX_NUMBER,
    RELEASE,
    Numbered,
    make_config,
    make_release,
    open_outputs,
)
from wire.bundle import OpenedBundle
from wire.errors import BundleError, StorageError
from wire.graph import refuse_undeclared, scan_model
from wire.manifest import MODEL

from .console import Json, printable, say, show, show_json
from .releases import open_bundle


def register(app: typer.Typer) -> None:
    """Add these commands."""
    export = typer.Typer(
        help="Bundles in the form that other programs serve.", no_args_is_help=True
    )
    export.callback()(_group)
    export.command("triton")(triton)
    app.add_typer(export, name="export")


def _group() -> None:
    pass


def triton(
    bundles: Annotated[
        list[Path], typer.Argument(help="Bundles, of one model or of several.", metavar="BUNDLE")
    ],
    output: Annotated[Path, typer.Option(help="The model repository; must not be there yet.")],
    version: Annotated[
        list[int] | None,
        typer.Option(
            min=1,
            max=MAX_NUMBER,
            help="Triton's number of a version, one for each bundle; else each model's count from 1.",
        ),
    ] = None,
    max_batch_size: Annotated[
        int, typer.Option(min=1, max=MAX_BATCH_SIZE, help="Rows that Triton gives a model at once.")
    ] = DEFAULT_BATCH_SIZE,
    json: Json = False,
) -> None:
    """Write bundles as the model repository of a Triton Inference Server."""
    if version and len(version) != len(bundles):
        raise typer.BadParameter("give one for each bundle, or none", param_hint="--version")
    try:
        with folder_durably(output.absolute()) as folder:
            models = _write(bundles, version or [], folder, max_batch_size)
    except FileExistsError as exc:
        raise StorageError(
            f"{output} is there already",
            code="output_exists",
            hint="give a new folder; a model's folder in it can be moved to another repository",
        ) from exc
    except OSError as exc:
        raise StorageError(
            f"cannot write {output}: {exc.strerror or exc}", code="output_unwritable"
        ) from exc
    found = [one for versions in models for one in versions]
    for one in found:
        for name in open_outputs(one.manifest):
            say(
                f"{one.release}: output {name} has a free dimension; a server that finds it fixed "
                f"refuses the model and names its size, which then belongs into {CONFIG}"
            )
    if json:
        show_json([_facts(one) for one in found])
        return
    show(
        [
            {"RELEASE": one.release, "MODEL": one.manifest.name, "VERSION": one.number}
            for one in found
        ],
        empty="no bundle",
    )
    typer.echo(f"next: tritonserver --model-repository={printable(str(output))}")


def _write(
    bundles: Sequence[Path], numbers: Sequence[int], folder: Path, max_batch_size: int
) -> list[list[Numbered]]:
    """Write a repository into an empty folder; return its versions, model by model.

    One bundle is in memory at a time.
    """
    models: dict[str, list[Numbered]] = {}
    counts = Counter[str]()
    for at, path in enumerate(bundles):
        opened = _open(path)
        name = opened.manifest.name
        counts[name] += 1
        number = numbers[at] if numbers else counts[name]
        one = Numbered(number, opened.manifest, opened.manifest_digest)
        versions = models.setdefault(name, [])
        _refuse_twice(one, versions)
        versions.append(one)
        # A name is letters, digits, '_' and '-', and a number is one: both stay in the folder.
        place = folder / name / str(number)
        place.mkdir(parents=True)
        write_durably(place / MODEL, opened.files[MODEL])
        write_durably(place / RELEASE, make_release(one))
    for name, versions in models.items():
        config = make_config(versions, max_batch_size=max_batch_size)
        write_durably(folder / name / CONFIG, config.encode())
    return list(models.values())


def _open(path: Path) -> OpenedBundle:
    """Return a bundle whose model is no way to other files: Triton does not look."""
    opened = open_bundle(path)
    try:
        refuse_undeclared(scan_model(opened.files[MODEL]), opened.manifest.ops)
    except BundleError as exc:
        raise BundleError(f"{path}: {exc}", code=exc.code, hint=exc.hint) from exc
    return opened


def _refuse_twice(one: Numbered, versions: Sequence[Numbered]) -> None:
    for other in versions:
        if other.number == one.number:
            raise typer.BadParameter(
                f"{other.release} and {one.release} cannot both be {one.number}",
                param_hint="--version",
            )
        if other.release == one.release:
            raise BundleError(f"{one.release} is given twice", code="release_twice")


def _facts(one: Numbered) -> dict[str, object]:
    return {
        "model": one.manifest.name,
        "version": one.manifest.version,
        "number": one.number,
        "manifest": one.manifest_digest,
    }
