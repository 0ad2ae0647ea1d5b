"""systemd's notification protocol and socket passing, spoken directly (sd_notify(3))."""

from __future__ import annotations

import math
import os
import socket
import time
from collections.abc import Mapping
from typing import Final

_FIRST_PASSED_FD: Final = 3  # SD_LISTEN_FDS_START
WORKING_S: Final = 5.0
EXTENSION_US: Final = 60_000_000
"""What a start may take more, said anew while it makes progress (sd_notify(3))."""


class Notifier:
    """Sends READY, STATUS, WATCHDOG and STOPPING; does nothing when not run by systemd."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._status = ""
        self._worked_at_s = -math.inf

    def ready(self) -> None:
        """Say that a runtime accepts requests."""
        self._send("READY=1")

    def status(self, text: str) -> None:
        """Show one line in `systemctl status`."""
        if text != self._status:
            self._status = text
            self._send(f"STATUS={text}")

    def watchdog(self) -> None:
        """Prove progress; called by the loop after a turn of real work only."""
        self._send("WATCHDOG=1")

    def working(self) -> None:
        """Prove progress within a turn of the loop, as a file is read; before the start is over, too."""
        now_s = time.monotonic()
        if now_s - self._worked_at_s >= WORKING_S:
            self._worked_at_s = now_s
            self._send(f"WATCHDOG=1\nEXTEND_TIMEOUT_USEC={EXTENSION_US}")

    def stopping(self) -> None:
        """Say that an orderly stop has begun."""
        self._send("STOPPING=1")

    def _send(self, text: str) -> None:
        if not self._address:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
            try:
                out.sendto(text.encode(), self._address)
            except OSError:
                return  # a supervisor that does not listen is no reason to stop serving


def inherited_sockets(environ: Mapping[str, str]) -> dict[str, int]:
    """Return the listening sockets that systemd passed, as {"http": fd, "unix": fd}.

    They are told apart by address family, so that one socket unit can hold both.
    """
    if environ.get("LISTEN_PID") != str(os.getpid()):
        return {}
    count = int(environ.get("LISTEN_FDS", "0"))
    result: dict[str, int] = {}
    for descriptor in range(_FIRST_PASSED_FD, _FIRST_PASSED_FD + count):
        with socket.socket(fileno=os.dup(descriptor)) as probe:
            name = "unix" if probe.family == socket.AF_UNIX else "http"
        os.set_inheritable(descriptor, False)
        result.setdefault(name, descriptor)
    return result
