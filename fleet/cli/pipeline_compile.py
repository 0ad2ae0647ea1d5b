"""`fleet pipeline compile`: a project's pipeline as a file for Kubeflow Pipelines."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from fleet.durable import write_durably
from fleet.version import VERSION
from wire.errors import ConfigError, StorageError

from .console import printable

IMAGE: Final = f"modelfleet-python:{VERSION}"
"""kfp's local runner warns of an image that has no `python` in its name."""


def compile_pipeline(
    folder: Annotated[
        Path, typer.Argument(help="Folder with pipeline.toml; else this one.")
    ] = Path(),
    output: Annotated[Path, typer.Option(help="The file; replaced if it is there.")] = Path(
        "pipeline.yaml"
    ),
    image: Annotated[
        str,
        typer.Option(
            help="Container image of the tasks, with modelfleet[fleet,pipeline,kubeflow]."
        ),
    ] = IMAGE,
) -> None:
    """Write the pipeline as Kubeflow Pipelines runs it (PipelineSpec v2)."""
    from fleet.pipeline.project import load_project

    project = load_project(folder)
    try:
        from fleet.interop.kubeflow import compile_pipeline as compiled
    except ImportError as exc:
        raise ConfigError(
            f"the SDK of Kubeflow Pipelines is not installed: {exc}",
            code="kubeflow_missing",
            hint="pip install 'modelfleet[fleet,pipeline,kubeflow]'",
        ) from exc
    text = compiled(project.model.name, image)
    try:
        write_durably(output, text.encode())
    except OSError as exc:
        raise StorageError(
            f"cannot write {output}: {exc.strerror}", code="output_unwritable"
        ) from exc
    typer.echo(f"wrote {printable(str(output))}, for {printable(image)}")
    typer.echo("next: kfp run create, or kfp.local; give project=ADDRESS-OF-THE-FOLDER")
