"""The version of the installed distribution."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Final


def _installed() -> str:
    try:
        return version("modelfleet")
    except PackageNotFoundError:  # run from a bare source tree
        return "0"


VERSION: Final = _installed()
