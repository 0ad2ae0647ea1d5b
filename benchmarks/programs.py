"""Programs under measurement: started from this environment, waited for, ended with all they made."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self, TypeVar

T = TypeVar("T")

BENCHMARKS = Path(__file__).resolve().parent
ROOT = BENCHMARKS.parent
BUILD = ROOT / "build" / "bench"
BIN = Path(sys.prefix) / "bin"
HOST = "127.0.0.1"
POLL_S = 0.02


class BenchError(Exception):
    """A measurement cannot be made; the message says why, with what the programs printed."""


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment of the programs: this one, with our commands first on PATH."""
    path = f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}"
    return {**os.environ, "PATH": path, **(extra or {})}


class Program:
    """A program in the background, in a session of its own, with its output in a file."""

    def __init__(
        self,
        name: str,
        argv: Sequence[object],
        *,
        cwd: Path,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self._log = cwd / f"{name.replace(' ', '-')}.log"
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(
                [str(part) for part in argv],
                cwd=cwd,
                env=environment(env),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.pid = self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def has_ended(self) -> bool:
        return self.exit_code is not None

    @property
    def exit_code(self) -> int | None:
        """How it ended, negative for a signal; None while it runs."""
        return self._process.poll()

    def tail(self, limit: int = 2000) -> str:
        """Return the end of what it printed."""
        return self._log.read_text(errors="replace")[-limit:]

    def ask_to_stop(self) -> None:
        """Send SIGTERM and return at once, so that many can end side by side."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)

    def stop(self, timeout_s: float = 30.0) -> None:
        """End it; what does not end in time is killed with its whole session. Idempotent."""
        self.ask_to_stop()
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            os.killpg(self.pid, signal.SIGKILL)
            self._process.wait()


def run(
    argv: Sequence[object],
    *,
    cwd: Path,
    env: Mapping[str, str] | None = None,
    timeout_s: float = 300.0,
) -> str:
    """Run a command to its good end and return what it printed.

    Raises:
        BenchError: It failed or took too long.
    """
    words = [str(part) for part in argv]
    try:
        done = subprocess.run(
            words,
            cwd=cwd,
            env=environment(env),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired as exc:
        raise BenchError(f"`{' '.join(words)}` did not end within {timeout_s:.0f} s") from exc
    if done.returncode != 0:
        printed = f"{done.stdout[-1500:]}{done.stderr[-1500:]}"
        raise BenchError(f"`{' '.join(words)}` ended with {done.returncode}:\n{printed}")
    return done.stdout


def wait_for(
    what: str,
    probe: Callable[[], T | None],
    *,
    timeout_s: float = 60.0,
    program: Program | None = None,
    poll_s: float = POLL_S,
) -> T:
    """Return the first true answer of `probe`.

    Raises:
        BenchError: Nothing came in time, or `program` has ended.
    """
    deadline_s = time.monotonic() + timeout_s
    while True:
        answer = probe()
        if answer:
            return answer
        if program is not None and program.has_ended:
            how = f"{program.name} ended with {program.exit_code} before {what}"
            raise BenchError(f"{how}:\n{program.tail()}")
        if time.monotonic() > deadline_s:
            printed = f":\n{program.tail()}" if program is not None else ""
            raise BenchError(f"waited {timeout_s:.0f} s in vain for {what}{printed}")
        time.sleep(poll_s)


def free_ports(count: int) -> list[int]:
    """Return TCP ports that were free on loopback a moment ago, all different."""
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind((HOST, 0))
        return [int(probe.getsockname()[1]) for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def fresh_directory(path: Path) -> Path:
    """Return `path`, made anew."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return path
