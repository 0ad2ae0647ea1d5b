"""The installed programs as processes: started, signalled, started again, with their output kept."""

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil

BIN = Path(sys.prefix) / "bin"
ENVIRONMENT = {key: value for key, value in os.environ.items() if not key.startswith("FLEET_")}
POLL_S = 0.05
END_S = 30
EPHEMERAL = 32_768
"""Where the kernel takes source ports from. A client that redials a dead listener there may be
given the listener's own port, connect to itself and keep it."""


def free_port():
    """Return a TCP port that was free on loopback a moment ago, outside the ephemeral ones."""
    while True:
        port = 10_000 + secrets.randbelow(EPHEMERAL - 10_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def until(what, probe, *, timeout_s=120):
    """Return the first answer of `probe` that is true.

    Args:
        what: Completes "waited in vain until"; a function is called for more words at the end.
        probe: Looks. A controller that cannot be reached meanwhile is no answer.
        timeout_s: A deadline for what is broken; nothing is expected to take this long.
    """
    deadline_s = time.monotonic() + timeout_s
    while True:
        try:
            if answer := probe():
                return answer
        except httpx.TransportError:
            pass
        if time.monotonic() > deadline_s:
            words = what() if callable(what) else what
            raise AssertionError(f"waited {timeout_s:g} s in vain until {words}")
        time.sleep(POLL_S)


class Program:
    """One installed program; all its lives write into one log."""

    def __init__(self, name, argv, folder):
        self.name = name
        self.log = folder / f"{name}.log"
        self._argv = [str(BIN / argv[0]), *argv[1:]]
        self._folder = folder
        self._process = None

    def start(self, wrapper=()):
        """Start it, by a program that runs what follows its own words if given; returns at once."""
        assert not self.is_alive, f"{self.name} runs already"
        with self.log.open("ab") as output:
            output.write(f"--- {' '.join(self._argv)}\n".encode())
            output.flush()
            self._process = subprocess.Popen(
                [*wrapper, *self._argv],
                cwd=self._folder,
                env=ENVIRONMENT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    @property
    def is_alive(self):
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self):
        assert self.is_alive, f"{self.name} is gone"
        return self._process.pid

    def children(self, word):
        """Return the living children whose command line has `word` in it, oldest first."""
        found = []
        for child in psutil.Process(self.pid).children():
            try:
                if word in " ".join(child.cmdline()):
                    found.append(child)
            except psutil.Error:  # it has ended
                continue
        return sorted(found, key=lambda child: child.create_time())

    def send(self, number):
        """Send a signal; the program must be alive."""
        os.kill(self.pid, number)

    def end(self, number=signal.SIGTERM):
        """Send a signal that ends it, wait for that, and return the exit code."""
        self._process.send_signal(number)
        self._process.send_signal(signal.SIGCONT)  # one that is stopped would not hear the first
        return self._process.wait(END_S)

    def put_away(self):
        """End it whatever state it is in; for the end of a test."""
        if not self.is_alive:
            return
        try:
            self.end()
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
