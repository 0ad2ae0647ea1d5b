"""Confinement of the runtime by the kernel, with ctypes alone, before any model is touched.

A protection that this kernel or architecture lacks is left out and not named in the result: what
is reported is what is active. Sources: landlock(7), seccomp(2), prctl(2) and the kernel's UAPI
headers for the numbers.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import resource
import signal
import struct
import sys
import sysconfig
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

MAX_FILE_BYTES: Final = 64 * 1024 * 1024
"""The runtime writes its log to stderr only, which may be a file."""
MAX_DESCRIPTORS: Final = 4096

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_NO_NEW_PRIVS: Final = 38
_PR_SET_MDWE: Final = 65
_MDWE_REFUSE_EXEC_GAIN: Final = 1

_CLONE_THREAD: Final = 0x00010000
_RET_ALLOW: Final = 0x7FFF0000
_RET_ERRNO: Final = 0x00050000

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class _Arch:
    """Audit id and syscall numbers of an architecture."""

    audit: int
    seccomp: int
    clone: int
    denied: tuple[int, ...]


_CLONE3: Final = 435
_LANDLOCK: Final = (444, 445, 446)
# Denied, in this order: execve, execveat, fork, vfork, socket, connect, bind, ptrace, kill, bpf,
# process_vm_readv, process_vm_writev, mount, unshare, setns, keyctl, add_key, userfaultfd,
# perf_event_open; then, with equal numbers everywhere: io_uring_setup, pidfd_open, pidfd_getfd.
_EVERYWHERE: Final = (425, 434, 438)
_ARCHES: Final = {
    "x86_64": _Arch(
        audit=0xC000003E, seccomp=317, clone=56,
        denied=(59, 322, 57, 58, 41, 42, 49, 101, 62, 321, 310, 311, 165, 272, 308, 250, 248, 323,
                298, *_EVERYWHERE),
    ),
    "aarch64": _Arch(
        audit=0xC00000B7, seccomp=277, clone=220,
        denied=(221, 281, 198, 203, 200, 117, 129, 280, 270, 271, 40, 97, 268, 219, 217, 282, 241,
                *_EVERYWHERE),
    ),
}  # fmt: skip

_READ: Final = (1 << 2) | (1 << 3)  # READ_FILE, READ_DIR
_READ_FILE: Final = 1 << 2
_FS_BITS_BY_ABI: Final = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
_NET_BITS: Final = 0b11  # BIND_TCP, CONNECT_TCP
_NET_ABI: Final = 4


def die_with_parent() -> None:
    """End this process when its parent ends, even while native code never returns."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def confine(readable: Iterable[Path]) -> tuple[str, ...]:
    """Confine this process for good; return the names of what is active.

    Args:
        readable: Directories with models, readable beside the interpreter and the system's
            libraries.
    """
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
    if _apply_seccomp():
        active.append("seccomp")
    return tuple(active)


def limit_memory(budget_bytes: int) -> bool:
    """Cap the address space at what is in use now plus `budget_bytes`; return whether it holds."""
    peak_kb = 0
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmPeak:"):
            peak_kb = int(line.split()[1])
    if not peak_kb:
        return False
    _lower(resource.RLIMIT_AS, peak_kb * 1024 + budget_bytes)
    return True


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
    names |= {"/usr", "/lib", "/lib64", "/etc", "/proc/self", "/proc/cpuinfo", "/proc/meminfo"}
    names |= {"/dev/null", "/dev/urandom"}
    names |= {"/sys/devices", "/sys/bus/pci"}  # onnxruntime looks for accelerators, and warns
    return {Path(name) for name in names}


def _apply_seccomp() -> bool:
    arch = _ARCHES.get(platform.machine())
    if arch is None:
        return False
    program = _filter(arch)
    buffer = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("HxxxxxxQ", len(program) // 8, ctypes.addressof(buffer))
    set_mode_filter, sync_threads = 1, 1
    return int(_libc.syscall(arch.seccomp, set_mode_filter, sync_threads, header)) == 0


def _filter(arch: _Arch) -> bytes:
    """Return the BPF program: deny what only an intruder needs, allow the rest.

    clone3 answers ENOSYS, so that libc falls back to clone, whose flags a filter can read: new
    threads pass, new processes do not.
    """
    load, jump_eq, jump_ge, jump_set, ret = 0x20, 0x15, 0x35, 0x45, 0x06
    deny, allow = _RET_ERRNO | errno.EPERM, _RET_ALLOW
    code: list[tuple[int, int, int, int]] = [
        (load, 0, 0, 4),
        (jump_eq, 1, 0, arch.audit),
        (ret, 0, 0, deny),  # a foreign ABI
        (load, 0, 0, 0),
        (jump_ge, 0, 1, 0x40000000),
        (ret, 0, 0, deny),  # x32
        (jump_eq, 0, 1, _CLONE3),
        (ret, 0, 0, _RET_ERRNO | errno.ENOSYS),
        (jump_eq, 0, 4, arch.clone),
        (load, 0, 0, 16),
        (jump_set, 0, 1, _CLONE_THREAD),
        (ret, 0, 0, allow),
        (ret, 0, 0, deny),
    ]
    for number in arch.denied:
        code += [(jump_eq, 0, 1, number), (ret, 0, 0, deny)]
    code.append((ret, 0, 0, allow))
    return b"".join(struct.pack("HBBI", *row) for row in code)
