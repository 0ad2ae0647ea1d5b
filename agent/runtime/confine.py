"""Confinement of the runtime by the kernel, with ctypes alone, before any model is touched.

A protection that this kernel or architecture lacks is left out and not named in the result: what
is reported is what is active. Sources: landlock(7), seccomp(2), prctl(2) and the kernel's UAPI
headers for the numbers.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import struct
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from .seccomp import apply_filter

MAX_FILE_BYTES: Final = 64 * 1024 * 1024
"""The runtime writes its log to stderr only, which may be a file."""
MAX_DESCRIPTORS: Final = 4096
OOM_SCORE: Final = 500
OOM_SCORE_ASIDE: Final = 900
"""Of 1000; as if half of the machine's memory were in use beside what is."""

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_NO_NEW_PRIVS: Final = 38
_PR_SET_MDWE: Final = 65
_MDWE_REFUSE_EXEC_GAIN: Final = 1

_libc = ctypes.CDLL(None, use_errno=True)


_LANDLOCK: Final = (444, 445, 446)
_READ: Final = (1 << 2) | (1 << 3)  # READ_FILE, READ_DIR
_READ_FILE: Final = 1 << 2
_FS_BITS_BY_ABI: Final = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
_NET_BITS: Final = 0b11  # BIND_TCP, CONNECT_TCP
_NET_ABI: Final = 4


def die_with_parent(parent: int) -> None:
    """End this process when its parent ends, even while native code never returns.

    Args:
        parent: Process id of who started it; one that has ended already sends no signal any more.
    """
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit("the supervisor is gone")


def step_aside() -> None:
    """Have this process run only while nothing else wants the CPU: it is a shadow (sched(7))."""
    try:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    except OSError as exc:
        sys.stderr.write(f"the shadow competes for the CPU with what serves: {exc.strerror}\n")


def confine(readable: Iterable[Path], *, is_aside: bool = False) -> tuple[str, ...]:
    """Confine this process for good; return the names of what is active.

    Args:
        readable: Directories with models, readable beside the interpreter and the system's
            libraries.
        is_aside: Whether the kernel shall end it before what serves, when memory is gone.
    """
    _die_first(OOM_SCORE_ASIDE if is_aside else OOM_SCORE)
    active = ["rlimits"]
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _lower(resource.RLIMIT_FSIZE, MAX_FILE_BYTES)
    _lower(resource.RLIMIT_NOFILE, MAX_DESCRIPTORS)
    if _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0:
        active.append("no_new_privs")
    if _libc.prctl(_PR_SET_MDWE, _MDWE_REFUSE_EXEC_GAIN, 0, 0, 0) == 0:
        active.append("mdwe")
    if _apply_landlock(readable):
        active.append("landlock")
    if apply_filter(_libc):
        active.append("seccomp")
    return tuple(active)


def limit_memory(allowance_bytes: int) -> bool:
    """Cap the address space at its peak so far plus an allowance; return whether that holds.

    A later call can only lower it. Python's `MemoryError` or a C++ exception is the answer to what
    goes beyond, and the process may well live on.
    """
    peak_kb = 0
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmPeak:"):
            peak_kb = int(line.split()[1])
    if not peak_kb:
        return False
    _lower(resource.RLIMIT_AS, peak_kb * 1024 + allowance_bytes)
    return True


def _die_first(score: int) -> None:
    """Let the kernel end this process, not the supervisor, when the machine's memory is gone."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(score))


def _lower(kind: int, value: int) -> None:
    _, hard = resource.getrlimit(kind)
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(kind, (value, value))


def _apply_landlock(readable: Iterable[Path]) -> bool:
    abi = _libc.syscall(_LANDLOCK[0], None, 0, 1)
    if abi < 1:
        return False
    fs_bits = (1 << _FS_BITS_BY_ABI.get(abi, 16)) - 1
    attributes = struct.pack("QQ", fs_bits, _NET_BITS if abi >= _NET_ABI else 0)
    size = len(attributes) if abi >= _NET_ABI else 8
    ruleset = _libc.syscall(_LANDLOCK[0], attributes, size, 0)
    if ruleset < 0:
        return False
    try:
        for path in {*_interpreter_paths(), *readable}:
            _allow_reading(ruleset, path)
        return int(_libc.syscall(_LANDLOCK[2], ruleset, 0)) == 0
    finally:
        os.close(ruleset)


def _allow_reading(ruleset: int, path: Path) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # a system without this directory
    try:
        access = _READ if path.is_dir() else _READ_FILE
        rule = struct.pack("=Qi", access, descriptor)
        _libc.syscall(_LANDLOCK[1], ruleset, 1, rule, 0)
    finally:
        os.close(descriptor)


def _interpreter_paths() -> set[Path]:
    names = {sys.prefix, sys.base_prefix, sys.exec_prefix, *sysconfig.get_paths().values()}
    names |= {entry for entry in sys.path if entry}
    names |= {"/usr", "/lib", "/lib64", "/proc/self", "/proc/cpuinfo", "/proc/meminfo"}
    # Not all of /etc: the agent's configuration and key may be there, and belong to its user.
    names |= {"/etc/ld.so.cache", "/etc/localtime"}
    names |= {"/dev/null", "/dev/urandom"}
    names |= {"/sys/devices", "/sys/bus/pci"}  # onnxruntime looks for accelerators, and warns
    return {Path(name) for name in names}
