"""Stops a process at each of its system calls that touch a disk, to kill it there or to fail the call.

What `strace -f -P DIR -e inject=` does, for one forked child at a time and without starting a program: a
seccomp filter stops the child, and all its threads, before each call of the list, and nowhere else.
Calls outside the directory pass. Those of all threads are counted together, where strace would count
each thread's alone.
"""

import contextlib
import ctypes
import faulthandler
import os
import platform
import signal
import struct
from dataclasses import dataclass, field
from pathlib import Path

OPEN_TO_WRITE = "openat to write"
"""Only those calls of openat that may change something."""
WRITING = (
    OPEN_TO_WRITE, "write", "pwrite64", "pwritev", "fsync", "fdatasync", "rename", "renameat",
    "renameat2", "unlink", "unlinkat", "link", "linkat", "symlinkat", "ftruncate", "fallocate",
    "mkdir", "mkdirat", "rmdir", "sendto", "sendmsg",
)  # fmt: skip
READING = ("read", "pread64", "getdents64", "fstat", "newfstatat")

# From the kernel's asm/unistd.h of each architecture; newer ones have only the calls ending in -at.
NUMBERS = {
    "x86_64": {
        "read": 0, "write": 1, "fstat": 5, "pread64": 17, "pwrite64": 18, "writev": 20, "sendto": 44,
        "sendmsg": 46, "fsync": 74, "fdatasync": 75, "ftruncate": 77, "rename": 82, "mkdir": 83,
        "rmdir": 84, "link": 86, "unlink": 87, "getdents64": 217, "openat": 257, "mkdirat": 258,
        "newfstatat": 262, "unlinkat": 263, "renameat": 264, "linkat": 265, "symlinkat": 266,
        "fallocate": 285, "pwritev": 296, "renameat2": 316,
    },
    "aarch64": {
        "mkdirat": 34, "unlinkat": 35, "symlinkat": 36, "linkat": 37, "renameat": 38,
        "ftruncate": 46, "fallocate": 47, "openat": 56, "getdents64": 61, "read": 63, "write": 64,
        "writev": 66, "pread64": 67, "pwrite64": 68, "pwritev": 70, "newfstatat": 79, "fstat": 80,
        "fsync": 82, "fdatasync": 83, "sendto": 206, "sendmsg": 211, "renameat2": 276,
    },
}.get(platform.machine(), {})  # fmt: skip

DEADLINE_S = 600
"""For a life of a second or two on a quiet machine, and of more than a minute on a busy one."""
TELL = signal.SIGUSR1
"""Asks a life that is stuck for what it knows of itself."""
TELLS_S = 5
BY_DESCRIPTOR = {
    "write", "pwrite64", "writev", "pwritev", "fsync", "fdatasync", "ftruncate", "fallocate", "read",
    "pread64", "getdents64", "fstat",
}  # fmt: skip
"""Calls whose first argument is an open file."""
BY_PATH = {"rename", "mkdir", "rmdir", "link", "unlink"}
"""Calls whose first argument is a path; of all others the second one is."""

_TRACEME, _PEEKUSER, _POKEUSER, _CONT = 0, 3, 6, 7
_SETOPTIONS, _GETEVENTMSG, _GETREGSET, _SETREGSET = 0x4200, 0x4201, 0x4204, 0x4205
_TRACECLONE, _TRACESECCOMP, _EXITKILL = 0x8, 0x80, 0x100000
_EVENT_CLONE, _EVENT_SECCOMP = 3, 7
_WALL = 0x40000000
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _MODE_FILTER = 38, 22, 2
_RET_ALLOW, _RET_TRACE = 0x7FFF0000, 0x7FF00000
_X86_ORIG_RAX, _X86_RAX, _X86_ARGUMENTS = 15 * 8, 10 * 8, (112, 104, 96, 56)  # sys/user.h
_WRITING_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_ARM_SYSTEM_CALL, _PRSTATUS = 0x404, 1  # linux/elf.h

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_libc.ptrace.restype = ctypes.c_long


@dataclass
class Ended:
    """How a traced process came to its end.

    Attributes:
        calls: The calls in the directory that it was stopped at, in order: name, path, and
            offset in the file, of pwrite64 alone (None for the others).
        status: As of `os.waitpid`.
        is_stuck: Whether it had to be killed, because it came to no end.
    """

    calls: list = field(default_factory=list)
    status: int = 0
    is_stuck: bool = False

    @property
    def code(self):
        """The exit code, or minus the signal."""
        return os.waitstatus_to_exitcode(self.status)


def run(main, calls, root, decide):
    """Run `main` in a forked child under the tracer; return how it ended.

    Args:
        main: Called in the child; its return value is the exit code.
        calls: Names of the system calls to stop at.
        root: The directory in which they count.
        decide: Gets number (from 1), name and path of each call; returns None to let it pass,
            a signal to send instead, or the negative errno with which it shall fail.
    """
    names = [name for name in calls if name in NUMBERS or name == OPEN_TO_WRITE]
    child = os.fork()
    if child == 0:
        _run_child(main, names)
    ended = Ended()
    try:
        _, status = os.waitpid(child, _WALL)
        assert os.WIFSTOPPED(status), f"the child ended at once: {status}"
        _ptrace(_SETOPTIONS, child, 0, _TRACESECCOMP | _TRACECLONE | _EXITKILL)
        _ptrace(_CONT, child, 0, 0)
        signal.signal(signal.SIGALRM, _give_up)
        signal.alarm(DEADLINE_S)
        _follow(child, names, str(root), decide, ended)
    except TimeoutError:
        ended.is_stuck = True
        try:
            os.kill(child, TELL)
            signal.alarm(TELLS_S)
            _follow(child, names, str(root), decide, ended)  # it may come to its end after all
        except TimeoutError:
            os.kill(child, signal.SIGABRT)
            _follow(child, names, str(root), decide, ended)
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        raise
    finally:
        signal.alarm(0)
    return ended


def _give_up(number, frame):
    raise TimeoutError


def _follow(child, names, root, decide, ended):
    while True:
        pid, status = os.waitpid(-1, _WALL)
        if not os.WIFSTOPPED(status):
            if pid == child:
                ended.status = status
                return
            continue
        event, number = status >> 16, os.WSTOPSIG(status)
        passed_on = 0
        if event == _EVENT_SECCOMP:
            name = names[_message(pid)]
            path = _path(pid, name)
            verdict = None
            if path.startswith(root):
                offset = _argument(pid, 3) if name == "pwrite64" else None
                ended.calls.append((name, path, offset))
                verdict = decide(len(ended.calls), name, path)
            if verdict is not None and verdict > 0:
                os.kill(child, verdict)
                continue  # the signal is fatal: nothing more of the call happens
            if verdict is not None:
                _fail(pid, verdict)
        elif event == 0 and number not in (signal.SIGTRAP, signal.SIGSTOP):
            passed_on = number
        with contextlib.suppress(ProcessLookupError):  # it was killed meanwhile
            _ptrace(_CONT, pid, 0, passed_on)


def _run_child(main, names):
    code = 70
    faulthandler.enable()  # of a life that is stuck, for `run` aborts it
    try:
        _ptrace(_TRACEME, 0, 0, 0)
        os.kill(os.getpid(), signal.SIGSTOP)
        _stop_at(names)
        code = main()
    except BaseException:  # noqa: BLE001 - a forked child must not run its parent's code
        import traceback

        traceback.print_exc()
    finally:
        os._exit(code)


def _stop_at(names):
    load, equals, has, ret = 0x20, 0x15, 0x45, 0x06
    code = []
    for position, name in enumerate(names):
        stop = (ret, 0, 0, _RET_TRACE | position)
        code.append((load, 0, 0, 0))  # the call's number: struct seccomp_data
        if name == OPEN_TO_WRITE:
            flags = 16 + 2 * 8  # its third argument
            code += [(equals, 0, 3, NUMBERS["openat"]), (load, 0, 0, flags)]
            code += [(has, 0, 1, _WRITING_FLAGS), stop]
        else:
            code += [(equals, 0, 1, NUMBERS[name]), stop]
    code.append((ret, 0, 0, _RET_ALLOW))
    program = b"".join(struct.pack("HBBI", *row) for row in code)
    buffer = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("HxxxxxxQ", len(code), ctypes.addressof(buffer))
    _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if _libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, header, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "seccomp filter refused")


def _message(pid):
    value = ctypes.c_ulong()
    _ptrace(_GETEVENTMSG, pid, 0, ctypes.addressof(value))
    return value.value


def _path(pid, name):
    """Return the file that a thread is about to touch; an empty text if it has none."""
    if name in BY_DESCRIPTOR:
        with contextlib.suppress(OSError):
            return str(Path(f"/proc/{pid}/fd/{_argument(pid, 0) & 0xFFFFFFFF}").readlink())
        return ""
    address = _argument(pid, 0 if name in BY_PATH else 1)
    with contextlib.suppress(OSError), Path(f"/proc/{pid}/mem").open("rb", 0) as memory:
        memory.seek(address)
        return memory.read(4096).partition(b"\0")[0].decode("utf-8", "replace")
    return ""


def _argument(pid, position):
    if platform.machine() == "x86_64":
        return _libc.ptrace(_PEEKUSER, pid, _X86_ARGUMENTS[position], 0) & (2**64 - 1)
    return struct.unpack_from("Q", _registers(pid), position * 8)[0]


def _registers(pid):
    registers = ctypes.create_string_buffer(34 * 8)
    vector = ctypes.create_string_buffer(
        struct.pack("QQ", ctypes.addressof(registers), len(registers))
    )
    _ptrace(_GETREGSET, pid, _PRSTATUS, ctypes.addressof(vector))
    return registers.raw


def _fail(pid, result):
    """Let the call that a thread is about to make return `result` without being made."""
    if platform.machine() == "x86_64":
        _ptrace(_POKEUSER, pid, _X86_ORIG_RAX, ctypes.c_ulong(-1 & (2**64 - 1)).value)
        _ptrace(_POKEUSER, pid, _X86_RAX, ctypes.c_ulong(result & (2**64 - 1)).value)
        return
    _set_registers(pid, _ARM_SYSTEM_CALL, struct.pack("i", -1))
    _set_registers(pid, _PRSTATUS, struct.pack("q", result) + _registers(pid)[8:])


def _set_registers(pid, kind, data):
    buffer = ctypes.create_string_buffer(data, len(data))
    vector = ctypes.create_string_buffer(struct.pack("QQ", ctypes.addressof(buffer), len(data)))
    _ptrace(_SETREGSET, pid, kind, ctypes.addressof(vector))


def _ptrace(request, pid, address, data):
    if _libc.ptrace(request, pid, address, data) < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"ptrace {request:#x}: {os.strerror(number)}")
