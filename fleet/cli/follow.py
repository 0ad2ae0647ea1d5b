"""Watching a rollout or a rollback to its end, with progress; leaving early changes nothing."""

from __future__ import annotations

import sys
import time
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from fleet.api.schemas import Device, RollbackResult, Rollout
from wire.errors import TransferError

from .client import Client
from .console import printable, say

POLL_S: Final = 0.5
ROLLBACK_WAIT_S: Final = 300.0
LIVE: Final = ("proposed", "running", "paused")


def follow_rollout(client: Client, rollout: Rollout, *, is_quiet: bool) -> Rollout:
    """Return the rollout once it has ended; Ctrl-C leaves it running and says so."""
    path = f"/v1/rollouts/{rollout.id}"
    console = Console(stderr=True, quiet=is_quiet)
    is_terminal = sys.stderr.isatty() and not is_quiet
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    told = ""
    try:
        with Progress(*columns, console=console, disable=not is_terminal) as progress:
            bars: list[TaskID] = []
            while True:
                rollout = _get(client, f"{path}?limit=1", rollout)
                _draw(progress, bars, rollout)
                if rollout.state not in LIVE:
                    return rollout  # whose end is the caller's to tell
                line = f"{rollout.state}: {rollout.reason}"
                if line != told and not is_quiet:
                    told = line
                    progress.console.print(printable(line), markup=False, highlight=False)
                time.sleep(POLL_S)
    except KeyboardInterrupt:
        say(f"\nno longer watching; rollout {rollout.id} goes on")
        say(f"  `fleet rollout show {rollout.id}` shows it, `fleet rollout abort` ends it")
        raise


def follow_rollback(client: Client, result: RollbackResult) -> None:
    """Return when every device that is online serves what it was rolled back to.

    Raises:
        TransferError: `rollback_unfinished`.
    """
    waiting = {d.device: d.to_version for d in result.devices if d.to_version is not None}
    deadline_s = time.monotonic() + ROLLBACK_WAIT_S
    try:
        while waiting:
            for device, version in list(waiting.items()):
                found = client.get(f"/v1/devices/{device}", Device)
                serves = {m.name: m for m in found.models}.get(result.model)
                is_back = serves is not None and serves.active_version == version
                if found.state == "online" and not (is_back and serves and serves.state == "idle"):
                    continue
                word = f"serves {version}" if is_back else "is offline and follows later"
                say(f"{device} {word}")
                del waiting[device]
            if time.monotonic() > deadline_s:
                raise TransferError(
                    f"not back after {ROLLBACK_WAIT_S:.0f} s: {', '.join(sorted(waiting))}",
                    code="rollback_unfinished",
                    hint="`fleet device show NAME` says where each one stands",
                )
            time.sleep(POLL_S)
    except KeyboardInterrupt:
        say("\nno longer watching; the rollback goes on")
        raise


def _get(client: Client, path: str, last: Rollout) -> Rollout:
    """Return the rollout, or the last answer while the controller restarts."""
    try:
        return client.get(path, Rollout)
    except TransferError as exc:
        say(f"{exc}; trying again")
        time.sleep(POLL_S * 4)
        return last


def _draw(progress: Progress, bars: list[TaskID], rollout: Rollout) -> None:
    if not bars:
        bars += [
            progress.add_task(f"phase {number} ({phase.share})", total=phase.size)
            for number, phase in enumerate(rollout.phases, start=1)
        ]
    for number, bar in enumerate(bars):
        phase = rollout.phases[number]
        label = f"phase {number + 1} ({phase.share}) {phase.state}"
        progress.update(bar, completed=phase.settled_count, description=label)
