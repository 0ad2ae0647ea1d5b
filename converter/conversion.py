"""The one public entry: request in, verified bundle on disk, report out."""

from __future__ import annotations

from collections.abc import Callable

from .report import ConvertReport
from .request import ConvertRequest


def convert(request: ConvertRequest, progress: Callable[[str], None]) -> ConvertReport:
    """Convert a model, prove it, and write its bundle."""
    raise NotImplementedError
