"""Programs as the demo sees them: started, waited for, watched and ended from outside."""

from __future__ import annotations

import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

POLL_S = 0.1
MAX_LINE_CHARS = 150
"""Of a line of what a command printed that is shown."""


class DemoError(Exception):
    """The demo cannot go on; the message says which step failed and shows what was printed."""


class Journal:
    """The demo's clock, its narration, and the commands that it ran."""

    def __init__(self) -> None:
        self._start_s = time.monotonic()
        self.commands: list[dict[str, Any]] = []
        self.steps: list[dict[str, Any]] = []

    def now_s(self) -> float:
        """Return the seconds since the demo began; all times in the evidence are of this clock."""
        return round(time.monotonic() - self._start_s, 3)

    def say(self, text: str) -> None:
        """Print one line of narration."""
        print(f"[{self.now_s():6.1f} s] {text}", flush=True)

    def quote(self, text: str, max_lines: int = 12) -> None:
        """Print the first lines of what a command printed."""
        lines = text.splitlines()
        for line in [*lines[:max_lines], *["…"] * (len(lines) > max_lines)]:
            cut = f"{line[:MAX_LINE_CHARS]}…" if len(line) > MAX_LINE_CHARS else line
            print(f"{'':13}{cut}".rstrip(), flush=True)

    def step(self, name: str, title: str) -> None:
        """Begin a step; it lasts until the next one begins."""
        self.end_step()
        self.say(f"── {title}")
        self.steps.append({"name": name, "from_s": self.now_s(), "to_s": None})

    def end_step(self) -> None:
        """End the step under way, and say how long it took."""
        if self.steps and self.steps[-1]["to_s"] is None:
            step = self.steps[-1]
            step["to_s"] = self.now_s()
            self.say(f"   {step['name']} took {step['to_s'] - step['from_s']:.1f} s")

    def run(
        self, argv: Sequence[str], *, name: str, cwd: Path, env: Mapping[str, str],
        expect: Iterable[int] = (0,), timeout_s: float = 120,
    ) -> str:  # fmt: skip
        """Run a command to its end, note it as evidence, and return what it printed.

        Raises:
            DemoError: It took too long or its exit code is not among `expect`.
        """
        shown = " ".join([Path(argv[0]).name, *argv[1:]])
        began_s = self.now_s()
        try:
            done = subprocess.run(
                argv, cwd=cwd, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                timeout=timeout_s, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired as exc:
            printed = (exc.stdout or b"")[-2000:], (exc.stderr or b"")[-2000:]
            raise DemoError(f"`{shown}` did not end within {timeout_s:.0f} s: {printed}") from exc
        took_s = round(self.now_s() - began_s, 3)
        self.commands.append(
            {"name": name, "argv": shown, "exit_code": done.returncode, "duration_s": took_s}
        )
        self.say(f"   $ {shown}   [{took_s:.1f} s, exit {done.returncode}]")
        if done.returncode not in tuple(expect):
            raise DemoError(
                f"`{shown}` ended with {done.returncode}, not {tuple(expect)}:\n"
                f"{done.stdout[-3000:]}{done.stderr[-3000:]}"
            )
        return done.stdout


class Service:
    """A program in the background, with its output in a file."""

    def __init__(
        self, name: str, argv: Sequence[str], *, cwd: Path, env: Mapping[str, str], log: Path
    ) -> None:
        self.name = name
        self._log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                argv, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=output,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        self.pid = self._process.pid

    def check_alive(self) -> None:
        """Raise when the program has ended by itself.

        Raises:
            DemoError: With the end of what it printed.
        """
        code = self._process.poll()
        if code is not None:
            raise DemoError(f"{self.name} ended by itself with {code}:\n{self.tail()}")

    def tail(self, limit: int = 3000) -> str:
        """Return the end of what the program printed."""
        return self._log.read_text(errors="replace")[-limit:]

    def stop(self, timeout_s: float = 30) -> int | None:
        """Ask the program to end (SIGTERM) and return its exit code; None if it had to be killed.

        Idempotent. Killing takes the session with it: nothing may outlive the demo.
        """
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            return None


def wait_for(
    what: str, probe: Callable[[], T | None], *, timeout_s: float = 30,
    services: Iterable[Service] = (),
) -> T:  # fmt: skip
    """Return the first answer of `probe` that is true, looking every tenth of a second.

    Raises:
        DemoError: Nothing came within `timeout_s`, or one of `services` ended meanwhile.
    """
    watched = tuple(services)
    deadline = time.monotonic() + timeout_s
    while True:
        answer = probe()
        if answer:
            return answer
        for service in watched:
            service.check_alive()
        if time.monotonic() > deadline:
            logs = "\n".join(f"--- {service.name}\n{service.tail()}" for service in watched)
            raise DemoError(f"waited {timeout_s:.0f} s in vain for: {what}\n{logs}")
        time.sleep(POLL_S)


def free_port() -> int:
    """Return a TCP port that was free on loopback a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def started_ticks(pid: int) -> int | None:
    """Return when a process started, in clock ticks since boot; with the pid it names one life."""
    stat = _stat(pid)
    return stat[1] if stat else None


class ProcessWatch(threading.Thread):
    """Notes every child of the watched processes, and when it was first and last there."""

    def __init__(self, now_s: Callable[[], float]) -> None:
        super().__init__(name="process-watch", daemon=True)
        self._now_s = now_s
        self._parents: dict[int, str] = {}
        self._ended = threading.Event()
        self._children: dict[tuple[str, int, int], list[float]] = {}

    def add(self, device: str, pid: int) -> None:
        """Watch the children of `pid` from now on."""
        self._parents[pid] = device

    def run(self) -> None:
        """Look every 0.1 s until `stop`."""
        while not self._ended.wait(POLL_S):
            now_s = self._now_s()
            for device, pid, started in self.present():
                self._children.setdefault((device, pid, started), [now_s, now_s])[1] = now_s

    def present(self) -> list[tuple[str, int, int]]:
        """Return the children there are now, as device, pid and start."""
        found = []
        for path in Path("/proc").iterdir():
            if path.name.isdigit() and (stat := _stat(int(path.name))):
                parent, started = stat
                if parent in self._parents:
                    found.append((self._parents[parent], int(path.name), started))
        return sorted(found)

    def seen(self) -> list[dict[str, Any]]:
        """Return every child that was ever seen, in order of appearance."""
        rows = sorted(self._children.items(), key=lambda item: item[1])
        return [
            {"device": device, "pid": pid, "started": started, "first_s": first, "last_s": last}
            for (device, pid, started), (first, last) in rows
        ]

    def stop(self) -> None:
        """End the thread."""
        self._ended.set()
        self.join()


def _stat(pid: int) -> tuple[int, int] | None:
    """Return parent and start of a living process, or None; zombies have ended."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else (int(fields[1]), int(fields[19]))
