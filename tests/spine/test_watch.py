"""`fleet watch` on a terminal, from its first screen to Ctrl-C, while a rollout goes on."""

import fcntl
import os
import pty
import re
import signal
import struct
import sys
import termios
import threading

import pytest

from tests.spine.processes import until

pytestmark = [pytest.mark.broker, pytest.mark.slow]

ESCAPE = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]")
LEAVES = b"\x1b[?1049l"
"""What a terminal is told to show again what it had shown before."""


class Terminal:
    """A program on a terminal of its own, and all that it has written there."""

    def __init__(self, argv, cwd):
        self.pid, self.master = pty.fork()
        if self.pid == 0:  # pragma: no cover - the program
            os.chdir(cwd)
            os.execvp(argv[0], argv)  # noqa: S606 - it gets the terminal that fork made
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 120, 0, 0))
        self.written = b""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self):
        try:
            while part := os.read(self.master, 65536):
                self.written += part
        except OSError:
            return  # it has ended

    def text(self):
        return ESCAPE.sub(b"", self.written).decode(errors="replace")

    def end(self):
        os.kill(self.pid, signal.SIGINT)
        _, status = os.waitpid(self.pid, 0)
        self._reader.join()
        os.close(self.master)
        return os.waitstatus_to_exitcode(status)


def test_the_screen_shows_a_rollout_and_gives_the_terminal_back(make_bed):
    bed = make_bed("nats", is_split=False)
    bed.add("cam-0")
    bed.until_online("cam-0")
    terminal = Terminal([sys.executable, "-m", "fleet", "watch"], bed.fleet_dir)
    until("the screen is there", lambda: "1 online, 0 not" in terminal.text())
    bed.push("1.0.0")
    ended = bed.until_ended(bed.roll_out("1.0.0"))
    assert ended["state"] == "finished", ended["reason"]
    until("the event of its end is shown", lambda: "finished" in terminal.text())
    until("the release is shown as served", lambda: re.search(r"1\.0\.0 +on 1", terminal.text()))
    assert bed.controller.end(signal.SIGKILL) == -signal.SIGKILL
    until("it says that nobody answers", lambda: "trying again" in terminal.text())
    bed.start_controller()
    assert terminal.end() == 130
    assert LEAVES in terminal.written
    assert "Traceback" not in terminal.text()
    assert set(bed.end().values()) == {0}
