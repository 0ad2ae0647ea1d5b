"""How often this agent started, and how often nobody had stopped it before: one small file.

A file of its own, since it must also count the starts that a damaged database causes. What cannot be
read counts from the beginning; what cannot be written is not counted. Neither keeps the agent from
serving.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter, ValidationError

from wire.messages import Count

from .durable import sync_directory, sync_file

NAME: Final = "starts.json"


@dataclass(frozen=True, slots=True)
class Starts:
    """What is known of the starts with one state directory.

    Attributes:
        restart_count: Starts that followed no orderly stop: a kill, a power cut, a fault.
        in_a_row: Those since the last orderly stop, or the last time that it had stayed up.
        is_up: Whether a start has not ended in order yet.
    """

    restart_count: Count = 0
    in_a_row: Count = 0
    is_up: bool = False


_STARTS: Final = TypeAdapter(Starts)


class StartCounter:
    """Counts this start; used by the loop's thread only."""

    def __init__(self, root: Path) -> None:
        self._path = root / NAME
        self.starts = read_starts(root)

    def begin(self) -> Starts:
        """Count this start, on disk before anything that may end it; return the counts."""
        before = self.starts
        again = int(before.is_up)
        self._write(
            Starts(
                restart_count=before.restart_count + again,
                in_a_row=before.in_a_row + 1 if again else 0,
                is_up=True,
            )
        )
        return self.starts

    def settled(self) -> None:
        """Remember that it has stayed up: what comes next is no row with what was before."""
        if self.starts.in_a_row:
            self._write(replace(self.starts, in_a_row=0))

    def ended(self) -> None:
        """Remember that it was asked to stop."""
        self._write(replace(self.starts, in_a_row=0, is_up=False))

    def _write(self, starts: Starts) -> None:
        self.starts = starts
        temporary = self._path.with_name(f".tmp-{NAME}")
        with contextlib.suppress(OSError):
            with temporary.open("wb") as file:
                file.write(_STARTS.dump_json(starts))
                sync_file(file)
            temporary.replace(self._path)
            sync_directory(self._path.parent)


def read_starts(root: Path) -> Starts:
    """Return the counts of a state directory; zeros where there are none that can be read."""
    try:
        return _STARTS.validate_json((root / NAME).read_bytes())
    except (OSError, ValidationError):
        return Starts()
