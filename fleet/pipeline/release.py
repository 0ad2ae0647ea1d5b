"""What a run asks of a fleet: releases, their records and names, a rollout. Who carries it is the caller's."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from wire.errors import ConfigError
from wire.ids import Digest

from .project import FILE_NAME, Rollout
from .record import RunRecord

FIRST: Final = "1.0.0"


@dataclass(frozen=True, slots=True)
class Registered:
    """A bundle that the controller has.

    Attributes:
        manifest: Digest of its manifest.
        is_signed: Whether enough keys have signed it; until then no device gets it.
    """

    manifest: Digest
    is_signed: bool


class Fleet(Protocol):
    """A controller, as a run sees it."""

    def newest(self, model: str) -> str | None:
        """Return the version that was pushed last, None where there is none."""

    def push(self, bundle: Path) -> Registered:
        """Register a bundle, and sign it with the keys at hand."""

    def keep(self, version: str, record: RunRecord) -> bool:
        """Keep with a release how it was made; return False where another record is kept already."""

    def name(self, model: str, alias: str, version: str, why: str) -> None:
        """Have an alias of the model mean a release."""

    def start(self, model: str, version: str, plan: Rollout) -> str:
        """Start a rollout; return its id."""


def next_minor(newest: str | None) -> str:
    """Return the version after `newest`: its minor number counted up, the rest 0.

    Raises:
        ConfigError: `version_unknown`: it is not made of numbers.
    """
    if newest is None:
        return FIRST
    found = re.fullmatch(r"([0-9]{1,9})\.([0-9]{1,9})(?:\.[0-9A-Za-z._+-]*)?", newest)
    if found is None:
        raise ConfigError(
            f"what comes after the newest release, {newest}, cannot be counted",
            code="version_unknown",
            hint=f'write [release] version = "1.2.0" into {FILE_NAME}',
        )
    return f"{int(found[1])}.{int(found[2]) + 1}.0"
