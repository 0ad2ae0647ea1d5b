"""The system calls that the runtime's process is refused for good, by a seccomp filter.

What only an intruder needs is denied, the rest allowed. Where the kernel has no Landlock (Raspberry
Pi OS), this alone keeps the process from writing: nothing is opened for writing, made, moved or
deleted by it. Reading by name is Landlock's. Numbers: the kernel's unistd_64.h and
asm-generic/unistd.h; tests/agent/runtime/test_walls.py tries what it claims.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from dataclasses import dataclass
from typing import Final

_ALLOW: Final = 0x7FFF0000
_REFUSE: Final = 0x00050000
_DENY: Final = _REFUSE | errno.EPERM

_CLONE3: Final = 435
_CLONE_THREAD: Final = 0x00010000
_WRITES: Final = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_PR_SET_PDEATHSIG: Final = 1
_TIOCSTI: Final = 0x5412
_TIOCLINUX: Final = 0x541C

# Number on x86_64 and on aarch64; None where there is no such call.
_DENIED: Final[dict[str, tuple[int | None, int | None]]] = {
    # other processes: started, signalled, read, traced, slowed
    "execve": (59, 221), "execveat": (322, 281), "fork": (57, None), "vfork": (58, None),
    "kill": (62, 129), "tkill": (200, 130), "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240), "pidfd_send_signal": (424, 424), "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438), "ptrace": (101, 117), "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271), "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119), "sched_setaffinity": (203, 122),
    "sched_setattr": (314, 274), "setpriority": (141, 140), "ioprio_set": (251, 30),
    "migrate_pages": (256, 238), "move_pages": (279, 239),
    # the network
    "socket": (41, 198), "connect": (42, 203), "bind": (49, 200),
    # files: all but reading; `open` and `openat` have rules of their own
    "creat": (85, None), "openat2": (437, 437), "open_by_handle_at": (304, 265),
    "truncate": (76, 45), "rename": (82, None), "renameat": (264, 38), "renameat2": (316, 276),
    "link": (86, None), "linkat": (265, 37), "symlink": (88, None), "symlinkat": (266, 36),
    "unlink": (87, None), "unlinkat": (263, 35), "mkdir": (83, None), "mkdirat": (258, 34),
    "rmdir": (84, None), "mknod": (133, None), "mknodat": (259, 33), "chmod": (90, None),
    "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452), "chown": (92, None),
    "fchown": (93, 55), "lchown": (94, None), "fchownat": (260, 54), "setxattr": (188, 5), "lsetxattr": (189, 6), "fsetxattr": (190, 7),
    "removexattr": (197, 14), "lremovexattr": (198, 15), "fremovexattr": (199, 16),
    "utime": (132, None), "utimes": (235, None), "futimesat": (261, None),
    "utimensat": (280, 88),
    # the machine, for an agent that runs as root
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51),
    "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430),
    "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433),
    "mount_setattr": (442, 442), "unshare": (272, 97), "setns": (308, 268),
    "reboot": (169, 142), "init_module": (175, 105), "finit_module": (313, 273),
    "delete_module": (176, 106), "kexec_load": (246, 104), "swapon": (167, 224),
    "settimeofday": (164, 170), "clock_settime": (227, 112), "sethostname": (170, 161),
    "iopl": (172, None), "ioperm": (173, None),
    # wide doors into the kernel
    "bpf": (321, 280), "io_uring_setup": (425, 425), "keyctl": (250, 219), "add_key": (248, 217),
    "request_key": (249, 218), "userfaultfd": (323, 282), "perf_event_open": (298, 241),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Arch:
    """An architecture: its column above, its audit id, and the calls that have rules."""

    column: int
    audit: int
    seccomp: int
    clone: int
    tgkill: int
    prlimit64: int
    prctl: int
    ioctl: int
    openat: int
    open: int | None


_ARCHES: Final = {
    "x86_64": _Arch(
        column=0, audit=0xC000003E, seccomp=317, clone=56, tgkill=234, prlimit64=302, prctl=157,
        ioctl=16, openat=257, open=2,
    ),
    "aarch64": _Arch(
        column=1, audit=0xC00000B7, seccomp=277, clone=220, tgkill=131, prlimit64=261, prctl=167,
        ioctl=29, openat=56, open=None,
    ),
}  # fmt: skip

_LOAD, _JUMP_EQ, _JUMP_GE, _JUMP_SET, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER_AT: Final = 0
_ARCH_AT: Final = 4
_X32: Final = 0x40000000

_Step = tuple[int, int, int, int]


def apply_filter(libc: ctypes.CDLL) -> bool:
    """Filter the calls of this process and all its threads; return whether that holds."""
    arch = _ARCHES.get(platform.machine())
    if arch is None:
        return False
    program = _program(arch, os.getpid())
    buffer = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("HxxxxxxQ", len(program) // 8, ctypes.addressof(buffer))
    set_mode_filter, sync_threads = 1, 1
    return int(libc.syscall(arch.seccomp, set_mode_filter, sync_threads, header)) == 0


def _program(arch: _Arch, pid: int) -> bytes:
    """Return the BPF program.

    clone3 answers ENOSYS, so that libc falls back to clone, whose flags a filter can read: new
    threads pass, new processes do not.
    """
    steps: list[_Step] = [
        (_LOAD, 0, 0, _ARCH_AT),
        (_JUMP_EQ, 1, 0, arch.audit),
        (_RETURN, 0, 0, _DENY),  # a foreign ABI
        (_LOAD, 0, 0, _NUMBER_AT),
        (_JUMP_GE, 0, 1, _X32),
        (_RETURN, 0, 0, _DENY),
        (_JUMP_EQ, 0, 1, _CLONE3),
        (_RETURN, 0, 0, _REFUSE | errno.ENOSYS),
    ]
    steps += _only(arch.clone, 0, [(_JUMP_SET, _CLONE_THREAD)])
    steps += _only(arch.tgkill, 0, [(_JUMP_EQ, pid)])  # libc's abort() ends the process by it
    steps += _only(arch.prlimit64, 0, [(_JUMP_EQ, 0), (_JUMP_EQ, pid)])  # limits of itself
    steps += _never(arch.prctl, 0, [(_JUMP_EQ, _PR_SET_PDEATHSIG)])
    steps += _never(arch.ioctl, 1, [(_JUMP_EQ, _TIOCSTI), (_JUMP_EQ, _TIOCLINUX)])
    steps += _never(arch.openat, 2, [(_JUMP_SET, _WRITES)])
    if arch.open is not None:
        steps += _never(arch.open, 1, [(_JUMP_SET, _WRITES)])
    for numbers in _DENIED.values():
        if (number := numbers[arch.column]) is not None:
            steps += [(_JUMP_EQ, 0, 1, number), (_RETURN, 0, 0, _DENY)]
    steps.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("HBBI", *step) for step in steps)


def _only(number: int, argument: int, tests: list[tuple[int, int]]) -> list[_Step]:
    """Return the rule: this call passes when the argument meets a test, else it is denied."""
    return _rule(number, argument, tests, met=_ALLOW, otherwise=_DENY)


def _never(number: int, argument: int, tests: list[tuple[int, int]]) -> list[_Step]:
    """Return the rule: this call is denied when the argument meets a test, else it passes."""
    return _rule(number, argument, tests, met=_DENY, otherwise=_ALLOW)


def _rule(
    number: int, argument: int, tests: list[tuple[int, int]], *, met: int, otherwise: int
) -> list[_Step]:
    low_half = 16 + 8 * argument  # of 64 bits, little end first on both architectures
    body: list[_Step] = [(_LOAD, 0, 0, low_half)]
    body += [(jump, len(tests) - n, 0, value) for n, (jump, value) in enumerate(tests)]
    body += [(_RETURN, 0, 0, otherwise), (_RETURN, 0, 0, met)]
    return [(_JUMP_EQ, 0, len(body), number), *body]
