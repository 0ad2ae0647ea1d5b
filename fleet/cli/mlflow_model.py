"""`models:/NAME@ALIAS` where a command takes a file: fetched from MLflow, and gone when it is done."""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer

from fleet.interop.mlflow import SCHEME, Registry
from wire.ids import NAME_PATTERN

from .console import say

TrackingUri = Annotated[
    str | None,
    typer.Option(help="With models:/…: where MLflow is; else MLFLOW_TRACKING_URI."),
]


@dataclass(frozen=True, slots=True)
class Source:
    """A model to convert.

    Attributes:
        file: As the converter takes it.
        origin: What the bundle says of where it comes from.
        name: The model's name there, where devices can have it; else "".
        version: Of the release, if nobody says another: the number there.
    """

    file: str
    origin: Mapping[str, str] = field(default_factory=dict)
    name: str = ""
    version: str = ""


def is_in_mlflow(given: str) -> bool:
    """Return whether a source is a model in MLflow, and no file."""
    return given.startswith(SCHEME)


@contextlib.contextmanager
def source_of(given: str, tracking_uri: str | None) -> Iterator[Source]:
    """Give a source as the converter takes it; what is fetched is there until the block ends.

    Raises:
        ConfigError: MLflow's client is not installed, or nobody said where MLflow is.
        PeerError: There is no such version, or none that can be converted.
        TransferError: MLflow does not answer.
    """
    if not is_in_mlflow(given):
        if tracking_uri is not None:
            raise typer.BadParameter("is for models:/…", param_hint="--tracking-uri")
        yield Source(given)
        return
    registry = Registry(tracking_uri)
    version = registry.find(given)
    with tempfile.TemporaryDirectory(prefix="mlflow-") as folder:
        file = registry.fetch(version, Path(folder))
        say(f"fetched {version.uri}: {file.name}")
        name = version.model if re.fullmatch(NAME_PATTERN, version.model) else ""
        yield Source(str(file), version.origin(), name, f"{version.number}.0.0")
