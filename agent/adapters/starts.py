"""How often this agent started, and how often nobody had stopped it before: one small file.

A file of its own, since it must also count the starts that a damaged database causes. What cannot be
read counts from the beginning; what cannot be written is not counted. Neither keeps the agent from
serving.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter, ValidationError

from wire.messages import Count

from .durable import sync_directory, sync_file

NAME: Final = "starts.json"
FAILED: Final = "failed-starts"


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


class FailedStarts:
    """Counts starts that failed before they served, where systemd starts the agent again each time.

    Such a start may not know its state directory, or find another agent's there: it is counted in
    the runtime directory of the unit, which systemd keeps from one start to the next, and which
    wears no flash. Elsewhere nothing is counted.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        """Look for what systemd tells a service."""
        directory = environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
        is_service = bool(directory and environ.get("NOTIFY_SOCKET"))
        self._path = Path(directory) / FAILED if is_service else None

    def count(self) -> int:
        """Count this one; return how many there were in a row, 0 where nobody starts it again."""
        if self._path is None:
            return 0
        try:
            before = max(0, int(self._path.read_bytes()[:20]))
        except (OSError, ValueError):
            before = 0
        with contextlib.suppress(OSError):
            self._path.write_bytes(b"%d" % (before + 1))
        return before + 1

    def forget(self) -> None:
        """End the row: this start is about to serve."""
        if self._path is not None:
            with contextlib.suppress(OSError):
                self._path.unlink(missing_ok=True)


def read_starts(root: Path) -> Starts:
    """Return the counts of a state directory; zeros where there are none that can be read."""
    try:
        return _STARTS.validate_json((root / NAME).read_bytes())
    except (OSError, ValidationError):
        return Starts()
