"""Kills of a supervisor at the N-th system call of a kind, by one of its threads, within a rollout.

strace holds the one thread and lets the kernel kill the process at that call, before it is done. The
other threads run on as they are, and so do the runtimes, which are programs of their own.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.spine.processes import until
from tests.spine.soundness import absent

CALLS = (
    "openat", "write", "pwrite64", "fsync", "fdatasync", "rename", "unlink", "link", "ftruncate",
    "sendto", "sendmsg",
)  # fmt: skip
THREADS = ("loop", "runtimes", "fetcher", "renewal", "keeper", "network")
"""The supervisor's threads in the order in which it starts them; the last one anew with each
connection."""
ATTACH_S = 20


@dataclass(frozen=True)
class Point:
    """One kill: within a good or a bad release's rollout, at the call `number` of a thread.

    `again` is the number of the main thread's call at which the next start is killed too, or None.
    """

    index: int
    is_bad: bool
    thread: str
    call: str
    number: int
    again: tuple[str, int] | None

    def __str__(self):
        words = ["bad" if self.is_bad else "good", self.thread, self.call, self.number]
        return ",".join(map(str, [*words, *(self.again or ())]))

    @classmethod
    def exactly(cls, text):
        """Return the point that `str` wrote."""
        kind, thread, call, number, *again = text.split(",")
        second = (again[0], int(again[1])) if again else None
        return cls(0, kind == "bad", thread, call, int(number), second)


def drawn(seed, index, counts):
    """Draw a point: each kind of call is as likely as any other, and so is each of its calls.

    Args:
        seed: Of the whole run.
        index: Of the point; even ones have a good release, odd ones a bad one.
        counts: Calls by (thread, call) of a "good" and a "bad" rollout and of a "start".
    """
    chance = np.random.default_rng([seed, index])
    is_bad = bool(index % 2)
    seen = counts["bad" if is_bad else "good"]
    kinds = sorted(kind for kind, count in seen.items() if count)
    thread, call = kinds[chance.integers(len(kinds))]
    number = int(chance.integers(1, seen[thread, call] + 1))
    again = None
    if chance.random() < 0.25:
        starts = sorted(kind for kind, count in counts["start"].items() if count)
        _, again_call = starts[chance.integers(len(starts))]
        again = again_call, int(chance.integers(1, counts["start"]["loop", again_call] + 1))
    return Point(index, is_bad, thread, call, number, again)


def require_strace():
    """Skip, loudly, where strace cannot hold a process that it has not started."""
    if shutil.which("strace") is None:
        absent("strace: no agent was killed at a chosen system call")
    with contextlib.suppress(OSError):
        scope = Path("/proc/sys/kernel/yama/ptrace_scope").read_text().strip()
        if os.geteuid() != 0 and scope != "0":
            absent("strace as this user: no agent was killed at a chosen system call")


class Tracer:
    """strace on threads of a running process, from `attach` to `detach`."""

    def __init__(self, *options):
        self._options = options
        self._strace = None

    def attach(self, *tids):
        """Return when strace holds these threads."""
        targets = [word for tid in tids for word in ("-p", str(tid))]
        self._strace = subprocess.Popen(
            ["strace", *self._options, *targets],
            stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        for _ in tids:
            line = self._strace.stderr.readline()
            assert "attached" in line, line

    def detach(self):
        """Let go of what is still alive."""
        if self._strace is not None:
            self._strace.terminate()
            self._strace.communicate(timeout=ATTACH_S)
            self._strace = None


def injection(call, number, log=os.devnull):
    """Return strace's words for a kill at the call `number`; `log` gets the calls up to it."""
    return ["-o", str(log), "-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={number}"]  # fmt: skip


def thread_ids(pid):
    """Return the threads of a supervisor that is connected, by name."""

    def all_there():
        tids = sorted(int(path.name) for path in Path(f"/proc/{pid}/task").iterdir())
        return tids if len(tids) == len(THREADS) else None

    return dict(zip(THREADS, until("the supervisor has all its threads", all_there), strict=True))


@contextlib.contextmanager
def counting(pid, folder):
    """Count the calls of a process's threads; gives a Counter of (thread, call), full at the end."""
    found = Counter()
    tids = thread_ids(pid)
    log = folder / f"calls-{pid}.log"
    tracer = Tracer("-o", str(log), "-e", f"trace={','.join(CALLS)}")
    tracer.attach(*tids.values())
    try:
        yield found
    finally:
        tracer.detach()
        names = {str(tid): name for name, tid in tids.items()}
        for line in log.read_text().splitlines():
            if part := re.match(r"(\d+) +(\w+)\(", line):
                found[names[part[1]], part[2]] += 1


def killed_start(call, number):
    """Return the wrapper that starts an agent whose main thread is killed at a call of its start."""
    # As a daemon, strace leaves the agent our own child.
    return ["strace", "-D", "-q", *injection(call, number)]


def counted_start(log):
    """Return the wrapper that starts an agent and writes its main thread's calls down."""
    return ["strace", "-D", "-q", "-o", str(log), "-e", f"trace={','.join(CALLS)}"]


def calls(log):
    """Return a Counter of the calls of one thread that strace has written down so far."""
    found = (re.match(r"(\w+)\(", line) for line in log.read_text().splitlines())
    return Counter(call[1] for call in found if call)


def let_go(pid):
    """Make a daemon strace let go of a process; return when it has, or has killed it before."""
    status = Path(f"/proc/{pid}/status")

    def is_free():
        try:
            tracer = int(re.search(r"TracerPid:\s+(\d+)", status.read_text())[1])
        except OSError:
            return True
        if tracer:
            with contextlib.suppress(ProcessLookupError):
                os.kill(tracer, signal.SIGTERM)
        return not tracer

    until("strace has let go", is_free)
